"""The candidates that a first stage chooses from a corpus: a TREC run, or an index that is searched.

What the first stage may name of the corpus is held in memory, packed: some 250 bytes for each short
document, where Python's own objects take 1,000.
"""

from __future__ import annotations

import logging
import pickle
import zlib
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..errors import InputError
from ..formats.beir import read_corpus, read_queries
from ..formats.documents import ReadOptions
from ..formats.source import Reject, Source
from ..formats.trec import read_run
from ..types import Candidates, Document

log = logging.getLogger("ce_rerank")

_LIKENESS_BYTES = 4096
_WINDOW_BITS = -13  # raw deflate that looks back 8 KiB: it starts four times as fast as with 32


Search = Callable[[str], Sequence[tuple[int, float]]]
"""Finds the candidates of a query's text: the places of texts, from 0, and their scores, best first."""
BuildIndex = Callable[[Iterable[str]], Search]
"""Reads the texts of a corpus, so that they can be searched."""


class CorpusCandidates:
    """The candidates of the queries of a file, in a corpus.

    With a run as first stage: its queries in the order in which they first come, each with its documents as
    they stand; rows of one query need not stand together. With an index: the queries in the order of their
    file. A document that is in a query's list twice, or an id that is in the corpus twice, counts where it
    comes first; a warning says how many there are. Rows of the run whose query or document is missing are
    rejected, each for itself.
    """

    may_pause = False

    def __init__(
        self,
        first_stage: Source | BuildIndex,
        queries: Source,
        corpus: Sequence[Source],
        options: ReadOptions,
    ) -> None:
        run = [first_stage] if isinstance(first_stage, Source) else []
        self.sources = [*run, queries, *corpus]
        self._first_stage = first_stage
        self._queries_source = queries
        self._corpus = corpus
        self._options = options
        self._done = self._all = 0

    @property
    def share_read(self) -> float | None:
        """The share of the run's rows, or of the queries, that was made into candidates, from 0 to 1."""
        return self._done / self._all if self._all else None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Read all files, and yield the candidates; reject rows that cannot be read or ranked."""
        if isinstance(self._first_stage, Source):
            yield from self._read_run(self._first_stage, reject)
        else:
            yield from self._search(self._first_stage, reject)

    def _read_run(self, source: Source, reject: Reject) -> Iterator[Candidates]:
        run = _Run.read(source, reject, self._options.columns)
        self._all = sum(len(rows.slots) for rows in run.rows.values())
        if not run.rows:
            log.warning("%s: no queries in it.", source.name)
            return
        queries = read_queries(self._queries_source, run.rows, reject)
        documents = PackedDocuments()
        repeats = 0
        options = replace(self._options, columns=())  # which are the run's
        for document in read_corpus(self._corpus, run.slots, options, reject):
            slot = run.slots[str(document.id)]
            if slot in documents:
                repeats += 1
            else:
                documents.put(slot, document)
        _warn_of_repeats("documents of the corpus have an id that is there", repeats)
        repeats = sum(len(rows.slots) - len(set(rows.slots)) for rows in run.rows.values())
        _warn_of_repeats(f"rows of {source.name} name a document that its query has", repeats)
        missing = {slot: doc_id for doc_id, slot in run.slots.items() if slot not in documents}
        for query_id, rows in run.rows.items():
            self._done += len(rows.slots)
            query = queries.get(query_id)
            fault = ""
            if query is None:
                fault = f'the query "{query_id}" is not in {self._queries_source.name}.'
            elif not query.text.strip():
                fault = f'the query "{query_id}" is empty in {self._queries_source.name}.'
            kept: dict[int, Document] = {}
            scores: list[float] = []
            for place, slot in enumerate(rows.slots):
                if fault or slot in missing:
                    doc_id = missing.get(slot) or documents[slot].id
                    problem = fault or f'the document "{doc_id}" is not in the corpus.'
                    row = f"{query_id} Q0 {doc_id} {place + 1} {rows.scores[place]!r} {run.name}"
                    reject(InputError(f"{source.name}:{rows.lines[place]}: {problem}"), row)
                elif slot not in kept:
                    kept[slot] = documents[slot]
                    scores.append(rows.scores[place])
            if query is not None and not fault:
                yield Candidates(query, list(kept.values()), scores)

    def _search(self, build_index: BuildIndex, reject: Reject) -> Iterator[Candidates]:
        queries = read_queries(self._queries_source, reject=reject)
        documents = PackedDocuments()

        def texts() -> Iterator[str]:
            seen: set[str] = set()
            repeats = 0
            for document in read_corpus(self._corpus, None, self._options, reject):
                if str(document.id) in seen:
                    repeats += 1
                else:
                    documents.put(len(seen), document)
                    seen.add(str(document.id))
                    yield document.text
            _warn_of_repeats("documents of the corpus have an id that is there", repeats)

        search = build_index(texts())
        self._all = len(queries)
        without = 0
        for query in queries.values():
            self._done += 1
            found = search(query.text)
            without += not found
            yield Candidates(query, [documents[place] for place, _ in found], [score for _, score in found])
        if without:
            log.warning("%s queries share no word with the corpus, and have no results.", f"{without:,}")


@dataclass(frozen=True, slots=True)
class _RunRows:
    """The rows of one query, packed: the slots of their documents, their line numbers, their scores."""

    slots: array[int] = field(default_factory=lambda: array("I"))
    lines: array[int] = field(default_factory=lambda: array("I"))
    scores: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class _Run:
    """A run: the rows of each query by its id, a slot for the id of each document, and the run's name."""

    rows: dict[str, _RunRows] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def read(cls, source: Source, reject: Reject, columns: Sequence[str]) -> _Run:
        run = cls()
        for line in read_run(source, reject, columns):
            rows = run.rows.setdefault(line.query_id, _RunRows())
            rows.slots.append(run.slots.setdefault(line.doc_id, len(run.slots)))
            rows.lines.append(line.line_number)
            rows.scores.append(line.score)
            run.name = line.run_name
        return run


class PackedDocuments:
    """Documents by slot, a number from 0, each compressed on its own, so that any can be read at once."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._lengths = array("I")  # 0 where there is no document
        self._packed = bytearray()
        self._likeness = b""  # what documents have in common: the first one, for zlib to refer to

    def __contains__(self, slot: object) -> bool:
        return isinstance(slot, int) and slot < len(self._lengths) and self._lengths[slot] > 0

    def put(self, slot: int, document: Document) -> None:
        """Keep a document; its slot must be empty."""
        fields = (document.text, document.id, document.fields, document.text_fields, document.origin)
        data = pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)
        self._likeness = self._likeness or data[-_LIKENESS_BYTES:]
        compressor = zlib.compressobj(1, wbits=_WINDOW_BITS, zdict=self._likeness)
        packed = compressor.compress(data) + compressor.flush()
        more = [0] * (slot + 1 - len(self._lengths))
        self._starts.extend(more)
        self._lengths.extend(more)
        self._starts[slot] = len(self._packed)
        self._lengths[slot] = len(packed)
        self._packed += packed

    def __getitem__(self, slot: int) -> Document:
        start = self._starts[slot]
        packed = self._packed[start : start + self._lengths[slot]]
        data = zlib.decompressobj(wbits=_WINDOW_BITS, zdict=self._likeness).decompress(packed)
        return Document(*pickle.loads(data))


def _warn_of_repeats(what: str, repeats: int) -> None:
    if repeats:
        log.warning("%s %s again; the first counts.", f"{repeats:,}", what)
