"""Results as rows, and rows written in any format, one ranking after another.

If a field of the input has one of our names, it goes into the object `"input"`, so that nothing is lost; if
it has the same value, it is left out.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from ..errors import UsageError, missing_package
from ..ranking import shortest_float32
from ..types import RankedDocument, Ranking
from .fields import ID_FIELDS, INPUT_NAME, TEXT_FIELDS, TITLE_FIELD, choose_columns, without_texts
from .json import encode_cell, encode_json
from .trec import trec_lines

if TYPE_CHECKING:
    from .parquet import ParquetTable

log = logging.getLogger("ce_rerank")

BatchFormat = Literal["jsonl", "rows", "csv", "tsv", "trec", "parquet"]
"""For many rankings: `jsonl` has a line for each query, `rows` one for each document."""

QUERY_INPUT_NAME = "query_input"
"""Holds, in flat rows, the fields of a query's input whose names are in use already."""
_DOCUMENT_NAMES = (*ID_FIELDS, *TEXT_FIELDS, TITLE_FIELD, "index", "score")
_DETAIL_NAMES = ("rank", "tokens", "truncated", "passage", "start", "end", "line")
_LINE_ENDS = re.compile(r"[\r\n]+")
_BREAKS = re.compile(r"\r\n|[\t\r\n]")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What is written of a result.

    Without `with_text` the text and the fields that it was made from are left out, except a title. `details`
    adds what was read, and `model`, the description of what scored. `run_name` is the last column of a run.
    """

    with_text: bool = True
    details: bool = False
    run_name: str = "ce-rerank"
    model: str = ""


def own_names(options: WriteOptions, *, with_query: bool = False) -> tuple[str, ...]:
    """Return our own names in a row, in their order: the first columns of a table.

    Those of a first stage are not among them: they come with the rows.
    """
    return (
        *(("query_id", "query") if with_query else ()),
        *(("index", "score", "text", "id") if options.with_text else ("index", "score", "id")),
        *(_DETAIL_NAMES if options.details else ()),
        *(("model",) if options.details and options.model else ()),
    )


def result_row(
    ranked: RankedDocument, options: WriteOptions, query: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a result as an object: query, index, score, text, id, details, then the fields of its input."""
    score = None if ranked.score == -math.inf else shortest_float32(ranked.score)  # None: a blank document
    row: dict[str, Any] = {**(query or {}), "index": ranked.index, "score": score}
    if ranked.model_score is not None and ranked.first_score is not None:
        model_score = None if score is None else shortest_float32(ranked.model_score)
        row |= {"model_score": model_score, "first_score": ranked.first_score}
    if options.with_text:
        row["text"] = ranked.text
    if ranked.id is not None:
        row["id"] = ranked.id
    if options.details:
        row |= {"rank": ranked.rank, "tokens": ranked.tokens, "truncated": ranked.truncated}
        if ranked.first_rank is not None:
            row["bm25"] = {"score": ranked.first_score, "rank": ranked.first_rank}
        if passage := ranked.passage:
            row["passage"] = passage.text
            row |= {"start": passage.start, "end": passage.end, "line": passage.line}
        if options.model:
            row["model"] = options.model
    document = ranked.document
    return _add_fields(row, document.fields if options.with_text else without_texts(document))


def nested_row(ranking: Ranking, options: WriteOptions) -> dict[str, Any]:
    """Return a query with its results as one object: query_id, query, results, the query's other fields."""
    row = _query_fields(ranking)
    row["results"] = [result_row(ranked, options) for ranked in ranking]
    return _add_fields(row, ranking.query.fields)


def flat_rows(ranking: Ranking, options: WriteOptions) -> Iterator[dict[str, Any]]:
    """Yield each result of a query as an object that starts with query_id and query.

    The query's other fields come after the document's. If the name of one is in use, or would look like the
    document's id or text, it goes into the object `"query_input"`.
    """
    query = ranking.query
    # An id of the row is the query_id.
    others = {
        name: value for name, value in query.fields.items() if name not in ID_FIELDS or value != query.id
    }
    for ranked in ranking:
        row = result_row(ranked, options, _query_fields(ranking))
        yield _add_fields(row, others, QUERY_INPUT_NAME, _DOCUMENT_NAMES)


def _query_fields(ranking: Ranking) -> dict[str, Any]:
    query = ranking.query
    return {"query": query.text} if query.id is None else {"query_id": query.id, "query": query.text}


def _add_fields(
    row: dict[str, Any], fields: Mapping[str, Any], other_name: str = INPUT_NAME, taken: Iterable[str] = ()
) -> dict[str, Any]:
    """Add fields to a row; those whose name is taken by another value go into the object `other_name`."""
    others: dict[str, Any] = {}
    taken = {*row, *taken, INPUT_NAME, QUERY_INPUT_NAME}
    for name, value in fields.items():
        if name not in taken:
            row[name] = value
        elif name not in row or row[name] != value:
            others[name] = value
    if others:
        row[other_name] = others
    return row


