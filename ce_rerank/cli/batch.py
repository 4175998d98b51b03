"""`ce-rerank batch`: many queries, each with its documents."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from .. import __version__
from ..batch.job import WHOLE, Job, parse_shard
from ..batch.output import SUFFIXES, FileOutput, StreamOutput
from ..batch.read import open_reader
from ..batch.run import BatchOutput, RankedPool, Tally, rank_batch
from ..errors import ROWS_LEFT_OUT, UsageError
from ..formats.output import open_output, require_other_file
from ..formats.source import is_pipe_or_device
from ..formats.writers import BatchFormat, WriteOptions
from .console import Activity
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
    format_of_output,
    option_field,
)

if TYPE_CHECKING:
    from .evaluate import Gains

log = logging.getLogger("ce_rerank")

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
    source_format: Annotated[Literal["jsonl", "json", "csv", "tsv", "parquet"] | None, FROM] = None
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

    Results go to stdout as they are made, or to --output, which --resume continues after a crash.
    """
    path, qrels, weights = output.output, options.qrels, selection.blend or []
    if not inputs and sources.run is None and not sources.corpus and not sys.stdin.isatty():
        inputs = ["-"]
    if len(weights) > 1 and qrels is not None and path is None:
        # Logits are computed once, and each weight is applied to them.
        selection = replace(selection, blend=None, scores="logit", top_k=None, min_score=None)
    job = Job(
        inputs=inputs or (),
        run=sources.run,
        queries=sources.queries,
        corpus=sources.corpus or (),
        query_field=sources.query_field,
        documents_field=sources.documents_field,
        shard=WHOLE if sources.shard is None else parse_shard(sources.shard),
        skip_bad_rows=sources.on_error == "skip",
        reading=fields.read_options(sources.source_format),
        ranking=selection.rank_options(),
        writing=WriteOptions(not output.no_text, output.details, options.run_name),
        format=options.to or format_of_output(None if options.ray else path, _FORMATS, "jsonl"),
        needs_ids=qrels is not None,
        model=asdict(model),
        version=__version__,
    )
    _require_sense(job, path, options)
    with Activity(messages) as activity:
        if options.ray:
            from ..models.store import require_local

            require_local(model.model)
            return _rank_by_ray(job, options, path, activity)
        if qrels is None:
            return _rank(job, path, activity, resume=options.resume)
        from .evaluate import Gains

        activity.stage("Reading the judgements")
        if path is not None:
            require_other_file(path, [qrels])
        gains = Gains(sources.run, qrels, options.measure, weights)
        code = _rank(job, path, activity, resume=options.resume, gains=gains)
        activity.stop()
        gains.draw(path)
        return code


def _require_sense(job: Job, path: Path | None, options: JobOptions) -> None:
    """Raise UsageError, with a hint, for the first contradiction between options."""
    is_stream = path is None or is_pipe_or_device(path)
    qrels, ray, has_run = options.qrels is not None, options.ray, job.run is not None
    is_collection = has_run or bool(job.corpus)
    problems = [
        (options.resume and is_stream,
         "--resume goes on with a file.", "Name it with --output."),
        (options.measure and not qrels,
         "--measure needs judgements to measure by.", "Give --qrels QRELS."),
        (not ray and not (options.ray_address is None and options.workers is None),
         "--ray-address and --workers are about --ray.", "Give it, too."),
        (ray and (path is None or path.suffix.lower() in _FORMATS),
         "--ray needs a folder to write to.", "Name it with --output, and the format with --to."),
        (ray and qrels,
         "--qrels measures one file, and --ray writes many.",
         "Put the parts together, and give them to ce-rerank evaluate."),
        ((ray or qrels) and job.shard != WHOLE,
         "--shard ranks a part; --ray shares the work out by itself, and --qrels measures a whole run.",
         "Leave it out."),
        (qrels and (job.run == "-" or is_pipe_or_device(Path(job.run or "")) or (path and is_stream)),
         "--qrels reads the run and the output again, and a pipe can be read once.", "Name files."),
        (is_collection and job.inputs,
         "There are INPUT and a run or corpus.", "Give one of them."),
        (is_collection and has_run == (job.ranking.bm25 is not None),
         "The candidates in a corpus are those of a run, or those that BM25 finds.",
         "Give --run RUN or --bm25 N, not both."),
        (is_collection and not (job.queries and job.corpus),
         "A run and BM25 need queries and a corpus.", "Give --queries FILE and --corpus FILE."),
        (not is_collection and not job.inputs,
         "There is no input.", "Name files, or - for stdin."),
        (job.names.count("-") > 1,
         "stdin is named more than once.", "Give - once."),
    ]  # fmt: skip
    for is_wrong, message, hint in problems:
        if is_wrong:
            raise UsageError(message, hint=hint)


