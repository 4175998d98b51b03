"""TREC: runs in and out, and relevance judgements in."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from ..errors import InputError, UsageError
from ..types import Ranking
from .json import encode_utf8
from .scores import separate_ties, shortest_float32
from .source import Lines, Readable, Reject, Source, as_source, raise_at_once

log = logging.getLogger("ce_rerank")


class RunLine(NamedTuple):
    """One line of a run: `query_id Q0 doc_id rank score run_name`."""

    query_id: str
    doc_id: str
    rank: int
    score: float
    run_name: str
    line_number: int


class Judgement(NamedTuple):
    """How relevant a document was judged to be for a query; 0 and less is not at all."""

    query_id: str
    doc_id: str
    relevance: int
    line_number: int


def read_run(readable: Readable, reject: Reject = raise_at_once) -> Iterator[RunLine]:
    """Read the lines of a TREC run, in the order of the file, blank ones skipped.

    A line that is none is rejected: as a default, that raises an InputError naming file and line.
    """
    source = as_source(readable)
    for number, line in _lines(source, reject):
        columns = line.split()
        row = _run_line(columns, number)
        if row is not None:
            yield row
        elif columns:
            shape = "query_id Q0 doc_id rank score run_name, with a number for rank and score"
            reject(_unlike(shape, line, f"{source.name}:{number}"), line.rstrip("\r\n"))


def read_qrels(readable: Readable) -> Iterator[Judgement]:
    """Read relevance judgements, in the order of the file, blank lines skipped.

    Either TREC's four columns, `query_id 0 doc_id relevance`, or BEIR's three, separated by tabs, under a
    header; which, the first line tells. Raises InputError naming file and line for a line that is neither.
    """
    source = as_source(readable)
    is_beir: bool | None = None
    for number, line in _lines(source, raise_at_once):
        if is_beir is None and not line.isspace():
            is_beir = len(line.split("\t")) == 3
            if is_beir and not _is_integer(line.split("\t")[2]):
                continue
        columns = line.rstrip("\r\n").split("\t") if is_beir else line.split()
        try:
            if is_beir:
                query_id, doc_id, relevance = columns
            else:
                query_id, _, doc_id, relevance = columns
            yield Judgement(query_id, doc_id, int(relevance), number)
        except ValueError:
            if not line.isspace():
                shape = "query-id corpus-id score" if is_beir else "query_id 0 doc_id relevance"
                shape += ", with a whole number at the end"
                raise _unlike(shape, line, f"{source.name}:{number}") from None


class TrecWriter:
    """A line a document: `query_id Q0 doc_id rank score run_name`.

    `query_id` is used where the query has no id; without it, and for a document without an id, `write`
    raises InputError. Scores that are equal are written apart, by as little as a float32 can be, so that
    sorting by them gives our order.
    """

    def __init__(self, stream: BinaryIO, run_name: str, query_id: str | None = None) -> None:
        if run_name.split() != [run_name]:
            raise UsageError(f'The run name "{run_name}" must be one word.', hint="Give another --run-name.")
        self._stream = stream
        self._run_name = run_name
        self._query_id = query_id
        self._has_warned = False

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's lines; raises InputError for an id that is missing or not one word."""
        query = ranking.query
        query_id = require_run_id(
            self._query_id if query.id is None else query.id, query.origin or "The query"
        )
        doc_ids = [
            require_run_id(ranked.id, ranked.document.origin or f"document {ranked.index}")
            for ranked in ranking
        ]
        if len(set(doc_ids)) < len(doc_ids) and not self._has_warned:
            self._has_warned = True
            log.warning("Query %s has documents with the same id, which trec_eval refuses.", query_id)
        scores = separate_ties(ranked.score for ranked in ranking)
        lines = (
            f"{query_id} Q0 {doc_id} {ranked.rank} {shortest_float32(score)!r} {self._run_name}\n"
            for ranked, doc_id, score in zip(ranking, doc_ids, scores, strict=True)
        )
        self._stream.write(encode_utf8("".join(lines)))

    def close(self) -> None:
        """Nothing is left to be written."""


def _lines(source: Source, reject: Reject) -> Iterator[tuple[int, str]]:
    with source.open() as stream:
        lines = Lines(stream, source.name)
        for number, line in lines:
            if lines.fault:
                reject(lines.fault, line.rstrip("\r\n"))
            else:
                yield number, line


def _run_line(columns: Sequence[str], number: int) -> RunLine | None:
    try:
        query_id, _, doc_id, rank, score, run_name = columns
        row = RunLine(query_id, doc_id, int(rank), float(score), run_name, number)
    except ValueError:
        return None
    return None if math.isnan(row.score) else row


def _unlike(shape: str, line: str, where: str) -> InputError:
    shown = line.strip()[:80]
    return InputError(f'{where}: "{shown}" is not: {shape}.')


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def require_run_id(id: str | int | None, where: str) -> str:
    """Return an id as a column of a run; raise InputError, naming `where`, for none and for several words."""
    if id is None:
        raise InputError(
            f"{where}: no id, and a TREC run is nothing but ids.",
            hint="Name the field that holds it with --id-field (of a query: query_id), or use --to jsonl.",
        )
    word = str(id)
    if word.split() != [word]:
        raise InputError(
            f'{where}: the id "{word}" is not one word, as a TREC run needs.',
            hint="Name another with --id-field, or use --to jsonl.",
        )
    return word
