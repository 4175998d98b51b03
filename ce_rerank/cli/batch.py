"""`ce-rerank batch`: many queries, each with its documents."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from .. import __version__
from ..errors import ROWS_LEFT_OUT, UsageError
from ..formats.documents import ReadOptions
from ..formats.output import is_written_directly, open_output
from ..formats.rows import WriteOptions
from ..formats.source import Source, is_pipe_or_device
from ..formats.writers import BatchFormat
from ..types import RankOptions
from .commands import option
from .console import Activity, describe_progress, show_messages
from .options import (
    FROM,
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


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...", help="Files with a query and its documents in a row; - is stdin."
        ),
    ] = None,
    *,
    run: Annotated[
        str | None,
        option(
            "--run", panel=INPUT, metavar="RUN",
            help="Rank the documents of a TREC run; takes --queries and --corpus.",
        ),
    ] = None,
    queries: Annotated[
        str | None,
        option(
            "--queries", panel=INPUT, metavar="FILE",
            help="The texts of queries that are named by id: JSONL or TSV, as BEIR has them.",
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        option(
            "--corpus", panel=INPUT, metavar="FILE",
            help="The documents of --run, or those to search with --bm25: JSONL or TSV, as BEIR has them. "
            "Repeatable.",
        ),
    ] = None,
    source_format: Annotated[Literal["jsonl", "json", "csv", "tsv", "parquet"] | None, FROM] = None,
    fields: InputOptions,
    query_field: Annotated[
        str | None,
        option(
            "--query-field", panel=INPUT, metavar="NAME",
            help="The field with the query. Default: query or question.",
        ),
    ] = None,
    documents_field: Annotated[
        str | None,
        option(
            "--documents-field", panel=INPUT, metavar="NAME",
            help="The field with the list of documents. Default: documents, passages, hits or the like.",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        option(
            "--on-error", panel=INPUT,
            help="A row that cannot be ranked: stop there, or skip it and write it to OUTPUT.errors.jsonl.",
        ),
    ] = "stop",
    shard: Annotated[
        str | None,
        option(
            "--shard", panel=INPUT, metavar="I/N",
            help="Rank every N-th query, from the I-th on: one of N parts of a job.",
        ),
    ] = None,
    selection: SelectionOptions,
    to: Annotated[
        BatchFormat | None,
        option(
            "--to", panel=OUTPUT,
            help="jsonl: a row a query; rows: a row a document. Default: by suffix of -o, else jsonl.",
        ),
    ] = None,
    output: OutputOptions,
    resume: Annotated[
        bool, option("--resume", panel=OUTPUT, help="Go on with an output that was cut off.")
    ] = False,
    ray: Annotated[
        bool,
        option(
            "--ray", panel=OUTPUT,
            help="Rank on many GPUs or machines, by Ray Data; OUTPUT is a folder of part files.",
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        option(
            "--ray-address", panel=OUTPUT, metavar="ADDRESS",
            help="The Ray cluster. Default: one is started on this machine, and ended.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        option(
            "--workers", panel=OUTPUT, metavar="N", min=1,
            help="With --ray: how many rank at a time. Default: one a GPU, or one a machine without GPUs.",
        ),
    ] = None,
    run_name: Annotated[
        str, option("--run-name", panel=OUTPUT, metavar="NAME", help="The last column of a TREC run.")
    ] = "ce-rerank",
    qrels: Annotated[
        str | None,
        option(
            "--qrels", panel=OUTPUT, metavar="QRELS",
            help="Show measures before and after; without -o, nothing else.",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        option(
            "--measure", panel=OUTPUT, metavar="NAME",
            help="A measure for --qrels, by its name in ir_measures. Repeatable.",
        ),
    ] = None,
    model: ModelOptions,
    messages: MessageOptions,
) -> int:  # fmt: skip
    """Rank the documents of many queries.

    Results go to stdout as they are made, or to --output, which can be continued when it was cut off.
    """
    if measure and qrels is None:
        raise UsageError("--measure needs judgements to measure by.", hint="Give --qrels QRELS.")
    path = output.output
    if not ray and (ray_address is not None or workers is not None):
        given = "--workers" if ray_address is None else "--ray-address"
        raise UsageError(f"{given} is about --ray, which is not given.", hint="Give --ray, too.")
    format = cast(BatchFormat, to or format_of_output(None if ray else path, _FORMATS, "jsonl"))
    if not inputs and run is None and not corpus and not sys.stdin.isatty():
        inputs = ["-"]
    weights = selection.blend_weights()
    if len(weights) > 1 and qrels is not None and path is None:
        # Each is blended in by itself, into logits that are computed once.
        ranking = replace(selection, blend=None, scores="logit", top_k=None, min_score=None).rank_options()
    else:
        ranking = selection.rank_options()
    job = _Job(
        inputs or [], run, queries, corpus or [], query_field, documents_field,
        fields.read_options(source_format), ranking,
        WriteOptions(
            not output.no_text, output.details, run_name,
            first_stage_names=selection.first_stage_names(details=output.details),
        ),
        model, shard, resume, on_error == "skip",
    )  # fmt: skip
    with show_messages(messages) as activity:
        if ray:
            if qrels is not None:
                raise UsageError(
                    "--qrels does not go with --ray.", hint="Give the parts to ce-rerank evaluate."
                )
            return job.do_by_ray(path, format, activity, ray_address, workers)
        if qrels is None:
            return job.do(path, format, activity)
        from .evaluate import Gains

        activity.stage("Reading the judgements")
        gains = Gains.read(run, qrels, measure, weights, output=path, shard=shard)
        code = job.do(path, format, activity, gains)
        activity.stop()
        gains.draw(path)
        return code


@dataclass(frozen=True, slots=True)
class _Job:
    """What one command line asks for; `-` among the names is stdin."""

    inputs: list[str]
    run: str | None
    queries: str | None
    corpus: list[str]
    query_field: str | None
    documents_field: str | None
    reading: ReadOptions
    ranking: RankOptions
    writing: WriteOptions
    model: ModelOptions
    shard: str | None
    resume: bool
    skip_bad_rows: bool

    def do(
        self, path: Path | None, format: BatchFormat, activity: Activity, gains: Gains | None = None
    ) -> int:
        """Rank into a file, to stdout, or without one for `gains` to measure; return the exit code."""
        from ..batch.output import FileOutput, StreamOutput
        from ..batch.resume import UnfinishedFile, require_other_files
        from ..batch.run import WHOLE, Shard, rank_batch
        from ..reranker import Reranker

        self._require_sense()
        names = [name for name in (*self.inputs, self.run, self.queries, *self.corpus) if name is not None]
        if names.count("-") > 1:
            raise UsageError("stdin is named more than once.", hint="Give - once.")
        is_stream = path is None or is_written_directly(path)
        if self.resume and is_stream:
            raise UsageError(
                "--resume goes on with a file, and none is named.", hint="Name it with --output."
            )
        if path is not None:
            require_other_files(path, names)
        shard = WHOLE if self.shard is None else Shard.parse(self.shard)
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
                output = FileOutput(file, format, options, self._settings(format, reranker.info), sizes)
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

    def do_by_ray(
        self,
        path: Path | None,
        format: BatchFormat,
        activity: Activity,
        address: str | None,
        workers: int | None,
    ) -> int:
        """Rank into the part files of a folder; return the exit code."""
        if self.run is not None or self.queries is not None or self.corpus:
            raise UsageError(
                "--ray ranks rows, and there is a run, a corpus or a file of queries.",
                hint="Leave out --ray, or write the rows of queries with their documents first.",
            )
        if self.shard is not None:
            raise UsageError("--ray shares the work out by itself.", hint="Leave out --shard.")
        if path is None or not self.inputs or "-" in self.inputs:
            raise UsageError("--ray needs files and a folder.", hint="Give INPUT... --output FOLDER.")
        from ..batch.run import Progress, RankedPool, Tally
        from ..batch.units import FileJob, Report
        from ..ray import rank_files

        job = FileJob(
            self.inputs, str(path), format, self.reading, self.ranking, self.writing, as_keywords(self.model),
            self.query_field, self.documents_field, self.skip_bad_rows, __version__,
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
        return self._end(done.tally, done.max_length, f"{path}/errors-*")

    def _require_sense(self) -> None:
        """Raise UsageError for what does not go together."""
        of_corpus = self.run is not None or bool(self.corpus)
        if not of_corpus and not self.inputs:
            raise UsageError("There is no input.", hint="Name files, - for stdin, or a run with --run.")
        if self.run is not None and self.ranking.bm25 is not None:
            raise UsageError("Both --run and --bm25 name candidates.", hint="Give one of them.")
        if self.corpus and self.run is None and self.ranking.bm25 is None:
            raise UsageError(
                "--corpus has documents, and nothing says which are candidates.",
                hint="Give --run RUN, or --bm25 N to search it.",
            )
        if of_corpus and self.inputs:
            raise UsageError("There are both INPUT and a run or corpus.", hint="Give one of them.")
        if of_corpus and (self.queries is None or not self.corpus):
            missing = "--queries" if self.queries is None else "--corpus"
            raise UsageError(
                f"--run has ids and no texts, and there is no {missing}."
                if self.run
                else f"--corpus is searched for queries, and there is no {missing}.",
                hint=f"Give {missing} FILE.",
            )
        if of_corpus and (self.query_field or self.documents_field):
            raise UsageError(
                "--query-field and --documents-field are about rows, and there are none.",
                hint="Leave them out.",
            )

    def _open_reader(self, *, for_trec: bool) -> CandidateReader:
        """Return what reads the candidates; raise InputError for a file that cannot be opened."""
        from ..batch.first_stage import CorpusCandidates
        from ..batch.read import RowCandidates

        inputs, corpus = (list(map(_source, names)) for names in (self.inputs, self.corpus))
        queries = None if self.queries is None else _source(self.queries)
        reader: RowCandidates | CorpusCandidates
        if corpus and queries is not None:
            first_stage = self._build_index if self.run is None else _source(self.run)
            reader = CorpusCandidates(
                first_stage, queries, corpus, self.reading, skip_bad_rows=self.skip_bad_rows
            )
        else:
            reader = RowCandidates(
                inputs, self.reading, queries=queries, for_trec=for_trec,
                query_field=self.query_field, documents_field=self.documents_field,
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

    def _settings(self, format: str, info: EngineInfo) -> dict[str, Any]:
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
            "--query-field": self.query_field,
            "--documents-field": self.documents_field,
            "--shard": self.shard,
            "--to": format,
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
