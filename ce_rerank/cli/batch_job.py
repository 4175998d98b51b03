"""What `ce-rerank batch` does: opens, loads, ranks, and tells how it went."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..errors import ROWS_LEFT_OUT, UsageError
from ..formats.documents import ReadOptions
from ..formats.output import is_written_directly, open_output
from ..formats.rows import WriteOptions
from ..formats.source import Source
from ..formats.writers import BatchFormat
from ..interrupts import EXIT_CODES
from ..types import LongPolicy, RankOptions
from .console import Activity, describe_progress
from .options import ModelOptions, as_keywords

if TYPE_CHECKING:
    from ..batch.events import Checkpoint, RankedWindow, Shard, Tally
    from ..batch.output import BatchOutput
    from ..batch.partial import PartialFile
    from ..batch.run import BatchRun, CandidateReader
    from ..engines.base import EngineInfo

log = logging.getLogger("ce_rerank")

_DONE = 0
SECONDS_BETWEEN_LINES = 30


@dataclass(frozen=True, slots=True)
class InputNames:
    """What was named as input, `-` for stdin."""

    inputs: tuple[str, ...]
    run: str | None
    queries: str | None
    corpus: tuple[str, ...]

    @classmethod
    def given(
        cls, inputs: list[str] | None, run: str | None, queries: str | None, corpus: list[str] | None
    ) -> InputNames:
        """Take what was named; when that is neither files nor a run, stdin by itself if it is piped."""
        if not inputs and run is None and is_piped(sys.stdin):
            inputs = ["-"]
        return cls(tuple(inputs or ()), run, queries, tuple(corpus or ()))

    @property
    def all(self) -> list[str]:
        """All that is named, in one order."""
        return [name for name in (*self.inputs, self.run, self.queries, *self.corpus) if name is not None]

    def require_sense(self) -> None:
        """Raise UsageError for what does not go together."""
        if self.run is None and not self.inputs:
            raise UsageError("There is no input.", hint="Name files, - for stdin, or a run with --run.")
        if self.run is not None and self.inputs:
            raise UsageError("There are both INPUT and --run.", hint="Give one of them.")
        if self.run is not None and (self.queries is None or not self.corpus):
            missing = "--queries" if self.queries is None else "--corpus"
            raise UsageError(
                f"--run has ids and no texts, and there is no {missing}.", hint=f"Give {missing} FILE."
            )
        if self.run is None and self.corpus:
            raise UsageError(
                "--corpus has the documents of a --run, and there is none.", hint="Give --run RUN."
            )
        if self.all.count("-") > 1:
            raise UsageError("stdin is named more than once.", hint="Give - once.")

    def open(self, options: ReadOptions, *, for_trec: bool, skip_bad_rows: bool) -> CandidateReader:
        """Make what reads candidate lists; a run is read here, with what it names."""
        from ..batch.candidates import RowCandidates
        from ..batch.first_stage import RunCandidates
        from ..batch.queries import KnownQueries, RejectedRows

        if self.run is None or self.queries is None:
            known = None
            if self.queries is not None:
                known = KnownQueries.read(_source(self.queries), RejectedRows(skip=skip_bad_rows))
            rows = RowCandidates(list(map(_source, self.inputs)), options, queries=known, for_trec=for_trec)
            rows.require_readable()
            return rows
        candidates = RunCandidates(
            _source(self.run), _source(self.queries), map(_source, self.corpus), options,
            skip_bad_rows=skip_bad_rows,
        )  # fmt: skip
        if not skip_bad_rows:
            candidates.require_whole()
        elif missing := candidates.describe_missing():
            log.warning("%s", missing)
        return candidates


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What one command line asks for."""

    names: InputNames
    reading: ReadOptions
    ranking: RankOptions
    writing: WriteOptions
    format: BatchFormat
    path: Path | None
    model: ModelOptions
    shard: str | None
    resume: bool
    skip_bad_rows: bool

    def require_sense(self) -> None:
        """Raise UsageError, before anything is opened, for what does not go together."""
        self.names.require_sense()
        if self.resume and (self.path is None or is_written_directly(self.path)):
            raise UsageError(
                "--resume goes on with a file, and none is named.", hint="Name it with --output."
            )
        if self.path is not None:
            from ..batch.partial import require_other_files

            require_other_files(self.path, self.names.all)

    def do(self, activity: Activity) -> int:
        """Do it, and give the exit code."""
        from ..batch.run import BatchRun
        from ..reranker import Reranker

        with ExitStack() as stack:
            shard = self._parse_shard()
            file = self._enter_file(stack)
            if file is not None and file.is_complete:
                log.warning(
                    "%s is complete already; nothing is left to do. Remove it to make it with other options.",
                    self.path,
                )
                if file.has_errors:
                    log.warning("Rows were left out of it; see %s.", file.errors_path)
                return ROWS_LEFT_OUT if file.has_errors else _DONE
            activity.stage("Reading the input")
            trec = self.format == "trec"
            candidates = self.names.open(self.reading, for_trec=trec, skip_bad_rows=self.skip_bad_rows)
            activity.stage("Loading the model")
            reranker = Reranker(**as_keywords(self.model))
            output, after = self._begin(file, reranker.info, stack)
            run = BatchRun(
                reranker, candidates, self.ranking,
                shard=shard, skip_bad_rows=self.skip_bad_rows, after=after, on_progress=activity.advance,
            )  # fmt: skip
            try:
                tally, stopped_by = _rank_all(run, output, after.tally, _Meter(activity, after.tally))
            except Exception as error:
                if not isinstance(error, UsageError):  # of a run that is no continuation of what is there
                    _say_what_is_left(file)
                raise
            if stopped_by is not None:
                _say_what_is_left(file)
                return EXIT_CODES[stopped_by]
            _say_what_is_noteworthy(tally, reranker.info.max_length, self.ranking.long, file)
            return ROWS_LEFT_OUT if tally.bad_rows else _DONE

    def _parse_shard(self) -> Shard:
        from ..batch.events import WHOLE, parse_shard

        return WHOLE if self.shard is None else parse_shard(self.shard)

    def _enter_file(self, stack: ExitStack) -> PartialFile | None:
        from ..batch.partial import PartialFile

        if self.path is None or is_written_directly(self.path):
            return None
        return stack.enter_context(PartialFile(self.path, resume=self.resume))

    def _begin(
        self, file: PartialFile | None, info: EngineInfo, stack: ExitStack
    ) -> tuple[BatchOutput, Checkpoint]:
        from ..batch.events import START
        from ..batch.output import FileOutput, StreamOutput

        options = replace(self.writing, model=info.description)
        if file is not None:
            output = FileOutput(file, self.format, options)
            after = output.begin(self._settings(info), [_source(name).size_bytes for name in self.names.all])
            if after.items:
                log.info("%s: going on after %s queries.", self.path, f"{after.tally.queries:,}")
            return output, after
        stream = sys.stdout.buffer if self.path is None else stack.enter_context(open_output(self.path))
        return StreamOutput(stream, str(self.path or "stdout"), self.format, options), START

    def _settings(self, info: EngineInfo) -> dict[str, Any]:
        """What the bytes of the output depend on, besides the input."""
        from ..batch.manifest import digest_folder

        return {
            "ce-rerank": __version__,
            "the model": info.model,
            "its content": digest_folder(Path(info.model).expanduser()),
            "--revision": info.revision,
            "--device": info.device,
            "--engine": info.engine,
            "--precision": info.precision,
            "--max-length": info.max_length,
            "the activation": info.activation,
            "--batch-tokens": self.model.batch_tokens,
            "--threads": self.model.threads,
            **{f"--{name.replace('_', '-')}": value for name, value in as_keywords(self.ranking).items()},
            "--from": self.reading.format,
            "--text-field": list(self.reading.text_fields),
            "--id-field": self.reading.id_field,
            "--shard": self.shard,
            "--to": self.format,
            "--no-text": not self.writing.with_text,
            "--details": self.writing.details,
            "--run-name": self.writing.run_name,
        }


