"""Tables: CSV, with the quotes of Excel and Python's csv module, and TSV, with a row on each line."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterator, Sequence

from ..errors import InputError
from .source import ROW_BYTES, LookAhead, Reject, Row, read_lines


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
    in any case, `1.0` is read as `1`.

    In TSV a quote is a plain character. In CSV a quoted cell may hold line ends, and the delimiter is the
    argument, or that of a `sep=` line, or the one that cuts the first line into as many cells as there are
    `columns`, or else into the most cells.
    """
    csv.field_size_limit(ROW_BYTES)  # for the whole process; the default of 128 KiB is too small
    numbered = read_lines(stream, name)
    skipped = 0
    if is_tsv:
        delimiter, quoting = delimiter or "\t", csv.QUOTE_NONE
        hint = "Put one tab between two fields."
    else:
        quoting = csv.QUOTE_MINIMAL
        hint = "Give each row a field for each column, and quote those that hold the delimiter."
        first_line = stream.peek_line(ROW_BYTES).decode(errors="replace")
        if sep_line := re.fullmatch(r'"?sep=(.?)"?', first_line):
            delimiter = delimiter or sep_line[1] or "\t"
            skipped = next(number for line, number, _ in numbered if not line.isspace())
        elif delimiter is None:
            sizes = {one: len(next(csv.reader([first_line], delimiter=one), [])) for one in ",;\t|"}
            delimiter = max(sizes, key=lambda one: (sizes[one] == len(columns), sizes[one]))
    lines: list[str] = []
    faults: list[InputError] = []

    def feed() -> Iterator[str]:
        for line, _, fault in numbered:
            lines.append(line)
            if fault:
                faults.append(fault)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
    id_columns = [column for column in columns if column.lower() in id_names]
    while True:
        lines.clear()
        faults.clear()
        number = skipped + reader.line_num + 1
        where = f"{name}:{number}"
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            quotes = (
                'A field that starts with a quote ends with one; quotes inside are doubled: "say ""so""".'
            )
            lost = f"; lines {number} to {number + len(lines) - 1} are lost" if len(lines) > 1 else ""
            faults.append(InputError(f"{where}: broken quotes ({error}{lost}).", hint=quotes))
        if lines[0].isspace() and not faults:
            continue
        if not columns:
            if faults:
                raise faults[0]
            columns = cells
            if twice := next((column for column in columns if columns.count(column) > 1), None):
                problem = f'{where}: the header has "{twice}" twice.'
                raise InputError(problem, hint="Rename one of the columns, or name all with --columns.")
            id_columns = [column for column in columns if column.lower() in id_names]
        elif faults or len(cells) != len(columns):
            problem = f"{where}: {len(cells)} fields, not {len(columns)} ({', '.join(columns[:12])})."
            fault = faults[0] if faults else InputError(problem, hint=hint)
            reject(fault, "".join(lines).rstrip("\r\n"))
        else:
            row = dict(zip(columns, cells, strict=True))
            for column in id_columns:
                if row[column].endswith(".0") and row[column][:-2].isdigit():
                    row[column] = row[column][:-2]
            yield Row(row, where)
