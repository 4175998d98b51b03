"""Where the candidates of a batch come from: rows of files, or a corpus with a first stage.

A row holds a query with its documents, or one of a query's documents. The first stage is a TREC run or BM25.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import tempfile
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from ..files import name_errors
from ..formats.beir import read_corpus, read_queries
from ..formats.documents import read_as
from ..formats.fields import LIST_FIELDS, QUERY_FIELDS, TEXT_FIELDS, MissingFieldError, describe_fields
from ..formats.json import encode_json, json_kind
from ..formats.source import Reject, Source, is_pipe_or_device
from ..formats.trec import read_run, require_run_id
from ..inputs import ROW_SHAPES, find_documents, find_query
from ..types import Candidates, Document, Query
from .job import Job

log = logging.getLogger("ce_rerank")

_OTHER_FIELDS = f"{ROW_SHAPES} --query-field, --documents-field and --text-field name other fields."
_TREC_RUN = "Give a TREC run with --run, and its texts with --queries and --corpus."


class CandidateReader:
    """Reads candidates, once; `may_pause` is whether they may come slowly, as from a pipe."""

    may_pause = False

    @property
    def share_read(self) -> float | None:
        """The share of the input that has been read, from 0 to 1; None if its size is unknown."""
        return None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Yield candidates in input order; give rows that cannot be ranked to `reject`, which may raise."""
        raise NotImplementedError


def open_reader(job: Job) -> CandidateReader:
    """Return a reader of a job's candidates; raise InputError for a file that cannot be opened."""
    for name in job.names:
        # A pipe cannot be opened twice.
        if name != "-" and not is_pipe_or_device(Path(name)):
            with Source.from_name(name).open():
                pass
    return CorpusCandidates(job) if job.corpus else RowCandidates(job)


