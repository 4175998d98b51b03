"""Results as objects, which every format writes in its own way.

If a field of the input has one of our names, it goes into the object `"input"`, so that nothing is lost; if
it has the same value, it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..types import RankedDocument, Ranking
from .fields import ID_FIELDS, TEXT_FIELDS, TITLE_FIELD, without_texts

RowsOf = Callable[[Ranking], Iterable[dict[str, Any]]]
"""Returns the objects that are written for a ranking."""

INPUT_NAME = "input"
"""Holds the fields of a document's or a query's input that have one of our names."""
QUERY_INPUT_NAME = "query_input"
"""Holds, in flat rows, the fields of a query's input whose names are in use already."""
QUERY_NAMES = ("query_id", "query")
_DOCUMENT_NAMES = (*ID_FIELDS, *TEXT_FIELDS, TITLE_FIELD, "index", "score")
DETAIL_NAMES = ("rank", "tokens", "truncated", "passage", "start", "end", "line")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What is written of a result.

    Without `with_text` the text and the fields that it was made from are left out, except a title. `details`
    adds `DETAIL_NAMES` and `model`, the description of what scored. `run_name` is the last column of a TREC
    run. `first_stage_names` are the columns that a first stage adds to a table.
    """

    with_text: bool = True
    details: bool = False
    run_name: str = "ce-rerank"
    model: str = ""
    first_stage_names: tuple[str, ...] = ()


def own_names(options: WriteOptions, *, with_query: bool = False) -> tuple[str, ...]:
    """Return our own names in a row, in their order: the first columns of a table."""
    return (
        *(QUERY_NAMES if with_query else ()),
        *(("index", "score", "text", "id") if options.with_text else ("index", "score", "id")),
        *options.first_stage_names,
        *(DETAIL_NAMES if options.details else ()),
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


def flat_rows(ranking: Ranking, options: WriteOptions) -> Iterable[dict[str, Any]]:
    """Return each result of a query as an object that starts with query_id and query.

    The query's other fields come after the document's. If the name of one is in use, or would look like the
    document's id or text, it goes into the object `"query_input"`.
    """
    query = ranking.query
    others = {
        name: value
        for name, value in query.fields.items()
        if name not in ID_FIELDS or value != query.id  # which is the query_id
    }
    for ranked in ranking:
        row = result_row(ranked, options, _query_fields(ranking))
        yield _add_fields(row, others, QUERY_INPUT_NAME, _DOCUMENT_NAMES)


def shortest_float32(score: float) -> float:
    """Return the float with the fewest digits that is the same float32 as `score`."""
    import numpy as np

    return float(str(np.float32(score)))


def _query_fields(ranking: Ranking) -> dict[str, Any]:
    query = ranking.query
    return {"query": query.text} if query.id is None else {"query_id": query.id, "query": query.text}


def _add_fields(
    row: dict[str, Any],
    fields: Mapping[str, Any],
    displaced_name: str = INPUT_NAME,
    taken: Iterable[str] = (),
) -> dict[str, Any]:
    """Add fields to a row; those whose name is taken by another value go into an object of their own."""
    displaced: dict[str, Any] = {}
    taken = {*row, *taken, INPUT_NAME, QUERY_INPUT_NAME}
    for name, value in fields.items():
        if name not in taken:
            row[name] = value
        elif name not in row or row[name] != value:
            displaced[name] = value
    if displaced:
        row[displaced_name] = displaced
    return row
