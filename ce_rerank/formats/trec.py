"""Runs and judgements: read them in many forms, and write runs in TREC's form.

They are lines of columns (TREC's, or named by a header), rows (JSON, CSV, Parquet), or one JSON object of
objects, `{"q1": {"d1": 1.5}}`, as in pytrec_eval and ranx.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import InputError, UsageError
from ..ranking import separate_ties, shortest_float32
from ..types import Ranking
from .documents import row_reader, sniff_format
from .fields import as_id, describe_fields
from .json import encode_json, json_kind
from .source import LookAhead, Readable, Reject, as_source, raise_at_once, read_lines, text_blocks

# In lower case, the first that is there: PyTerrier has qid and query (a text), docno and docid (a number).
_QUERY_NAMES = ("query_id", "query-id", "qid", "q_id", "topic_id", "topic", "query")
_DOCUMENT_NAMES = (
    "doc_id", "doc-id", "document_id", "docno", "docid", "corpus-id", "corpus_id", "pid", "id", "_id",
)  # fmt: skip
# trec_eval counts the documents of every grade from 0 up; from 2**31 its measures are silently 0.
_HIGHEST_GRADE = 1_000_000
_ENOUGH_TO_TELL = 1 << 12
_OBJECT_OF_OBJECTS = re.compile(rb'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{|\}\s*$)')
_SPACE = re.compile("[ \t\n\r\v\f]+")  # str.split() also splits at a no-break space, which an id may hold


class RunLine(NamedTuple):
    """The score that a run gives a document for a query; `run_name` is empty if the run has no name."""

    query_id: str
    doc_id: str
    score: float
    line_number: int
    run_name: str = ""


class Judgement(NamedTuple):
    """How relevant a document was judged for a query; 0 and less mean not relevant."""

    query_id: str
    doc_id: str
    relevance: int
    line_number: int


def read_run(
    readable: Readable, reject: Reject = raise_at_once, columns: Sequence[str] = ()
) -> Iterator[RunLine]:
    """Read a run in any form; lines of columns in the order of the file.

    `columns` names the columns of lines without a header that are not TREC's six, for example
    `("qid", "pid", "rank")`: without a score, the rank gives the order. The rows of JSON, CSV and Parquet are
    ranked by score for each query; equal scores are lowered a little, to keep their order. A null score, that
    of a blank document, becomes the lowest of the query minus 1. Lines that cannot be read are rejected; by
    default that raises an InputError with file and line.
    """
    if columns and not _RUN.find_names(columns):
        problem = f"--columns {','.join(columns)} lacks some that a run has."
        raise UsageError(problem, hint="Name a qid, a pid, and a score or a rank.")
    yield from _read(readable, _RUN, reject, columns)


def read_judgements(readable: Readable, reject: Reject = raise_at_once) -> Iterator[Judgement]:
    """Read relevance judgements in any form, in the order of the file; see `read_run` for `reject`."""
    for line in _read(readable, _JUDGEMENTS, reject):
        yield Judgement(line.query_id, line.doc_id, int(line.score), line.line_number)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a run or judgements look: the usual names of the number, its kind, and TREC's columns."""

    number_names: tuple[str, ...]
    wanted: str
    layouts: tuple[tuple[str, ...], ...]
    hint: str

    def find_names(self, names: Sequence[str]) -> tuple[str, str, str] | None:
        """Return the names of query, document and number among these; None if one is missing."""
        return _find_names(tuple(names), self.number_names)

    def number(self, value: object, name: str) -> float:
        """Return the number of a field; -inf for the null score of a blank document.

        Raises ValueError that says what is wrong.
        """
        is_run = self is _RUN
        try:
            number = -math.inf if is_run and value in (None, "") else float(value)  # type: ignore[arg-type]
            is_good = number == number if is_run else number.is_integer() and abs(number) <= _HIGHEST_GRADE
        except (TypeError, ValueError, OverflowError):
            is_good = False
        if not is_good or isinstance(value, bool):
            raise ValueError(f"the {name} is {json.dumps(value)}, not {self.wanted}.")
        return -number if name == "rank" else number


@functools.lru_cache(maxsize=256)
def _find_names(names: tuple[str, ...], number_names: tuple[str, ...]) -> tuple[str, str, str] | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    usual = (_QUERY_NAMES, _DOCUMENT_NAMES, number_names)
    found = [next((by_lower[name] for name in known if name in by_lower), "") for known in usual]
    return (found[0], found[1], found[2]) if all(found) else None


_RUN = _Form(
    ("score", "rank"),
    "a number",
    (("query_id", "Q0", "doc_id", "rank", "score", "run_name"),),
    "Name others with --columns, for example qid,pid,rank.",
)
_JUDGEMENTS = _Form(
    ("relevance", "rel", "label", "grade", "judgement", "judgment", "score"),
    "a whole number up to 1,000,000",
    (("query_id", "0", "doc_id", "relevance"), ("query_id", "doc_id", "relevance")),
    "Give it a header, for example: query_id doc_id relevance",
)


