"""Make documents of rows: find the fields of the text and of the id, in the same way for every format."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral
from typing import Any

from ..errors import InputError
from ..types import Document, DocumentId
from .json import json_kind

TEXT_FIELDS = ("text", "passage", "content", "body", "document", "contents", "page_content", "passage_text")
"""Where a text is looked for when no field is named, in this order."""
TITLE_FIELD = "title"
"""Goes before the text when no field is named."""
ID_FIELDS = ("id", "_id", "docno", "docid", "doc_id", "pid", "corpus-id")
"""Where an id is looked for when no field is named, in this order and in any case."""
LIST_FIELDS = ("documents", "passages", "candidates", "hits", "texts", "results", "contexts", "ctxs")
"""Where the documents of a query are looked for, in this order."""
QUERY_FIELDS = ("query", "question", "query.text")
"""Where the text of a query is looked for, in this order."""
QUERY_ID_FIELDS = ("query_id", "query-id", "qid")
"""Where the id of a query is looked for, in this order; beside a list also in `id` and `_id`."""

INPUT_NAME = "input"
"""Holds, in a row that is written, the fields of the input that have one of our names or no column."""

_MISSING = object()
_DEEPEST = 5
_MOST_SHOWN = 12
_PLAIN_NAME = re.compile(r"[\w.$@/:-]+")


class MissingFieldError(InputError):
    """A row lacks a field that is needed."""


@dataclass(frozen=True, slots=True)
class FieldRules:
    """Which fields make a document, by name or dotted path; empty and None mean the usual names."""

    text_fields: tuple[str, ...] = ()
    id_field: str | None = None

    def document(self, value: object, origin: str) -> Document:
        """Return the document of a row: an object, or a string, which is then the text.

        Raises InputError that starts with `origin` if the row is neither, or has no text.
        """
        if isinstance(value, str):
            return Document(value, origin=origin)
        if not isinstance(value, dict):
            problem = f"the row is {json_kind(value)}, not an object or a string"
            raise InputError(f"{origin}: {problem}.", hint=_hint_of(value))
        used, _ = _usual_names(tuple(value))
        if self.text_fields:
            present = [path for path in self.text_fields if find_value(value, path, _MISSING) is not _MISSING]
            used = tuple(present)
        if not used:
            name = (*self.text_fields, *TEXT_FIELDS)[0]
            problem = f'no "{name}" field ({describe_fields(value)})'
            raise MissingFieldError(f"{origin}: {problem}.", hint=_hint_of(value))
        texts = [
            item if type(item := find_value(value, path)) is str else _text_of(item, path, value, origin)
            for path in used
        ]
        id = find_id(value, self.id_field, origin)
        return Document(" ".join(filter(None, texts)), id, value, used, origin)


@functools.lru_cache(maxsize=256)
def _usual_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the usual names that a row has: those of the title and the text, and those of ids."""
    texts = [name for name in TEXT_FIELDS if name in names][:1]
    title = [TITLE_FIELD] if texts and TITLE_FIELD in names else []
    by_lower = {name.lower(): name for name in reversed(names)}
    return (*title, *texts), tuple([by_lower[name] for name in ID_FIELDS if name in by_lower])


def find_id(row: Mapping[str, Any], id_field: str | None, origin: str) -> DocumentId | None:
    """Return a row's id, from the named field or from the first usual field that has one; None without.

    Raises InputError if the named field is missing or holds something else.
    """
    if id_field is None:
        _, names = _usual_names(tuple(row))
        return next((id for name in names if (id := as_id(row[name])) is not None), None)
    value = find_value(row, id_field, _MISSING)
    if value is _MISSING:
        problem = f'no "{id_field}" field ({describe_fields(row)})'
        raise MissingFieldError(f"{origin}: {problem}.", hint="Name it with --id-field.")
    id = as_id(value)
    if id is None and value not in (None, ""):
        problem = f'the id "{id_field}" is {json_kind(value)}, not a string or a number'
        raise InputError(
            f"{origin}: {problem} ({describe_fields(row)}).", hint="Name another field with --id-field."
        )
    return id


