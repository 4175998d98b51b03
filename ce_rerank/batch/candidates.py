"""Rows to candidate lists: a query with its documents in a row, or a row a document."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..errors import InputError
from ..formats.documents import ReadOptions, read_rows
from ..formats.fields import LIST_FIELDS, QUERY_FIELD, QUERY_ID_FIELDS, TEXT_FIELDS
from ..formats.json import encode_json, json_kind
from ..formats.source import Reject, Row, Source, is_pipe_or_device
from ..formats.trec import require_run_id
from ..types import Candidates, Document, DocumentId, Query
from .queries import KnownQueries

_ROW_ID_FIELDS = ("id", "_id")
_SHAPES = (
    'Give a row a query, {"query": "...", "documents": ["...", ...]}, '
    'or a row a document, {"query": "...", "text": "..."}.'
)


class RowCandidates:
    """The candidate lists of files and streams, read a row at a time.

    A nested row is a whole list: it has a list of documents, strings or objects. Flat rows have one document
    each, and those of a query stand together: consecutive rows with one query id, or one query text where
    there are no ids, are one list. A row without the text of its query, or with none in it, has it from
    `queries`, by its id. `for_trec` refuses what a TREC run cannot hold: a query or document without an id,
    ids with space in them, and a query id that comes back in another list, which flat rows never may.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: ReadOptions,
        *,
        queries: KnownQueries | None = None,
        for_trec: bool = False,
    ) -> None:
        self._sources = sources
        self._sizes = [source.size_bytes for source in sources]
        self._options = replace(options, header_names=(QUERY_FIELD, *QUERY_ID_FIELDS))
        self._rules = options.field_rules
        self._queries = queries
        self._for_trec = for_trec
        self._current = 0

    @property
    def may_pause(self) -> bool:
        """Whether the input may be slow to come: not all of it is files."""
        return None in self._sizes

    @property
    def share_read(self) -> float | None:
        """How much of the files was read so far, from 0 to 1; None when not all are files."""
        if None in self._sizes or not any(self._sizes):
            return None
        sizes = [size or 0 for size in self._sizes]
        return (sum(sizes[: self._current]) + self._sources[self._current].read_bytes) / sum(sizes)

    def require_readable(self) -> None:
        """Raise InputError for a file that cannot be opened, before anything is loaded for it."""
        for source in self._sources:
            # Of a pipe, what is looked at would be gone.
            if source.path is not None and not is_pipe_or_device(source.path):
                with source.open():
                    pass

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Give the lists in the order of the input; a row that is none, and part of none, is rejected.

        Rows of the queries' file that are no queries go first. Raises InputError for input without any row.
        """
        if self._queries is not None:
            self._queries.rejected.give_to(reject)
        seen = _SeenQueries(for_trec=self._for_trec)
        flat: Candidates | None = None  # there may be more of it to come
        for value, origin in self._rows(reject):
            try:
                row = _as_object(value, origin)
                list_name = next((name for name in LIST_FIELDS if isinstance(row.get(name), list)), None)
                if list_name is not None:
                    complete, starting = self._read_nested(row, list_name, origin, seen), None
                else:
                    named = _name_query(row, QUERY_ID_FIELDS, origin)
                    document = self._read_flat(row, named, origin)
                    if flat is not None and _is_of(flat.query, named, origin):
                        cast(list[Document], flat.documents).append(document)
                        continue
                    complete, starting = None, Candidates(self._query(named, origin), [document])
                    seen.add_flat(starting.query)
            except InputError as error:
                reject(error, encode_json(value))
                continue
            if flat is not None:
                yield flat
            flat = starting
            if complete is not None:
                yield complete
        if flat is not None:
            yield flat

    def _rows(self, reject: Reject) -> Iterator[Row]:
        is_empty = True

        def reject_row(error: InputError, text: str) -> None:
            nonlocal is_empty
            is_empty = False
            reject(error, text)

        for place, source in enumerate(self._sources):
            self._current = place
            for row in read_rows(source, self._options, reject_row):
                is_empty = False
                yield row
        if is_empty:
            raise InputError(f"{', '.join(source.name for source in self._sources)}: no queries in it.")

    def _read_nested(
        self, row: dict[str, Any], list_name: str, origin: str, seen: _SeenQueries
    ) -> Candidates:
        named = _name_query(row, (*QUERY_ID_FIELDS, *_ROW_ID_FIELDS), origin)
        kept = {name: value for name, value in row.items() if name not in (*named.fields, list_name)}
        documents = [
            self._document(item, f"{origin}: {list_name}[{place}]")
            for place, item in enumerate(row[list_name])
        ]
        candidates = Candidates(self._query(named, origin, kept), documents)
        seen.add_nested(candidates.query)
        return candidates

    def _read_flat(self, row: dict[str, Any], named: _NamedQuery, origin: str) -> Document:
        if not self._rules.text_fields and not any(name in row for name in TEXT_FIELDS):
            no_list = next((name for name in LIST_FIELDS if name in row), None)
            problem = (
                f'"{no_list}" is {json_kind(row[no_list])}, not a list.'
                if no_list is not None
                else f'no list of "{LIST_FIELDS[0]}" and no "{TEXT_FIELDS[0]}" (has: {_list_names(row)}).'
            )
            raise InputError(f"{origin}: {problem}", hint=_SHAPES)
        return self._document(
            {name: value for name, value in row.items() if name not in named.fields}, origin
        )

    def _document(self, value: object, origin: str) -> Document:
        document = self._rules.document(value, origin)
        if self._for_trec:
            require_run_id(document.id, origin)
        return document

    def _query(self, named: _NamedQuery, origin: str, fields: Mapping[str, Any] | None = None) -> Query:
        query = Query(named.text or "", named.id, fields or {}, origin)
        # A row of a table has a cell for the query even where it gives none.
        is_left_empty = named.text == "" and named.id is not None and self._queries is not None
        if named.text is None or is_left_empty:
            query = self._known_query(query)
        if not query.text.strip():
            raise InputError(f"{origin}: the query is empty.")
        if self._for_trec:
            require_run_id(query.id, f"{origin}: the query")
        return query

    def _known_query(self, query: Query) -> Query:
        if self._queries is None:
            raise InputError(
                f'{query.origin}: no "{QUERY_FIELD}" field.', hint="Give the queries with --queries FILE."
            )
        known = self._queries.by_id.get(str(query.id))
        if known is None:
            raise InputError(f'{query.origin}: the query "{query.id}" is not in {self._queries.name}.')
        return replace(query, text=known.text, fields={**known.fields, **query.fields})


@dataclass(frozen=True, slots=True)
class _NamedQuery:
    """What a row says of its query, and in which fields."""

    id: DocumentId | None
    text: str | None
    fields: tuple[str, ...]


def _is_of(query: Query, named: _NamedQuery, origin: str) -> bool:
    """Tell whether a row belongs to a query; raises InputError when its query's id and text disagree."""
    if named.id is None:
        return named.text == query.text
    if query.id is None or str(named.id) != str(query.id):
        return False
    if named.text not in (None, "", query.text):
        raise InputError(
            f'{origin}: the query "{named.id}" has another text than in {query.origin}.',
            hint="Give each query an id of its own.",
        )
    return True


