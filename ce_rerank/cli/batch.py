"""`ce-rerank batch`: many queries, each with its documents."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import typer

from .. import __version__
from ..errors import ROWS_LEFT_OUT, UsageError
from ..formats.documents import ReadOptions
from ..formats.output import is_written_directly, open_output
from ..formats.rows import WriteOptions
from ..formats.source import Source, is_pipe_or_device
from ..formats.writers import BatchFormat
from ..types import RankOptions
from .commands import option_field
from .console import Activity, describe_progress, show_messages
from .options import (
    INPUT,
    OUTPUT,
    InputOptions,
    MessageOptions,
    ModelOptions,
    OnError,
    OutputOptions,
    SelectionOptions,
    as_keywords,
    format_of_output,
)

if TYPE_CHECKING:
    from ..batch.first_stage import Search
    from ..batch.resume import UnfinishedFile
    from ..batch.run import BatchOutput, CandidateReader, RankedPool, Tally
    from ..engines.base import EngineInfo
    from .evaluate import Gains

log = logging.getLogger("ce_rerank")

SECONDS_BETWEEN_LINES = 30

_FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".trec": "trec", ".run": "trec",
}  # fmt: skip


@dataclass(frozen=True)
class SourceOptions:
    """Where queries and their candidates come from, besides INPUT."""

    panel: ClassVar = INPUT
    run: str | None = option_field(
        None, metavar="RUN", help="Rank the documents of a TREC run; takes --queries and --corpus."
    )
    queries: str | None = option_field(
        None,
        metavar="FILE",
        help="The texts of queries that are named by id: JSONL or TSV, as BEIR has them.",
    )
    corpus: list[str] | None = option_field(
        None, metavar="FILE",
        help="The documents of --run, or those to search with --bm25: JSONL or TSV, as BEIR has them. "
        "Repeatable.",
    )  # fmt: skip
    source_format: Literal["jsonl", "json", "csv", "tsv", "parquet"] | None = option_field(
        None, "--from", help="The format. Default: by suffix, else by the first bytes."
    )
    query_field: str | None = option_field(
        None, metavar="NAME", help="The field with the query. Default: query or question."
    )
    documents_field: str | None = option_field(
        None, metavar="NAME",
        help="The field with the list of documents. Default: documents, passages, hits or the like.",
    )  # fmt: skip
    on_error: OnError = option_field(
        "stop",
        help="A row that cannot be ranked: stop there, or skip it and write it to OUTPUT.errors.jsonl.",
    )
    shard: str | None = option_field(
        None, metavar="I/N", help="Rank every N-th query, from the I-th on: one of N parts of a job."
    )


@dataclass(frozen=True)
class JobOptions:
    """What is done with the results, and where the work is done."""

    panel: ClassVar = OUTPUT
    to: BatchFormat | None = option_field(
        None, help="jsonl: a row a query; rows: a row a document. Default: by suffix of -o, else jsonl."
    )
    resume: bool = option_field(False, help="Go on with an output that was cut off.")
    ray: bool = option_field(
        False, help="Rank on many GPUs or machines, by Ray Data; OUTPUT is a folder of part files."
    )
    ray_address: str | None = option_field(
        None, metavar="ADDRESS", help="The Ray cluster. Default: one is started on this machine, and ended."
    )
    workers: int | None = option_field(
        None, metavar="N", min=1,
        help="With --ray: how many rank at a time. Default: one a GPU, or one a machine without GPUs.",
    )  # fmt: skip
    run_name: str = option_field("ce-rerank", metavar="NAME", help="The last column of a TREC run.")
    qrels: str | None = option_field(
        None, metavar="QRELS", help="Show measures before and after; without -o, nothing else."
    )
    measure: list[str] | None = option_field(
        None, metavar="NAME", help="A measure for --qrels, by its name in ir_measures. Repeatable."
    )


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...", help="Files with a query and its documents in a row; - is stdin."
        ),
    ] = None,
    *,
    sources: SourceOptions,
    fields: InputOptions,
    selection: SelectionOptions,
    output: OutputOptions,
    options: JobOptions,
    model: ModelOptions,
    messages: MessageOptions,
) -> int:
    """Rank the documents of many queries.

    Results go to stdout as they are made, or to --output, which can be continued when it was cut off.
    """
    path, run, qrels, measure = output.output, sources.run, options.qrels, options.measure
    is_about_ray = options.ray_address is not None or options.workers is not None
    _refuse(
        (bool(measure) and qrels is None, "--measure needs judgements to measure by.", "Give --qrels QRELS."),
        (
            is_about_ray and not options.ray,
            "--ray-address and --workers are about --ray.",
            "Give it, too.",
        ),
        (options.ray and bool(qrels), "--qrels does not go with --ray.", "Give the parts to evaluate."),
    )
    if qrels is not None:
        is_stream = run is not None and (run == "-" or is_pipe_or_device(Path(run)))
        is_read_once = path is not None and is_written_directly(path)
        _refuse(
            (is_stream, "--qrels reads the run twice, and it can be read once.", "Put it into a file first."),
            (sources.shard is not None, "--qrels measures a whole run, and --shard ranks a part of it.",
             "Measure all parts together: ce-rerank evaluate RUN RERANKED --qrels QRELS."),
            (is_read_once, "--qrels reads the output again, and it is no file.", "Name one with --output."),
        )  # fmt: skip
    format = cast(
        BatchFormat, options.to or format_of_output(None if options.ray else path, _FORMATS, "jsonl")
    )
    if not inputs and run is None and not sources.corpus and not sys.stdin.isatty():
        inputs = ["-"]
    weights = selection.blend or []
    if len(weights) > 1 and qrels is not None and path is None:
        # Each is blended in by itself, into logits that are computed once.
        ranking = replace(selection, blend=None, scores="logit", top_k=None, min_score=None).rank_options()
    else:
        ranking = selection.rank_options()
    writing = WriteOptions(
        not output.no_text, output.details, options.run_name,
        first_stage_names=selection.first_stage_names(details=output.details),
    )  # fmt: skip
    reading = fields.read_options(sources.source_format)
    job = _Job(inputs or [], sources, reading, ranking, writing, model, path, format, options.resume)
    with show_messages(messages) as activity:
        if options.ray:
            return job.do_by_ray(activity, options.ray_address, options.workers)
        if qrels is None:
            return job.do(activity)
        from .evaluate import Gains

        activity.stage("Reading the judgements")
        gains = Gains.read(run, qrels, measure, weights, path)
        code = job.do(activity, gains)
        activity.stop()
        gains.draw(path)
        return code


def _refuse(*faults: tuple[bool, str, str]) -> None:
    """Raise UsageError for the first fault that is there; each has a message and a hint."""
    for is_there, message, hint in faults:
        if is_there:
            raise UsageError(message, hint=hint)


@dataclass(frozen=True, slots=True)
class _Job:
    """What one command line asks for; `-` among the names is stdin."""

    inputs: list[str]
    sources: SourceOptions
    reading: ReadOptions
    ranking: RankOptions
    writing: WriteOptions
    model: ModelOptions
    path: Path | None
    format: BatchFormat
    resume: bool

    @property
    def skip_bad_rows(self) -> bool:
        """Whether rows that cannot be ranked are left out."""
        return self.sources.on_error == "skip"

    def do(self, activity: Activity, gains: Gains | None = None) -> int:
        """Rank into a file, to stdout, or without one for `gains` to measure; return the exit code."""
        from ..batch.output import FileOutput, StreamOutput
        from ..batch.resume import UnfinishedFile, require_other_files
        from ..batch.run import WHOLE, Shard, rank_batch
        from ..reranker import Reranker

        sources, path, format = self.sources, self.path, self.format
        is_stream = path is None or is_written_directly(path)
        others = (sources.run, sources.queries, *(sources.corpus or ()))
        names = [*self.inputs, *filter(None, others)]
        self._require_sense(names, is_stream=is_stream)
        if path is not None:
            require_other_files(path, names)
        shard = WHOLE if sources.shard is None else Shard.parse(sources.shard)
        with ExitStack() as stack:
            file: UnfinishedFile | None = None
            if path is not None and not is_stream:
                file = stack.enter_context(UnfinishedFile(path, resume=self.resume))
                if file.is_complete:
                    return _say_complete(file)
            reader = self._open_reader(for_trec=format == "trec" or gains is not None)
            activity.stage("Loading the model")
            reranker = Reranker(**as_keywords(self.model))
            options = replace(self.writing, model=reranker.info.description)
            output: BatchOutput
            if file is not None:
                sizes = [_source(name).size_bytes for name in names]
                output = FileOutput(file, format, options, self._settings(reranker.info), sizes)
                if output.progress.items:
                    log.info("%s: going on after %s queries.", path, f"{output.progress.tally.queries:,}")
            elif gains is not None:
                output = gains
            else:
                stream = activity.stdout(format) if path is None else stack.enter_context(open_output(path))
                output = StreamOutput(stream, str(path or "stdout"), format, options)
            meter = _Meter(activity, output.progress.tally)
            try:
                tally = rank_batch(
                    reranker, gains.watch(reader) if gains else reader, output, self.ranking,
                    shard=shard, skip_bad_rows=self.skip_bad_rows,
                    on_documents=activity.advance, on_pool=meter.show,
                )  # fmt: skip
            except BaseException as error:
                if file is not None and not isinstance(error, UsageError):  # of a run that is another one
                    _say_what_is_left(file)
                raise
            return self._end(tally, reranker.info.max_length, None if file is None else str(file.errors_path))

    def _end(self, tally: Tally, max_length: int, errors: str | None) -> int:
        """Log what was not read; return the exit code."""
        for sentence in tally.coverage.describe(max_length, self.ranking.long):
            log.warning("%s", sentence)
        if tally.bad_rows:
            rows = "1 row was" if tally.bad_rows == 1 else f"{tally.bad_rows:,} rows were"
            log.warning("%s left out%s.", rows, "" if errors is None else f"; see {errors}")
        return ROWS_LEFT_OUT if tally.bad_rows else 0

    def do_by_ray(self, activity: Activity, address: str | None, workers: int | None) -> int:
        """Rank into the part files of a folder; return the exit code."""
        sources = self.sources
        of_corpus = bool(sources.run or sources.queries or sources.corpus)
        is_unnamed = self.path is None or not self.inputs or "-" in self.inputs
        _refuse(
            (of_corpus, "--ray ranks rows, not a run or a corpus.", "Leave out --ray."),
            (sources.shard is not None, "--ray shares the work out by itself.", "Leave out --shard."),
            (is_unnamed, "--ray needs files and a folder.", "Give INPUT... --output FOLDER."),
        )
        from ..batch.run import Progress, RankedPool, Tally
        from ..batch.units import FileJob, Report
        from ..ray import rank_files

        job = FileJob(
            self.inputs, str(self.path), self.format, self.reading, self.ranking, self.writing,
            as_keywords(self.model), sources.query_field, sources.documents_field, self.skip_bad_rows,
            __version__,
        )  # fmt: skip
        meter = _Meter(activity, Tally())
        shown = 0

        def show(report: Report, share: float) -> None:
            nonlocal shown
            documents = report.tally.coverage.documents
            activity.advance(documents - shown)
            shown = documents
            progress = Progress(tally=report.tally)
            meter.show(RankedPool((), (), progress, True, round(documents / share)))

        activity.stage("Starting the workers")
        done = rank_files(job, address=address, workers=workers, resume=self.resume, on_report=show)
        return self._end(done.tally, done.max_length, f"{self.path}/errors-*")

    def _require_sense(self, names: list[str], *, is_stream: bool) -> None:
        """Raise UsageError for what does not go together."""
        run, queries, corpus = self.sources.run, self.sources.queries, self.sources.corpus
        of_corpus = run is not None or bool(corpus)
        searches = self.ranking.bm25 is not None
        missing = "--queries" if queries is None else "--corpus"
        names_fields = bool(self.sources.query_field or self.sources.documents_field)
        _refuse(
            (not of_corpus and not self.inputs, "There is no input.", "Name files, or - for stdin."),
            (run is not None and searches, "Both --run and --bm25 name candidates.", "Give one of them."),
            (
                of_corpus and run is None and not searches,
                "--corpus has documents, and nothing says which are candidates.",
                "Give --run RUN, or --bm25 N to search it.",
            ),
            (
                of_corpus and bool(self.inputs),
                "There are INPUT and a run or corpus.",
                "Give one of them.",
            ),
            (
                of_corpus and (queries is None or not corpus),
                f"--run and --bm25 take queries and a corpus, and there is no {missing}.",
                f"Give {missing} FILE.",
            ),
            (
                of_corpus and names_fields,
                "--query-field and --documents-field are about rows, and there are none.",
                "Leave them out.",
            ),
            (names.count("-") > 1, "stdin is named more than once.", "Give - once."),
            (self.resume and is_stream, "--resume goes on with a file.", "Name it with --output."),
        )

    def _open_reader(self, *, for_trec: bool) -> CandidateReader:
        """Return what reads the candidates; raise InputError for a file that cannot be opened."""
        from ..batch.first_stage import CorpusCandidates
        from ..batch.read import RowCandidates

        sources = self.sources
        inputs, corpus = (list(map(_source, names)) for names in (self.inputs, sources.corpus or []))
        queries = None if sources.queries is None else _source(sources.queries)
        reader: RowCandidates | CorpusCandidates
        if corpus and queries is not None:
            first_stage = self._build_index if sources.run is None else _source(sources.run)
            reader = CorpusCandidates(first_stage, queries, corpus, self.reading)
        else:
            reader = RowCandidates(
                inputs, self.reading, queries=queries, for_trec=for_trec,
                query_field=sources.query_field, documents_field=sources.documents_field,
            )  # fmt: skip
        for source in reader.sources:
            # A pipe cannot be opened twice.
            if source.path is not None and not is_pipe_or_device(source.path):
                with source.open():
                    pass
        return reader

    def _build_index(self, texts: Iterable[str]) -> Search:
        from ..retrieval import Bm25Index

        index = Bm25Index(texts, language=self.ranking.bm25_language)
        return lambda query: index.search(query, self.ranking.bm25 or 0)

    def _settings(self, info: EngineInfo) -> dict[str, Any]:
        """Return what the bytes of the output depend on, besides the input.

        Not --batch-tokens and --threads: another value is what a run that lacks memory needs.
        """
        from ..batch.resume import digest_folder

        return {
            "ce-rerank": __version__,
            "the model": info.model,
            "its content": digest_folder(Path(info.model).expanduser()),
            "--revision": info.revision,
            "--device": info.device,
            "--engine": info.engine,
            "--precision": info.precision,
            "--max-length": info.max_length,
            "--instruction": info.instruction,
            "the activation": info.activation,
            **{f"--{name.replace('_', '-')}": value for name, value in as_keywords(self.ranking).items()},
            "--from": self.reading.format,
            "--text-field": list(self.reading.text_fields),
            "--id-field": self.reading.id_field,
            "--columns": list(self.reading.columns),
            "--delimiter": self.reading.delimiter,
            "--query-field": self.sources.query_field,
            "--documents-field": self.sources.documents_field,
            "--shard": self.sources.shard,
            "--to": self.format,
            "--no-text": not self.writing.with_text,
            "--details": self.writing.details,
            "--run-name": self.writing.run_name,
        }


class _Meter:
    """Shows how far a batch is: beside the spinner, or in a line now and then where there is none."""

    def __init__(self, activity: Activity, before: Tally) -> None:
        self._activity = activity
        self._before = before.coverage.documents
        self._began = self._last_line = time.monotonic()
        activity.start(stage="Scoring")

    def show(self, pool: RankedPool) -> None:
        """Show what is done with a pool, and of how much."""
        tally, total = pool.progress.tally, pool.expected_documents
        done = tally.coverage.documents - self._before
        total = None if total is None else total - self._before
        queries = f"{tally.queries:,} queries done"
        self._activity.expect(total, f"Scoring, {queries}")
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            log.info("%s, documents: %s", queries, describe_progress(done, total, now - self._began))


def _say_complete(file: UnfinishedFile) -> int:
    log.warning(
        "%s is complete already; nothing is left to do. Remove it to make it with other options.", file.path
    )
    if file.has_errors:
        log.warning("Rows were left out of it; see %s.", file.errors_path)
    return ROWS_LEFT_OUT if file.has_errors else 0


def _say_what_is_left(file: UnfinishedFile) -> None:
    if done := file.progress.tally.queries:
        queries = "1 query is" if done == 1 else f"{done:,} queries are"
        log.warning(
            "%s finished, in %s. To go on, give the same command with --resume.", queries, file.part_path
        )


def _source(name: str) -> Source:
    if name != "-":
        return Source.from_path(Path(name))
    # Buffered, it has a lock, which a thread that still waits for input would hold when the program ends.
    stdin = sys.stdin.buffer
    return Source.from_stream(getattr(stdin, "raw", stdin))
