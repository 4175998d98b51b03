"""Rows to documents: which fields make the text, and which is the id.

The rules are those of the command line's `--text-field` and `--id-field`, and of every format alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..types import Document, DocumentId
from .strict_json import json_kind

TEXT_FIELDS = ("text", "passage", "content", "body", "document", "contents")
"""Where a text is looked for when no field is named, in this order."""
TITLE_FIELD = "title"
"""Goes before the text when no field is named."""
ID_FIELDS = ("id", "_id", "docid", "doc_id", "pid")
"""Where an id is looked for when no field is named, in this order."""

_MISSING = object()


@dataclass(frozen=True, slots=True)
class FieldRules:
    """Which fields make a document; empty and None mean to look for the usual names."""

    text_fields: tuple[str, ...] = ()
    id_field: str | None = None

    def document(self, value: object, origin: str) -> Document:
        """Make a document of a row: an object, or a bare string, which is all text.

        Raises InputError naming `origin` when the row is neither, has no text, or its text is no string.
        """
        if isinstance(value, str):
            return Document(value, origin=origin)
        if not isinstance(value, dict):
            raise InputError(f"{origin}: the row is {json_kind(value)}, not an object or a string.")
        if self.text_fields:
            text = " ".join(filter(None, (_text_at(value, path, origin) for path in self.text_fields)))
            used = tuple(dict.fromkeys(self.text_fields))
        else:
            text, used = _usual_text(value, origin)
        return Document(text, find_id(value, self.id_field, origin), value, used, origin)


def find_id(row: Mapping[str, Any], id_field: str | None, origin: str) -> DocumentId | None:
    """Give a row's id: of the named field, else of the first usual one that is there and not null."""
    if id_field is not None:
        value = _lookup(row, id_field)
        if value is _MISSING:
            raise _no_field(row, id_field, origin, "--id-field")
        return _checked_id(value, id_field, origin)
    for name in ID_FIELDS:
        value = row.get(name)
        if value is not None:
            return _checked_id(value, name, origin)
    return None


def has_field(row: Mapping[str, Any], path: str) -> bool:
    """Tell whether a row has a field, by its name or by a dotted path."""
    return _lookup(row, path) is not _MISSING


def find_field(row: Mapping[str, Any], path: str) -> Any:
    """Return the value of a field, by its name or a dotted path; None where there is none."""
    value = _lookup(row, path)
    return None if value is _MISSING else value


def without_texts(document: Document) -> dict[str, Any]:
    """Give a document's fields without those that its text was made from, except a title."""
    fields = dict(document.fields)
    for path in document.text_fields:
        if path != TITLE_FIELD and has_field(fields, path):
            fields = without_field(fields, path)
    return fields


def _checked_id(value: object, name: str, origin: str) -> DocumentId | None:
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(
        f'{origin}: the id "{name}" is {json_kind(value)}, not a string or an integer.',
        hint="Name another field with --id-field.",
    )


def _usual_text(row: Mapping[str, Any], origin: str) -> tuple[str, tuple[str, ...]]:
    for name in TEXT_FIELDS:
        if name in row:
            break
    else:
        raise _no_field(row, TEXT_FIELDS[0], origin, "--text-field")
    text = _checked_text(row[name], name, origin)
    title = row.get(TITLE_FIELD)
    if title is None or title == "":
        return text, (name,)
    title = _checked_text(title, TITLE_FIELD, origin)
    return f"{title} {text}" if text else title, (TITLE_FIELD, name)


def _text_at(row: Mapping[str, Any], path: str, origin: str) -> str:
    value = _lookup(row, path)
    if value is _MISSING:
        raise _no_field(row, path, origin, "--text-field")
    return _checked_text(value, path, origin)


def _checked_text(value: object, name: str, origin: str) -> str:
    if isinstance(value, str):
        return value
    raise InputError(
        f'{origin}: the field "{name}" is {json_kind(value)}, not a string.',
        hint="Name the field that holds the text with --text-field.",
    )


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    """Follow a dotted path into nested objects; a key that has the dots in it comes first."""
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    inner = row.get(head) if dot else None
    return _lookup(inner, rest) if isinstance(inner, Mapping) else _MISSING


def without_field(row: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a row without a field, named or by a dotted path, and without objects that held nothing else."""
    head, _, rest = path.partition(".")
    left = without_field(row[head], rest) if path not in row and isinstance(row.get(head), Mapping) else {}
    key = path if path in row else head
    return {name: left if name == key else value for name, value in row.items() if name != key or left}


def _no_field(row: Mapping[str, Any], path: str, origin: str, option: str) -> InputError:
    names = list(row)
    has = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    has_query = "query" in row and any(isinstance(value, list) for value in row.values())
    way_out = f"Name it with {option}."
    return InputError(
        f'{origin}: no "{path}" field ({f"has: {has}" if names else "it has none at all"}).',
        hint=f"{way_out} Queries with their documents are for: ce-rerank batch" if has_query else way_out,
    )
