"""Run a batch: a pool of queries is ranked while the next one is read and the last one is written.

One thread reads ahead, the calling thread ranks one pool after another, and a third thread writes. Memory
does not depend on the length of the input.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, UsageError
from ..formats.json import encode_json
from ..pipeline import HELD_CHARACTERS_A_TOKEN, PoolPlan
from ..types import Candidates, Coverage, Document, Ranking, RankOptions
from .job import Job
from .read import CandidateReader

if TYPE_CHECKING:
    from ..reranker import Reranker

_PATIENCE_SECONDS = 2  # how long to wait for a thread that may hang in a pipe
_PAUSE_SECONDS = 0.25  # if a pipe gives nothing for so long, what it has given is ranked
_TOKENS_OF_A_BAD_ROW = 64  # in a pool: it takes no work, but memory


class BadRow(NamedTuple):
    """A row that was left out: why, beginning with its place, and its text."""

    reason: str
    row: str

    def encode(self) -> bytes:
        """Return the line of a file of bad rows."""
        return f"{encode_json(self._asdict())}\n".encode()


@dataclass(frozen=True, slots=True)
class Tally(Coverage):
    """What was done; `bad_rows` are those that were left out."""

    queries: int = 0
    bad_rows: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is, so that another run can continue there.

    `items` counts the queries and bad rows that were read, and `digest` is of their content.
    """

    pools: int = 0
    items: int = 0
    digest: str = ""
    tally: Tally = Tally()


@dataclass(frozen=True, slots=True)
class RankedPool:
    """The rankings of a pool, and the rows that were left out of it.

    `progress` is how far the batch is after this pool. If an error cut the pool short, `is_whole` is False,
    and another run must rank all of it again. `expected_documents` estimates the documents of the whole
    input; None if that is unknown.
    """

    rankings: Sequence[Ranking]
    bad_rows: Sequence[BadRow]
    progress: Progress
    is_whole: bool
    expected_documents: int | None


