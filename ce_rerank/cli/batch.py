"""`ce-rerank batch`: many queries, each with its documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..formats.rows import WriteOptions
from ..formats.writers import BatchFormat
from .batch_job import BatchJob, InputNames
from .console import Activity, show_messages
from .options import (
    FROM,
    InputOptions,
    MessageOptions,
    ModelOptions,
    OnError,
    OutputOptions,
    SelectionOptions,
)

BatchInputFormat = Literal["jsonl", "json", "csv", "tsv", "parquet"]

_INPUT = "Input"
_OUTPUT = "Output"
_FORMAT_OF_SUFFIX: dict[str, BatchFormat] = {
    ".trec": "trec",
    ".run": "trec",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="Files with a query and its documents in each row, or a document in each; - is stdin.",
        ),
    ] = None,
    *,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            rich_help_panel=_INPUT,
            show_default=False,
            help="Rank the documents of a TREC run; takes --queries and --corpus.",
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            rich_help_panel=_INPUT,
            show_default=False,
            help="The texts of queries that are named by id: JSONL or TSV, as BEIR has them.",
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="FILE",
            rich_help_panel=_INPUT,
            show_default=False,
            help="The documents that the run names: JSONL or TSV, as BEIR has them. Repeat it for several.",
        ),
    ] = None,
    source_format: Annotated[
        BatchInputFormat | None,
        FROM,
    ] = None,
    fields: InputOptions,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            rich_help_panel=_INPUT,
            help="A row that cannot be ranked: stop there, or skip it and write it to OUTPUT.errors.jsonl.",
        ),
    ] = "stop",
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            rich_help_panel=_INPUT,
            show_default=False,
            help="Rank every N-th query, from the I-th on: one of N parts of a job.",
        ),
    ] = None,
    selection: SelectionOptions,
    to: Annotated[
        BatchFormat | None,
        typer.Option(
            "--to",
            rich_help_panel=_OUTPUT,
            show_default=False,
            help="jsonl: a row a query; rows: a row a document. Default: by --output's suffix, else jsonl.",
        ),
    ] = None,
    output: OutputOptions,
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=_OUTPUT, help="Go on with an output that was cut off."),
    ] = False,
    run_name: Annotated[
        str,
        typer.Option(
            "--run-name", metavar="NAME", rich_help_panel=_OUTPUT, help="The last column of a TREC run."
        ),
    ] = "ce-rerank",
    qrels: Annotated[
        str | None,
        typer.Option(
            "--qrels",
            metavar="QRELS",
            rich_help_panel=_OUTPUT,
            show_default=False,
            help="Measure the run before and after, and show that; without --output, that alone.",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="NAME",
            rich_help_panel=_OUTPUT,
            show_default=False,
            help="A measure for --qrels, by its name in ir_measures. Repeat it for several.",
        ),
    ] = None,
    model: ModelOptions,
    messages: MessageOptions,
) -> int:
    """Rank the documents of many queries.

    Results go to stdout as they are made, or to --output, which can be continued when it was cut off.
    """
    if measure and qrels is None:
        raise UsageError("--measure needs judgements to measure by.", hint="Give --qrels QRELS.")

    def do(path: Path | None, format: BatchFormat, activity: Activity) -> int:
        job = BatchJob(
            InputNames.given(inputs, run, queries, corpus),
            fields.read_options(source_format),
            selection.rank_options(),
            WriteOptions(not output.no_text, output.details, run_name),
            format,
            path,
            model,
            shard=shard,
            resume=resume,
            skip_bad_rows=on_error == "skip",
        )
        job.require_sense()
        return job.do(activity)

    path = output.output
    suffix = path.suffix.lower() if path else ""
    if path and to is None and suffix == ".json":
        raise UsageError(
            f"{path} is the name of one JSON array, and what is written is an object a line.",
            hint=f"Name it {path.stem}.jsonl, or give --to jsonl.",
        )
    format = to or _FORMAT_OF_SUFFIX.get(suffix, "jsonl")
    with show_messages(messages) as activity:
        if qrels is None:
            return do(path, format, activity)
        from .evaluate import FirstStage, output_or_nowhere

        activity.stage("Reading the judgements")
        first_stage = FirstStage.read(run, qrels, measure, output=path, shard=shard)
        with output_or_nowhere(path) as written:
            code = do(written, format if path else "trec", activity)
            activity.stop()
            if code in (0, 5):
                first_stage.draw_gains(written, str(path or "reranked"))
            return code
