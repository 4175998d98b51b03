"""Read ahead: a thread reads candidates while others are ranked, and counts what it has read."""

from __future__ import annotations

import hashlib
import queue
import re
import sys
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InputError, UsageError
from ..formats.source import Reject
from ..pipeline import HELD_CHARACTERS_A_TOKEN, PoolPlan
from ..types import Candidates, Coverage

PATIENCE_SECONDS = 2
"""How long to wait for a thread that may hang in a pipe."""
_PAUSE_SECONDS = 0.25  # if a pipe gives nothing for so long, what it has given is ranked
_TOKENS_OF_A_BAD_ROW = 64  # in a pool: it takes no work, but memory


class CandidateReader(Protocol):
    """Where candidates come from."""

    @property
    def may_pause(self) -> bool:
        """Whether the input may come slowly, as a pipe's does."""

    @property
    def share_read(self) -> float | None:
        """The share of the input that has been read, from 0 to 1; None if its size is unknown."""

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Yield candidates in input order; pass rows without candidates to `reject`, which may raise."""


WHOLE = range(sys.maxsize)
"""Every query, by its place in the input, from 0."""


def parse_shard(text: str) -> range:
    """Return the places of every N-th query from the I-th on, for `I/N`; raise UsageError otherwise."""
    found = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f'"{text}" is not a shard.', hint="Give I/N with I from 1 to N.")
    return range(int(found[1]) - 1, sys.maxsize, int(found[2]))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: the error, which starts with its place, and its text."""

    error: InputError
    text: str


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


START = Progress()
"""Where a batch begins."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of the input, or the error that ended it."""

    error: BaseException | None
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Item:
    """Candidates or a bad row, how large they are, and the digest of all that was read up to here."""

    content: Candidates | BadRow
    tokens: int
    digest: str


class _TokenQueue(queue.Queue["Item | End"]):
    """A queue whose size is the number of tokens in it."""

    _tokens = 0

    def _qsize(self) -> int:
        return self._tokens

    def _put(self, item: Item | End) -> None:
        super()._put(item)
        self._tokens += item.tokens

    def _get(self) -> Item | End:
        item = super()._get()
        self._tokens -= item.tokens
        return item


class _StoppedError(Exception):
    """The queue is not read any more."""


class ReadAhead(threading.Thread):
    """Reads candidates for one shard, except those that are done already, and gives them out in pools.

    It holds at most one pool. If the input up to `after` has changed, it ends with UsageError.
    """

    def __init__(
        self, reader: CandidateReader, plan: PoolPlan, shard: range, skip_bad_rows: bool, after: Progress
    ) -> None:
        super().__init__(name="ce-rerank reader", daemon=True)
        self._reader = reader
        self._plan = plan
        self._shard = shard
        self._skip_bad_rows = skip_bad_rows
        self._after = after
        self._queue = _TokenQueue(plan.tokens)
        self._digest = hashlib.blake2b(digest_size=16)
        self._items = self._bad_rows = self._documents = 0
        self._is_read = self._is_stopped = False
        self.start()

    @property
    def expected_documents(self) -> int | None:
        """An estimate of the documents of the whole input; None if it is unknown."""
        share = 1.0 if self._is_read else self._reader.share_read
        return round(self._documents / share) if share else None

    def take_pool(self, number: int) -> tuple[list[Item], End | None]:
        """Wait for pool `number`, from 0; it is shorter if the input pauses or ends. Return the end, too."""
        items: list[Item] = []
        tokens = 0
        while not self._plan.is_full(number, tokens):
            try:
                item = self._queue.get(timeout=_PAUSE_SECONDS if items and self._reader.may_pause else None)
            except queue.Empty:
                break
            if isinstance(item, End):
                return items, item
            items.append(item)
            tokens += item.tokens
        return items, None

    def stop(self) -> None:
        """Stop reading; a thread that hangs in a pipe is left behind."""
        self._is_stopped = True
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self.join(PATIENCE_SECONDS)

    def run(self) -> None:
        """Read, as the function of the thread."""
        error: BaseException | None = None
        try:
            with closing(self._reader.read(self._reject)) as lists:
                for place, candidates in enumerate(lists):
                    if place in self._shard:
                        self._take(candidates)
            if self._items < self._after.items:
                raise _changed_input()
            self._is_read = True
        except _StoppedError:
            return
        except BaseException as caught:
            error = caught
        self._queue.put(End(error))

    def _take(self, candidates: Candidates) -> None:
        self._documents += len(candidates.documents)
        query = candidates.query
        held: list[Any] = [(query.id, query.text, query.fields, list(candidates.first_scores))]
        held += [(document.id, document.text, document.fields) for document in candidates.documents]
        self._put(candidates, self._plan.count_tokens(candidates), held)

    def _reject(self, error: InputError, text: str) -> None:
        if not self._skip_bad_rows:
            error.hint = error.hint or "Give --on-error skip to leave such rows out."
            raise error
        # All shards read every bad row, and only one reports it.
        if self._bad_rows in self._shard:
            bad = BadRow(error.with_traceback(None), text)
            tokens = max(_TOKENS_OF_A_BAD_ROW, len(text) // HELD_CHARACTERS_A_TOKEN)
            self._put(bad, tokens, [(str(error), text)])
        self._bad_rows += 1

    def _put(self, content: Candidates | BadRow, tokens: int, held: list[Any]) -> None:
        for one in held:
            self._digest.update(repr(one).encode())
        digest = self._digest.hexdigest()
        self._items += 1
        if self._items == self._after.items and digest != self._after.digest:
            raise _changed_input()
        if self._items > self._after.items:
            self._queue.put(Item(content, tokens, digest))
        if self._is_stopped:
            raise _StoppedError


def _changed_input() -> UsageError:
    return UsageError(
        "The input is not the one that the unfinished output was made from: what was ranked then differs.",
        hint="Give the input of that run, or remove the unfinished output to begin again.",
    )
