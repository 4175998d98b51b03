"""Make candidates of rows and of what Python users give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .errors import InputError, UsageError, told_from
from .formats.fields import (
    LIST_FIELDS,
    QUERY_FIELDS,
    QUERY_ID_FIELDS,
    TEXT_FIELDS,
    FieldRules,
    MissingFieldError,
    as_id,
    describe_fields,
    find_value,
    without_field,
)
from .formats.json import json_kind
from .types import Candidates, Document, Query

DocumentInput = str | Mapping[str, Any] | Document
"""A document's text, a mapping with a field that holds it, or the document itself."""
QueryInput = str | Query
CandidatesInput = Candidates | Mapping[str, Any] | tuple[QueryInput, Iterable[DocumentInput]]
"""A query with its documents: a pair, or a mapping as `ce-rerank batch` reads it."""

ROW_SHAPES = (
    'Give a row a query, {"query": "...", "documents": ["...", ...]}, '
    'or a row a document, {"query": "...", "text": "..."}.'
)
_USUAL_FIELDS = FieldRules()
_ROW_ID_FIELDS = ("id", "_id")
_NESTED_ID_FIELDS = (*QUERY_ID_FIELDS, *_ROW_ID_FIELDS, "query.id", "query.qid")


def find_documents(
    row: Mapping[str, Any], origin: str, paths: Sequence[str] = LIST_FIELDS
) -> tuple[str, Any] | None:
    """Return the first of `paths` that has a list, or lists by field as MS MARCO has them, and the documents.

    None without one. Raises InputError that starts with `origin` for lists that are not equally long.
    """
    for path in paths:
        if path not in row and "." not in path:  # most rows of a file are flat
            continue
        value = find_value(row, path)
        if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
            if len({len(column) for column in value.values()}) > 1:
                raise InputError(f'{origin}: the lists in "{path}" are not equally long.')
            rows = zip(*value.values(), strict=True)
            return path, [dict(zip(value, one, strict=True)) for one in rows]
        if not isinstance(value, str | int | float | Mapping | None):  # a list or, in Python, a table
            return path, value
    return None


def find_query(
    row: Mapping[str, Any],
    origin: str,
    documents_path: str | None,
    paths: Sequence[str] = QUERY_FIELDS,
    hint: str = ROW_SHAPES,
) -> Query:
    """Return the query that a row names, with the row's other fields; the text may be empty.

    A nested row has its documents at `documents_path`, and may have its id in `id` or `_id`. Raises
    InputError that starts with `origin`, and has the `hint`, for a row without a query or whose query is no
    string.
    """
    path = next((path for path in paths if isinstance(find_value(row, path), str)), paths[0])
    text = find_value(row, path)
    if text is not None and not isinstance(text, str):
        raise InputError(f'{origin}: "{path}" is {json_kind(text)}, not a string.', hint=hint)
    id_fields = QUERY_ID_FIELDS if documents_path is None else _NESTED_ID_FIELDS
    id_name = next((name for name in id_fields if as_id(find_value(row, name)) is not None), "")
    id = as_id(find_value(row, id_name))
    if text is None and id is None:
        problem = f'no "{path}" field ({describe_fields(row)}).'
        raise MissingFieldError(f"{origin}: {problem}", hint=hint)
    for used in (path, documents_path, "" if id_name in _ROW_ID_FIELDS else id_name):
        if used:
            row = without_field(row, used)
    return Query(text or "", id, dict(row), origin)


def as_candidates(
    query: object, documents: object, *, rules: FieldRules = _USUAL_FIELDS, origin: str = ""
) -> Candidates:
    """Return candidates for a query and documents; raise UsageError or InputError for anything else.

    `origin` is what messages call the candidates.
    """
    if isinstance(query, str):
        query = Query(query, origin=origin)
    if not isinstance(query, Query):
        raise UsageError(
            told_from(origin, f"the query is of type {type(query).__name__}."),
            hint="Give a string or a Query.",
        )
    name = told_from(query.origin, "the query")
    _refuse_halves(query.text, name)
    if not query.text.strip():
        raise InputError(f"{name} is empty.", hint="Give some words to rank by.")
    named = told_from(origin, "documents")
    rows = enumerate(_rows(documents, named, "[document]"))
    return Candidates(query, [_as_document(row, f"{named}[{place}]", origin, rules) for place, row in rows])