class RowCandidates(CandidateReader):
    """The candidates of the job's inputs, or of `sources`, read a row at a time.

    A nested row holds all documents of a query: a list of strings or objects, or an object of lists, one for
    each field. A flat row holds one document; consecutive rows with the same query id, or the same query text
    if there are no ids, belong to one query. If a row has only the id of its query, the text is in the file
    of queries, which is read first. If the job needs ids, a query or document without one, an id with a
    space, and a query id that comes again in another row are refused.
    """

    def __init__(self, job: Job, sources: Sequence[Source] | None = None) -> None:
        self._job = job
        self._sources = list(map(Source.from_name, job.inputs)) if sources is None else sources
        self._sizes = [source.size_bytes for source in self._sources]
        self.may_pause = None in self._sizes
        self._current = 0
        self._query_fields = QUERY_FIELDS if job.query_field is None else (job.query_field,)
        self._documents_fields = LIST_FIELDS if job.documents_field is None else (job.documents_field,)
        self._queries: Mapping[str, Query] = {}
        self._for_trec = job.needs_ids or job.format == "trec"
        self._seen: set[bytes] = set()
        self._flat: tuple[Query, list[Document], list[int]] | None = None  # flat rows, and more may follow
        self._rejected = 0

    @property
    def share_read(self) -> float | None:
        """The share of the files that has been read, from 0 to 1; None if a part of the input is no file."""
        sizes = [size or 0 for size in self._sizes]
        if None in self._sizes or not any(sizes):
            return None
        return (sum(sizes[: self._current]) + self._sources[self._current].read_bytes) / sum(sizes)

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Yield the candidates in the order of the input; reject rows and documents that cannot be ranked."""

        def count(error: InputError, text: str) -> None:
            reject(error, text)
            self._rejected += 1

        if self._job.queries is not None:
            self._queries = read_queries(Source.from_name(self._job.queries), reject=reject)
        for place, source in enumerate(self._sources):
            self._current = place
            for complete in read_as(partial(self._take, reject), source, self._job.reading, count):
                yield from complete
        yield from self._end_flat()

    def _end_flat(self) -> list[Candidates]:
        ended, self._flat = self._flat, None
        return [] if ended is None else [Candidates(*ended[:2], places=ended[2])]

    def _take(self, reject: Reject, row: Any, origin: str) -> list[Candidates]:
        """Take a row, and return the candidates that are complete with it."""
        if not isinstance(row, dict):
            is_run = self._sources[self._current].name.endswith(".trec")
            problem = f"{origin}: the row is {json_kind(row)}, which has no query."
            raise InputError(problem, hint=_TREC_RUN if is_run else ROW_SHAPES)
        found = find_documents(row, origin, self._documents_fields)
        if found is None and (
            self._job.documents_field
            or not (self._job.reading.text_fields or any(name in row for name in TEXT_FIELDS))
        ):
            missing = f'no list of "{self._documents_fields[0]}" and no "{TEXT_FIELDS[0]}"'
            raise MissingFieldError(f"{origin}: {missing} ({describe_fields(row)}).", hint=_OTHER_FIELDS)
        documents_path = None if found is None else found[0]
        query = find_query(row, origin, documents_path, self._query_fields, _OTHER_FIELDS)
        if found is not None:
            nested = self._read_nested(self._complete(query), found, reject)
            return [*self._end_flat(), nested]
        document = self._document(query.fields, origin)
        if self._flat is not None and _is_same(self._flat[0], query):
            _, documents, places = self._flat
            places.append(len(documents) + self._rejected)
            documents.append(document)
            return []
        query = self._complete(replace(query, fields={}))
        self._require_first(query, "Let the rows of a query stand together: sort the input by query.")
        ended = self._end_flat()
        self._flat = query, [document], [0]
        self._rejected = 0  # rows between those of one query are places in its list
        return ended

    def _complete(self, query: Query) -> Query:
        """Return a query with its text of the file of queries; raise InputError if it has none."""
        if not query.text and query.id is not None and self._job.queries is not None:
            known = self._queries.get(str(query.id))
            if known is None:
                raise InputError(f'{query.origin}: the query "{query.id}" is not in {self._job.queries}.')
            query = replace(query, text=known.text, fields={**known.fields, **query.fields})
        if not query.text.strip():
            raise InputError(
                f"{query.origin}: the query is empty.",
                hint="Give the queries with --queries FILE, or name the field with --query-field.",
            )
        if self._for_trec:
            require_run_id(query.id, f"{query.origin}: the query")
        return query

    def _read_nested(self, query: Query, found: tuple[str, Any], reject: Reject) -> Candidates:
        path, values = found
        if self._for_trec:
            self._require_first(query, "Give each query an id of its own.")
        documents, places = [], []
        for place, value in enumerate(values):
            try:
                documents.append(self._document(value, f"{query.origin}: {path}[{place}]"))
                places.append(place)
            except InputError as error:
                reject(error, encode_json(value))
        return Candidates(query, documents, places=places if len(places) < len(values) else None)

    def _document(self, value: object, origin: str) -> Document:
        document = self._job.reading.document(value, origin)
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


class CorpusCandidates(CandidateReader):
    """The candidates of the queries of a file, from a corpus.

    With a run: its queries in the order of their first rows, each with its documents in the order of the run;
    the rows of a query need not be together. Without a run: the queries in the order of their file, each with
    as many documents as the job lets BM25 find. If a document is twice in a query's list, or an id twice in
    the corpus, the first counts, and a warning says how many there are. Rows of the run whose query or
    document is missing are rejected one by one.

    Documents are kept in a temporary file and the rows of a run in arrays, so that a corpus of millions needs
    little memory.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._queries = Source.from_name(job.queries or "")
        self._corpus = list(map(Source.from_name, job.corpus))
        self._done = self._all = 0

    @property
    def share_read(self) -> float | None:
        """The share of the run's rows, or of the queries, that has been read, from 0 to 1."""
        return self._done / self._all if self._all else None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Read all files, and yield the candidates; reject rows that cannot be read or ranked."""
        with name_errors(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
            documents = _Documents(file)
            if self._job.run is None:
                yield from self._search(documents, reject)
            else:
                yield from self._read_run(Source.from_name(self._job.run), documents, reject)

    def _read_run(self, source: Source, documents: _Documents, reject: Reject) -> Iterator[Candidates]:
        rows_of: dict[str, _Rows] = {}
        places: dict[str, int] = {}  # of the documents that the run names
        for line in read_run(source, reject, self._job.reading.columns):
            rows = rows_of.setdefault(line.query_id, _Rows())
            rows.places.append(places.setdefault(line.doc_id, len(places)))
            rows.lines.append(line.line_number)
            rows.scores.append(line.score)
        self._all = sum(len(rows.places) for rows in rows_of.values())
        queries = read_queries(self._queries, rows_of, reject)
        # --columns names the columns of the run.
        for document in read_corpus(self._corpus, places, replace(self._job.reading, columns=()), reject):
            documents.put(places[str(document.id)], document)
        _warn_of_repeats("documents of the corpus have an id that came before", documents.repeats)
        repeats = sum(len(rows.places) - len(set(rows.places)) for rows in rows_of.values())
        _warn_of_repeats(f"rows of {source.name} name a document that its query has already", repeats)
        doc_ids = list(places)
        for query_id, rows in rows_of.items():
            self._done += len(rows.places)
            query = queries.get(query_id)
            fault = ""
            if query is None:
                fault = f'the query "{query_id}" is not in {self._queries.name}.'
            elif not query.text.strip():
                fault = f'the query "{query_id}" is empty in {self._queries.name}.'
            first: dict[int, float] = {}
            for rank, place in enumerate(rows.places):
                if fault or place not in documents:
                    doc_id = doc_ids[place]
                    problem = fault or f'the document "{doc_id}" is not in the corpus.'
                    row = f"{query_id} Q0 {doc_id} {rank + 1} {rows.scores[rank]!r} -"
                    reject(InputError(f"{source.name}:{rows.lines[rank]}: {problem}"), row)
                else:
                    first.setdefault(place, rows.scores[rank])
            if query is not None and not fault:
                yield Candidates(query, list(map(documents.get, first)), list(first.values()))

    def _search(self, documents: _Documents, reject: Reject) -> Iterator[Candidates]:
        from ..retrieval import Bm25Index

        queries = read_queries(self._queries, reject=reject)

        def texts() -> Iterator[str]:
            places: dict[str, int] = {}
            for document in read_corpus(self._corpus, None, self._job.reading, reject):
                if documents.put(places.setdefault(str(document.id), len(places)), document):
                    yield document.text

        index = Bm25Index(texts(), language=self._job.ranking.bm25_language)
        _warn_of_repeats("documents of the corpus have an id that came before", documents.repeats)
        self._all = len(queries)
        without = 0
        for query in queries.values():
            self._done += 1
            found = dict(index.search(query.text, self._job.ranking.bm25 or 0))
            without += not found
            yield Candidates(query, list(map(documents.get, found)), list(found.values()))
        if without:
            log.warning("%s queries share no word with the corpus, and have no results.", f"{without:,}")


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a run for one query: the places of their documents, their lines and scores."""

    places: array[int] = field(default_factory=lambda: array("I"))
    lines: array[int] = field(default_factory=lambda: array("I"))
    scores: array[float] = field(default_factory=lambda: array("d"))


class _Documents:
    """Documents by place, from 0, kept in a file; the first one counts, and `repeats` counts the others."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts = array("q")  # -1 where there is no document
        self._end = self.repeats = 0

    def __contains__(self, place: int) -> bool:
        return place < len(self._starts) and self._starts[place] >= 0

    def put(self, place: int, document: Document) -> bool:
        """Keep a document; return False if the place has one already."""
        if place in self:
            self.repeats += 1
            return False
        self._starts.extend([-1] * (place + 1 - len(self._starts)))
        self._starts[place] = self._end
        # A tuple takes less time and room than the class.
        fields = (document.text, document.id, document.fields, document.text_fields, document.origin)
        self._end += self._file.write(pickle.dumps(fields, pickle.HIGHEST_PROTOCOL))
        return True

    def get(self, place: int) -> Document:
        """Return the document at a place."""
        self._file.seek(self._starts[place])
        return Document(*pickle.load(self._file))


def _warn_of_repeats(what: str, repeats: int) -> None:
    if repeats:
        log.warning("%s %s; the first counts.", f"{repeats:,}", what)
