"""CSV, quoted as Excel and Python's csv module do, and TSV, a row a line: a header, then the rows."""

from __future__ import annotations

import csv
import io
import logging
import re
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from ..types import Ranking
from .json import encode_json, encode_utf8
from .rows import INPUT_NAME, RowsOf
from .source import ROW_BYTES, Lines, LookAhead, Reject, Row, raise_at_once, too_large

log = logging.getLogger("ce_rerank")

_BREAKS = re.compile(r"\r\n|[\t\r\n]")


def read_csv_rows(
    stream: LookAhead,
    name: str,
    reject: Reject,
    *,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    ids: Container[str] = (),
) -> Iterator[Row]:
    """Read rows as objects of strings, named by the header or by `columns`; blank lines are skipped.

    Without a `delimiter` it is that of a `sep=` line, else the one that cuts the first line into as many
    cells as there are `columns`, else into the most. A quoted field may hold line ends; the origin of a row
    is its first line. In columns named in `ids` (lower case) `1.0` is read as `1`. Raises InputError for a
    header that cannot be read; a row with another number of cells, or broken quotes, is rejected.
    """
    # The module's limit is 128 KiB a field, which a document may well be over. The setting is the process's.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    first_line = stream.look_at_line(ROW_BYTES).decode(errors="replace")
    sep_line = re.fullmatch(r'"?sep=(.?)"?', first_line)
    lines = _RowLines(Lines(stream, name), name)
    if sep_line:
        delimiter = delimiter or sep_line[1] or "\t"
        lines.pass_over_one()
    reader = csv.reader(lines, delimiter=delimiter or _find_delimiter(first_line, len(columns)), strict=True)
    table = _Table(columns, ids, "Quote fields that hold the delimiter.")
    while True:
        lines.of_row.clear()
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if lines.fault:
                raise lines.fault
            row = table.row(cells, lines.where) if cells else None
            if row:
                yield row
        except (InputError, csv.Error) as error:
            fault = (
                error if isinstance(error, InputError) else lines.fault or _broken_quotes(error, lines.where)
            )
            if not table.header or lines.size > ROW_BYTES:
                raise fault from None
            reject(fault, "".join(lines.of_row).rstrip("\r\n"))
            lines.fault = None


def read_tsv_rows(
    stream: LookAhead,
    name: str,
    reject: Reject,
    *,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    ids: Container[str] = (),
) -> Iterator[Row]:
    """Read a row a line, whose cells are between tabs; a quote is a character like any other.

    See `read_csv_rows` for the rest.
    """
    table = _Table(columns, ids, "Put one tab between two fields.")
    lines = Lines(stream, name)
    for number, line in lines:
        text = line.rstrip("\r\n")
        try:
            if lines.fault:
                raise lines.fault
            if text and not text.isspace():
                row = table.row(text.split(delimiter or "\t"), f"{name}:{number}")
                if row:
                    yield row
        except InputError as error:
            (reject if table.header else raise_at_once)(error, text)


class _Table:
    """Makes objects of cells, named by the first row unless the columns are known."""

    def __init__(self, columns: Sequence[str], ids: Container[str], hint: str) -> None:
        self._ids = ids
        self._hint = hint
        self._id_places: list[int] = []
        self.header: Sequence[str] = ()
        if columns:
            self._name_columns(columns)

    def row(self, cells: list[str], where: str) -> Row | None:
        """Return the row; None for the header. Raises InputError for too few or too many cells."""
        header = self.header
        if not header:
            twice = [name for name, times in Counter(cells).items() if times > 1]
            if twice:
                problem = f'{where}: the header has "{twice[0]}" twice.'
                raise InputError(problem, hint="Rename one of the columns, or name all with --columns.")
            self._name_columns(cells)
            return None
        if len(cells) != len(header):
            problem = f"{where}: {len(cells)} fields, not {len(header)} ({', '.join(header[:12])})."
            raise InputError(problem, hint=self._hint)
        for place in self._id_places:
            if cells[place].endswith(".0") and cells[place][:-2].isdigit():
                cells[place] = cells[place][:-2]
        return Row(dict(zip(header, cells, strict=True)), where)

    def _name_columns(self, names: Sequence[str]) -> None:
        self.header = names
        self._id_places = [place for place, name in enumerate(names) if name.lower() in self._ids]


