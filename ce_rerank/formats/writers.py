"""Write results in any format, one ranking after another."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, get_args

from ..errors import UnavailableError, UsageError
from ..types import RankedDocument, Ranking
from .json import encode_json
from .rows import INPUT_NAME, RowsOf, WriteOptions, flat_rows, nested_row, own_names, result_row
from .trec import trec_lines

log = logging.getLogger("ce_rerank")

OutputFormat = Literal["jsonl", "json", "csv", "tsv", "text", "trec", "parquet"]
"""For one ranking."""
BatchFormat = Literal["jsonl", "rows", "csv", "tsv", "trec", "parquet"]
"""For many: `jsonl` has a line for each query, `rows` one for each document."""

OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
BATCH_FORMATS: tuple[str, ...] = get_args(BatchFormat)

_LINE_ENDS = re.compile(r"[\r\n]+")
_BREAKS = re.compile(r"\r\n|[\t\r\n]")


class ResultWriter(Protocol):
    """Writes rankings to a stream that its caller opened, flushes and closes."""

    def write(self, ranking: Ranking) -> None:
        """Write one ranking."""

    def close(self) -> None:
        """Write the end of the format. Do not call it after an error."""


def require_format(format: str, options: WriteOptions, *, many: bool = False) -> None:
    """Raise UsageError for a format that cannot be written, or not with these options.

    Raises UnavailableError if a package that it needs is not installed.
    """
    formats = BATCH_FORMATS if many else OUTPUT_FORMATS
    if format not in formats:
        raise UsageError(f'There is no output format "{format}".', hint=f"Give one of {', '.join(formats)}.")
    if format == "text" and not options.with_text:
        raise UsageError("--to text writes the texts, which --no-text leaves out.")
    if format == "trec" and options.run_name.split() != [options.run_name]:
        raise UsageError(
            f'The run name "{options.run_name}" must be one word.', hint="Give another --run-name."
        )
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UnavailableError(
            "Writing Parquet needs the pyarrow package.", hint="Install it: pip install 'ce-rerank[parquet]'"
        )


def open_writer(
    format: str,
    stream: BinaryIO,
    options: WriteOptions,
    *,
    many: bool = False,
    columns: Sequence[str] | None = None,
) -> ResultWriter:
    """Return a writer for one query, in one of `OUTPUT_FORMATS`, or for `many`, in one of `BATCH_FORMATS`.

    With many, CSV and TSV have the columns of the first ranking with results; other fields of later ones go
    into the last column, `input`, as JSON. To continue a file, give its header as `columns`: no header is
    then written. Raises as `require_format` does.
    """
    require_format(format, options, many=many)

    def rows_of(ranking: Ranking) -> Iterable[dict[str, Any]]:
        if many:
            return [nested_row(ranking, options)] if format == "jsonl" else flat_rows(ranking, options)
        return (result_row(ranked, options) for ranked in ranking)

    def lines_of(ranking: Ranking) -> Iterable[str]:
        if format == "trec":
            return trec_lines(ranking, options.run_name, None if many else "1")
        if format == "text":
            return map(_text_line, ranking)
        lines = map(encode_json, rows_of(ranking))
        return _array_lines(list(lines)) if format == "json" else lines

    names = own_names(options, with_query=many)
    if format in ("csv", "tsv"):
        return DelimitedWriter(stream, rows_of, format, names, many=many, columns=columns)
    if format == "parquet":
        from .parquet import ParquetWriter

        return ParquetWriter(stream, rows_of, names)
    return LineWriter(stream, lines_of)


class LineWriter:
    """Writes lines: objects, texts, or lines of a run."""

    def __init__(self, stream: BinaryIO, lines_of: Callable[[Ranking], Iterable[str]]) -> None:
        self._stream = stream
        self._lines_of = lines_of

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's lines."""
        self._stream.write("".join(f"{line}\n" for line in self._lines_of(ranking)).encode())

    def close(self) -> None:
        """Do nothing: all is written."""


class DelimitedWriter:
    """Writes a header and a line for each row: strings as they are, null as nothing, anything else as JSON.

    In TSV, a tab or a line break within a cell becomes a space; `close` warns of them.

    For one ranking, the columns are those of `own_names` that occur, and then the other fields in the order
    in which they are first seen. With `many`, all of `own_names` are columns, then the other fields of the
    first ranking that has rows, and last `input`, for fields without a column. `columns` is the header of a
    file that is continued.
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
        if self._columns is None and (rows or not self._many):
            self._write_header(rows)
        columns = self._columns or ()
        for row in rows:
            if homeless := {name: value for name, value in row.items() if name not in columns}:
                row[INPUT_NAME] = {**row.get(INPUT_NAME, {}), **homeless}
            self._write_cells([row.get(name) for name in columns])

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

    def _write_cells(self, cells: Sequence[Any]) -> None:
        texts = [
            cell if isinstance(cell, str) else "" if cell is None else encode_json(cell) for cell in cells
        ]
        if self._is_tsv:
            changed = [_BREAKS.subn(" ", text) for text in texts]
            self._changed += sum(count > 0 for _, count in changed)
            line = "\t".join(text for text, _ in changed)
        else:
            written = io.StringIO(newline="")
            # Before Python 3.13, the module quotes a lone \r only if it is a part of the line end.
            csv.writer(written, lineterminator="\r\n").writerow(texts)
            line = written.getvalue()[:-2]
        self._stream.write(f"{line}\n".encode())


def read_header(path: Path, format: str) -> list[str] | None:
    """Return the columns of a file that a `DelimitedWriter` wrote; None if it is empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        if format == "tsv":
            line = stream.readline().removesuffix("\n")
            return line.split("\t") if line else None
        return next(csv.reader(stream), None)


def _array_lines(items: list[str]) -> list[str]:
    return ["[", *(f"{item}," for item in items[:-1]), items[-1], "]"] if items else ["[]"]


def _text_line(ranked: RankedDocument) -> str:
    """Return a document's text on one line; with passages `id:line: passage`, as grep prints it."""
    if ranked.passage is None:
        return _LINE_ENDS.sub(" ", ranked.text.strip("\r\n"))
    name = ranked.index if ranked.id is None else ranked.id
    return _LINE_ENDS.sub(" ", f"{name}:{ranked.passage.line}: {ranked.passage.text.strip()}")
