"""Runs and judgements: read them in many forms, and write runs in TREC's form.

They are lines of columns (TREC's, or named by a header), rows (JSON, CSV, Parquet), or one JSON object of
objects, `{"q1": {"d1": 1.5}}`, as in pytrec_eval and ranx.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InputError, UsageError
from ..ranking import separate_ties, shortest_float32
from ..types import Ranking
from .documents import read_rows, sniff_format
from .fields import as_id, describe_fields
from .json import encode_json, json_kind
from .source import LookAhead, Reject, Source, raise_at_once, read_lines

# In lower case, the first that is there: PyTerrier has qid and query (a text), docno and docid (a number).
_QUERY_NAMES = ("query_id", "query-id", "qid", "q_id", "topic_id", "topic", "query")
_DOCUMENT_NAMES = (
    "doc_id", "doc-id", "document_id", "docno", "docid", "corpus-id", "corpus_id", "pid", "id", "_id",
)  # fmt: skip
# trec_eval counts the documents of every grade from 0 up; from 2**31 its measures are silently 0.
_HIGHEST_GRADE = 1_000_000
_LOOK_BYTES = 1 << 12
_SPACE = re.compile("[ \t\n\r\v\f]+")  # str.split() also splits at a no-break space, which an id may hold


class RunLine(NamedTuple):
    """A document's score or grade for a query."""

    query_id: str
    doc_id: str
    score: float
    origin: str

    @property
    def line_number(self) -> int:
        """The number of the line, or of the row, from 1."""
        return int(self.origin[self.origin.rindex(":") + 1 :].removeprefix(" row "))


class _Kind(NamedTuple):
    """The usual names of the number, and the columns of TREC."""

    number_names: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]


_RUN = _Kind(("score", "rank"), (("query_id", "Q0", "doc_id", "rank", "score", "run_name"),))
_JUDGEMENTS = _Kind(
    ("relevance", "rel", "label", "grade", "judgement", "judgment", "score"),
    (("query_id", "0", "doc_id", "relevance"), ("query_id", "doc_id", "relevance")),
)


def read_run(
    source: Source, reject: Reject = raise_at_once, columns: Sequence[str] = ()
) -> Iterator[RunLine]:
    """Read a run in any form; lines of columns in the order of the file.

    `columns` names the columns of lines without a header that are not TREC's six, for example
    `("qid", "pid", "rank")`: without a score, the rank gives the order. The rows of JSON, CSV and Parquet are
    ranked by score for each query; equal scores are lowered a little, to keep their order. A null score, that
    of a blank document, becomes the lowest of the query minus 1. Lines that cannot be read are rejected; by
    default that raises an InputError with file and line. Raises UsageError for `columns` that lack one of a
    run's three.
    """
    if columns and not _find_names(tuple(columns), _RUN.number_names):
        problem = f"--columns {','.join(columns)} lacks some that a run has."
        raise UsageError(problem, hint="Name a qid, a pid, and a score or a rank.")
    return _read(source, _RUN, reject, columns)


def read_judgements(source: Source) -> Iterator[RunLine]:
    """Read relevance judgements in any form, in the order of the file.

    The score is the grade, a whole number; 0 and less mean not relevant. Raises InputError, with file and
    line, for a line that cannot be read.
    """
    return _read(source, _JUDGEMENTS, raise_at_once)


def _read(source: Source, kind: _Kind, reject: Reject, columns: Sequence[str] = ()) -> Iterator[RunLine]:
    """Read the lines of a source, whose first bytes show its form."""
    with source.open() as stream:
        first_line = stream.peek_line(_LOOK_BYTES).decode(errors="replace").replace('"', "")
        format = sniff_format(stream.peek(0))
        if format not in ("json", "parquet"):
            if not _find_names(tuple(re.split(r"[,;|\t]", first_line)), kind.number_names):
                yield from _read_columns(stream, source.name, kind, reject, columns)
                return
            format = "tsv" if "\t" in first_line else "csv"
        lists: dict[str, list[RunLine]] = {}
        for value, origin in read_rows(format, stream, source.name, reject):
            try:
                lines = _lines_of(value, kind, origin)
            except InputError as error:
                reject(error, encode_json(value))
                continue
            if kind is _JUDGEMENTS:
                yield from lines
                continue
            for line in lines:
                lists.setdefault(line.query_id, []).append(line)
    for ranked in lists.values():
        ranked.sort(key=lambda line: -line.score)
        scores = separate_ties(line.score for line in ranked)
        yield from (line._replace(score=score) for line, score in zip(ranked, scores, strict=True))


