"""CSV and TSV: a header, then the rows, quoted as Excel and Python's csv module do."""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal

from ..errors import InputError
from ..types import Ranking
from .rows import INPUT_NAME, RowsOf
from .source import Lines, LookAhead, Reject, Row, raise_at_once
from .strict_json import encode_json, encode_utf8

log = logging.getLogger("ce_rerank")

Delimiter = Literal[",", "\t"]
DELIMITERS: dict[str, Delimiter] = {"csv": ",", "tsv": "\t"}


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


class DelimitedWriter:
    """A header and a line a row: strings as they are, null as nothing, anything else as JSON.

    A NUL, which readers of such files refuse (ours does), is written as U+FFFD, with a warning.

    The columns are `own_names`, as far as they occur, and the other fields in the order in which they are
    first seen. With `many` rankings they are settled by the first that has rows, `own_names` occur or not,
    and the last is `input`, where fields that have no column go; `columns` are those of a header that is
    there already. Without it, one ranking can be written.
    """

    def __init__(
        self,
        stream: BinaryIO,
        rows_of: RowsOf,
        delimiter: Delimiter,
        *,
        own_names: Sequence[str],
        many: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._stream = stream
        self._rows_of = rows_of
        self._own_names = own_names
        self._many = many
        self._columns = columns
        self._has_warned = False
        self._line = io.StringIO(newline="")
        # The module quotes a lone \r only where it is part of the line end, which `_write_cells` shortens.
        self._csv = csv.writer(self._line, delimiter=delimiter, lineterminator="\r\n")

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's rows, and the header before the first."""
        rows = [self._without_nul_names(row) for row in self._rows_of(ranking)]
        if self._columns is None and (rows or not self._many):
            self._write_header(rows)
        columns = self._columns or ()
        known = set(columns)
        for row in rows:
            if self._many and not known.issuperset(row):
                row = _without_columns_to_input(row, known)
            self._write_cells([_cell(row.get(name)) for name in columns])

    def close(self) -> None:
        """Write the header if nothing was written."""
        if self._columns is None:
            self._write_header([])

    def _write_header(self, rows: list[dict[str, Any]]) -> None:
        seen = dict.fromkeys(name for row in rows for name in row)
        own = [name for name in self._own_names if self._many or not rows or name in seen]
        last = [INPUT_NAME] if self._many or INPUT_NAME in seen else []
        others = [name for name in seen if name not in self._own_names and name != INPUT_NAME]
        self._columns = own + others + last
        self._write_cells(self._columns)

    def _write_cells(self, cells: Sequence[str]) -> None:
        if any("\0" in cell for cell in cells):  # before Python 3.11 the module refuses it
            cells = [cell.replace("\0", "\ufffd") for cell in cells]
            self._warn_of_nul()
        self._csv.writerow(cells)
        line = self._line.getvalue()
        self._line.seek(0)
        self._line.truncate()
        self._stream.write(encode_utf8(line[:-2] + "\n"))

    def _without_nul_names(self, row: dict[str, Any]) -> dict[str, Any]:
        """Name fields as the header will have it when it is read again."""
        if not any("\0" in name for name in row):
            return row
        self._warn_of_nul()
        return {name.replace("\0", "\ufffd"): value for name, value in row.items()}

    def _warn_of_nul(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("NUL characters, which CSV and TSV do not have, are written as U+FFFD.")


def _without_columns_to_input(row: dict[str, Any], columns: set[str]) -> dict[str, Any]:
    homeless = {name: value for name, value in row.items() if name not in columns}
    return {**row, INPUT_NAME: {**row.get(INPUT_NAME, {}), **homeless}}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else encode_json(value)


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
