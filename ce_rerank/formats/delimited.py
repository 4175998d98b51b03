"""CSV and TSV: a header, then the rows, quoted as Excel and Python's csv module do."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import Literal

from ..errors import InputError
from .source import Lines, LookAhead, Reject, Row, raise_at_once

Delimiter = Literal[",", "\t"]


def read_delimited_rows(
    stream: LookAhead, name: str, reject: Reject, *, delimiter: Delimiter
) -> Iterator[Row]:
    """Read rows as objects whose values are strings, named by the header; blank lines are skipped.

    Quoted fields may hold line ends; a row's line is the one on which it starts. Raises InputError for a
    header with a name twice; a row with more or fewer fields than the header, or broken quotes, is rejected.
    """
    # The module's limit is 128 KiB a field, which a document may well be over. The setting is the process's.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = _PhysicalLines(Lines(stream, name))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        where = f"{name}:{line}"
        fault = None
        try:
            cells = next(reader, None)
            if cells is None:
                return
            fault = lines.fault
        except csv.Error as error:
            cells, fault = [], _explain_csv_error(error, where)
        if cells and header and not fault and len(cells) != len(header):
            fault = _ragged(cells, header, where)
        if fault:
            # Without a header there is nothing to go on with.
            (reject if header else raise_at_once)(fault, lines.row_text)
        elif cells and header:
            yield Row(dict(zip(header, cells, strict=True)), where)
        elif cells:
            header = _checked_header(cells, where)
        lines.forget_row()


class _PhysicalLines:
    """Lines as the csv module takes them; keeps those of the current row, and the first fault among them."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._of_row: list[str] = []
        self.fault: InputError | None = None

    def __iter__(self) -> Iterator[str]:
        for _, line in self._lines:
            self._of_row.append(line)
            if self._lines.fault:
                self.fault = self.fault or self._lines.fault
                line = line.replace("\0", "\ufffd")  # a NUL is more than Python 3.10's module can take
            yield line

    @property
    def row_text(self) -> str:
        """The current row as it stands in the file."""
        return "".join(self._of_row).rstrip("\r\n")

    def forget_row(self) -> None:
        """Go on to the next row."""
        self._of_row.clear()
        self.fault = None


def _checked_header(cells: list[str], where: str) -> list[str]:
    for place, cell in enumerate(cells):
        if cell in cells[:place]:
            raise InputError(f'{where}: the header has "{cell}" twice.', hint="Rename one of the columns.")
    return cells


def _ragged(cells: list[str], header: list[str], where: str) -> InputError:
    return InputError(
        f"{where}: the row has {len(cells)} fields, the header has {len(header)} ({', '.join(header[:12])}).",
        hint="Quote fields that hold the delimiter.",
    )


def _explain_csv_error(error: csv.Error, where: str) -> InputError:
    if "unexpected end of data" in str(error):
        return InputError(f"{where}: a quoted field starts in this row and never ends.")
    return InputError(
        f"{where}: broken quotes ({error}).",
        hint='A field that starts with a quote ends with one; quotes inside it are doubled: "say ""so""".',
    )
