"""What can go wrong, and what each kind means to a script.

    CeRerankError                 exit 1    a fault of ours
    ├── UsageError (ValueError)   exit 2    the command line or an argument is wrong
    ├── InputError (ValueError)   exit 3    the input is wrong: where, what, what to do
    ├── UnavailableError          exit 4    the model, device or network is not to be had
    └── OutputError               exit 4    what was asked for cannot be written

A message is one sentence that names the place and the cause; `hint` is the way out. The library raises
these, and only `ce_rerank.cli.app` prints them.
"""

from __future__ import annotations

from typing import ClassVar

ROWS_LEFT_OUT = 5
"""The exit code of a run that is done but for rows that were left out as asked."""


class CeRerankError(Exception):
    """The root of every error that this package raises on purpose.

    `str(error)` is the message; `hint` says what to do, or is empty when the message already does.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


def told_from(origin: str, message: str) -> str:
    """Start a message with where it is about, if that is known."""
    return f"{origin}: {message}" if origin else message


class UsageError(CeRerankError, ValueError):
    """An option, an argument or a combination of them that cannot mean anything."""

    exit_code = 2


class InputError(CeRerankError, ValueError):
    """Input that cannot be read as what it is said to be; the message starts with where."""

    exit_code = 3


class UnavailableError(CeRerankError):
    """A model, device, engine, optional package or network that is not to be had here."""

    exit_code = 4


class OutputError(CeRerankError):
    """Results that cannot be written: the disk is full, the folder is gone."""

    exit_code = 4
