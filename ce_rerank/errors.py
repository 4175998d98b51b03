"""What ends the program early: errors and signals, and what each kind means to a script.

    CeRerankError                 exit 1    a fault of ours
    ├── UsageError (ValueError)   exit 2    the command line or an argument is wrong
    ├── InputError (ValueError)   exit 3    the input is wrong: where, what, what to do
    ├── UnavailableError          exit 4    the model, device, network or disk is unavailable
    └── OutputError               exit 4    the output cannot be written or continued

A message is one sentence that names the place and the cause; `hint` says what to do. The library raises
these, and only `ce_rerank.cli.app` prints them.

A C extension that is being imported may swallow what a signal handler raises, or turn it into an ImportError.
The program would then go on without that library, with another engine. So signals are remembered, and code
that catches an ImportError calls `raise_if_interrupted` or `missing_package` first. Only the command line
calls `end_on_signals`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import ClassVar, NoReturn

ROWS_LEFT_OUT = 5
"""The exit code of a run that has left out rows, as asked."""

SIGNAL_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""The exit code of a process that a signal ended."""

_received: list[int] = []
_OPTION = re.compile(
    r"`[^`]*`|--([a-z][a-z-]*)"
    r"(?: (auto|cpu|cuda|mps|openvino|torch|fp32|bf16|fp16|int8|truncate|chunk|error|max|first)\b)?"
)


class CeRerankError(Exception):
    """The root of every error that this package raises on purpose.

    `message` and `hint`, which may be empty, name options as the shell has them (`--top-k`), and so does
    `for_shell`, which is both. `str(error)` is both with the names of Python's arguments (`top_k`).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def for_shell(self) -> str:
        """The message and the hint."""
        return f"{self.message} {self.hint}".rstrip()

    def __str__(self) -> str:
        return as_python(self.for_shell)


def as_python(text: str) -> str:
    """Replace options by Python's arguments, except in commands: `--long chunk` becomes `long="chunk"`."""

    def name(found: re.Match[str]) -> str:
        if found[1] is None:  # a command in backquotes
            return found[0]
        return found[1].replace("-", "_") + (f'="{found[2]}"' if found[2] else "")

    return _OPTION.sub(name, text)


def told_from(origin: str, message: str) -> str:
    """Start a message with the place that it is about, if that is known."""
    return f"{origin}: {message}" if origin else message


class UsageError(CeRerankError, ValueError):
    """An option or argument is wrong, or some contradict each other."""

    exit_code = 2


class InputError(CeRerankError, ValueError):
    """Input cannot be read as what it is said to be; the message starts with the place."""

    exit_code = 3


class UnavailableError(CeRerankError):
    """A model, device, engine, optional package, network or disk is unavailable."""

    exit_code = 4


def missing_package(problem: str, extra: str) -> UnavailableError:
    """Return the error for a package that is not installed, and belongs to one of our extras.

    If a signal came, raise that again: it may be why the import failed.
    """
    raise_if_interrupted()
    return UnavailableError(problem, hint=f"Install it: pip install 'ce-rerank[{extra}]'")


class OutputError(CeRerankError):
    """An unfinished output is damaged, or a part of `batch --ray` cannot be written."""

    exit_code = 4


def from_system(error: OSError) -> UnavailableError:
    """Return our error for one of the operating system's: a full disk, a file without permission."""
    place = "" if error.filename is None else os.fsdecode(error.filename)
    hints = {errno.ENOSPC: "Make room, or name another place.", errno.EACCES: "Change its permissions."}
    hint = hints.get(error.errno or 0, "Name another place.") if place else ""
    return UnavailableError(f"{told_from(place, error.strerror or repr(error))}.", hint=hint)


def end_on_signals() -> None:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM raise SystemExit, and remember the signal.

    A signal that is ignored, as SIGINT is in a background job, stays ignored.
    """
    for number in SIGNAL_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _remember_and_raise)


def exit_code_if_interrupted() -> int | None:
    """Return the exit code of the signal that came, or None."""
    return SIGNAL_CODES[_received[-1]] if _received else None


def raise_if_interrupted() -> None:
    """Raise again what the signal raised, if a signal came."""
    if _received:
        _remember_and_raise(_received[-1])


def _remember_and_raise(number: int, frame: object = None) -> NoReturn:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(SIGNAL_CODES[number])
