"""Many queries: a bounded pool of them is ranked while the next are read and the last are written.

A reader thread fills a queue with candidates, the calling thread ranks them a pool at a time, and a pool is
written by a thread of its own. The queue holds no more than a pool, so that memory does not depend on the
length of the input.
"""

from __future__ import annotations

import hashlib
import queue
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, UsageError
from ..formats.json import encode_json
from ..formats.source import Reject
from ..types import Candidates, Coverage, Document, Ranking, RankOptions

if TYPE_CHECKING:
    from ..reranker import Reranker

_PAUSE_SECONDS = 0.25
"""A pipe that gives nothing for so long is taken to pause, and what it has given is ranked."""
_TOKENS_OF_A_BAD_ROW = 64  # takes no work, but memory: a pool of them ends, too
_STOP_SECONDS = 1  # how long a thread is waited for that may hang in a pipe


class CandidateReader(Protocol):
    """Where candidates come from."""

    @property
    def may_pause(self) -> bool:
        """Whether the input may be slow to come, as a pipe's is."""

    @property
    def share_read(self) -> float | None:
        """The share of the input that was read so far, from 0 to 1; None where its size is not known."""

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Yield candidates in input order; a row that is none goes to `reject`, which may raise its error."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th query by its place in the input, from the `number`-th on; both from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `I/N`; raise UsageError for anything else."""
        found = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(
                f'"{text}" is not a shard.', hint="Give I/N with I from 1 to N: 1/4, 2/4, 3/4, 4/4."
            )
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, place: int) -> bool:
        return place % self.count == self.number - 1


WHOLE = Shard()
"""Every query."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: why, starting with where it is, and its own text."""

    error: InputError
    text: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done; `bad_rows` are those that were left out."""

    queries: int = 0
    bad_rows: int = 0
    coverage: Coverage = field(default_factory=Coverage)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.queries + other.queries,
            self.bad_rows + other.bad_rows,
            self.coverage + other.coverage,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch has come, so that another run can go on from there.

    `items` counts queries and bad rows, and `digest` is of what they held.
    """

    pools: int = 0
    items: int = 0
    digest: str = ""
    tally: Tally = Tally()


START = Progress()
"""Where a batch begins that continues no other."""


@dataclass(frozen=True, slots=True)
class RankedPool:
    """The rankings of a pool, and the rows that were left out of it.

    `progress` is how far the batch has come with it. A pool that was cut short by an error in the input is
    not `is_whole`: another run must rank it again, to its full length. `expected_documents` estimates the
    documents of the whole input; None where that cannot be known yet.
    """

    rankings: Sequence[Ranking]
    bad_rows: Sequence[BadRow]
    progress: Progress
    is_whole: bool
    expected_documents: int | None


class BatchOutput(Protocol):
    """Takes the pools that `rank_batch` ranks: `batch.output` has those that write."""

    progress: Progress
    """How far the output is: where to go on from."""
    patience_seconds: float | None
    """How long to wait, when the batch ends early, for the last pool to be written; None for ever."""

    def write(self, pool: RankedPool) -> None:
        """Take a pool's results and bad rows; they are safe when this returns."""

    def complete(self) -> None:
        """Do what comes at the end, after the last pool."""


def rank_batch(
    reranker: Reranker,
    reader: CandidateReader,
    output: BatchOutput,
    options: RankOptions,
    *,
    shard: Shard = WHOLE,
    skip_bad_rows: bool = False,
    on_documents: Callable[[int], None] = lambda documents: None,
    on_pool: Callable[[RankedPool], None] = lambda pool: None,
) -> Tally:
    """Rank all that `reader` reads, from where `output` stands, and write it; return what was done in all.

    Needs no command line: a reader over a part of the rows and an output to a file of its own make one task
    of many. See `rank_pools` for the arguments and errors. `on_pool` is called after each pool.
    """
    tally = output.progress.tally
    writing: _Writing | None = None

    def check(documents: int) -> None:
        on_documents(documents)
        if writing is not None and not writing.is_alive():
            writing.finish()

    pools = rank_pools(
        reranker, reader, options,
        shard=shard, skip_bad_rows=skip_bad_rows, after=output.progress, on_progress=check,
    )  # fmt: skip
    try:
        with closing(pools):
            for pool in pools:
                if writing is not None:
                    writing.finish()
                writing = _Writing(output, pool)
                on_pool(pool)
                tally = pool.progress.tally
        if writing is not None:
            writing.finish()
    except BaseException:
        if writing is not None:
            writing.join(output.patience_seconds)
        raise
    output.complete()
    return tally


