"""Many queries: a bounded window of them pooled at a time, while the next are read and the last are written.

Three threads take part. A reader makes candidate lists, a scorer ranks them a window at a time, and whoever
iterates over the `BatchRun` does with the results what is to be done. Each is only so far ahead of the next,
so that memory is bounded by the window and not by the input.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, UsageError
from ..formats.fields import has_field
from ..formats.json import encode_json
from ..formats.source import Reject
from ..types import Candidates, Coverage, Document, Ranking, RankOptions
from ..windows import WindowPlan, count_characters
from .events import START, WHOLE, BadRow, Checkpoint, RankedWindow, Shard, Tally
from .handoff import ClosedError, Handoff

if TYPE_CHECKING:
    from ..reranker import Reranker

_PAUSE_SECONDS = 0.25
"""A pipe that gives nothing for so long is taken to pause, and what it has given is ranked."""
_TOKENS_OF_A_BAD_ROW = 64  # takes no work, but memory: a window of them ends, too
_RANKED_AHEAD = 2  # windows that may wait to be written

Progress = Callable[[int], None]


class CandidateReader(Protocol):
    """Where candidate lists come from."""

    @property
    def may_pause(self) -> bool:
        """Whether the input may be slow to come, as a pipe's is."""
        ...

    @property
    def share_read(self) -> float | None:
        """How much of the input was read so far, from 0 to 1; None where its size is not known."""
        ...

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        """Give the lists in input order; a row that is none goes to `reject`, which may raise its error."""
        ...


class BatchRun:
    """Ranks what `candidates` reads, lazily and in order: iterating gives a `RankedWindow` at a time.

        with BatchRun(reranker, candidates, RankOptions(top_k=10)) as run:
            for window in run:
                ...

    Of the queries those of `shard` are ranked. A row that cannot be ranked ends the run with its InputError,
    after what came before it, or is left out with `skip_bad_rows`. With a checkpoint as `after`, what was
    done until there is only read again, and a UsageError raised if it is not what was there then.
    `on_progress` is called, in another thread, with the number of documents, or passages, just scored.
    """

    def __init__(
        self,
        reranker: Reranker,
        candidates: CandidateReader,
        options: RankOptions,
        *,
        shard: Shard = WHOLE,
        skip_bad_rows: bool = False,
        after: Checkpoint = START,
        on_progress: Progress | None = None,
    ) -> None:
        plan = reranker.plan_windows(options)
        self._lists: Handoff[_Item] = Handoff(plan.tokens)
        self._ranked: Handoff[RankedWindow] = Handoff(_RANKED_AHEAD)
        reader = _Reader(self._lists, reranker, candidates, options, plan, shard, skip_bad_rows, after)
        patience = _PAUSE_SECONDS if candidates.may_pause else None
        self._scorer = _Scorer(
            self._lists, self._ranked, reranker, options, plan, patience, after, on_progress
        )
        self._reading = threading.Thread(target=reader.run, name="ce-rerank reader", daemon=True)
        self._scoring = threading.Thread(target=self._scorer.run, name="ce-rerank scorer", daemon=True)

    def __enter__(self) -> BatchRun:
        self._reading.start()
        self._scoring.start()
        return self

    def __iter__(self) -> Iterator[RankedWindow]:
        while (window := self._ranked.get()) is not None:
            yield window

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._ranked.close()
        self._scoring.join()
        # The reader may be waiting for a pipe that nobody writes to.
        self._reading.join(timeout=1)

    @property
    def reached_end(self) -> bool:
        """Whether all of the input was ranked, and nothing of it is still to come."""
        return self._scorer.reached_end

    def stop(self) -> None:
        """Rank no more; what is ranked already can still be iterated over. A signal handler may call this."""
        self._scorer.stop()
        self._lists.close()


@dataclass(frozen=True, slots=True)
class _Item:
    """A list to be ranked or a row to be reported, how large it is, and what was read up to it."""

    content: Candidates | BadRow
    number: int
    tokens: int
    characters: int
    digest: str
    share_read: float | None


