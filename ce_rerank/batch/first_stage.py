"""A first stage's run, with its queries and its corpus, as candidate lists.

The run, and of the corpus what the run names, are held in memory, packed: of short documents some 250 bytes
each, where Python's own objects take 1,000.
"""

from __future__ import annotations

import pickle
import zlib
from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from ..errors import InputError
from ..formats.beir import read_corpus
from ..formats.documents import ReadOptions
from ..formats.json import encode_json
from ..formats.source import Reject, Source, raise_at_once
from ..formats.trec import read_run
from ..types import Candidates, Document
from .queries import KnownQueries, RejectedRows

_LIKENESS_BYTES = 4096
_WINDOW_BITS = -13  # raw deflate that looks back 8 KiB: it starts four times as fast as with 32
_MOST_SHOWN = 10
_ABSENT = -1


class RunCandidates:
    """The candidate lists of a TREC run: queries in the order in which they come, documents as they stand.

    Rows of one query need not stand together. All is read at once, in the constructor; it raises InputError,
    naming file and line, for what cannot be read. With `skip_bad_rows` the rows that cannot be read, and
    queries and documents that are there twice, are kept instead, for `read` to reject.
    """

    may_pause = False

    def __init__(
        self,
        run: Source,
        queries: Source,
        corpus: Iterable[Source],
        options: ReadOptions,
        *,
        skip_bad_rows: bool = False,
    ) -> None:
        self._name = run.name
        self._skip_bad_rows = skip_bad_rows
        self._rejected = RejectedRows(skip=skip_bad_rows)
        self._lists: dict[str, _RunList] = {}
        slots = self._read_run(run)
        if not slots and not self._rejected:
            raise InputError(f"{run.name}: no queries in it.")
        self._queries = KnownQueries.read(queries, self._rejected, self._lists)
        self._documents = PackedDocuments(len(slots))
        self._read_corpus(corpus, slots, options)
        self._missing = {slot: doc_id for doc_id, slot in slots.items() if slot not in self._documents}
        self._rows = sum(len(rows.slots) for rows in self._lists.values())
        self._rows_done = 0

    @property
    def share_read(self) -> float | None:
        """How much of the run was made into lists so far, from 0 to 1."""
        return self._rows_done / self._rows if self._rows else None

    @property
    def missing_documents(self) -> Sequence[str]:
        """The ids of documents that the corpus lacks, in the order of the run."""
        return list(self._missing.values())

    @property
    def missing_queries(self) -> Sequence[str]:
        """The ids of queries whose text is not to be had, in the order of the run."""
        return [query_id for query_id in self._lists if query_id not in self._queries.by_id]

    def describe_missing(self) -> str:
        """Say which queries and documents are missing, and how many; empty when none is."""
        return " ".join(
            f"{len(ids):,} of the {kind} that {self._name} names are not in {place}: {_shorten(ids)}."
            for kind, ids, place in (
                ("queries", self.missing_queries, self._queries.name),
                ("documents", self.missing_documents, "the corpus"),
            )
            if ids
        )

    def require_whole(self) -> None:
        """Raise InputError, before anything is ranked, when a row of the run could not be."""
        if missing := self.describe_missing():
            raise InputError(missing, hint="Give --on-error skip to go on without them.")
        for query_id, rows in self._lists.items():
            for _ in self._usable_slots(query_id, rows, raise_at_once):
                pass

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Give the lists in the order of the run; a row that cannot be ranked is rejected.

        What could not even be read goes first, that of the run, of the queries and of the corpus, so that the
        order is the same whatever is ranked.
        """
        self._rejected.give_to(reject)
        for query_id, rows in self._lists.items():
            slots = list(self._usable_slots(query_id, rows, reject))
            self._rows_done += len(rows.slots)
            query = self._queries.by_id.get(query_id)
            if query is not None and query.text.strip():
                yield Candidates(query, [self._documents[slot] for slot in slots])

    def _read_run(self, run: Source) -> dict[str, int]:
        """Read the run into `_lists`; gives each document's id a slot, from 0."""
        slots: dict[str, int] = {}
        for row in read_run(run, self._rejected.keep_or_raise):
            rows = self._lists.get(row.query_id)
            if rows is None:
                rows = self._lists[row.query_id] = _RunList()
            rows.slots.append(slots.setdefault(row.doc_id, len(slots)))
            rows.lines.append(row.line_number)
            if self._skip_bad_rows:
                rows.endings.extend(f"{len(rows.slots)} {row.score!r} {row.run_name}\n".encode())
        return slots

    def _read_corpus(self, corpus: Iterable[Source], slots: Mapping[str, int], options: ReadOptions) -> None:
        for document in read_corpus(corpus, slots.keys(), options, self._rejected.keep_or_raise):
            slot = slots[str(document.id)]
            if slot in self._documents:
                first = self._documents[slot].origin
                problem = f'{document.origin}: the document "{document.id}" is here twice (first: {first}).'
                self._rejected.keep_or_raise(InputError(problem), _as_row(document))
            else:
                self._documents.put(slot, document)

    def _usable_slots(self, query_id: str, rows: _RunList, reject: Reject) -> Iterator[int]:
        query = self._queries.by_id.get(query_id)
        first_lines: dict[int, int] = {}
        endings = rows.endings.decode().split("\n") if rows.endings else repeat("")
        for slot, line, ending in zip(rows.slots, rows.lines, endings, strict=False):
            fault = ""
            if query is None:
                fault = f'the query "{query_id}" is not in {self._queries.name}.'
            elif not query.text.strip():
                fault = f'the query "{query_id}" is empty in {self._queries.name}.'
            elif slot in self._missing:
                fault = f'the document "{self._missing[slot]}" is not in the corpus.'
            elif slot in first_lines:
                fault = f"the document is in the query's list already, from line {first_lines[slot]}."
            if fault:
                doc_id = self._missing.get(slot) or self._documents[slot].id
                row = f"{query_id} Q0 {doc_id} {ending}".rstrip()
                reject(InputError(f"{self._name}:{line}: {fault}"), row)
            else:
                first_lines[slot] = line
                yield slot