def _rank(
    job: Job, path: Path | None, activity: Activity, *, resume: bool, gains: Gains | None = None
) -> int:
    """Rank into a file, to stdout, or without one for `gains` to measure; return the exit code."""
    from ..reranker import Reranker

    if path is not None:
        require_other_file(path, job.names, SUFFIXES)
    with ExitStack() as stack:
        file: FileOutput | None = None
        if path is not None and not is_pipe_or_device(path):
            file = stack.enter_context(FileOutput(path, job.format, resume=resume))
            if file.is_complete:
                log.warning(
                    "%s is complete: nothing was ranked, and the options were not compared. Leave --resume "
                    "out to rank again.", path,
                )  # fmt: skip
                if not file.errors_path.exists():
                    return 0
                log.warning("Rows were left out of it; see %s.", file.errors_path)
                return ROWS_LEFT_OUT
        reader = open_reader(job)
        activity.stage("Loading the model")
        reranker = Reranker(**job.model)
        writing = replace(job.writing, model=reranker.info.description)
        output: BatchOutput
        if file is not None:
            file.begin(writing, job.settings(reranker.info))
            output = file
            if file.progress.items:
                log.info("%s: going on after %s queries.", path, f"{file.progress.tally.queries:,}")
        elif gains is not None:
            output = gains
        else:
            stream = stack.enter_context(open_output(path, activity.stdout(job.format)))
            output = StreamOutput(stream, job.format, writing)
        before = output.progress.tally.documents
        activity.start()

        def show(pool: RankedPool) -> None:
            total = pool.expected_documents
            stage = f"Scoring, {pool.progress.tally.queries:,} queries done"
            activity.expect(None if total is None else total - before, stage)

        tally = rank_batch(
            reranker, reader, output, job,
            on_candidates=gains.note if gains else None, on_documents=activity.advance, on_pool=show,
        )  # fmt: skip
        return _sum_up(job, tally, reranker.info.max_length, file.errors_path if file else None)


def _rank_by_ray(job: Job, options: JobOptions, path: Path | None, activity: Activity) -> int:
    """Rank into the part files of a folder; return the exit code."""
    from ..batch.parts import Report
    from ..ray import rank_files

    # A path has lost one slash of a URL's two.
    folder = re.sub(r"^(?!file:)(\w\w+):/", r"\1://", str(path))
    activity.stage("Starting the workers")
    activity.start()
    shown = 0

    def show(report: Report, share: float) -> None:
        nonlocal shown
        activity.advance(report.tally.documents - shown)
        shown = report.tally.documents
        activity.expect(round(shown / share), f"Scoring, {report.tally.queries:,} queries done")

    done = rank_files(
        job, folder, address=options.ray_address, workers=options.workers, resume=options.resume,
        on_report=show,
    )  # fmt: skip
    return _sum_up(job, done.tally, done.max_length, f"{folder}/errors-*")


def _sum_up(job: Job, tally: Tally, max_length: int, errors: Path | str | None) -> int:
    """Warn of what was not read; return the exit code."""
    if tally.left_out:
        everything = tally.documents + tally.left_out
        log.info("BM25 left out %s of %s documents.", f"{tally.left_out:,}", f"{everything:,}")
    for sentence in tally.describe(max_length, job.ranking.long):
        log.warning("%s", sentence)
    if not tally.queries and not tally.bad_rows:
        names = ["stdin" if name == "-" else name for name in job.inputs or [job.run or job.queries or ""]]
        log.warning("%s: no queries in it.", ", ".join(names))
    if not tally.bad_rows:
        return 0
    log.warning("Rows left out: %s%s.", f"{tally.bad_rows:,}", f"; see {errors}" if errors else "")
    return ROWS_LEFT_OUT