class _Meter:
    """Shows how far a run is: beside the spinner, or in a line now and then where there is none."""

    def __init__(self, activity: Activity, before: Tally) -> None:
        self._activity = activity
        self._before = before
        self._began = self._last_line = time.monotonic()
        activity.start(stage="Scoring")

    def show(self, window: RankedWindow) -> None:
        """Show what is done after a window."""
        documents = window.tally.coverage.documents
        done = documents - self._before.coverage.documents
        total = None
        if window.share_read:
            total = done + round(documents / window.share_read) - documents
        queries = f"{window.tally.queries:,} queries done"
        self._activity.expect(total, f"Scoring, {queries}")
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            log.info("%s, documents: %s", queries, describe_progress(done, total, now - self._began))


def _rank_all(run: BatchRun, output: BatchOutput, tally: Tally, meter: _Meter) -> tuple[Tally, int | None]:
    """Write all that is ranked; gives what is done in the end, and the signal that ended it before."""
    with run, _stopping_on_signals(run) as received:
        for window in run:
            output.write(window)
            meter.show(window)
            tally = window.tally
        if run.reached_end:
            output.complete()
            return tally, None
        return tally, received[0]


@contextmanager
def _stopping_on_signals(run: BatchRun) -> Iterator[list[int]]:
    """Let the first signal stop a run, so that what is ranked is still written; a second one ends it."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        restore()
        run.stop()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    current = {number: signal.getsignal(number) for number in EXIT_CODES}
    previous = {number: handler for number, handler in current.items() if handler is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        restore()


def _say_what_is_left(file: PartialFile | None) -> None:
    if file is not None and (done := file.finished.tally.queries):
        queries = "1 query is" if done == 1 else f"{done:,} queries are"
        log.warning(
            "%s finished, in %s. To go on, give the same command with --resume.", queries, file.part_path
        )


def _say_what_is_noteworthy(
    tally: Tally, max_length: int, long: LongPolicy, file: PartialFile | None
) -> None:
    from ..reading import describe_coverage

    for sentence in describe_coverage(tally.coverage, max_length, long):
        log.warning("%s", sentence)
    if tally.bad_rows:
        rows = "1 row was" if tally.bad_rows == 1 else f"{tally.bad_rows:,} rows were"
        log.warning("%s left out%s.", rows, "" if file is None else f"; see {file.errors_path}")


def is_piped(stream: TextIO) -> bool:
    """Tell whether there is something to read but a person at the keyboard."""
    return not stream.isatty()


def _source(name: str) -> Source:
    if name != "-":
        return Source.from_path(Path(name))
    # Buffered, it has a lock, which a thread that still waits for input would hold when the program ends.
    stdin = sys.stdin.buffer
    return Source.from_stream(getattr(stdin, "raw", stdin))
