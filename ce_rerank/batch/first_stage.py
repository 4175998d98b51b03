"""The candidates that a first stage chooses from a corpus: a TREC run, or BM25.

The documents that the first stage may name are kept in a temporary file, and the rows of a run in arrays, so
that a corpus of millions needs little memory.
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
    """The candidates of the queries of a file, in a corpus.

    With a run: its queries in the order in which they first come, each with its documents as they stand; rows
    of one query need not stand together. Without: the queries in the order of their file, each with the
    documents that BM25 finds, `ranking.bm25` of them. A document that is in a query's list twice, or an id
    that is in the corpus twice, counts where it comes first; a warning says how many there are. Rows of the
    run whose query or document is missing are rejected, each for itself.
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
        """The share of the run's rows, or of the queries, that was made into candidates, from 0 to 1."""
        return self._done / self._all if self._all else None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Read all files, and yield the candidates; reject rows that cannot be read or ranked."""
        with tempfile.TemporaryFile() as file:
            documents = _Documents(file)
            if self._run is None:
                yield from self._search(documents, reject)
            else:
                yield from self._read_run(self._run, documents, reject)

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
        # The columns that are named are the run's.
        for document in read_corpus(self._corpus, places, replace(self._options, columns=()), reject):
            documents.put(places[str(document.id)], document)
        documents.warn_of_repeats()
        repeats = sum(len(rows.places) - len(set(rows.places)) for rows in rows_of.values())
        _warn_of_repeats(f"rows of {source.name} name a document that its query has", repeats)
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
        try:
            from ..retrieval import Bm25Index
        except ImportError as error:
            raise UnavailableError(
                f"--bm25 needs {error.name}.", hint="Install it: pip install 'ce-rerank[bm25]'"
            ) from None
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
    """Documents by their places, from 0, kept in a file; of several at one place the first counts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts = array("q")  # -1 where there is no document
        self._end = self._repeats = 0

    def __contains__(self, place: int) -> bool:
        return place < len(self._starts) and self._starts[place] >= 0

    def put(self, place: int, document: Document) -> bool:
        """Keep a document; return False for a place that has one."""
        if place in self:
            self._repeats += 1
            return False
        self._starts.extend([-1] * (place + 1 - len(self._starts)))
        self._starts[place] = self._end
        fields = (document.text, document.id, document.fields, document.text_fields, document.origin)
        self._end += self._file.write(pickle.dumps(fields, pickle.HIGHEST_PROTOCOL))
        return True

    def get(self, place: int) -> Document:
        """Return the document that is there."""
        self._file.seek(self._starts[place])
        return Document(*pickle.load(self._file))

    def warn_of_repeats(self) -> None:
        """Say how many documents had an id that was there."""
        _warn_of_repeats("documents of the corpus have an id that is there", self._repeats)


def _warn_of_repeats(what: str, repeats: int) -> None:
    if repeats:
        log.warning("%s %s again; the first counts.", f"{repeats:,}", what)
