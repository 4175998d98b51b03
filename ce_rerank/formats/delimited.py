"""Tables: CSV, with the quotes of Excel and Python's csv module, and TSV, with a row on each line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from ..errors import InputError
from .source import ROW_BYTES, LookAhead, Reject, read_lines

CutRow = tuple[int, list[str], list[str], InputError | None]
"""The number of a row's first line, its lines, its cells, and why it cannot be read."""


def find_cells(
    rows: Iterator[CutRow],
    name: str,
    reject: Reject,
    find_columns: Callable[[list[str]], Sequence[str]],
    hint: str,
) -> Iterator[tuple[Sequence[str], list[str], str]]:
    """Yield the columns of a table, the cells of a row, and its origin; reject a row that does not fit.

    `find_columns` gets the cells of the first row and returns the columns; if there are none, that row is
    the header, which cannot be rejected. `hint` says what to do about a wrong number of cells.
    """
    columns: Sequence[str] = ()
    for number, lines, cells, fault in rows:
        where = f"{name}:{number}"
        if not columns and not (columns := find_columns(cells)):
            if fault:
                raise fault
            columns = cells
            column, times = Counter(columns).most_common(1)[0]
            if times > 1:
                problem = f'{where}: the header has "{column}" twice.'
                raise InputError(problem, hint="Rename one of the columns, or name all with --columns.")
        elif fault or len(cells) != len(columns):
            problem = f"{where}: {len(cells)} fields, not {len(columns)} ({', '.join(columns[:12])})."
            reject(fault or InputError(problem, hint=hint), "".join(lines).rstrip("\r\n"))
        else:
            yield columns, cells, where


def split_lines(
    stream: LookAhead, name: str, split: Callable[[str], list[str]], *, comments: bool = False
) -> Iterator[CutRow]:
    """Cut each line that is not blank, without its end; with `comments`, not those that begin with #."""
    for line, number, fault in read_lines(stream, name):
        text = line.rstrip("\r\n")
        if fault or (text and not text.isspace() and not (comments and text[0] == "#")):
            yield number, [line], split(text), fault


def split_csv(stream: LookAhead, name: str, delimiter: str | None, columns: int) -> Iterator[CutRow]:
    """Cut rows of CSV, in which a quoted cell may hold line ends; blank lines are skipped.

    The delimiter is the argument, or that of a `sep=` line, or the one that cuts the first line into as many
    cells as there are `columns`, or else into the most cells.
    """
    csv.field_size_limit(ROW_BYTES)  # for the whole process; the default of 128 KiB is too small
    first_line = stream.peek_line(ROW_BYTES).decode(errors="replace")
    numbered = read_lines(stream, name)
    skipped = 0
    if sep_line := re.fullmatch(r'"?sep=(.?)"?', first_line):
        delimiter = delimiter or sep_line[1] or "\t"
        skipped = next(number for line, number, _ in numbered if not line.isspace())
    lines: list[str] = []
    faults: list[InputError] = []

    def feed() -> Iterator[str]:
        for line, _, fault in numbered:
            lines.append(line)
            if fault:
                faults.append(fault)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter or _find_delimiter(first_line, columns), strict=True)
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


def _find_delimiter(line: str, columns: int) -> str:
    counts = {delimiter: len(next(csv.reader([line], delimiter=delimiter), [])) for delimiter in ",;\t|"}
    return max(counts, key=lambda delimiter: (counts[delimiter] == columns, counts[delimiter]))