class _Writing(threading.Thread):
    """A pool that is being written while the next is ranked."""

    def __init__(self, output: BatchOutput, pool: RankedPool) -> None:
        super().__init__(name="ce-rerank writer", daemon=True)
        self._output = output
        self._pool = pool
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._output.write(self._pool)
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait until the pool is written; raise the error that kept it from being written."""
        self.join()
        if self._error is not None:
            raise self._error


def rank_pools(
    reranker: Reranker,
    reader: CandidateReader,
    options: RankOptions,
    *,
    shard: Shard = WHOLE,
    skip_bad_rows: bool = False,
    after: Progress = START,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[RankedPool, None, None]:
    """Rank what `reader` reads, lazily and in order, and yield a pool at a time; close it to stop reading.

    Of the queries those of `shard` are ranked. A row that cannot be ranked ends the run with its InputError,
    after what came before it, or is left out with `skip_bad_rows`. What was done until `after` is only read
    again; UsageError is raised if it is not what was there then. `on_progress` is called with the number of
    documents just scored.
    """
    plan = reranker.plan_pools(options)
    ahead = _ReadAhead(reranker, reader, options, shard, skip_bad_rows, after)
    ahead.start()
    reached = after
    end: _End | None = None
    try:
        while end is None:
            items: list[_Item] = []
            tokens = characters = 0
            while not plan.is_full(reached.pools, tokens, characters):
                try:
                    item = ahead.queue.get(timeout=_PAUSE_SECONDS if items and reader.may_pause else None)
                except queue.Empty:
                    break
                if isinstance(item, _End):
                    end = item
                    break
                items.append(item)
                tokens += item.tokens
                characters += item.characters
            if items:
                candidates = [item.content for item in items if isinstance(item.content, Candidates)]
                bad_rows = [item.content for item in items if isinstance(item.content, BadRow)]
                rankings = reranker.rank_lists(candidates, options, on_progress=on_progress)
                coverage = sum((ranking.coverage for ranking in rankings), Coverage())
                reached = Progress(
                    reached.pools + 1,
                    reached.items + len(items),
                    items[-1].digest,
                    reached.tally + Tally(len(candidates), len(bad_rows), coverage),
                )
                is_whole = end is None or end.error is None
                yield RankedPool(rankings, bad_rows, reached, is_whole, ahead.expected_documents)
            if end is not None and end.error is not None:
                raise end.error
    finally:
        ahead.stop()


@dataclass(frozen=True, slots=True)
class _Item:
    """Candidates to be ranked or a row to be reported, how large it is, and what was read up to it."""

    content: Candidates | BadRow
    tokens: int
    characters: int
    digest: str


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the input, or the error that ended it."""

    error: BaseException | None
    tokens: int = 1


class _TokenQueue(queue.Queue["_Item | _End"]):
    """A queue whose size is the tokens of what is in it."""

    _tokens = 0

    def _qsize(self) -> int:
        return self._tokens

    def _put(self, item: _Item | _End) -> None:
        super()._put(item)
        self._tokens += item.tokens

    def _get(self) -> _Item | _End:
        item = super()._get()
        self._tokens -= item.tokens
        return item


class _StoppedError(Exception):
    """Nobody reads on from the queue."""


