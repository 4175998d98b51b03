"""What Python users give, made into what the pipeline takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InputError, UsageError
from .formats.fields import FieldRules
from .types import CandidateList, Document, Query

DocumentInput = str | Mapping[str, Any] | Document
"""A document's text, an object with a field that holds it, or the document itself."""
QueryInput = str | Query


def as_candidate_list(query: QueryInput, documents: Iterable[DocumentInput]) -> CandidateList:
    """Make what a Python user gives into a candidate list; raises UsageError or InputError if it is none."""
    if isinstance(query, str):
        query = Query(query)
    if not isinstance(query, Query):
        raise UsageError(f"The query is a {type(query).__name__}.", hint="Give a string or a Query.")
    if not query.text.strip():
        where = f"{query.origin}: " if query.origin else ""
        raise InputError(f"{where}the query is empty.", hint="Give some words to rank by.")
    if isinstance(documents, str | bytes | Mapping):
        raise UsageError(
            f"documents is a single {type(documents).__name__}.", hint="Give a list: [document]."
        )
    return CandidateList(query, [_as_document(document, place) for place, document in enumerate(documents)])


def _as_document(document: DocumentInput, place: int) -> Document:
    if isinstance(document, Document):
        return document
    if isinstance(document, str):
        return Document(document)
    if isinstance(document, Mapping):
        return FieldRules().document(dict(document), f"documents[{place}]")
    raise UsageError(
        f"documents[{place}] is a {type(document).__name__}.",
        hint="Give strings, mappings or Document objects.",
    )