class PackedDocuments:
    """Documents by slot, a number below `slots`, each compressed on its own, so that any is soon at hand."""

    def __init__(self, slots: int) -> None:
        self._starts = array("q", [_ABSENT]) * slots
        self._lengths = array("I", [0]) * slots
        self._packed = bytearray()
        self._likeness = b""  # what documents have in common: the first one, for zlib to refer to

    def __contains__(self, slot: object) -> bool:
        return isinstance(slot, int) and self._starts[slot] != _ABSENT

    def put(self, slot: int, document: Document) -> None:
        """Keep a document; its slot must be empty."""
        fields = (document.text, document.id, document.fields, document.text_fields, document.origin)
        data = pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)
        self._likeness = self._likeness or data[-_LIKENESS_BYTES:]
        compressor = zlib.compressobj(1, wbits=_WINDOW_BITS, zdict=self._likeness)
        packed = compressor.compress(data) + compressor.flush()
        self._starts[slot] = len(self._packed)
        self._lengths[slot] = len(packed)
        self._packed += packed

    def __getitem__(self, slot: int) -> Document:
        start = self._starts[slot]
        packed = self._packed[start : start + self._lengths[slot]]
        data = zlib.decompressobj(wbits=_WINDOW_BITS, zdict=self._likeness).decompress(packed)
        return Document(*pickle.loads(data))


@dataclass(frozen=True, slots=True)
class _RunList:
    """The rows of one query: the slots of their documents, their lines, and as text their last three columns.

    Those columns are kept for rows that are left out, and only where some may be: as objects of Python's they
    would take six times as much.
    """

    slots: array[int] = field(default_factory=lambda: array("I"))
    lines: array[int] = field(default_factory=lambda: array("I"))
    endings: bytearray = field(default_factory=bytearray)


def _as_row(document: Document) -> str:
    """Give a document of a corpus as a row that would be read as it: all of its text in one field."""
    no_texts = dict.fromkeys(document.text_fields, "")
    return encode_json({**document.fields, **no_texts, document.text_fields[-1]: document.text})


def _shorten(ids: Sequence[str]) -> str:
    more = len(ids) - _MOST_SHOWN
    return ", ".join(ids[:_MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