def read_candidates(items: object, rules: FieldRules) -> Iterator[Candidates]:
    """Yield candidates for each item, lazily; raise UsageError or InputError for anything else."""
    for place, item in enumerate(_rows(items, "queries", "[(query, documents)]")):
        origin = f"queries[{place}]"
        if isinstance(item, Candidates):
            yield as_candidates(item.query, item.documents, rules=rules)
        elif isinstance(item, tuple | list) and len(item) == 2:
            yield as_candidates(*item, rules=rules, origin=origin)
        elif isinstance(item, Mapping) and (found := find_documents(item, origin)):
            path, documents = found
            yield as_candidates(find_query(item, origin, path), documents, rules=rules, origin=origin)
        else:
            has = f" ({describe_fields(item)})" if isinstance(item, Mapping) else ""
            raise UsageError(
                f"{origin} is of type {type(item).__name__}, and no query with documents{has}.",
                hint='Give (query, documents), {"query": ..., "documents": [...]} or Candidates.',
            )


def as_pairs(items: object) -> list[Candidates]:
    """Return candidates of one document for each pair; raise UsageError or InputError for anything else."""
    pairs = []
    for place, item in enumerate(_rows(items, "pairs", "[(query, document)]")):
        origin = f"pairs[{place}]"
        pair = item
        if isinstance(item, Mapping):
            pair = [
                next((item[name] for name in names if name in item), None)
                for names in (QUERY_FIELDS, TEXT_FIELDS)
            ]
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise UsageError(
                f"{origin} is of type {type(item).__name__}, not a query and a document.",
                hint='Give (query, document), both strings, or {"query": ..., "text": ...}.',
            )
        pairs.append(as_candidates(pair[0], [pair[1]], origin=origin))
    return pairs


def as_field_rules(text_field: object, id_field: object) -> FieldRules:
    """Return the rules that two arguments name; raise UsageError for what is no field's name."""
    text_fields = (text_field,) if isinstance(text_field, str) else text_field
    if not isinstance(text_fields, tuple | list) or not all(isinstance(name, str) for name in text_fields):
        raise UsageError(
            f"text_field is {text_field!r}.", hint="Give the name of a field, or a list of them."
        )
    if not isinstance(id_field, str | None):
        raise UsageError(f"id_field is {id_field!r}.", hint="Give the name of a field.")
    return FieldRules(tuple(text_fields), id_field)


def _rows(given: object, name: str, example: str) -> Iterable[Any]:
    """Return the rows of a list or a table (pandas, polars, pyarrow); raise UsageError for anything else."""
    if isinstance(given, str | bytes | Mapping | Document | Query | Candidates):
        raise UsageError(f"{name} is of type {type(given).__name__} alone.", hint=f"Give a list: {example}.")
    if isinstance(given, set | frozenset):
        raise UsageError(f"{name} is a set, which has no order.", hint="Give a list.")
    rows: list[Any]
    if read := getattr(given, "to_dicts", None) or getattr(given, "to_pylist", None):
        rows = read()
        return rows
    if hasattr(given, "columns") and hasattr(given, "to_dict"):
        rows = given.to_dict("records")
        for row in rows:  # NaN is a missing value
            row |= {name: None for name, value in row.items() if isinstance(value, float) and value != value}
        return rows
    if not isinstance(given, Iterable):
        raise UsageError(f"{name} is of type {type(given).__name__}.", hint=f"Give a list: {example}.")
    return given


def _as_document(document: object, name: str, origin: str, rules: FieldRules) -> Document:
    if isinstance(document, str):
        document = Document(document, origin=origin)
    elif isinstance(document, Mapping):
        fields = {str(field): value for field, value in document.items()}
        document = replace(rules.document(fields, name), origin=origin)
    if not isinstance(document, Document):
        raise UsageError(
            f"{name} is of type {type(document).__name__}.", hint="Give strings, mappings or Documents."
        )
    _refuse_halves(document.text, document.origin or name)
    return document


def _refuse_halves(text: str, where: str) -> None:
    """Raise InputError for a text with half of a surrogate pair, which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: \\u{ord(text[error.start]):04x} is half of a character (a lone surrogate).",
            hint="The text was cut in the middle of a character; repair or remove it.",
        ) from None
