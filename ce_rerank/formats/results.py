"""What measures are made of: runs, in TREC's form or the JSONL that `batch` writes, and judgements.

Both are told from other forms (CSV, Parquet, a JSON array) by their content, for the sake of a message that
says so.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple, cast

from ..errors import InputError
from .documents import sniff_format
from .fields import find_id
from .json import json_kind, read_json_rows
from .scores import separate_ties
from .source import UTF8_BOM, LookAhead, Readable, Source, as_source, raise_at_once
from .trec import Judgement, RunLine, read_qrels, read_run

_FLOAT32 = struct.Struct("<f")
_JSON_ARRAY = "a JSON array"
_ARRAY_HINT = "Make it JSONL, an object a line, for example: jq -c '.[]'"
_TABLE_HINT = "A run is in TREC form or JSONL: `ce-rerank batch --to trec` or `--to rows` writes it."
_COLUMN_NAMES = {"query_id", "query-id", "qid", "score", "id", "doc_id", "docid", "corpus-id"}


def read_results(readable: Readable) -> Iterator[RunLine]:
    """Read a run, in TREC form or as JSONL, told apart by its first character.

    JSONL is that of `batch`, nested (`{"query_id", "results": [{"id", "score"}, ...]}`) or flat (`query_id`,
    `id` and `score` in every row). Its documents are ranked by score, those with equal scores as they stand;
    equal scores are then lowered to keep that order, as in a TREC run that `batch` writes. For that, the
    results of a query must stand together, as they need not in TREC form. Raises InputError, naming file and
    line, for what cannot be read.
    """
    source = as_source(readable)
    with source.open() as stream:
        if _first_line(stream).startswith(b"{"):
            yield from _read_jsonl(stream, source.name)
            return
        if kind := _kind_of_other_form(stream, ",\t"):
            raise InputError(
                f"{source.name}: this is {kind}, and runs are not read from that.",
                hint=_ARRAY_HINT if kind == _JSON_ARRAY else _TABLE_HINT,
            )
        yield from read_run(_the_rest(stream, source.name))


def read_judgements(readable: Readable) -> Iterator[Judgement]:
    """Read relevance judgements, see `read_qrels`; raises InputError for other forms by their names."""
    source = as_source(readable)
    with source.open() as stream:
        if kind := _kind_of_other_form(stream, ","):
            raise InputError(
                f"{source.name}: this is {kind}, and judgements are not read from that.",
                hint="Give them in TREC form, query_id 0 doc_id relevance, or as BEIR has them: "
                "query-id, corpus-id and score, separated by tabs.",
            )
        yield from read_qrels(_the_rest(stream, source.name))


class _Result(NamedTuple):
    query_id: str
    doc_id: str
    score: float
    line_number: int


def _the_rest(stream: LookAhead, name: str) -> Source:
    # What was looked at is still there to be read from the stream, and not from the source that it is of.
    return Source.from_stream(cast(BinaryIO, stream), name)


def _first_line(stream: LookAhead) -> bytes:
    """Look at the first line that is not blank, or as much of it as there is at once."""
    head = stream.look(lambda head: bool(_without_space(bytes(head))))
    return _without_space(head).partition(b"\n")[0]


def _without_space(head: bytes) -> bytes:
    return head.removeprefix(UTF8_BOM).lstrip()


def _kind_of_other_form(stream: LookAhead, delimiters: str) -> str | None:
    """Tell Parquet and a JSON array by their start, a table by two names of columns in its first line."""
    line = _first_line(stream)
    if line.startswith(b"PAR1"):
        return "Parquet"
    if sniff_format(line) == "json":
        return _JSON_ARRAY
    cells = re.split(f"[{delimiters}]", line.decode(errors="replace").replace('"', "").strip().lower())
    return "a table with a header" if len(_COLUMN_NAMES.intersection(cells)) >= 2 else None


def _read_jsonl(stream: LookAhead, name: str) -> Iterator[RunLine]:
    seen: set[str] = set()
    for query_id, results in groupby(_read_rows(stream, name), key=lambda result: result.query_id):
        ranked = sorted(results, key=lambda result: -result.score)
        if query_id in seen:
            line_number = min(result.line_number for result in ranked)
            raise InputError(
                f'{name}:{line_number}: the query "{query_id}" is here again, after other queries.',
                hint="Let the results of a query stand together: sort the file by query.",
            )
        seen.add(query_id)
        scores = separate_ties(result.score for result in ranked)
        for rank, (result, score) in enumerate(zip(ranked, scores, strict=True), start=1):
            yield RunLine(query_id, result.doc_id, rank, score, "", result.line_number)


def _read_rows(stream: LookAhead, name: str) -> Iterator[_Result]:
    for row, origin in read_json_rows(stream, name, raise_at_once):
        if not isinstance(row, dict):
            raise InputError(f"{origin}: the row is {json_kind(row)}, not an object.")
        line_number = int(origin.rpartition(":")[2])
        query_id = _query_id(row, origin)
        if "results" not in row:
            yield _Result(query_id, *_id_and_score(row, origin), line_number)
            continue
        results = row["results"]
        if not isinstance(results, list):
            raise InputError(f'{origin}: "results" is {json_kind(results)}, not a list.')
        for place, result in enumerate(results, start=1):
            where = f"{origin}: result {place}"
            if not isinstance(result, dict):
                raise InputError(f"{where} is {json_kind(result)}, not an object.")
            yield _Result(query_id, *_id_and_score(result, where), line_number)


def _query_id(row: Mapping[str, Any], origin: str) -> str:
    query_id = row.get("query_id")
    if isinstance(query_id, (str, int)) and not isinstance(query_id, bool):
        return str(query_id)
    raise InputError(
        f'{origin}: no "query_id", by which judgements are found.'
        if query_id is None
        else f'{origin}: "query_id" is {json_kind(query_id)}, not a string or an integer.',
        hint="Give the queries ids before they are ranked.",
    )


def _id_and_score(row: Mapping[str, Any], where: str) -> tuple[str, float]:
    doc_id, score = find_id(row, None, where), row.get("score")
    if doc_id is None:
        raise InputError(
            f'{where}: no "id", by which judgements are found.',
            hint="Give the documents ids before they are ranked.",
        )
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        what = "no" if score is None else f"{json_kind(score)} as"
        raise InputError(f'{where}: {what} "score".', hint="Rank the documents first: ce-rerank batch.")
    try:
        as_float32: float = _FLOAT32.unpack(_FLOAT32.pack(score))[0]
    except OverflowError:
        as_float32 = math.inf
    if not math.isfinite(as_float32):
        raise InputError(f"{where}: the score {score} is out of a float32's range.")
    return str(doc_id), as_float32
