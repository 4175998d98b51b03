"""What Python users give, made into what the pipeline takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any

from .errors import InputError, UsageError, told_from
from .formats.fields import ID_FIELDS, FieldRules
from .formats.json import refuse_surrogates
from .types import Candidates, Document, Query

DocumentInput = str | Mapping[str, Any] | Document
"""A document's text, an object with a field that holds it, or the document itself."""
QueryInput = str | Query


def as_candidate_list(
    query: QueryInput, documents: Iterable[DocumentInput], *, origin: str = ""
) -> Candidates:
    """Make what a Python user gives into a candidate list; raises UsageError or InputError if it is none.

    `origin` is what messages are to call the list by.
    """
    if isinstance(query, str):
        query = Query(query, origin=origin)
    if not isinstance(query, Query):
        raise UsageError(f"The query is a {type(query).__name__}.", hint="Give a string or a Query.")
    name = told_from(query.origin, "the query")
    refuse_surrogates(query.text, name)
    if not query.text.strip():
        raise InputError(f"{name} is empty.", hint="Give some words to rank by.")
    if isinstance(documents, str | bytes | Mapping):
        raise UsageError(
            f"documents is a single {type(documents).__name__}.", hint="Give a list: [document]."
        )
    named = told_from(origin, "documents")
    return Candidates(
        query,
        [_as_document(document, f"{named}[{place}]", origin) for place, document in enumerate(documents)],
    )


def _as_document(document: DocumentInput, name: str, origin: str) -> Document:
    if isinstance(document, str):
        document = Document(document, origin=origin)
    elif isinstance(document, Mapping):
        read = FieldRules().document(_with_plain_ids(document), name)
        document = replace(read, fields=dict(document), origin=origin)
    if not isinstance(document, Document):
        raise UsageError(
            f"{name} is a {type(document).__name__}.", hint="Give strings, mappings or Document objects."
        )
    refuse_surrogates(document.text, document.origin or name)
    return document


def _with_plain_ids(row: Mapping[str, Any]) -> dict[str, Any]:
    """Take the ids that databases give, numpy's integers, UUIDs and others of their own, as what JSON has."""
    plain = {name: _plain_id(row[name]) for name in ID_FIELDS if name in row}
    return {**row, **plain}


def _plain_id(value: object) -> object:
    if value is None or isinstance(value, str | int | float | list | dict):
        return value
    return int(value) if isinstance(value, Integral) else str(value)
