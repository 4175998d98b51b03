"""Tables: CSV, with the quotes of Excel and Python's csv module, and TSV, with a row on each line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence

from ..errors import InputError
from .source import ROW_BYTES, LookAhead, Reject, Row, read_lines


def read_table_rows(
    stream: LookAhead,
    name: str,
    reject: Reject,
    *,
    format: str,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    ids: Container[str] = (),
) -> Iterator[Row]:
    """Read rows as objects of strings, named by the header or by `columns`; blank lines are skipped.

    In CSV a quoted field may hold line ends; the origin of a row is its first line. The delimiter is the
    argument, or that of a `sep=` line, or the one that cuts the first line into as many cells as there are
    `columns`, or else into the most cells. In TSV a line is a row, and a quote is a character like any other.
    In columns named in `ids` (lower case) `1.0` is read as `1`. Raises InputError for a header that cannot be
    read; a row with another number of cells, or with broken quotes, is rejected.
    """
    if format == "tsv":
        hint = "Put one tab between two fields."
        rows = _split_lines(stream, name, delimiter or "\t")
    else:
        hint = "Quote fields that hold the delimiter."
        rows = _read_csv(stream, name, delimiter, len(columns))
    header = columns
    id_places = _find_places(columns, ids)
    for number, lines, cells, fault in rows:
        where = f"{name}:{number}"
        if header and fault is None and len(cells) == len(header):
            for place in id_places:
                if cells[place].endswith(".0") and cells[place][:-2].isdigit():
                    cells[place] = cells[place][:-2]
            yield Row(dict(zip(header, cells, strict=True)), where)
        elif header:
            problem = f"{where}: {len(cells)} fields, not {len(header)} ({', '.join(header[:12])})."
            reject(fault or InputError(problem, hint=hint), "".join(lines).rstrip("\r\n"))
        elif fault:
            raise fault
        else:
            header = _require_each_once(cells, where)
            id_places = _find_places(header, ids)


_CutRow = tuple[int, list[str], list[str], InputError | None]
"""The number of a row's first line, its lines, its cells, and why it cannot be read."""


def _split_lines(stream: LookAhead, name: str, delimiter: str) -> Iterator[_CutRow]:
    for line, number, fault in read_lines(stream, name):
        text = line.rstrip("\r\n")
        if fault or (text and not text.isspace()):
            yield number, [line], text.split(delimiter), fault


def _read_csv(stream: LookAhead, name: str, delimiter: str | None, columns: int) -> Iterator[_CutRow]:
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
            faults.append(InputError(f"{name}:{number}: broken quotes ({error}).", hint=hint))
        if cells or faults:
            yield number, lines, cells, faults[0] if faults else None


def _find_places(names: Sequence[str], ids: Container[str]) -> list[int]:
    return [place for place, name in enumerate(names) if name.lower() in ids]


def _find_delimiter(line: str, columns: int) -> str:
    counts = {delimiter: len(next(csv.reader([line], delimiter=delimiter), [])) for delimiter in ",;\t|"}
    return max(counts, key=lambda delimiter: (counts[delimiter] == columns, counts[delimiter]))


def _require_each_once(names: Sequence[str], where: str) -> Sequence[str]:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        problem = f'{where}: the header has "{name}" twice.'
        raise InputError(problem, hint="Rename one of the columns, or name all with --columns.")
    return names