class _RowLines:
    """Lines as the csv module takes them, with those of the current row and the first fault among them."""

    def __init__(self, lines: Lines, name: str) -> None:
        self._lines = lines
        self._numbered = iter(lines)
        self._name = name
        self._number = 0
        self.of_row: list[str] = []
        self.size = 0
        self.fault: InputError | None = None

    @property
    def where(self) -> str:
        """Where the current row starts."""
        return f"{self._name}:{self._number}"

    def pass_over_one(self) -> None:
        """Pass over the first line that is not blank."""
        next(line for _, line in self._numbered if not line.isspace())

    def __iter__(self) -> Iterator[str]:
        of_row = self.of_row
        for number, line in self._numbered:
            if of_row:
                self.size += len(line)
                if self.size > ROW_BYTES:
                    raise too_large(self.where)
            else:
                self._number, self.size = number, len(line)
            of_row.append(line)
            if self._lines.fault:
                self.fault = self.fault or self._lines.fault
            yield line


def _find_delimiter(line: str, columns: int) -> str:
    counts = {delimiter: len(next(csv.reader([line], delimiter=delimiter), [])) for delimiter in ",;\t|"}
    return max(counts, key=lambda delimiter: (counts[delimiter] == columns, counts[delimiter]))


def _broken_quotes(error: csv.Error, where: str) -> InputError:
    return InputError(
        f"{where}: broken quotes ({error}).",
        hint='A field that starts with a quote ends with one; quotes inside it are doubled: "say ""so""".',
    )


class DelimitedWriter:
    """A header and a line a row: strings as they are, null as nothing, anything else as JSON.

    In TSV, a tab or a line break within a cell becomes a space; `close` warns of them.

    The columns are `own_names`, as far as they occur, and the other fields in the order in which they are
    first seen. With `many` rankings they are settled by the first that has rows, `own_names` occur or not,
    and the last is `input`, where fields that have no column go; `columns` are those of a header that is
    there already. Without `many`, one ranking can be written.
    """

    def __init__(
        self,
        stream: BinaryIO,
        rows_of: RowsOf,
        format: str,
        own_names: Sequence[str],
        *,
        many: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._stream = stream
        self._rows_of = rows_of
        self._is_tsv = format == "tsv"
        self._own_names = own_names
        self._many = many
        self._columns = columns
        self._changed = 0

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's rows, and the header before the first."""
        rows = list(self._rows_of(ranking))
        if self._is_tsv and not all(name.isprintable() for row in rows for name in row):
            # The fields are called what the header, read again, calls them.
            rows = [{_BREAKS.sub(" ", name): value for name, value in row.items()} for row in rows]
        if self._columns is None and (rows or not self._many):
            self._write_header(rows)
        columns = self._columns or ()
        known = set(columns)
        for row in rows:
            if not known.issuperset(row):
                homeless = {name: value for name, value in row.items() if name not in known}
                row[INPUT_NAME] = {**row.get(INPUT_NAME, {}), **homeless}
            cells = (row.get(name) for name in columns)
            self._write_cells([cell if isinstance(cell, str) else _encode_cell(cell) for cell in cells])

    def close(self) -> None:
        """Write the header if nothing was written."""
        if self._columns is None:
            self._write_header([])
        if self._changed:
            log.warning("Tabs and line breaks became spaces, as TSV needs, in %d fields.", self._changed)

    def _write_header(self, rows: list[dict[str, Any]]) -> None:
        seen = dict.fromkeys(name for row in rows for name in row)
        own = [name for name in self._own_names if self._many or not rows or name in seen]
        last = [INPUT_NAME] if self._many or INPUT_NAME in seen else []
        self._columns = [*own, *(name for name in seen if name not in (*self._own_names, INPUT_NAME)), *last]
        self._write_cells(self._columns)

    def _write_cells(self, cells: Sequence[str]) -> None:
        if self._is_tsv:
            changed = [(cell, 0) if cell.isprintable() else _BREAKS.subn(" ", cell) for cell in cells]
            self._changed += sum(count > 0 for _, count in changed)
            line = "\t".join(cell for cell, _ in changed)
        else:
            written = io.StringIO(newline="")
            # Before Python 3.13, the module quotes a lone \r only where it is part of the line end.
            csv.writer(written, lineterminator="\r\n").writerow(cells)
            line = written.getvalue()[:-2]
        self._stream.write(encode_utf8(f"{line}\n"))


def _encode_cell(value: Any) -> str:
    return "" if value is None else encode_json(value)


def read_header(path: Path, format: str) -> list[str] | None:
    """Return the columns of a file that a `DelimitedWriter` wrote; None of an empty one."""
    with path.open(encoding="utf-8", newline="") as stream:
        if format == "tsv":
            line = stream.readline().removesuffix("\n")
            return line.split("\t") if line else None
        return next(csv.reader(stream), None)