def _as_object(value: object, origin: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InputError(f"{origin}: the row is {json_kind(value)}, which has no query.", hint=_SHAPES)


def _name_query(row: Mapping[str, Any], id_fields: Sequence[str], origin: str) -> _NamedQuery:
    value = row.get(QUERY_FIELD)
    id_name = next((name for name in id_fields if row.get(name) not in (None, "")), None)
    id = None if id_name is None else row[id_name]
    used: tuple[str, ...] = (
        (QUERY_FIELD,) if id_name is None or id_name in _ROW_ID_FIELDS else (QUERY_FIELD, id_name)
    )
    if isinstance(value, dict):
        # What else it holds comes through in the row's own field.
        used = used[1:]
        if id is None:
            id = next((value[name] for name in (*QUERY_ID_FIELDS, *_ROW_ID_FIELDS) if name in value), None)
        value = value.get("text", value.get(QUERY_FIELD))
    if value is not None and not isinstance(value, str):
        raise InputError(f'{origin}: "{QUERY_FIELD}" is {json_kind(value)}, not a string.')
    if id is not None and (isinstance(id, bool) or not isinstance(id, (str, int))):
        raise InputError(f"{origin}: the query's id is {json_kind(id)}, not a string or an integer.")
    if value is None and id is None:
        raise InputError(f'{origin}: no "{QUERY_FIELD}" field (has: {_list_names(row)}).', hint=_SHAPES)
    return _NamedQuery(id, value, used)


def _list_names(row: Mapping[str, Any]) -> str:
    return ", ".join(list(row)[:12]) + (" ..." if len(row) > 12 else "")


class _SeenQueries:
    """The names of the queries so far, in hashes of 8 bytes each."""

    def __init__(self, *, for_trec: bool) -> None:
        self._for_trec = for_trec
        self._hashes: set[bytes] = set()

    def add_nested(self, query: Query) -> None:
        """Add the query of a whole list; raise InputError for one that a TREC run has already."""
        if self._for_trec and query.id is not None:
            self._add("id", query.id, query.origin, "Give each query an id of its own, or use --to jsonl.")

    def add_flat(self, query: Query) -> None:
        """Add the query of a list that starts; raise InputError for one that was here before."""
        kind, name = ("text", query.text) if query.id is None else ("id", query.id)
        hint = "Let the rows of a query stand together: sort the input by query."
        self._add(kind, name, query.origin, hint)

    def _add(self, kind: str, name: DocumentId, origin: str, hint: str) -> None:
        hashed = hashlib.blake2b(f"{kind} {name}".encode(), digest_size=8).digest()
        if hashed in self._hashes:
            shown = f'the query "{name}"' if kind == "id" else "its query"
            raise InputError(f"{origin}: {shown} is here again, after other queries.", hint=hint)
        self._hashes.add(hashed)
