"""Rows to candidates: a query with its documents in one row, or one document in each row."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from ..errors import InputError
from ..formats.beir import read_queries
from ..formats.documents import ReadOptions, read_rows
from ..formats.fields import (
    LIST_FIELDS,
    QUERY_FIELDS,
    QUERY_ID_FIELDS,
    TEXT_FIELDS,
    FieldRules,
    describe_fields,
    find_value,
    without_field,
)
from ..formats.json import encode_json, json_kind
from ..formats.source import Reject, Row, Source
from ..formats.trec import require_run_id
from ..types import Candidates, Document, Query

_ROW_ID_FIELDS = ("id", "_id")
_NESTED_ID_FIELDS = (*QUERY_ID_FIELDS, *_ROW_ID_FIELDS)
_MSMARCO_TEXT = "passage_text"  # in the object of lists that MS MARCO has on the Hugging Face hub
_SHAPES = (
    'Give a row a query, {"query": "...", "documents": ["...", ...]}, '
    'or a row a document, {"query": "...", "text": "..."}.'
)
_TREC_RUN = "Give a TREC run with --run, and its texts with --queries and --corpus."


class RowCandidates:
    """The candidates of files and streams, read a row at a time.

    A nested row holds all documents of a query: a list of strings or objects, or an object of lists, one for
    each field. A flat row holds one document; consecutive rows with the same query id, or the same query text
    if there are no ids, belong to one query. `query_field` and `documents_field` name the fields of a row
    that hold the query and the documents; a name may be a dotted path. If a row has only the id of its query,
    the text is in the file `queries`. `for_trec` refuses what a TREC run cannot hold: a query or document
    without an id, an id with a space, and a query id that comes again in another row.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: ReadOptions,
        *,
        query_field: str | None = None,
        documents_field: str | None = None,
        queries: Source | None = None,
        for_trec: bool = False,
    ) -> None:
        self._sources = sources
        self._sizes = [source.size_bytes for source in sources]
        self._current = 0
        self._query_fields = QUERY_FIELDS if query_field is None else (query_field,)
        self._documents_fields = LIST_FIELDS if documents_field is None else (documents_field,)
        self._is_nested = documents_field is not None
        self._options = replace(options, header_names=(*self._query_fields, *QUERY_ID_FIELDS))
        self._rules = options.field_rules
        self._queries_source = queries
        self._queries: Mapping[str, Query] = {}
        self._for_trec = for_trec
        self._seen: set[bytes] = set()

    @property
    def may_pause(self) -> bool:
        """Whether the input may come slowly: a part of it is no file."""
        return None in self._sizes

    @property
    def share_read(self) -> float | None:
        """The share of the files that has been read, from 0 to 1; None if a part of the input is no file."""
        sizes = [size or 0 for size in self._sizes]
        if None in self._sizes or not any(sizes):
            return None
        return (sum(sizes[: self._current]) + self._sources[self._current].read_bytes) / sum(sizes)

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Yield the candidates in the order of the input; reject rows and documents that cannot be ranked.

        The queries' file is read first.
        """
        if self._queries_source is not None:
            self._queries = read_queries(self._queries_source, reject=reject)
        flat: Candidates | None = None  # the query of flat rows, of which more may follow
        for value, origin in self._rows(reject):
            try:
                if not isinstance(value, dict):
                    problem = f"the row is {json_kind(value)}, which has no query."
                    is_run = self._sources[self._current].name.endswith(".trec")
                    raise InputError(f"{origin}: {problem}", hint=_TREC_RUN if is_run else _SHAPES)
                items = self._find_documents(value, origin)
                query, own_fields = self._name_query(value, items is not None, origin)
                if items is not None:
                    complete, starting = self._read_nested(value, items, query, own_fields, reject), None
                else:
                    document = self._document(self._rules, _without(value, own_fields), origin)
                    if flat is not None and _is_same(flat.query, query):
                        cast(list[Document], flat.documents).append(document)
                        continue
                    complete, starting = None, Candidates(self._complete(query), [document])
                    hint = "Let the rows of a query stand together: sort the input by query."
                    self._require_first(starting.query, hint)
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
        for place, source in enumerate(self._sources):
            self._current = place
            yield from read_rows(source, self._options, reject)

    def _find_documents(self, row: Mapping[str, Any], origin: str) -> _Items | None:
        """Return the documents of a nested row, None for a flat row."""
        for path in self._documents_fields:
            value = find_value(row, path)
            if isinstance(value, list):
                return _Items(path, value, self._rules)
            if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
                rules = self._rules
                if _MSMARCO_TEXT in value and not rules.text_fields:
                    rules = replace(rules, text_fields=(_MSMARCO_TEXT,))
                if len({len(column) for column in value.values()}) > 1:
                    raise InputError(f'{origin}: the lists in "{path}" are not equally long.')
                columns = zip(*value.values(), strict=True)
                return _Items(path, [dict(zip(value, values, strict=True)) for values in columns], rules)
        if self._is_nested or not (self._rules.text_fields or any(name in row for name in TEXT_FIELDS)):
            has = describe_fields(row)
            problem = f'no list of "{self._documents_fields[0]}" and no "{TEXT_FIELDS[0]}" ({has}).'
            raise InputError(f"{origin}: {problem}", hint=f"{_SHAPES} --documents-field names another field.")
        return None

    def _name_query(self, row: Mapping[str, Any], is_nested: bool, origin: str) -> tuple[Query, list[str]]:
        """Return what a row says about its query, and in which fields; the text may be empty."""
        path = next((path for path in self._query_fields if find_value(row, path) is not None), "")
        value = find_value(row, path)
        id_fields = _NESTED_ID_FIELDS if is_nested else QUERY_ID_FIELDS
        id_name = next((name for name in id_fields if row.get(name) not in (None, "")), None)
        id = None if id_name is None else row[id_name]
        fields = [path] if id_name is None or id_name in _ROW_ID_FIELDS else [path, id_name]
        if isinstance(value, dict):
            fields = fields[1:]  # the object stays a field of the row, for its other values
            if id is None:
                id = next((value[name] for name in _NESTED_ID_FIELDS if name in value), None)
            value = value.get("text", value.get(path))
        if value is not None and not isinstance(value, str):
            raise InputError(f'{origin}: "{path}" is {json_kind(value)}, not a string.')
        if isinstance(id, float) and id.is_integer():
            id = int(id)
        if id is not None and (isinstance(id, bool) or not isinstance(id, (str, int))):
            raise InputError(f"{origin}: the query's id is {json_kind(id)}, not a string or an integer.")
        if value is None and id is None:
            problem = f'no "{self._query_fields[0]}" field ({describe_fields(row)}).'
            raise InputError(f"{origin}: {problem}", hint=f"{_SHAPES} --query-field names another field.")
        return Query(value or "", id, {}, origin), fields

    def _complete(self, query: Query) -> Query:
        """Return a query with what the file of queries has of it; raise InputError for one without a text."""
        if not query.text and query.id is not None and self._queries_source is not None:
            known = self._queries.get(str(query.id))
            if known is None:
                name = self._queries_source.name
                raise InputError(f'{query.origin}: the query "{query.id}" is not in {name}.')
            query = replace(query, text=known.text, fields={**known.fields, **query.fields})
        if not query.text.strip():
            raise InputError(
                f"{query.origin}: the query is empty.",
                hint="Give the queries with --queries FILE, or name the field with --query-field.",
            )
        if self._for_trec:
            require_run_id(query.id, f"{query.origin}: the query")
        return query

    def _read_nested(
        self, row: Mapping[str, Any], items: _Items, query: Query, own_fields: Sequence[str], reject: Reject
    ) -> Candidates:
        query = self._complete(replace(query, fields=_without(row, (*own_fields, items.path))))
        if self._for_trec:
            self._require_first(query, "Give each query an id of its own.")
        documents, places = [], []
        for place, item in enumerate(items.values):
            try:
                origin = f"{query.origin}: {items.path}[{place}]"
                documents.append(self._document(items.rules, item, origin))
                places.append(place)
            except InputError as error:
                reject(error, encode_json(item))
        return Candidates(query, documents, places=places if len(places) < len(items.values) else None)

    def _document(self, rules: FieldRules, value: object, origin: str) -> Document:
        document = rules.document(value, origin)
        if self._for_trec:
            require_run_id(document.id, origin, document.fields)
        return document

    def _require_first(self, query: Query, hint: str) -> None:
        """Raise InputError for a query whose id, or whose text if it has none, came before."""
        shown, name = ("its query", query.text) if query.id is None else (f'the query "{query.id}"', query.id)
        hashed = hashlib.blake2b(f"{query.id is None} {name}".encode(), digest_size=8).digest()
        if hashed in self._seen:
            raise InputError(f"{query.origin}: {shown} is here again, after other queries.", hint=hint)
        self._seen.add(hashed)


class _Items(NamedTuple):
    """The documents of a nested row, the path of the field that holds them, and the rules for their text."""

    path: str
    values: Sequence[object]
    rules: FieldRules


def _is_same(query: Query, other: Query) -> bool:
    """Whether a row has the query of the row before; raise InputError if it has the id and another text."""
    if other.id is None:
        return other.text == query.text
    if query.id is None or str(other.id) != str(query.id):
        return False
    if other.text not in ("", query.text):
        raise InputError(
            f'{other.origin}: the query "{other.id}" has another text than in {query.origin}.',
            hint="Give each query an id of its own.",
        )
    return True


def _without(row: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    for path in paths:
        row = without_field(row, path)
    return dict(row)
