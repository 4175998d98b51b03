"""`ce-rerank evaluate`: runs against judgements."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import typer

from ..errors import UsageError
from ..evaluation import Evaluation, MeasuredRun, Run, load_judgements, load_run
from ..evaluation import evaluate as evaluate_runs
from ..formats.beir import read_queries
from ..formats.json import encode_utf8
from ..formats.output import open_output, require_other_file
from ..formats.source import Source
from ..measures import DEFAULT_MEASURES, parse_measures
from .console import Activity, show_messages, stdout_console
from .options import MessageOptions, Output

EvaluationFormat = Literal["table", "json", "csv", "tsv"]

_FORMAT_OF_SUFFIX: dict[str, EvaluationFormat] = {".json": "json", ".csv": "csv", ".tsv": "tsv"}
# Formats of which the other commands write theirs. A table may lie under any other name.
_SUFFIXES_OF_RESULTS = (".jsonl", ".ndjson", ".parquet", ".trec", ".run")
_COMPARED = ("delta", "p_value", "corrected_p_value", "better", "worse", "same")
_MEGABYTE = 1_000_000


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            show_default=False,
            help="Runs in TREC form, or JSONL of batch; - is stdin. All are compared with the first.",
        ),
    ],
    *,
    qrels: Annotated[
        str,
        typer.Option(
            "--qrels",
            metavar="QRELS",
            show_default=False,
            help="Judgements in TREC form, or BEIR's qrels.tsv.",
        ),
    ],
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="NAME",
            help="A measure, by its name in ir_measures. Repeat it for several. "
            f"Default: {', '.join(DEFAULT_MEASURES)}.",
        ),
    ] = None,
    per_query: Annotated[
        bool,
        typer.Option(
            "--per-query",
            help="Show the queries; in a table those that gained and lost most, in the first measure.",
        ),
    ] = False,
    queries: Annotated[
        str | None,
        typer.Option(
            "--queries",
            metavar="QUERIES",
            show_default=False,
            help="The queries' texts, for --per-query: JSONL or TSV, as BEIR has them.",
        ),
    ] = None,
    to: Annotated[
        EvaluationFormat | None,
        typer.Option("--to", show_default=False, help="Default: by the suffix of --output, else table."),
    ] = None,
    output: Output = None,
    messages: MessageOptions,
) -> None:
    """Measure runs against judgements, and tell what is better from what is luck.

    Each run is compared with the first, with the p-value of a paired randomisation test.
    """
    path = output
    format = to or _FORMAT_OF_SUFFIX.get(path.suffix.lower() if path else "", "table")
    _check_usage(runs, qrels, queries, path, per_query=per_query, format=format)
    if path is not None and to is None:
        _require_own_suffix(path)
    with show_messages(messages) as activity:
        # Before long files are read: a measure that is misspelt, an output that cannot be opened.
        names = [str(parsed) for parsed in parse_measures(measure or DEFAULT_MEASURES)]
        with open_output(path) if path is not None else nullcontext(sys.stdout.buffer) as stream:
            texts = read_queries(Source.from_name(queries)) if queries is not None else {}
            evaluation = _evaluate_files(runs, qrels, names, activity)
            activity.stop()
            if format == "table":
                _draw(evaluation, texts, stream, per_query=per_query)
            elif format == "json":
                document = _as_object(evaluation, texts, per_query=per_query)
                stream.write(encode_utf8(json.dumps(document, ensure_ascii=False, indent=2) + "\n"))
            else:
                delimiter = "," if format == "csv" else "\t"
                stream.write(encode_utf8(_delimited(evaluation, texts, delimiter, per_query=per_query)))


def _check_usage(
    runs: Sequence[str],
    qrels: str,
    queries: str | None,
    output: Path | None,
    *,
    per_query: bool,
    format: EvaluationFormat,
) -> None:
    read = [name for name in (*runs, qrels, queries) if name is not None]
    if read.count("-") > 1:
        raise UsageError("stdin is named more than once.", hint="Give - once.")
    if output is not None:
        require_other_file(output, read)
    if queries is not None and not per_query:
        raise UsageError("--queries gives texts to --per-query, which is not there.", hint="Add --per-query.")
    if per_query and format == "table" and len(runs) == 1:
        raise UsageError(
            "--per-query shows what a second run gains over the first, and there is one run.",
            hint="Name another run, or see the values of this one with --to json, csv or tsv.",
        )


def _require_own_suffix(path: Path) -> None:
    """Refuse a name that promises a format which is not written here; the table would lie under it."""
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES_OF_RESULTS:
        raise UsageError(
            f"{path}: evaluate does not write {suffix}.",
            hint=f"Name it {path.stem}.json, .csv, .tsv, or .txt for a table; or say which with --to.",
        )


def _evaluate_files(
    runs: Sequence[str], qrels: str, measures: Sequence[str], activity: Activity
) -> Evaluation:
    with _reading(activity, Source.from_name(qrels)) as (source, on_progress):
        judgements = load_judgements(source, on_progress=on_progress)

    def load(name: str) -> Run:
        with _reading(activity, Source.from_name(name)) as (source, on_progress):
            return load_run(source, judgements, on_progress=on_progress)

    return evaluate_runs(map(load, runs), judgements, measures)


@contextmanager
def _reading(activity: Activity, source: Source) -> Iterator[tuple[Source, Callable[[int], None]]]:
    """Show how much of a file is read: of its size where it has one, else in rows."""
    size = source.size_bytes
    total = None if size is None else -(-size // _MEGABYTE)
    activity.start(total, f"Reading {source.name}{', MB' if total else ''}")
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        step = rows if total is None else source.read_bytes // _MEGABYTE - done
        activity.advance(step)
        done += step

    yield source, advance
    activity.advance(0 if total is None else total - done)


def _as_object(evaluation: Evaluation, texts: Mapping[str, str], *, per_query: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "judgements": evaluation.judgements,
        "judged_queries": len(evaluation.query_ids),
        "permutations": evaluation.permutations,
        "seed": evaluation.seed,
        "runs": [
            {
                "run": run.name,
                "missing_queries": run.missing_queries,
                "unjudged_queries": run.unjudged_queries,
                "unjudged_share_of_top_10": run.unjudged_share,
                "measures": {name: _measured(run, name) for name in evaluation.measures},
            }
            for run in evaluation.runs
        ],
    }
    if per_query:
        document["queries"] = [
            {
                "query_id": query_id,
                **({"query": texts.get(query_id)} if texts else {}),
                "values": {
                    name: [_defined(run.by_query[name][place]) for run in evaluation.runs]
                    for name in evaluation.measures
                },
            }
            for place, query_id in enumerate(evaluation.query_ids)
        ]
    return document


def _delimited(evaluation: Evaluation, texts: Mapping[str, str], delimiter: str, *, per_query: bool) -> str:
    columns = ["run", "measure", "value", *_COMPARED]
    if per_query:
        columns = ["run", "measure", "query_id", *(["query"] if texts else []), "value"]
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for run in evaluation.runs:
        for name in evaluation.measures:
            row = {"run": run.name, "measure": name}
            if per_query:
                writer.writerows(row | fields for fields in _query_fields(evaluation, run, name, texts))
            else:
                writer.writerow(row | _measured(run, name))
    return written.getvalue()


def _query_fields(
    evaluation: Evaluation, run: MeasuredRun, name: str, texts: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for query_id, value in zip(evaluation.query_ids, run.by_query[name], strict=True):
        text = {"query": texts.get(query_id)} if texts else {}
        yield {"query_id": query_id, **text, "value": _defined(value)}


def _measured(run: MeasuredRun, name: str) -> dict[str, Any]:
    """Give a run's value and, unless it is the first, how it compares."""
    fields = {"value": _defined(run.values[name])}
    if name in run.comparisons:
        comparison = run.comparisons[name]
        fields |= {key: _defined(getattr(comparison, key)) for key in _COMPARED}
    return fields


def _defined(value: float) -> float | None:
    # A measure may be undefined for a query, which JSON has no number for; and numpy's are none of Python's.
    return None if math.isnan(value) else value if isinstance(value, int) else float(value)


def _draw(evaluation: Evaluation, texts: Mapping[str, str], stream: BinaryIO, *, per_query: bool) -> None:
    from .comparison import draw_evaluation, draw_gains

    drawn = io.StringIO()
    on_stdout = stream is sys.stdout.buffer
    console = stdout_console() if on_stdout else stdout_console(drawn)
    draw_evaluation(console, evaluation)
    for run in evaluation.runs[1:] if per_query else ():
        console.print()
        draw_gains(console, evaluation, run, evaluation.measures[0], texts)
    if not on_stdout:
        stream.write(encode_utf8(drawn.getvalue()))
