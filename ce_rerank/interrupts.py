"""The signal that is to end this process, remembered in case the exception that it raises is lost.

A C extension that is being imported may drop what a signal handler raises, or make an ImportError of it. The
work would then go on, by another engine than the one that was to be had. So whoever goes on without a library
asks here first. In a process that did not call `end_on_signals`, as only the command line does, nothing here
has any effect.
"""

from __future__ import annotations

import signal
from typing import NoReturn

EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""What a process that a signal ended exits with."""

_received: list[int] = []


def end_on_signals() -> None:
    """Let SIGINT raise KeyboardInterrupt, SIGTERM SystemExit, and remember that it came.

    A signal that is ignored, as in a job in the background, stays so.
    """
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _remember_and_raise)


def exit_code_if_interrupted() -> int | None:
    """Give the exit code that the signal stands for, if one came."""
    return EXIT_CODES[_received[-1]] if _received else None


def raise_if_interrupted() -> None:
    """Raise again what the signal raised, if one came."""
    if _received:
        _raise(_received[-1])


def _remember_and_raise(number: int, frame: object) -> NoReturn:
    _received.append(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(EXIT_CODES[number])
