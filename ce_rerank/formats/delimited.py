"""Tables: CSV, with the quotes of Excel and Python's csv module, and TSV, with a row on each line."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterator, Sequence

from ..errors import InputError
from .source import ROW_BYTES, LookAhead, Reject, Row, read_lines

SEP_LINE = re.compile(r'"?sep=(.?)"?')
"""The first line by which Excel says the delimiter of a CSV file."""
CutRow = tuple[int, list[str], list[str], InputError | None]
"""The number of a row's first line, its lines, its cells, and why it cannot be read."""


def read_table_rows(
    stream: LookAhead,
    name: str,
    reject: Reject,
    *,
    is_tsv: bool,
    columns: Sequence[str] = (),
    delimiter: str | None = None,
    id_names: Container[str] = (),
) -> Iterator[Row]:
    """Read the rows of a table as objects of strings; blank lines are skipped.

    Without `columns` the first row is the header, and cannot be rejected. In a column with one of `id_names`,
    in any case, `1.0` is read as `1`. In TSV a quote is a plain character.
    """
    rows: Iterator[CutRow]
    if is_tsv:
        tab = delimiter or "\t"
        lines = read_lines(stream, name)
        rows = (
            (number, [line], line.rstrip("\r\n").split(tab), fault)
            for line, number, fault in lines
            if fault or not line.isspace()
        )
        hint = "Put one tab between two fields."
    else:
        rows = _cut_csv(stream, name, delimiter, len(columns))
        hint = "Give each row a field for each column, and quote those that hold the delimiter."
    id_columns: list[str] | None = None
    for number, row_lines, cells, fault in rows:
        where = f"{name}:{number}"
        if not columns:
            if fault:
                raise fault
            columns = cells
            if twice := next((column for column in columns if columns.count(column) > 1), None):
                problem = f'{where}: the header has "{twice}" twice.'
                raise InputError(problem, hint="Rename one of the columns, or name all with --columns.")
            continue
        if fault or len(cells) != len(columns):
            problem = f"{where}: {len(cells)} fields, not {len(columns)} ({', '.join(columns[:12])})."
            reject(fault or InputError(problem, hint=hint), "".join(row_lines).rstrip("\r\n"))
            continue
        row = dict(zip(columns, cells, strict=True))
        if id_columns is None:
            id_columns = [column for column in columns if column.lower() in id_names]
        for column in id_columns:
            if row[column].endswith(".0") and row[column][:-2].isdigit():
                row[column] = row[column][:-2]
        yield Row(row, where)


def _cut_csv(stream: LookAhead, name: str, delimiter: str | None, columns: int) -> Iterator[CutRow]:
    """Cut rows of CSV, in which a quoted cell may hold line ends.

    The delimiter is the argument, or that of a `sep=` line, or the one that cuts the first line into as many
    cells as there are `columns`, or else into the most cells.
    """
    csv.field_size_limit(ROW_BYTES)  # for the whole process; the default of 128 KiB is too small
    first_line = stream.peek_line(ROW_BYTES).decode(errors="replace")
    numbered = read_lines(stream, name)
    skipped = 0
    if sep_line := SEP_LINE.fullmatch(first_line):
        delimiter = delimiter or sep_line[1] or "\t"
        skipped = next(number for line, number, _ in numbered if not line.isspace())
    elif delimiter is None:
        sizes = {one: len(next(csv.reader([first_line], delimiter=one), [])) for one in ",;\t|"}
        delimiter = max(sizes, key=lambda one: (sizes[one] == columns, sizes[one]))
    lines: list[str] = []
    faults: list[InputError] = []

    def feed() -> Iterator[str]:
        for line, _, fault in numbered:
            lines.append(line)
            if fault:
                faults.append(fault)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        lines.clear()
        faults.clear()
        number = skipped + reader.line_num + 1
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = 'A field that starts with a quote ends with one; quotes inside are doubled: "say ""so""".'
            lost = f"; lines {number} to {number + len(lines) - 1} are lost" if len(lines) > 1 else ""
            faults.append(InputError(f"{name}:{number}: broken quotes ({error}{lost}).", hint=hint))
        if cells or faults:
            yield number, lines, cells, faults[0] if faults else None
