"""What Python users give, made into what the pipeline takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InputError, UsageError
from .formats.fields import FieldRules
from .formats.strict_json import refuse_surrogates
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
    where = f"{query.origin}: " if query.origin else ""
    refuse_surrogates(query.text, f"{where}the query")
    if not query.text.strip():
        raise InputError(f"{where}the query is empty.", hint="Give some words to rank by.")
    if isinstance(documents, str | bytes | Mapping):
        raise UsageError(
            f"documents is a single {type(documents).__name__}.", hint="Give a list: [document]."
        )
    return CandidateList(query, [_as_document(document, place) for place, document in enumerate(documents)])


def _as_document(document: DocumentInput, place: int) -> Document:
    name = f"documents[{place}]"
    if isinstance(document, str):
        document = Document(document)
    elif isinstance(document, Mapping):
        document = FieldRules().document(dict(document), name)
    if not isinstance(document, Document):
        raise UsageError(
            f"{name} is a {type(document).__name__}.", hint="Give strings, mappings or Document objects."
        )
    refuse_surrogates(document.text, document.origin or name)
    return document
