"""Rank many queries: a pool of them is ranked while the next ones are read and the last ones are written.

One thread reads ahead, the calling thread ranks one pool after another, and a third thread writes. Memory
does not depend on the length of the input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError
from ..formats.json import encode_json
from ..types import Candidates, Coverage, Document, Ranking, RankOptions
from .ahead import (
    PATIENCE_SECONDS,
    START,
    WHOLE,
    BadRow,
    CandidateReader,
    End,
    Progress,
    ReadAhead,
    Tally,
)

if TYPE_CHECKING:
    from ..reranker import Reranker


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


class BatchOutput(Protocol):
    """Takes the pools that `rank_batch` ranks: `batch.output` has those that write."""

    @property
    def progress(self) -> Progress:
        """How far the output is, and so where to continue."""

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results and bad rows; they are safe when this returns."""

    def complete(self) -> None:
        """Do what comes at the end, after the last pool."""


def rank_batch(
    reranker: Reranker,
    reader: CandidateReader,
    output: BatchOutput,
    options: RankOptions,
    *,
    shard: range = WHOLE,
    skip_bad_rows: bool = False,
    on_documents: Callable[[int], None] = lambda documents: None,
    on_pool: Callable[[RankedPool], None] = lambda pool: None,
) -> Tally:
    """Rank what `reader` reads, continue where `output` is, and write the results; return the total.

    A task of a larger job has a reader of some rows and an output of its own. See `rank_pools` for the
    arguments and errors. `on_pool` is called after each pool.
    """
    tally = output.progress.tally
    written: Future[None] = Future()  # of the pool that is written while the next is ranked
    written.set_result(None)

    def check(documents: int) -> None:
        on_documents(documents)
        if written.done():
            written.result()

    pools = rank_pools(
        reranker, reader, options,
        shard=shard, skip_bad_rows=skip_bad_rows, after=output.progress, on_progress=check,
    )  # fmt: skip
    try:
        with closing(pools):
            for pool in pools:
                written.result()
                written = _start_writing(output, pool)
                on_pool(pool)
                tally = pool.progress.tally
        written.result()
    except BaseException:
        wait([written], PATIENCE_SECONDS)
        raise
    output.complete()
    return tally


def _start_writing(output: BatchOutput, pool: RankedPool) -> Future[None]:
    """Write a pool in a thread, for which the program does not wait when it ends."""
    written: Future[None] = Future()

    def write() -> None:
        try:
            output.write(pool)
            written.set_result(None)
        except BaseException as error:
            written.set_exception(error)

    threading.Thread(target=write, name="ce-rerank writer", daemon=True).start()
    return written


def rank_pools(
    reranker: Reranker,
    reader: CandidateReader,
    options: RankOptions,
    *,
    shard: range = WHOLE,
    skip_bad_rows: bool = False,
    after: Progress = START,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[RankedPool, None, None]:
    """Rank what `reader` reads, lazily and in order, and yield pool after pool; close it to stop reading.

    Only the queries of `shard` are ranked. A row that cannot be ranked is left out with `skip_bad_rows`;
    otherwise its InputError is raised after the rows before it. What was done up to `after` is only read
    again; UsageError is raised if it has changed. `on_progress` is called with the number of documents just
    scored.
    """
    ahead = ReadAhead(reader, reranker.plan_pools(options), shard, skip_bad_rows, after)
    reached = after
    end: End | None = None
    try:
        while end is None:
            items, end = ahead.take_pool(reached.pools)
            lists = [item.content for item in items if isinstance(item.content, Candidates)]
            bad_rows = [item.content for item in items if isinstance(item.content, BadRow)]
            rankings: list[Ranking] = []
            try:
                rankings = reranker.rank_lists(lists, options, on_progress=on_progress)
            except InputError:
                try:
                    for one in lists:
                        rankings += _rank_apart(reranker, one, options, bad_rows if skip_bad_rows else None)
                except InputError as error:
                    end = End(error)
            fault = None if end is None else end.error
            if rankings or bad_rows:
                read = asdict(sum((ranking.coverage for ranking in rankings), Coverage()))
                reached = Progress(
                    reached.pools + 1,
                    reached.items + len(items),
                    items[-1].digest,
                    reached.tally + Tally(**read, queries=len(rankings), bad_rows=len(bad_rows)),
                )
                yield RankedPool(rankings, bad_rows, reached, fault is None, ahead.expected_documents)
            if fault is not None:
                raise fault
    finally:
        ahead.stop()


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
        of_query = BadRow(error.with_traceback(None), encode_json(_as_row(candidates)))
    kept, bad = [], []
    for place, document in enumerate(candidates.documents):
        try:
            reranker.model.require_scorable(candidates.only([place]), options)
            kept.append(place)
        except InputError as error:
            bad.append(BadRow(error.with_traceback(None), encode_json(_as_item(document))))
    if bad:
        with suppress(InputError):
            ranked = reranker.rank_lists([candidates.only(kept)], options)
            bad_rows += bad
            return ranked
    bad_rows.append(of_query)
    return []


def _as_row(candidates: Candidates) -> dict[str, Any]:
    """Return candidates as a nested row that can be read again."""
    query = candidates.query
    documents = [_as_item(document) for document in candidates.documents]
    return {**query.fields, "query_id": query.id, "query": query.text, "documents": documents}


def _as_item(document: Document) -> Mapping[str, Any] | str:
    if not document.fields:
        return document.text
    # Of a corpus, the fields that the text was made from are not kept beside it.
    others = {name: value for name, value in document.fields.items() if name not in document.text_fields}
    return {**others, "text": document.text}