class _ReadAhead(threading.Thread):
    """Reads, leaves out what is for others or done already, and puts the rest into `queue`."""

    def __init__(
        self,
        reranker: Reranker,
        reader: CandidateReader,
        options: RankOptions,
        shard: Shard,
        skip_bad_rows: bool,
        after: Progress,
    ) -> None:
        super().__init__(name="ce-rerank reader", daemon=True)
        self._reranker = reranker
        self._reader = reader
        self._options = options
        self._plan = reranker.plan_pools(options)
        self._shard = shard
        self._skip_bad_rows = skip_bad_rows
        self._after = after
        self.queue = _TokenQueue(self._plan.tokens)
        self.expected_documents: int | None = None
        self._digest = hashlib.blake2b(digest_size=16)
        self._items = self._bad_rows = self._documents = 0
        self._share = 0.0
        self._is_stopped = False

    def run(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._reader.read(self._reject)) as lists:
                for place, candidates in enumerate(lists):
                    if place in self._shard:
                        self._take(candidates)
            if self._items < self._after.items:
                raise _changed_input()
            self.expected_documents = self._documents
        except _StoppedError:
            return
        except BaseException as caught:
            error = caught
        self.queue.put(_End(error))

    def stop(self) -> None:
        """Read no more; a thread that hangs in a pipe is left behind."""
        self._is_stopped = True
        with suppress(queue.Empty):
            while True:
                self.queue.get_nowait()
        self.join(_STOP_SECONDS)

    def _take(self, candidates: Candidates) -> None:
        try:
            candidates = self._scorable(candidates)
        except InputError as error:
            self._put_bad_row(error, encode_json(_as_row(candidates)))
            return
        query = candidates.query
        facts = query.id, query.text, query.fields, list(candidates.first_scores)
        self._digest.update(repr(facts).encode())
        for document in candidates.documents:
            self._digest.update(repr((document.id, document.text, document.fields)).encode())
        self._expect(len(candidates.documents))
        self._put(candidates, self._plan.count_tokens(candidates), candidates.characters)

    def _scorable(self, candidates: Candidates) -> Candidates:
        """Leave out documents that are too long where that is refused; raise InputError for the query."""
        try:
            self._reranker.require_scorable(candidates, self._options)
            return candidates
        except InputError:
            if not self._skip_bad_rows:
                raise
        self._reranker.require_scorable(Candidates(candidates.query, []), self._options)
        kept = []
        for place, document in enumerate(candidates.documents):
            try:
                self._reranker.require_scorable(Candidates(candidates.query, [document]), self._options)
                kept.append(place)
            except InputError as error:
                self._put_bad_row(error, encode_json(_as_item(document)))
        scores, places = candidates.first_scores, candidates.places
        return replace(
            candidates,
            documents=[candidates.documents[place] for place in kept],
            first_scores=[scores[place] for place in kept] if scores else (),
            places=kept if places is None else [places[place] for place in kept],
        )

    def _expect(self, documents: int) -> None:
        """Estimate the documents of the whole input, each time that more of a file was taken from disk.

        At that moment the documents before are those of the share before.
        """
        share = self._reader.share_read
        if share is not None and share > self._share:
            if self._share:
                self.expected_documents = round(self._documents / self._share)
            self._share = share
        self._documents += documents

    def _reject(self, error: InputError, text: str) -> None:
        # Every shard comes past every bad row, and one of them is to report it.
        self._bad_rows += 1
        if not self._skip_bad_rows or self._bad_rows - 1 in self._shard:
            self._put_bad_row(error, text)

    def _put_bad_row(self, error: InputError, text: str) -> None:
        if not self._skip_bad_rows:
            raise error
        self._digest.update(repr((str(error), text)).encode())
        self._put(BadRow(error.with_traceback(None), text), _TOKENS_OF_A_BAD_ROW, len(text))

    def _put(self, content: Candidates | BadRow, tokens: int, characters: int) -> None:
        self._items += 1
        digest = self._digest.hexdigest()
        if self._items == self._after.items and digest != self._after.digest:
            raise _changed_input()
        if self._items > self._after.items:
            self.queue.put(_Item(content, tokens, characters, digest))
        if self._is_stopped:
            raise _StoppedError


def _as_row(candidates: Candidates) -> dict[str, Any]:
    """Return candidates as a nested row that would be read as them."""
    query = candidates.query
    documents = [_as_item(document) for document in candidates.documents]
    return {**query.fields, "query_id": query.id, "query": query.text, "documents": documents}


def _as_item(document: Document) -> Mapping[str, Any] | str:
    if not document.fields:
        return document.text
    # Of a corpus, the fields that the text was made from are not kept beside it.
    others = {name: value for name, value in document.fields.items() if name not in document.text_fields}
    return {**others, "text": document.text}


def _changed_input() -> UsageError:
    return UsageError(
        "The input is not the one that the unfinished output was made from: what was ranked then differs.",
        hint="Give the input of that run, or remove the unfinished output to begin again.",
    )
