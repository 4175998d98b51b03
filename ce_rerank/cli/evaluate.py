"""`ce-rerank evaluate`: runs against judgements; and the same before and after `batch --qrels`."""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UsageError
from ..evaluation import (
    DEFAULT_MEASURES,
    PERMUTATIONS,
    SEED,
    Evaluation,
    Judgements,
    MeasuredRun,
    Run,
    load_judgements,
    load_run,
    parse_measures,
)
from ..evaluation import evaluate as evaluate_runs
from ..formats.beir import read_queries
from ..formats.json import encode_utf8
from ..formats.output import is_written_directly, open_output, require_other_file
from ..formats.source import Source, is_pipe_or_device
from .commands import option
from .console import show_messages, stdout_console
from .options import MessageOptions, Output, format_of_output

EvaluationFormat = Literal["table", "json"]

_COMPARED = ("delta", "p_value", "corrected_p_value", "better", "worse", "same")
_FORMATS = {".txt": "table", ".json": "json"}


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs: TREC files, results of batch; - is stdin. All are compared with the first.",
        ),
    ],
    *,
    qrels: Annotated[
        str,
        option("--qrels", metavar="QRELS", help="Judgements: TREC qrels, BEIR's qrels.tsv, JSONL, a table."),
    ],
    columns: Annotated[
        str | None,
        option("--columns", metavar="A,B,C", help="The columns of runs that are not TREC's: qid,pid,rank."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        option(
            "--measure",
            metavar="NAME",
            help=f"A measure of ir_measures. Repeatable. Default: {', '.join(DEFAULT_MEASURES)}.",
        ),
    ] = None,
    per_query: Annotated[
        bool, option("--per-query", help="Show the queries that gained and lost most, in the first measure.")
    ] = False,
    queries: Annotated[
        str | None,
        option("--queries", metavar="QUERIES", help="The queries' texts, for --per-query: JSONL or TSV."),
    ] = None,
    to: Annotated[
        EvaluationFormat | None, option("--to", help="Default: by suffix of -o, else table.")
    ] = None,
    output: Output = None,
    messages: MessageOptions,
) -> None:
    """Measure runs against judgements, and tell what is better from what is luck.

    Each run is compared with the first, with the p-value of a paired randomisation test.
    """
    read = [name for name in (*runs, qrels, queries) if name is not None]
    if read.count("-") > 1:
        raise UsageError("stdin is named more than once.", hint="Give - once.")
    if output is not None:
        require_other_file(output, read)
    format = to or format_of_output(output, _FORMATS, "table")
    if queries is not None and not per_query:
        raise UsageError("--queries gives texts to --per-query, which is not there.", hint="Add --per-query.")
    if per_query and format == "table" and len(runs) == 1:
        raise UsageError(
            "--per-query shows what a second run gains over the first, and there is one run.",
            hint="Name another run, or see the values of this one with --to json.",
        )
    names = tuple(columns.split(",")) if columns else ()
    with show_messages(messages) as activity:
        # Before long files are read: a measure that is misspelt, an output that cannot be opened.
        measures = [str(parsed) for parsed in parse_measures(measure or DEFAULT_MEASURES)]
        with open_output(output) if output is not None else nullcontext(sys.stdout.buffer) as stream:
            texts = read_queries(Source.from_name(queries)) if queries is not None else {}
            activity.stage(f"Reading {qrels}")
            judgements = load_judgements(Source.from_name(qrels))

            def load(name: str) -> Run:
                activity.stage(f"Measuring {name}")
                return load_run(Source.from_name(name), judgements, names)

            evaluation = evaluate_runs(map(load, runs), judgements, measures)
            activity.stop()
            if format == "json":
                document = _as_object(evaluation, texts, per_query=per_query)
                stream.write(encode_utf8(json.dumps(document, ensure_ascii=False, indent=2) + "\n"))
            else:
                from .comparison import draw_evaluation, draw_gains

                drawn = io.StringIO()
                console = stdout_console() if output is None else stdout_console(drawn)
                draw_evaluation(console, evaluation)
                for run in evaluation.runs[1:] if per_query else ():
                    console.print()
                    draw_gains(console, evaluation, run, evaluation.measures[0], texts)
                stream.write(encode_utf8(drawn.getvalue()))


def _as_object(evaluation: Evaluation, texts: Mapping[str, str], *, per_query: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "judgements": evaluation.judgements,
        "judged_queries": len(evaluation.query_ids),
        "permutations": PERMUTATIONS,
        "seed": SEED,
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
        values = {
            name: list(
                zip(*(map(_defined, run.by_query[name].tolist()) for run in evaluation.runs), strict=True)
            )
            for name in evaluation.measures
        }
        document["queries"] = [
            {
                "query_id": query_id,
                **({"query": texts.get(query_id)} if texts else {}),
                "values": {name: values[name][place] for name in evaluation.measures},
            }
            for place, query_id in enumerate(evaluation.query_ids)
        ]
    return document


def _measured(run: MeasuredRun, name: str) -> dict[str, Any]:
    """Return a run's value and, unless it is the first, how it compares."""
    fields = {"value": _defined(run.values[name])}
    if name in run.comparisons:
        fields |= {key: _defined(getattr(run.comparisons[name], key)) for key in _COMPARED}
    return fields


def _defined(value: float) -> float | None:
    # A measure may be undefined for a query, which JSON has no number for.
    return None if math.isnan(value) else value


@dataclass(frozen=True, slots=True)
class FirstStage:
    """The run that `batch` reranks, measured and waiting for what the reranking makes of it."""

    judgements: Judgements
    run: Run
    measures: tuple[str, ...]

    @classmethod
    def read(
        cls,
        run: str | None,
        qrels: str,
        measures: Sequence[str] | None,
        output: Path | None,
        shard: str | None,
    ) -> FirstStage:
        """Read the judgements and the run of `batch`, so that their errors come before anything is scored.

        Raises UsageError for what does not go together with `--qrels`.
        """
        if run is None:
            raise UsageError(
                "--qrels measures before and after, and there is no --run.", hint="Give --run RUN."
            )
        if run == "-" or is_pipe_or_device(Path(run)):
            raise UsageError(
                f"--qrels reads the run twice, and {'stdin' if run == '-' else run} can be read once.",
                hint="Put it into a file first.",
            )
        if shard is not None:
            raise UsageError(
                "--qrels measures a whole run, and --shard ranks a part of it.",
                hint="Measure all parts together: ce-rerank evaluate RUN RERANKED --qrels QRELS.",
            )
        if output is not None and is_written_directly(output):
            raise UsageError(
                f"--qrels reads the output again, and {output} is not a file.",
                hint="Name a file with --output, or leave it out to see the measures alone.",
            )
        if output is not None:
            require_other_file(output, [qrels])
        names = tuple(measures or DEFAULT_MEASURES)
        parse_measures(names)
        judgements = load_judgements(Source.from_path(Path(qrels)))
        return cls(judgements, load_run(Source.from_path(Path(run)), judgements), names)

    def draw_gains(self, output: Path, name: str) -> None:
        """Draw the measures before and after on stdout."""
        from .comparison import draw_evaluation

        after = replace(load_run(Source.from_path(output), self.judgements), name=name)
        evaluation = evaluate_runs([self.run, after], self.judgements, self.measures)
        draw_evaluation(stdout_console(), evaluation)


@contextmanager
def output_or_nowhere(path: Path | None) -> Iterator[Path]:
    """Yield the file that results go to; where none is named, one that is removed in the end."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ce-rerank-") as folder:
        yield Path(folder, "reranked.trec")
