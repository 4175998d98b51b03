"""Signals that end the process; each is remembered, in case the exception that it raises is lost.

A C extension that is being imported may swallow what a signal handler raises, or turn it into an ImportError.
The program would then go on without that library, with another engine. So code that catches an ImportError
calls `raise_if_interrupted` first. Only the command line calls `end_on_signals`; without that call nothing
here has an effect.
"""

from __future__ import annotations

import signal
from typing import NoReturn

EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""What a process that a signal ended exits with."""

_received: list[int] = []


def end_on_signals() -> None:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM raise SystemExit, and remember the signal.

    A signal that is ignored, as SIGINT is in a background job, stays ignored.
    """
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _remember_and_raise)


def exit_code_if_interrupted() -> int | None:
    """Return the exit code of the signal that came, or None."""
    return EXIT_CODES[_received[-1]] if _received else None


def raise_if_interrupted() -> None:
    """Raise again what the signal raised, if a signal came."""
    if _received:
        _raise(_received[-1])


def _remember_and_raise(number: int, frame: object) -> NoReturn:
    _received.append(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_CODES[number])