class _Reader:
    """The first thread: reads, leaves out what is for others or done already, and hands on the rest."""

    def __init__(
        self,
        lists: Handoff[_Item],
        reranker: Reranker,
        candidates: CandidateReader,
        options: RankOptions,
        plan: WindowPlan,
        shard: Shard,
        skip_bad_rows: bool,
        after: Checkpoint,
    ) -> None:
        self._lists = lists
        self._reranker = reranker
        self._candidates = candidates
        self._options = options
        self._plan = plan
        self._shard = shard
        self._skip_bad_rows = skip_bad_rows
        self._after = after
        self._digest = hashlib.blake2b(digest_size=16)
        self._items = 0
        self._bad_rows = 0

    def run(self) -> None:
        try:
            with closing(self._candidates.read(self._reject)) as lists:
                for place, candidates in enumerate(lists):
                    if place in self._shard:
                        self._take(candidates, place + 1)
            if self._items < self._after.items:
                raise _changed_input()
        except ClosedError:
            self._lists.end()
        except BaseException as error:
            self._lists.end(error)
        else:
            self._lists.end()

    def _take(self, candidates: Candidates, number: int) -> None:
        try:
            self._reranker.require_scorable(candidates, self._options)
        except InputError as error:
            self._hand_on_bad_row(error, encode_json(_as_row(candidates)))
        else:
            query = candidates.query
            self._digest.update(repr((query.id, query.text, query.fields)).encode())
            for document in candidates.documents:
                self._digest.update(repr((document.id, document.text, document.fields)).encode())
            tokens = self._plan.count_tokens(candidates)
            self._hand_on(candidates, number, tokens, count_characters(candidates))

    def _reject(self, error: InputError, text: str) -> None:
        # Every shard comes past every bad row, and one of them is to report it.
        self._bad_rows += 1
        if not self._skip_bad_rows or self._bad_rows - 1 in self._shard:
            self._hand_on_bad_row(error, text)

    def _hand_on_bad_row(self, error: InputError, text: str) -> None:
        if not self._skip_bad_rows:
            raise error
        self._digest.update(repr((str(error), text)).encode())
        self._hand_on(BadRow(error, text), 0, _TOKENS_OF_A_BAD_ROW, len(text))

    def _hand_on(self, content: Candidates | BadRow, number: int, tokens: int, characters: int) -> None:
        self._items += 1
        digest = self._digest.hexdigest()
        if self._items == self._after.items and digest != self._after.digest:
            raise _changed_input()
        if self._items > self._after.items:
            share = self._candidates.share_read
            self._lists.put(_Item(content, number, tokens, characters, digest, share), tokens)


class _Scorer:
    """The second thread: pools a window of lists, ranks them, and hands on the rankings."""

    def __init__(
        self,
        lists: Handoff[_Item],
        ranked: Handoff[RankedWindow],
        reranker: Reranker,
        options: RankOptions,
        plan: WindowPlan,
        patience_seconds: float | None,
        after: Checkpoint,
        on_progress: Progress | None,
    ) -> None:
        self._lists = lists
        self._ranked = ranked
        self._reranker = reranker
        self._options = options
        self._plan = plan
        self._patience_seconds = patience_seconds
        self._reached = after
        self._on_progress = on_progress
        self.reached_end = False
        self._stopped = False
        self._input_error: BaseException | None = None

    def run(self) -> None:
        try:
            while items := self._take_window():
                self._ranked.put(self._rank(items))
            self.reached_end = not self._stopped and self._input_error is None
            self._ranked.end(self._input_error)
        except ClosedError:
            self._ranked.end()
        except BaseException as error:
            self._ranked.end(error)

    def stop(self) -> None:
        self._stopped = True

    def _take_window(self) -> list[_Item]:
        items: list[_Item] = []
        tokens = characters = 0
        try:
            while not self._stopped and not self._plan.is_full(self._reached.windows, tokens, characters):
                item = self._lists.get(self._patience_seconds if items else None)
                if item is None:
                    break
                items.append(item)
                tokens += item.tokens
                characters += item.characters
        except TimeoutError:
            pass
        except BaseException as error:
            self._input_error = error
        return [] if self._stopped else items

    def _rank(self, items: list[_Item]) -> RankedWindow:
        lists = [item.content for item in items if isinstance(item.content, Candidates)]
        bad_rows = [item.content for item in items if isinstance(item.content, BadRow)]
        rankings = self._reranker.rank_lists(lists, self._options, on_progress=self._count)
        self._reached = Checkpoint(
            self._reached.windows + 1,
            self._reached.items + len(items),
            items[-1].digest,
            self._reached.tally + _tally(lists, rankings, len(bad_rows)),
        )
        return RankedWindow(
            rankings,
            [item.number for item in items if isinstance(item.content, Candidates)],
            bad_rows,
            self._reached.tally,
            None if self._input_error else self._reached,
            items[-1].share_read,
        )

    def _count(self, documents: int) -> None:
        if self._stopped:
            raise ClosedError
        if self._on_progress is not None:
            self._on_progress(documents)


def _tally(lists: Sequence[Candidates], rankings: Sequence[Ranking], bad_rows: int) -> Tally:
    coverage = sum((ranking.coverage for ranking in rankings), Coverage())
    return Tally(len(lists), bad_rows, coverage)


def _as_row(candidates: Candidates) -> dict[str, Any]:
    """Give a list as a nested row that would be read as it."""
    query = candidates.query
    documents = [_as_item(document) for document in candidates.documents]
    return {**query.fields, "query_id": query.id, "query": query.text, "documents": documents}


def _as_item(document: Document) -> Mapping[str, Any] | str:
    if not document.fields:
        return document.text
    if all(has_field(document.fields, path) for path in document.text_fields):
        return document.fields
    # Of a corpus, the fields that the text was made from are not kept beside it.
    others = {name: value for name, value in document.fields.items() if name not in document.text_fields}
    return {**others, "text": document.text}


def _changed_input() -> UsageError:
    return UsageError(
        "The input is not the one that the unfinished output was made from: what was ranked then differs.",
        hint="Give the input of that run, or remove the unfinished output to begin anew.",
    )
