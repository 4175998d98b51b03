"""The candidates that a first stage chooses from a corpus: a TREC run, or BM25.

Documents are kept in a temporary file and the rows of a run in arrays, so that a corpus of millions needs
little memory.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from ..errors import InputError, UnavailableError
from ..formats.beir import read_corpus, read_queries
from ..formats.documents import ReadOptions
from ..formats.source import Reject, Source
from ..formats.trec import read_run
from ..types import Candidates, Document, RankOptions

log = logging.getLogger("ce_rerank")


class CorpusCandidates:
    """The candidates of the queries of a file, from a corpus.

    With a run: its queries in the order of their first rows, each with its documents in the order of the run;
    the rows of a query need not be together. Without a run: the queries in the order of their file, each with
    the `ranking.bm25` documents that BM25 finds. If a document is twice in a query's list, or an id twice in
    the corpus, the first counts, and a warning says how many there are. Rows of the run whose query or
    document is missing are rejected one by one.
    """

    may_pause = False

    def __init__(
        self,
        run: Source | None,
        queries: Source,
        corpus: Sequence[Source],
        options: ReadOptions,
        ranking: RankOptions,
    ) -> None:
        self._run = run
        self._queries = queries
        self._corpus = corpus
        self._options = options
        self._ranking = ranking
        self._done = self._all = 0

    @property
    def share_read(self) -> float | None:
        """The share of the run's rows, or of the queries, that has been read, from 0 to 1."""
        return self._done / self._all if self._all else None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Read all files, and yield the candidates; reject rows that cannot be read or ranked."""
        try:
            with tempfile.TemporaryFile() as file:
                documents = _Documents(file)
                if self._run is None:
                    yield from self._search(documents, reject)
                else:
                    yield from self._read_run(self._run, documents, reject)
        except OSError as error:
            raise UnavailableError(
                f"The corpus cannot be kept in {tempfile.gettempdir()} ({error.strerror}).",
                hint="Set TMPDIR to a folder with more room.",
            ) from None

    def _read_run(self, source: Source, documents: _Documents, reject: Reject) -> Iterator[Candidates]:
        rows_of: dict[str, _Rows] = {}
        places: dict[str, int] = {}  # of the documents that the run names
        name = ""
        for line in read_run(source, reject, self._options.columns):
            rows = rows_of.setdefault(line.query_id, _Rows())
            rows.places.append(places.setdefault(line.doc_id, len(places)))
            rows.lines.append(line.line_number)
            rows.scores.append(line.score)
            name = line.run_name
        self._all = sum(len(rows.places) for rows in rows_of.values())
        queries = read_queries(self._queries, rows_of, reject)
        # --columns names the columns of the run.
        for document in read_corpus(self._corpus, places, replace(self._options, columns=()), reject):
            documents.put(places[str(document.id)], document)
        documents.warn_of_repeats()
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
                    problem = fault or f'the document "{doc_ids[place]}" is not in the corpus.'
                    row = f"{query_id} Q0 {doc_ids[place]} {rank + 1} {rows.scores[rank]!r} {name}"
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
            for document in read_corpus(self._corpus, None, self._options, reject):
                if documents.put(places.setdefault(str(document.id), len(places)), document):
                    yield document.text

        index = Bm25Index(texts(), language=self._ranking.bm25_language)
        documents.warn_of_repeats()
        self._all = len(queries)
        without = 0
        for query in queries.values():
            self._done += 1
            found = dict(index.search(query.text, self._ranking.bm25 or 0))
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
    """Documents by their places, from 0, kept in a file; at each place the first one counts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts = array("q")  # -1 where there is no document
        self._end = self._repeats = 0

    def __contains__(self, place: int) -> bool:
        return place < len(self._starts) and self._starts[place] >= 0

    def put(self, place: int, document: Document) -> bool:
        """Keep a document; return False if the place has one already."""
        if place in self:
            self._repeats += 1
            return False
        self._starts.extend([-1] * (place + 1 - len(self._starts)))
        self._starts[place] = self._end
        fields = (document.text, document.id, document.fields, document.text_fields, document.origin)
        self._end += self._file.write(pickle.dumps(fields, pickle.HIGHEST_PROTOCOL))
        return True

    def get(self, place: int) -> Document:
        """Return the document at a place."""
        self._file.seek(self._starts[place])
        return Document(*pickle.load(self._file))

    def warn_of_repeats(self) -> None:
        """Warn of documents with an id that came before."""
        _warn_of_repeats("documents of the corpus have an id that came before", self._repeats)


def _warn_of_repeats(what: str, repeats: int) -> None:
    if repeats:
        log.warning("%s %s; the first counts.", f"{repeats:,}", what)
