"""Results to bytes, in any format, a ranking at a time."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Literal, Protocol, get_args

from ..errors import UnavailableError, UsageError
from ..types import RankedDocument, Ranking
from .delimited import DelimitedWriter
from .json import encode_json, encode_utf8
from .rows import RowsOf, WriteOptions, flat_rows, nested_row, own_names, result_row
from .trec import TrecWriter

OutputFormat = Literal["jsonl", "json", "csv", "tsv", "text", "trec", "parquet"]
"""Of one ranking."""
BatchFormat = Literal["jsonl", "rows", "csv", "tsv", "trec", "parquet"]
"""Of many: `jsonl` is a line a query, `rows` a line a document."""

OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
BATCH_FORMATS: tuple[str, ...] = get_args(BatchFormat)

_LINE_ENDS = re.compile(r"[\r\n]+")


class ResultWriter(Protocol):
    """Writes rankings to a stream that its caller opened, flushes and closes."""

    def write(self, ranking: Ranking) -> None:
        """Write one ranking."""

    def close(self) -> None:
        """Write what the format has at its end; not to be called when the writing failed."""


def require_format(format: str, options: WriteOptions, *, many: bool = False) -> None:
    """Raise UsageError for a format, or options with it, that cannot be written.

    Raises UnavailableError where the package that it needs is not installed.
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
    """Write the results of one query in one of `OUTPUT_FORMATS`, or of `many` in one of `BATCH_FORMATS`.

    CSV and TSV of many take their columns from the first ranking that has results, and put what later ones
    have besides, as JSON, into the last column, `input`. To continue a file, give its header as `columns`:
    those are used, and no header is written. Raises what `require_format` raises.
    """
    require_format(format, options, many=many)

    def rows_of(ranking: Ranking) -> Iterable[dict[str, Any]]:
        if many:
            return [nested_row(ranking, options)] if format == "jsonl" else flat_rows(ranking, options)
        return (result_row(ranked, options) for ranked in ranking)

    names = own_names(options, with_query=many)
    match format:
        case "json":
            return JsonArrayWriter(stream, rows_of)
        case "csv" | "tsv":
            return DelimitedWriter(stream, rows_of, format, names, many=many, columns=columns)
        case "text":
            return LineWriter(stream, lambda ranking: map(_text_line, ranking))
        case "trec":
            return TrecWriter(stream, options.run_name, None if many else "1")
        case "parquet":
            from .parquet import ParquetWriter

            return ParquetWriter(stream, rows_of, names)
    return LineWriter(stream, lambda ranking: map(encode_json, rows_of(ranking)))


class LineWriter:
    """Lines of text: an object each, or a text."""

    def __init__(self, stream: BinaryIO, lines_of: Callable[[Ranking], Iterable[str]]) -> None:
        self._stream = stream
        self._lines_of = lines_of

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's lines."""
        self._stream.write(encode_utf8("".join(f"{line}\n" for line in self._lines_of(ranking))))

    def close(self) -> None:
        """Nothing is left to be written."""


class JsonArrayWriter:
    """One array, an object a line."""

    def __init__(self, stream: BinaryIO, rows_of: RowsOf) -> None:
        self._stream = stream
        self._rows_of = rows_of
        self._before = "[\n"

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's objects as items of the array."""
        for row in self._rows_of(ranking):
            self._stream.write(encode_utf8(self._before + encode_json(row)))
            self._before = ",\n"

    def close(self) -> None:
        """End the array."""
        self._stream.write(b"[]\n" if self._before == "[\n" else b"\n]\n")


def _text_line(ranked: RankedDocument) -> str:
    """Return a document's text on one line; `id:line: passage` where a passage won, as grep has it."""
    if ranked.passage is None:
        return _LINE_ENDS.sub(" ", ranked.text.strip("\r\n"))
    name = ranked.index if ranked.id is None else ranked.id
    return _LINE_ENDS.sub(" ", f"{name}:{ranked.passage.line}: {ranked.passage.text.strip()}")
