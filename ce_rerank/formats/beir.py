"""BEIR collections: queries and a corpus, as JSONL or as `id<TAB>text`."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from ..errors import InputError
from ..types import Document, Query
from .documents import InputFormat, ReadOptions, choose_format, row_reader
from .fields import ID_FIELDS, TEXT_FIELDS, FieldRules, find_id, without_texts
from .json import encode_json, read_json_rows
from .source import Lines, LookAhead, Readable, Reject, Row, as_source, raise_at_once

QUERY_ID_FIELDS = ("_id", "id", "query_id", "query-id", "qid")
"""Where the id of a query is looked for, in this order."""
QUERY_TEXT_FIELDS = ("text", "query")
"""Where the text of a query is looked for, in this order."""

_LOOK = ReadOptions()
_HEADER_IDS = {*ID_FIELDS, *QUERY_ID_FIELDS, "corpus-id"}
_HEADER_TEXTS = {*TEXT_FIELDS, *QUERY_TEXT_FIELDS}
_ID_AT_START = re.compile(r'\{"(_?id)": ?"([^"\\]*)"')


def read_queries(readable: Readable) -> dict[str, str]:
    """Read the texts of queries by id, in the order of the file; see `read_whole_queries`."""
    return {query_id: query.text for query_id, query in read_whole_queries(readable).items()}


def read_whole_queries(
    readable: Readable, wanted: Container[str] | None = None, reject: Reject = raise_at_once
) -> dict[str, Query]:
    """Read queries by id, with their other fields, in the order of the file; all, or those that are wanted.

    A row that cannot be read, has no id or no text, or an id that is there already, is rejected, see
    `read_rows`: as a default, that raises an InputError naming file and line.
    """
    queries: dict[str, Query] = {}
    source = as_source(readable)
    with source.open() as stream:
        format = choose_format(source, stream, _LOOK)
        for row, origin in _rows(format, stream, source.name, reject):
            try:
                query = _query_of(row, origin)
                query_id = str(query.id)
                if query_id in queries:
                    raise InputError(f'{origin}: the query "{query_id}" is there twice.')
            except InputError as error:
                reject(error, encode_json(row))
                continue
            if wanted is None or query_id in wanted:
                queries[query_id] = query
    return queries


def read_corpus(
    readables: Iterable[Readable],
    wanted: Container[str] | None,
    options: ReadOptions = _LOOK,
    reject: Reject = raise_at_once,
) -> Iterator[Document]:
    """Read the documents whose ids are wanted (None: all), in the order of the files.

    Their `fields` are without those that the text was made from, except a title, so that no text is held
    twice. A row that cannot be read is rejected, see `read_rows`: as a default, that raises an InputError
    naming file and line.
    """
    rules = options.field_rules
    for source in map(as_source, readables):
        with source.open() as stream:
            format = choose_format(source, stream, options)
            by_usual_names = wanted if options.id_field is None else None
            for row, origin in _rows(format, stream, source.name, reject, by_usual_names):
                try:
                    doc_id = _id_of(row, options.id_field, origin)
                    if wanted is not None and doc_id not in wanted:
                        continue
                    document = rules.document(row, origin)
                except InputError as error:
                    reject(error, encode_json(row))
                else:
                    yield replace(document, fields=without_texts(document))


def _query_of(row: object, origin: str) -> Query:
    fields = row if isinstance(row, dict) else {}
    id_name = next((name for name in QUERY_ID_FIELDS if fields.get(name) is not None), None)
    text_name = next((name for name in QUERY_TEXT_FIELDS if name in fields), QUERY_TEXT_FIELDS[0])
    query = FieldRules((text_name,), id_name).document(row, origin)
    if id_name is None:
        raise InputError(f"{origin}: the query has no id.", hint='Give it one in a field "_id".')
    others = {name: value for name, value in fields.items() if name not in (id_name, text_name)}
    return Query(query.text, query.id, others, origin)


def _id_of(row: object, id_field: str | None, origin: str) -> str:
    found = find_id(row, id_field, origin) if isinstance(row, dict) else None
    if found is None:
        raise InputError(f"{origin}: the document has no id.", hint="Name its field with --id-field.")
    return str(found)


def _rows(
    format: InputFormat, stream: LookAhead, name: str, reject: Reject, wanted: Container[str] | None = None
) -> Iterator[Row]:
    if format in ("tsv", "text"):
        return _read_plain_tsv(stream, name, reject)
    if format == "jsonl" and wanted is not None:
        return read_json_rows(stream, name, reject, skip=lambda line: _is_unwanted(line, wanted))
    return row_reader(format)(stream, name, reject)


def _is_unwanted(line: str, wanted: Container[str]) -> bool:
    """Tell from the start of a line, as BEIR's files have it, that its document is not wanted.

    Looking is ten times as fast as decoding, and of a large corpus little else is done.
    """
    found = _ID_AT_START.match(line)
    if found is None:
        return line.isspace()
    return found[2] not in wanted and (found[1] == "id" or '"id"' not in line)


def _read_plain_tsv(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read `id<TAB>text`, or columns named by a header; quotes are characters like any other."""
    header: list[str] | None = None
    lines = Lines(stream, name)
    for number, line in lines:
        row = line.rstrip("\r\n")
        if lines.fault:
            reject(lines.fault, row)
            continue
        if line.isspace():
            continue
        cells = row.split("\t")
        if header is None:
            is_header = cells[0] in _HEADER_IDS and not _HEADER_TEXTS.isdisjoint(cells[1:])
            header = cells if is_header else ["id", "text"]
            if is_header:
                continue
        if len(cells) != len(header):
            problem = f"{len(cells)} columns where {len(header)} should be ({', '.join(header)})."
            hint = "They are separated by one tab each."
            reject(InputError(f"{name}:{number}: {problem}", hint=hint), row)
        else:
            yield Row(dict(zip(header, cells, strict=True)), f"{name}:{number}")
