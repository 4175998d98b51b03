"""Turn what Python users give into candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from .errors import InputError, UsageError, told_from
from .formats.fields import ID_FIELDS, LIST_FIELDS, QUERY_FIELDS, QUERY_ID_FIELDS, TEXT_FIELDS, FieldRules
from .formats.json import refuse_surrogates
from .types import Candidates, Document, Query

DocumentInput = str | Mapping[str, Any] | Document
"""A document's text, a mapping with a field that holds it, or the document itself."""
QueryInput = str | Query
CandidatesInput = Candidates | Mapping[str, Any] | tuple[QueryInput, Iterable[DocumentInput]]
"""A query with its documents: a pair, or a mapping as `ce-rerank batch` reads it."""

_USUAL_FIELDS = FieldRules()


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
            told_from(origin, f"the query is {_describe(query)}."), hint="Give a string or a Query."
        )
    name = told_from(query.origin, "the query")
    refuse_surrogates(query.text, name)
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
        elif isinstance(item, Mapping):
            list_field, query_field = _first(item, LIST_FIELDS), _first(item, QUERY_FIELDS)
            id_field = next((name for name in QUERY_ID_FIELDS if item.get(name)), "")
            query = item.get(query_field)
            if isinstance(query, Mapping):
                query = query.get("text", query.get(query_field))
            if isinstance(query, str):
                used = (query_field, list_field, id_field)
                fields = {name: value for name, value in item.items() if name not in used}
                id = item.get(id_field) or item.get("id") or item.get("_id")
                query = Query(query, _plain_id(id), fields, origin)
            yield as_candidates(query, item.get(list_field), rules=rules, origin=origin)
        else:
            raise UsageError(
                f"{origin} is {_describe(item)}.",
                hint='Give (query, documents), {"query": ..., "documents": [...]} or Candidates.',
            )


def as_pairs(items: object) -> list[Candidates]:
    """Return candidates of one document for each pair; raise UsageError or InputError for anything else."""
    pairs = []
    for place, item in enumerate(_rows(items, "pairs", "[(query, document)]")):
        origin = f"pairs[{place}]"
        pair = item
        if isinstance(item, Mapping):
            pair = (item.get(_first(item, QUERY_FIELDS)), item.get(_first(item, TEXT_FIELDS)))
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise UsageError(
                f"{origin} is {_describe(item)}, not a query and a document.",
                hint='Give (query, document), both strings, or {"query": ..., "text": ...}.',
            )
        pairs.append(as_candidates(pair[0], [pair[1]], origin=origin))
    return pairs


def _first(item: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((name for name in names if name in item), names[0])


def as_field_rules(text_field: object, id_field: object) -> FieldRules:
    """Return the rules that two arguments name; raise UsageError for what is no field's name."""
    text_fields = (text_field,) if isinstance(text_field, str) else text_field
    if not isinstance(text_fields, tuple | list) or not all(isinstance(name, str) for name in text_fields):
        raise UsageError(
            f"text_field is {text_field!r}.", hint="Give the name of a field, or a list of them."
        )
    if id_field is not None and not isinstance(id_field, str):
        raise UsageError(f"id_field is {id_field!r}.", hint="Give the name of a field.")
    return FieldRules(tuple(text_fields), id_field)


def _rows(given: object, name: str, example: str) -> Iterable[Any]:
    """Return the rows of a list or a table (pandas, polars, pyarrow); raise UsageError for anything else."""
    if isinstance(given, str | bytes | Mapping | Document | Query | Candidates):
        raise UsageError(f"{name} is {_describe(given)} alone.", hint=f"Give a list: {example}.")
    if isinstance(given, set | frozenset):
        raise UsageError(f"{name} is a set, which has no order.", hint="Give a list.")
    for method in ("to_dicts", "to_pylist"):
        if hasattr(given, method):
            rows: list[Any] = getattr(given, method)()
            return rows
    if hasattr(given, "columns") and hasattr(given, "to_dict"):
        return [
            {name: None if _is_nan(value) else value for name, value in row.items()}  # a missing value
            for row in given.to_dict("records")
        ]
    if not isinstance(given, Iterable):
        raise UsageError(f"{name} is {_describe(given)}.", hint=f"Give a list: {example}.")
    return given


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _as_document(document: object, name: str, origin: str, rules: FieldRules) -> Document:
    if isinstance(document, str):
        document = Document(document, origin=origin)
    elif isinstance(document, Mapping):
        plain = {str(field): value for field, value in document.items()}
        for field in plain:
            if field == rules.id_field or field.lower() in ID_FIELDS:
                plain[field] = _plain_id(plain[field])
        document = replace(rules.document(plain, name), fields=dict(document), origin=origin)
    if not isinstance(document, Document):
        raise UsageError(f"{name} is {_describe(document)}.", hint="Give strings, mappings or Documents.")
    refuse_surrogates(document.text, document.origin or name)
    return document


def _describe(value: object) -> str:
    """Return `None` or the value's class, with its module unless it is Python's own: `a dict`."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plain_id(value: Any) -> Any:
    """Return an id of a database, one of numpy's integers or a UUID, as what JSON has."""
    if value is None or isinstance(value, str | int | float | list | dict):
        return value
    return int(value) if isinstance(value, Integral) else str(value)
