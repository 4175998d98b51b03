"""The door out: results to bytes, in any format, a ranking at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Literal, Protocol, get_args

from ..errors import UnavailableError, UsageError
from ..types import RankedDocument, Ranking
from .delimited import DELIMITERS, DelimitedWriter
from .json import encode_json, encode_utf8
from .rows import RowsOf, WriteOptions, flat_rows, nested_row, own_names, result_row
from .trec import TrecWriter

OutputFormat = Literal["jsonl", "json", "csv", "tsv", "text", "trec", "parquet"]
BatchFormat = Literal["jsonl", "rows", "csv", "tsv", "trec", "parquet"]

OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
"""What `open_writer` takes."""
BATCH_FORMATS: tuple[str, ...] = get_args(BatchFormat)
"""What `open_batch_writer` takes: `jsonl` is a line a query, `rows` a line a document."""

_LINE_ENDS = re.compile(r"[\r\n]+")


class ResultWriter(Protocol):
    """Writes rankings to a stream that its caller opened, flushes and closes."""

    def write(self, ranking: Ranking) -> None:
        """Write one ranking."""
        ...

    def close(self) -> None:
        """Write what the format has at its end; not to be called when the writing failed."""
        ...


def open_writer(format: str, stream: BinaryIO, options: WriteOptions) -> ResultWriter:
    """Write the results of one query in one of `OUTPUT_FORMATS`.

    Raises UsageError for a format, or a combination of options, that cannot mean anything.
    """

    def rows_of(ranking: Ranking) -> Iterable[dict[str, Any]]:
        return (result_row(ranked, options) for ranked in ranking)

    match format:
        case "jsonl":
            return JsonlWriter(stream, rows_of)
        case "json":
            return JsonWriter(stream, rows_of)
        case "csv" | "tsv":
            return DelimitedWriter(stream, rows_of, DELIMITERS[format], own_names=own_names(options))
        case "text":
            return TextWriter(stream, options)
        case "trec":
            return TrecWriter(stream, options.run_name, query_id="1")
        case "parquet":
            return _open_parquet_writer(stream, rows_of, own_names(options))
    raise _no_such_format(format, OUTPUT_FORMATS)


def open_batch_writer(
    format: str,
    stream: BinaryIO,
    options: WriteOptions,
    *,
    columns: Sequence[str] | None = None,
) -> ResultWriter:
    """Write the results of many queries in one of `BATCH_FORMATS`.

    CSV and TSV take their columns from the first ranking that has results, and put what later ones have
    besides, as JSON, into the last column, `input`. To continue a file, give its header as `columns`: those
    are used, and no header is written.
    """

    def rows_of(ranking: Ranking) -> Iterable[dict[str, Any]]:
        return flat_rows(ranking, options)

    match format:
        case "jsonl":
            return JsonlWriter(stream, lambda ranking: [nested_row(ranking, options)])
        case "rows":
            return JsonlWriter(stream, rows_of)
        case "csv" | "tsv":
            names = own_names(options, with_query=True)
            return DelimitedWriter(
                stream, rows_of, DELIMITERS[format], own_names=names, many=True, columns=columns
            )
        case "trec":
            return TrecWriter(stream, options.run_name)
        case "parquet":
            return _open_parquet_writer(stream, rows_of, own_names(options, with_query=True))
    raise _no_such_format(format, BATCH_FORMATS)


class JsonlWriter:
    """An object a line."""

    def __init__(self, stream: BinaryIO, rows_of: RowsOf) -> None:
        self._stream = stream
        self._rows_of = rows_of

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's objects."""
        lines = "".join(encode_json(row) + "\n" for row in self._rows_of(ranking))
        self._stream.write(encode_utf8(lines))

    def close(self) -> None:
        """Nothing is left to be written."""


class JsonWriter:
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


class TextWriter:
    """A text a line, line ends within it as spaces; `id:line: passage` where a passage won, as grep has it.

    A document without an id is called by its place in the input.
    """

    def __init__(self, stream: BinaryIO, options: WriteOptions) -> None:
        if not options.with_text:
            raise UsageError("--to text writes the texts, which --no-text leaves out.")
        self._stream = stream

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's texts."""
        self._stream.write(encode_utf8("".join(f"{_text_line(ranked)}\n" for ranked in ranking)))

    def close(self) -> None:
        """Nothing is left to be written."""


def _text_line(ranked: RankedDocument) -> str:
    if ranked.passage is None:
        return _LINE_ENDS.sub(" ", ranked.text.strip("\r\n"))
    name = ranked.index if ranked.id is None else ranked.id
    return _LINE_ENDS.sub(" ", f"{name}:{ranked.passage.line}: {ranked.passage.text.strip()}")


def _open_parquet_writer(stream: BinaryIO, rows_of: RowsOf, own_names: Sequence[str]) -> ResultWriter:
    try:
        from .parquet import ParquetWriter
    except ModuleNotFoundError:
        raise UnavailableError(
            "Writing Parquet needs the pyarrow package.", hint="Install it: pip install 'ce-rerank[parquet]'"
        ) from None
    return ParquetWriter(stream, rows_of, own_names)


def _no_such_format(format: str, formats: Sequence[str]) -> UsageError:
    return UsageError(f'There is no output format "{format}".', hint=f"Give one of {', '.join(formats)}.")