def _read_columns(
    stream: LookAhead, name: str, kind: _Kind, reject: Reject, columns: Sequence[str]
) -> Iterator[RunLine]:
    """Read lines of columns, separated by ASCII white space; a line that starts with # is a comment.

    Columns are named by a header, by `columns`, or by their number in the first line.
    """
    layouts = [layout for layout in (columns, *kind.layouts) if layout]
    names: Sequence[str] = ()  # of the columns
    found: Sequence[str] = ()  # those of the query, the document and the number
    for line, number, fault in read_lines(stream, name):
        if not fault and (line.isspace() or line[0] == "#"):
            continue
        cells = line.split() if line.isascii() else _SPACE.split(line.strip(" \t\r\n"))
        try:
            if fault:
                raise fault
            if not names:
                header = _find_names(tuple(cells), kind.number_names)
                same_size = (layout for layout in layouts if len(layout) == len(cells))
                names = cells if header else next(same_size, layouts[0])
                found = _find_names(tuple(names), kind.number_names) or ()
                if header:
                    continue
            if len(cells) != len(names):
                problem = f"{name}:{number}: {len(cells)} fields, not {len(names)} ({', '.join(names)})."
                raise InputError(problem, hint="Name them in a header, or a run's by --columns qid,pid,rank.")
            values = [cells[names.index(one)] for one in found]
            made = _line_of(values, found, kind, f"{name}:{number}")
        except InputError as error:
            reject(error, line.rstrip("\r\n"))
        else:
            yield made


def _lines_of(value: object, kind: _Kind, where: str) -> list[RunLine]:
    """Return the lines of a row: it has a document, or those of a query or of several queries."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: the row is {json_kind(value)}, not an object.")
    rows = [value]
    if kind is _RUN and "results" in value:
        results = value["results"]
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise InputError(f'{where}: "results" is not a list of objects.')
        query = {name: inner for name, inner in value.items() if name.lower() in _QUERY_NAMES}
        rows = [{**query, **result} for result in results]
    elif all(isinstance(inner, dict) for inner in value.values()):
        rows = [
            {"query_id": query_id, "doc_id": doc_id, kind.number_names[0]: number}
            for query_id, numbers in value.items()
            for doc_id, number in numbers.items()
        ]
    lines = []
    for row in rows:
        names = _find_names(tuple(row), kind.number_names)
        if names is None:
            problem = f"the row needs a query_id, a doc_id and a {kind.number_names[0]}"
            raise InputError(f"{where}: {problem} ({describe_fields(row)}).")
        lines.append(_line_of([row[name] for name in names], names, kind, where))
    return lines


@functools.lru_cache(maxsize=256)
def _find_names(names: tuple[str, ...], number_names: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Return the names of query, document and number among these; None if one is missing."""
    by_lower = {name.lower(): name for name in reversed(names)}
    usual = (_QUERY_NAMES, _DOCUMENT_NAMES, number_names)
    found = [next((by_lower[name] for name in known if name in by_lower), "") for known in usual]
    return (found[0], found[1], found[2]) if all(found) else None


def _line_of(values: Sequence[Any], names: Sequence[str], kind: _Kind, where: str) -> RunLine:
    """Return the line of a query, a document and a number; raise InputError that says what is wrong."""
    query_id, doc_id = as_id(values[0]), as_id(values[1])
    if query_id is None or doc_id is None:
        place = 0 if query_id is None else 1
        problem = "empty" if values[place] == "" else f"{json_kind(values[place])}, not a string or a number"
        raise InputError(f"{where}: the {names[place]} is {problem}.")
    given = values[2]
    is_blank = kind is _RUN and given in (None, "")  # the document was not scored
    try:
        number = -math.inf if is_blank else float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    is_grade = number.is_integer() and abs(number) <= _HIGHEST_GRADE
    is_good = is_blank or (math.isfinite(number) if kind is _RUN else is_grade)
    if isinstance(given, bool) or not is_good:
        problem = f'the {names[2]} of "{doc_id}" for "{query_id}" is {json.dumps(given)}'
        wanted = "a number" if kind is _RUN else f"a whole number up to {_HIGHEST_GRADE:,}"
        raise InputError(f"{where}: {problem}, not {wanted}.")
    score = -number if names[2] == "rank" else number
    return RunLine(str(query_id), str(doc_id), score, where)


def trec_lines(ranking: Ranking, run_name: str, query_id: str | None = None) -> Iterator[str]:
    """Yield a line for each document: `query_id Q0 doc_id rank score run_name`.

    `query_id` is used if the query has no id. Raises InputError for an id that is missing or not one word.
    Equal scores are written with the smallest difference of a float32, so that sorting gives our order.
    """
    query = ranking.query
    query_id = require_run_id(query_id if query.id is None else query.id, query.origin or "The query")
    scores = separate_ties(ranked.score for ranked in ranking)
    for ranked, score in zip(ranking, scores, strict=True):
        doc_id = require_run_id(ranked.id, ranked.document.origin or f"document {ranked.index}")
        yield f"{query_id} Q0 {doc_id} {ranked.rank} {shortest_float32(score)!r} {run_name}"


def require_run_id(id: str | int | None, where: str, fields: Mapping[str, Any] | None = None) -> str:
    """Return an id as a column of a run.

    Raises InputError, with `where` and the `fields` of the row, if it is missing or not one word.
    """
    if id is None:
        has = f" ({describe_fields(fields)})" if fields else ""
        raise InputError(
            f"{where}: no id{has}, and TREC output and --qrels need one.",
            hint="Name the field that holds it with --id-field (of a query: query_id).",
        )
    word = str(id)
    if not word or _SPACE.search(word):
        raise InputError(
            f'{where}: the id "{word}" is not one word, as a TREC run needs.',
            hint="Name another with --id-field.",
        )
    return word