class BatchOutput:
    """Takes the pools that `rank_batch` ranks; `progress` is how far it is, and so where to continue."""

    progress = Progress()

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results and bad rows; they are safe when this returns."""
        self.progress = pool.progress

    def complete(self) -> None:
        """Do what comes at the end, after the last pool."""


def rank_batch(
    reranker: Reranker,
    reader: CandidateReader,
    output: BatchOutput,
    job: Job,
    *,
    on_candidates: Callable[[Candidates], None] | None = None,
    on_documents: Callable[[int], None] = lambda documents: None,
    on_pool: Callable[[RankedPool], None] = lambda pool: None,
) -> Tally:
    """Rank what `reader` reads, and write the results; return the total, with what `output` had before.

    Only the queries of the job's `shard` are ranked. A row that cannot be ranked is left out if the job says
    `skip_bad_rows`; otherwise its InputError is raised after the rows before it are written. What was done up
    to the progress of `output` is only read again; UsageError is raised if it has changed. `on_candidates` is
    called for all that is read, `on_documents` with the number of documents just scored, and `on_pool` after
    each pool.
    """
    progress = output.progress
    writer = ThreadPoolExecutor(1, "ce-rerank writer")
    written: Future[None] = writer.submit(lambda: None)  # the pool that is written while the next is ranked

    def check(documents: int) -> None:
        on_documents(documents)
        if written.done():
            written.result()

    ahead = _ReadAhead(reader, reranker.plan_pools(job.ranking), job, progress, on_candidates)
    try:
        while not ahead.is_over:
            items = ahead.take_pool(progress.pools)
            rankings, bad_rows, error = _rank_pool(reranker, items, job, check)
            fault = error or ahead.fault
            if rankings or bad_rows:
                read = asdict(sum((ranking.coverage for ranking in rankings), Coverage()))
                tally = Tally(**read, queries=len(rankings), bad_rows=len(bad_rows))
                progress = Progress(
                    progress.pools + 1, progress.items + len(items), items[-1].digest, progress.tally + tally
                )
                pool = RankedPool(rankings, bad_rows, progress, fault is None, ahead.expected_documents)
                written.result()
                written = writer.submit(output.write, pool)
                on_pool(pool)
            if fault is not None:
                raise fault
        written.result()
    except BaseException:
        wait([written], _PATIENCE_SECONDS)
        raise
    finally:
        writer.shutdown(wait=False)
        ahead.stop()
    output.complete()
    return output.progress.tally


def _rank_pool(
    reranker: Reranker, items: Sequence[_Item], job: Job, on_documents: Callable[[int], None]
) -> tuple[list[Ranking], list[BadRow], InputError | None]:
    """Rank a pool; return the rankings, the rows left out, and the error that cut it short, if one did."""
    lists = [item.content for item in items if isinstance(item.content, Candidates)]
    bad_rows = [item.content for item in items if isinstance(item.content, BadRow)]
    with suppress(InputError):
        return reranker.rank_lists(lists, job.ranking, on_progress=on_documents), bad_rows, None
    rankings: list[Ranking] = []
    try:
        for one in lists:
            rankings += _rank_apart(reranker, one, job.ranking, bad_rows if job.skip_bad_rows else None)
    except InputError as error:
        return rankings, bad_rows, error
    return rankings, bad_rows, None


def _rank_apart(
    reranker: Reranker, candidates: Candidates, options: RankOptions, bad_rows: list[BadRow] | None
) -> list[Ranking]:
    """Rank a query of a pool in which something cannot be ranked; raise the InputError if it is in this one.

    With a list for bad rows, the documents that cannot be ranked, or the whole query, go there instead.
    """
    try:
        return reranker.rank_lists([candidates], options)
    except InputError as error:
        if bad_rows is None:
            raise
        query, documents = candidates.query, list(map(_as_item, candidates.documents))
        row = {**query.fields, "query_id": query.id, "query": query.text, "documents": documents}
        of_query = BadRow(error.for_shell, encode_json(row))
    kept, bad = [], []
    for place, document in enumerate(candidates.documents):
        try:
            reranker.model.require_scorable(candidates.only([place]), options)
            kept.append(place)
        except InputError as error:
            bad.append(BadRow(error.for_shell, encode_json(_as_item(document))))
    if bad:
        with suppress(InputError):
            ranked = reranker.rank_lists([candidates.only(kept)], options)
            bad_rows += bad
            return ranked
    bad_rows.append(of_query)
    return []


def _as_item(document: Document) -> Mapping[str, Any] | str:
    """Return a document as an item of a nested row that can be read again."""
    if not document.fields:
        return document.text
    # Of a corpus, the fields that the text was made from are not kept beside it.
    others = {name: value for name, value in document.fields.items() if name not in document.text_fields}
    return {**others, "text": document.text}


class _Item(NamedTuple):
    """Candidates or a bad row, how large they are, and the digest of all that was read up to here."""

    content: Candidates | BadRow
    tokens: int
    digest: str


class _TokenQueue(queue.Queue[_Item | None]):
    """A queue whose size is the number of tokens in it; None is the end."""

    _tokens = 0

    def _qsize(self) -> int:
        return self._tokens

    def _put(self, item: _Item | None) -> None:
        super()._put(item)
        self._tokens += item.tokens if item else 1

    def _get(self) -> _Item | None:
        item = super()._get()
        self._tokens -= item.tokens if item else 1
        return item


class _ReadAhead(threading.Thread):
    """Reads candidates for one shard, except those that are done already, and gives them out in pools.

    It holds at most one pool. `is_over` is whether all has been given out, and `fault` is then the error that
    ended it: UsageError if the input up to `after` has changed.
    """

    def __init__(
        self,
        reader: CandidateReader,
        plan: PoolPlan,
        job: Job,
        after: Progress,
        on_candidates: Callable[[Candidates], None] | None,
    ) -> None:
        super().__init__(name="ce-rerank reader", daemon=True)
        self.is_over = False
        self._reader = reader
        self._plan = plan
        self._job = job
        self._after = after
        self._on_candidates = on_candidates
        self._queue = _TokenQueue(plan.tokens)
        self._digest = hashlib.blake2b(digest_size=16)
        self._items = self._bad_rows = self._documents = 0
        self._is_read = self._is_stopped = False
        self._error: BaseException | None = None
        self.start()

    @property
    def fault(self) -> BaseException | None:
        """The error that comes after what has been given out."""
        return self._error if self.is_over else None

    @property
    def expected_documents(self) -> int | None:
        """An estimate of the documents of the whole input; None if it is unknown."""
        share = 1.0 if self._is_read else self._reader.share_read
        return round(self._documents / share) if share else None

    def take_pool(self, number: int) -> list[_Item]:
        """Wait for pool `number`, from 0; it is shorter if the input pauses or ends."""
        items: list[_Item] = []
        tokens = 0
        while not self._plan.is_full(number, tokens):
            try:
                # Without a timeout a signal could come just before the wait, and would not be noticed.
                item = self._queue.get(timeout=_PAUSE_SECONDS)
            except queue.Empty:
                if items and self._reader.may_pause:
                    break
                continue
            if item is None:
                self.is_over = True
                break
            items.append(item)
            tokens += item.tokens
        return items

    def stop(self) -> None:
        """Stop reading; a thread that hangs in a pipe is left behind."""
        self._is_stopped = True
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self.join(_PATIENCE_SECONDS)

    def run(self) -> None:
        """Read, as the function of the thread."""
        try:
            with closing(self._reader.read(self._reject)) as lists:
                for place, candidates in enumerate(lists):
                    if self._on_candidates is not None:
                        self._on_candidates(candidates)
                    if place in self._job.shard:
                        self._take(candidates)
            if self._items < self._after.items:
                raise _changed_input()
            self._is_read = True
        except BaseException as error:
            self._error = error
        if not self._is_stopped:
            self._queue.put(None)

    def _take(self, candidates: Candidates) -> None:
        self._documents += len(candidates.documents)
        query = candidates.query
        held: list[Any] = [query.id, query.text, query.fields, list(candidates.first_scores)]
        held += [(document.id, document.text, document.fields) for document in candidates.documents]
        self._put(candidates, self._plan.count_tokens(candidates), held)

    def _reject(self, error: InputError, text: str) -> None:
        if not self._job.skip_bad_rows:
            error.hint = error.hint or "Give --on-error skip to leave such rows out."
            raise error
        # All shards read every bad row, and only one reports it.
        if self._bad_rows in self._job.shard:
            bad = BadRow(error.for_shell, text)
            self._put(bad, max(_TOKENS_OF_A_BAD_ROW, len(text) // HELD_CHARACTERS_A_TOKEN), bad)
        self._bad_rows += 1

    def _put(self, content: Candidates | BadRow, tokens: int, held: Sequence[Any]) -> None:
        self._digest.update(repr(held).encode())
        digest = self._digest.hexdigest()
        self._items += 1
        if self._items == self._after.items and digest != self._after.digest:
            raise _changed_input()
        if self._items > self._after.items:
            self._queue.put(_Item(content, tokens, digest))
        if self._is_stopped:
            raise EOFError  # it ends this thread


def _changed_input() -> UsageError:
    return UsageError(
        "The input is not the one that the unfinished output was made from: what was ranked then differs.",
        hint="Give the input of that run, or remove the unfinished output to begin again.",
    )