def require_format(format: str, options: WriteOptions) -> None:
    """Raise UsageError for a format that cannot be written with these options.

    Raises UnavailableError if a package that it needs is not installed.
    """
    if format == "text" and not options.with_text:
        raise UsageError("--to text writes the texts, which --no-text leaves out.")
    if format == "trec" and options.run_name.split() != [options.run_name]:
        problem = f'The run name "{options.run_name}" must be one word.'
        raise UsageError(problem, hint="Give another --run-name.")
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise missing_package("Writing Parquet needs the pyarrow package.", "parquet")


class ResultWriter:
    """Writes a ranking, or `many` in a `BatchFormat`, to a stream that its caller opens, flushes and closes.

    To continue a table, give its header as `columns`: no header is then written. Raises as `require_format`
    does.
    """

    def __init__(
        self,
        format: str,
        stream: BinaryIO,
        options: WriteOptions,
        *,
        many: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        require_format(format, options)
        self._format = format
        self._stream = stream
        self._options = options
        self._many = many
        self._table: _Table | ParquetTable | None = None
        names = own_names(options, with_query=many)
        if format in ("csv", "tsv"):
            self._table = _Table(stream, format == "tsv", names, many, columns)
        elif format == "parquet":
            from .parquet import ParquetTable

            self._table = ParquetTable(stream, names)

    def write(self, ranking: Ranking) -> None:
        """Write one ranking."""
        if self._table is not None:
            self._table.write(self._rows(ranking))
        else:
            self._stream.write("".join(f"{line}\n" for line in self._lines(ranking)).encode())

    def close(self) -> None:
        """Write the end of the format. Do not call it after an error."""
        if self._table is not None:
            self._table.close()

    def _rows(self, ranking: Ranking) -> Iterable[dict[str, Any]]:
        if self._many and self._format == "jsonl":
            return [nested_row(ranking, self._options)]
        if self._many:
            return flat_rows(ranking, self._options)
        return (result_row(ranked, self._options) for ranked in ranking)

    def _lines(self, ranking: Ranking) -> Iterable[str]:
        if self._format == "trec":
            return trec_lines(ranking, self._options.run_name, None if self._many else "1")
        if self._format == "text":
            return map(_text_line, ranking)
        lines = map(encode_json, self._rows(ranking))
        if self._format == "json":
            items = ",\n".join(lines)
            return [f"[\n{items}\n]" if items else "[]"]
        return lines


def _text_line(ranked: RankedDocument) -> str:
    """Return a document's text on one line; with passages `id:line: passage`, as grep prints it."""
    text = ranked.text.strip("\r\n")
    if passage := ranked.passage:
        name = ranked.index if ranked.id is None else ranked.id
        text = f"{name}:{passage.line}: {passage.text.strip()}"
    return _LINE_ENDS.sub(" ", text)


@dataclass(slots=True)
class _Table:
    """Writes CSV or TSV: a header, and a line for each row. Null is an empty cell.

    In TSV, a tab or a line break within a cell becomes a space; `close` warns of them. The columns are those
    of `choose_columns` for the rows of the first ranking that has any; without `many`, only those that occur.
    """

    stream: BinaryIO
    is_tsv: bool
    own_names: Sequence[str]
    many: bool
    columns: Sequence[str] | None
    changed: int = 0

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        rows = list(rows)
        if self.columns is None and (rows or not self.many):
            self._write_header(rows)
        columns = self.columns or ()
        for row in rows:
            if others := {name: value for name, value in row.items() if name not in columns}:
                row[INPUT_NAME] = {**row.get(INPUT_NAME, {}), **others}
            self._write_cells([row.get(name) for name in columns])

    def close(self) -> None:
        if self.columns is None:
            self._write_header([])
        if self.changed:
            log.warning("Tabs and line breaks became spaces, as TSV needs, in %d fields.", self.changed)

    def _write_header(self, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = choose_columns(self.own_names, rows)
        used = {name for row in rows for name in row} or self.own_names
        self.columns = [name for name in columns if self.many or name in used]
        self._write_cells(self.columns)

    def _write_cells(self, cells: Sequence[Any]) -> None:
        texts = list(map(encode_cell, cells))
        if self.is_tsv:
            changed = [_BREAKS.subn(" ", text) for text in texts]
            self.changed += sum(count > 0 for _, count in changed)
            line = "\t".join(text for text, _ in changed)
        else:
            written = io.StringIO(newline="")
            # Before Python 3.13, the module quotes a lone \r only if it is a part of the line end.
            csv.writer(written, lineterminator="\r\n").writerow(texts)
            line = written.getvalue()[:-2]
        self.stream.write(f"{line}\n".encode())


def read_header(path: Path, format: str) -> list[str] | None:
    """Return the columns of a table that was written in CSV or TSV; None if it is empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        if format == "tsv":
            return next(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), None)
        return next(csv.reader(stream), None)