def _read(readable: Readable, form: _Form, reject: Reject, columns: Sequence[str] = ()) -> Iterator[RunLine]:
    """Read queries, documents and numbers; the first bytes show what kind of file it is."""
    source = as_source(readable)
    with source.open() as stream:
        head = stream.peek(_ENOUGH_TO_TELL).lstrip()
        if _OBJECT_OF_OBJECTS.match(head):
            yield from _read_object(stream, source.name, form)
            return
        line = re.split(rb"[\r\n]", head)[0].decode(errors="replace").replace('"', "")
        format = "parquet" if head.startswith(b"PAR1") else sniff_format(head.lower(), _DOCUMENT_NAMES)
        has_header = form.find_names(re.split(r"[,;|\t]", line)) is not None
        if format == "text" or (format in ("csv", "tsv") and not has_header):
            yield from _read_columns(stream, source.name, form, columns, reject)
            return
        rows = row_reader(format)(stream, source.name, reject)
        lines = (line for value, origin in rows for line in _read_row(value, form, origin, reject))
        yield from _rank(lines) if form is _RUN else lines


def _rank(lines: Iterable[RunLine]) -> Iterator[RunLine]:
    lists: dict[str, list[RunLine]] = {}
    for line in lines:
        lists.setdefault(line.query_id, []).append(line)
    for ranked in lists.values():
        ranked.sort(key=lambda line: -line.score)
        scores = separate_ties(line.score for line in ranked)
        yield from (line._replace(score=score) for line, score in zip(ranked, scores, strict=True))


def _read_object(stream: LookAhead, name: str, form: _Form) -> Iterator[RunLine]:
    try:
        for query_id, numbers in json.loads("".join(text_blocks(stream, name))).items():
            for doc_id, number in numbers.items():
                yield RunLine(query_id, doc_id, form.number(number, form.number_names[0]), 1)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: broken JSON ({error}).") from None
    except AttributeError:
        raise InputError(f"{name}: {query_id!r} is not an object of documents.") from None
    except ValueError as error:
        raise InputError(f"{name}: {query_id!r}: {doc_id!r}: {error}") from None


def _read_columns(
    stream: LookAhead, name: str, form: _Form, columns: Sequence[str], reject: Reject
) -> Iterator[RunLine]:
    """Read lines of columns, separated by ASCII white space; a line that starts with # is a comment.

    Columns are named by a header, by `columns`, or by their number in the first line.
    """
    layouts = [layout for layout in (columns, *form.layouts) if layout]
    names: Sequence[str] = ()
    for line, number, fault in read_lines(stream, name):
        cells = line.split() if line.isascii() else _SPACE.split(line.strip(" \t\r\n"))
        if not fault and (not cells or line[0] == "#"):
            continue
        if not names:
            is_header = form.find_names(cells) is not None
            names = cells if is_header else next((one for one in layouts if len(one) == len(cells)), ())
            if found := form.find_names(names):
                layouts = [names]
                query, document, counted = map(names.index, found)
            if is_header:
                continue
        try:
            if fault:
                raise fault
            if len(cells) != len(names):
                shapes = " or ".join(f"{len(known)} ({' '.join(known)})" for known in layouts)
                raise ValueError(f"{len(cells)} columns, not {shapes}.")
            score = form.number(cells[counted], names[counted])
        except ValueError as error:
            hint = "" if names else form.hint
            reject(fault or InputError(f"{name}:{number}: {error}", hint=hint), line.rstrip("\r\n"))
        else:
            run_name = cells[-1] if names[-1] == "run_name" else ""
            yield RunLine(cells[query], cells[document], score, number, run_name)


def _read_row(row: object, form: _Form, where: str, reject: Reject) -> list[RunLine]:
    """Read a flat row, or a query with its results as `batch` writes it; reject a bad one."""
    try:
        if not isinstance(row, dict):
            raise ValueError(f"the row is {json_kind(row)}, not an object.")
        if form is not _RUN or "results" not in row:
            return [_read_line(row, form, where)]
        query = {name: value for name, value in row.items() if name.lower() in _QUERY_NAMES}
        results = row["results"]
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise ValueError('"results" is not a list of objects.')
        return [_read_line({**query, **result}, form, where) for result in results]
    except ValueError as error:
        reject(InputError(f"{where}: {error}"), encode_json(row))
        return []


def _read_line(row: Mapping[str, Any], form: _Form, where: str) -> RunLine:
    names = form.find_names(tuple(row))
    if names is None:
        needed = f"a {_QUERY_NAMES[0]}, a {_DOCUMENT_NAMES[0]} and a {form.number_names[0]}"
        raise ValueError(f"the row needs {needed} ({describe_fields(row)}).")
    query_name, document_name, number_name = names
    query_id, doc_id = as_id(row[query_name]), as_id(row[document_name])
    if query_id is None or doc_id is None:
        name = query_name if query_id is None else document_name
        raise ValueError(f"the {name} is {json_kind(row[name])}, not a string or a number.")
    number = form.number(row[number_name], number_name)
    line_number = int(where[max(where.rfind(":"), where.rfind(" ")) + 1 :])
    return RunLine(str(query_id), str(doc_id), number, line_number)


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
