"""BEIR collections: queries and a corpus, as JSONL or as `id<TAB>text`."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..types import Document, Query
from .documents import ReadOptions, read_as
from .fields import QUERY_FIELDS, QUERY_ID_FIELDS, FieldRules, describe_fields, find_id, without_texts
from .source import Reject, Source, raise_at_once

_QUERY_IDS = ("_id", "id", *QUERY_ID_FIELDS)
_QUERY_TEXTS = ("text", *QUERY_FIELDS)
_OPTIONS = ReadOptions(id_and_text=True)
_ID_AT_START = re.compile(r'\{"(_?id)": ?"([^"\\]*)"')


def read_queries(
    source: Source, wanted: Container[str] | None = None, reject: Reject = raise_at_once
) -> dict[str, Query]:
    """Read queries by id, with their other fields, in the order of the file; all, or those that are wanted.

    A row is rejected if it cannot be read, has no id or no text, or has an id that came before; by default
    that raises an InputError with file and line. Raises InputError for a file without queries.
    """
    queries: dict[str, Query] = {}

    def make(row: Any, origin: str) -> Query:
        fields = row if isinstance(row, dict) else {}
        id_name = next((name for name in _QUERY_IDS if fields.get(name) is not None), None)
        text_name = next((name for name in _QUERY_TEXTS if name in fields), _QUERY_TEXTS[0])
        query = FieldRules((text_name,), id_name).document(row, origin)
        if id_name is None:
            raise InputError(f"{origin}: the query has no id.", hint='Give it one in a field "_id".')
        if str(query.id) in queries:
            raise InputError(f'{origin}: the query "{query.id}" is there twice.')
        others = {name: value for name, value in fields.items() if name not in (id_name, text_name)}
        return Query(query.text, query.id, others, origin)

    is_empty = True
    for query in read_as(make, source, _OPTIONS, reject):
        is_empty = False
        if wanted is None or str(query.id) in wanted:
            queries[str(query.id)] = query
    if is_empty:
        raise InputError(f"{source.name}: no queries in it.")
    return queries


def read_corpus(
    sources: Iterable[Source],
    wanted: Container[str] | None,
    options: ReadOptions = _OPTIONS,
    reject: Reject = raise_at_once,
) -> Iterator[Document]:
    """Read the documents whose ids are wanted (None: all), in the order of the files.

    Their `fields` do not have the text again, except a title, to save memory. A row that cannot be read is
    rejected; by default that raises an InputError with file and line.
    """

    def make(row: Any, origin: str) -> Document | None:
        fields = row if isinstance(row, dict) else {}
        doc_id = find_id(fields, options.id_field, origin)
        if doc_id is None:
            problem = f"{origin}: the document has no id ({describe_fields(fields)})."
            raise InputError(problem, hint="Name its field with --id-field.")
        if wanted is not None and str(doc_id) not in wanted:
            return None
        document = options.document(row, origin)
        return replace(document, fields=without_texts(document))

    def is_unwanted(line: str) -> bool:
        """Whether a line is blank or starts, as in BEIR's files, with the id of an unwanted document.

        This is ten times as fast as decoding the line, and most lines of a large corpus are unwanted.
        """
        if wanted is None or (found := _ID_AT_START.match(line)) is None:
            return line.isspace()
        return found[2] not in wanted and (found[1] == "id" or '"id"' not in line)

    skip = is_unwanted if options.id_field is None else str.isspace
    options = replace(options, id_and_text=True)
    for source in sources:
        yield from filter(None, read_as(make, source, options, reject, skip))
