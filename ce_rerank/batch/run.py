"""A batch job: a pool of queries is ranked while the next one is read and the last one is written.

One thread reads ahead, the calling thread ranks one pool after another, and a third thread writes. Memory
does not depend on the length of the input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, UsageError
from ..formats.documents import ReadOptions
from ..formats.json import encode_json
from ..formats.source import Source, is_pipe_or_device
from ..formats.writers import WriteOptions
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
from .first_stage import CorpusCandidates
from .read import RowCandidates
from .resume import digest_folder

if TYPE_CHECKING:
    from ..engines.base import EngineInfo
    from ..reranker import Reranker


_MODEL_OPTIONS = ("revision", "device", "engine", "precision", "max_length", "instruction")


@dataclass(frozen=True)
class Job:
    """A batch job. `-` is the name of stdin; `model` has the arguments of `Reranker`.

    Candidates are the rows of `inputs`, or documents of `corpus`: those that a TREC `run` names or, without a
    run, those that BM25 finds. Raises UsageError for fields that contradict each other.
    """

    inputs: Sequence[str] = ()
    run: str | None = None
    queries: str | None = None
    corpus: Sequence[str] = ()
    query_field: str | None = None
    documents_field: str | None = None
    shard: range = WHOLE
    skip_bad_rows: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)
    ranking: RankOptions = field(default_factory=RankOptions)
    writing: WriteOptions = field(default_factory=WriteOptions)
    format: str = "jsonl"
    model: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        if self.run is not None or self.corpus:
            if self.inputs:
                raise UsageError("There are INPUT and a run or corpus.", hint="Give one of them.")
            if self.query_field or self.documents_field:
                raise UsageError("--query-field and --documents-field are about rows, and there are none.")
            if (self.run is None) == (self.ranking.bm25 is None):
                raise UsageError(
                    "The candidates in a corpus are those of a run, or those that BM25 finds.",
                    hint="Give --run RUN or --bm25 N, not both.",
                )
            if self.queries is None or not self.corpus:
                missing = "--queries" if self.queries is None else "--corpus"
                raise UsageError(
                    f"A run and BM25 need queries and a corpus, and there is no {missing}.",
                    hint=f"Give {missing} FILE.",
                )
        elif not self.inputs:
            raise UsageError("There is no input.", hint="Name files, or - for stdin.")
        if self.format != "trec" and self.writing.run_name != WriteOptions().run_name:
            raise UsageError(
                f"--run-name is about a TREC run, and the output is {self.format}.",
                hint="Give --to trec, or leave it out.",
            )
        if self.names.count("-") > 1:
            raise UsageError("stdin is named more than once.", hint="Give - once.")

    @property
    def names(self) -> list[str]:
        """The names of all files that are read."""
        return [*self.inputs, *filter(None, (self.run, self.queries, *self.corpus))]

    def open_reader(self, *, with_ids: bool = False) -> CandidateReader:
        """Return a reader of the candidates; raise InputError for a file that cannot be opened.

        With TREC output, or `with_ids`, a query or document without an id is refused.
        """
        inputs, corpus = (list(map(Source.from_name, names)) for names in (self.inputs, self.corpus))
        run, queries = (None if name is None else Source.from_name(name) for name in (self.run, self.queries))
        for source in filter(None, (run, queries, *corpus, *inputs)):
            # A pipe cannot be opened twice.
            if source.path is not None and not is_pipe_or_device(source.path):
                with source.open():
                    pass
        if corpus and queries is not None:
            return CorpusCandidates(run, queries, corpus, self.reading, self.ranking)
        return RowCandidates(
            inputs, self.reading, queries=queries, for_trec=with_ids or self.format == "trec",
            query_field=self.query_field, documents_field=self.documents_field,
        )  # fmt: skip

    def settings(self, info: EngineInfo | None = None) -> dict[str, Any]:
        """Return what the bytes of the output depend on besides the input, with the names that a user knows.

        `info` describes the loaded model. --batch-tokens and --threads are not here: a run that lacked memory
        is continued with other values.
        """
        model = self.model if info is None else asdict(info)
        return {
            "ce-rerank": self.version,
            "the model": model.get("model"),
            "the model's content": info and digest_folder(Path(info.model).expanduser()),
            "the activation": model.get("activation"),
            **{_option(name): model.get(name) for name in _MODEL_OPTIONS},
            **{_option(name): value for name, value in asdict(self.ranking).items()},
            "--from": self.reading.format,
            "--text-field": list(self.reading.text_fields),
            "--id-field": self.reading.id_field,
            "--columns": list(self.reading.columns),
            "--delimiter": self.reading.delimiter,
            "--query-field": self.query_field,
            "--documents-field": self.documents_field,
            "--shard": None if self.shard == WHOLE else f"{self.shard.start + 1}/{self.shard.step}",
            "--to": self.format,
            "--no-text": not self.writing.with_text,
            "--details": self.writing.details,
            "--run-name": self.writing.run_name,
        }


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


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