def as_id(value: object) -> DocumentId | None:
    """Return a value as an id, `1.0` as 1; None for null, a boolean, a list or an object.

    In Python an id may be one of numpy's integers, or a UUID, which becomes its text.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, float):
        return (int(value) if value.is_integer() else repr(value)) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | list | tuple | Mapping):
        return None
    return int(value) if isinstance(value, Integral) else str(value)


def find_value(row: Mapping[str, Any], path: str, default: object = None) -> Any:
    """Follow a dotted path into nested objects and the objects of lists; `default` if it leads nowhere.

    A key that has the dots in its name comes first.
    """
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    inner = row.get(head) if dot else None
    if isinstance(inner, Mapping):
        return find_value(inner, rest, default)
    if isinstance(inner, list):
        values = [find_value(item, rest, _MISSING) for item in inner if isinstance(item, Mapping)]
        return [value for value in values if value is not _MISSING] or default
    return default


def find_number(document: Document, name: str, place: int) -> float:
    """Return the number in a field of a document, with its sign changed if the name starts with a minus.

    Raises InputError, naming the document by its origin or place, for a field without a number.
    """
    field = name.removeprefix("-")
    try:
        number = float(find_value(document.fields, field))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f'{document.origin or f"document {place}"}: no number in the field "{field}".',
            hint="Name the field of the first stage's score with --first-score-field.",
        )
    return -number if name.startswith("-") else number


def without_texts(document: Document) -> dict[str, Any]:
    """Return a document's fields without those that its text was made from, except a title."""
    fields: Any = document.fields
    for path in document.text_fields:
        if path != TITLE_FIELD:
            fields = without_field(fields, path)
    return dict(fields)


def without_field(value: Any, path: str) -> Any:
    """Return a row without what `find_value` finds, and without objects that are empty then."""
    if isinstance(value, list):
        left = [without_field(item, path) for item in value]
        return [item for item, before in zip(left, value, strict=True) if item or not before]
    if not isinstance(value, Mapping):
        return value
    if path in value:
        return {name: item for name, item in value.items() if name != path}
    head, dot, rest = path.partition(".")
    if not dot or not isinstance(value.get(head), Mapping | list):
        return value
    inner = without_field(value[head], rest)
    return {name: inner if name == head else item for name, item in value.items() if name != head or inner}


def choose_columns(own_names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table: our own names, the other fields of the rows, and `input`."""
    names = dict.fromkeys((*own_names, *chain.from_iterable(rows)))
    return [*(name for name in names if name != INPUT_NAME), INPUT_NAME]


def _text_of(value: object, path: str, row: Mapping[str, Any], origin: str) -> str:
    """Return a text, a number or a list of them as text; null is an empty text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, [_text_of(item, path, row, origin) for item in value]))
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        return str(value)
    inside = f" ({describe_fields(value, path + '.')})" if isinstance(value, dict) else ""
    raise InputError(
        f'{origin}: "{path}" is {json_kind(value)}, not text{inside}.',
        hint=_hint_of_columns(row) or "Name the field that holds the text with --text-field.",
    )


def describe_fields(row: Mapping[str, Any], prefix: str = "") -> str:
    """Return a clause with the fields of a row, and the paths of nested ones, for messages."""
    names = [
        name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        for name in _paths(row, prefix)
    ]
    if not names:
        return "it has none at all"
    more = len(names) - _MOST_SHOWN
    return f"has: {', '.join(names[:_MOST_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def _paths(row: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and inner and prefix.count(".") < _DEEPEST:
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _hint_of(row: object) -> str:
    """Return what to do about a row without a text: name it, or take the rows out of what is around them."""
    if isinstance(row, list):  # it may be an item of an array itself
        return "Take the rows out of it: jq -c 'flatten[]'."
    if not isinstance(row, dict):
        return ""
    if not row.keys().isdisjoint(QUERY_FIELDS) and list in map(type, row.values()):
        return "Queries with their documents are for: ce-rerank batch"
    found = dict(_lists_of_objects(row))
    if not found:
        return _hint_of_columns(row) or "Name it with --text-field."
    path = max(found, key=lambda path: len(json.dumps(found[path])))
    return f"Name it with --text-field, or take the rows out of it: jq -c '{path}'."


def _hint_of_columns(row: Mapping[str, Any]) -> str:
    """Return what to do about an object of columns, as pandas and Chroma write it; empty for another."""
    columns = [column for column in row.values() if column is not None]
    has_text = any(path.rpartition(".")[2] in TEXT_FIELDS for path in _paths(row, ""))
    is_table = len(columns) > 1 and all(isinstance(column, list | dict) for column in columns)
    if has_text or not is_table:
        return ""
    return 'Write the rows as an object each (pandas: orient="records", lines=True).'


def _lists_of_objects(row: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield jq's path of each list of objects in an object, and the list."""
    for name, value in row.items():
        step = f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else f".[{json.dumps(name)}]"
        if isinstance(value, dict) and path.count(".") < _DEEPEST:
            yield from _lists_of_objects(value, path + step)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield f"{path}{step}[]", value
