"""`ce-rerank evaluate`: runs against judgements; and the same before and after `batch --qrels`."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from ..batch.run import BatchOutput, RankedPool
from ..errors import UsageError
from ..evaluation import (
    DEFAULT_MEASURES,
    PERMUTATIONS,
    SEED,
    MeasuredRun,
    Run,
    load_judgements,
    load_run,
    parse_measures,
)
from ..evaluation import evaluate as evaluate_runs
from ..formats.beir import read_queries
from ..formats.json import encode_json
from ..formats.output import open_output, require_other_file
from ..formats.source import Source
from ..ranking import blend, select_top, separate_ties
from ..types import Candidates
from .console import Activity, make_console
from .options import MessageOptions, Output, format_of_output, option, option_field

_FORMATS = {".txt": "table", ".json": "json"}


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and where it goes."""

    panel: ClassVar = "Options"
    columns: str | None = option_field(
        None, metavar="A,B,C", help="The columns of runs that are not TREC's: qid,pid,rank."
    )
    measure: list[str] | None = option_field(
        None, metavar="NAME",
        help=f"A measure of ir_measures. Repeatable. Default: {', '.join(DEFAULT_MEASURES)}.",
    )  # fmt: skip
    per_query: bool = option_field(
        False, help="Show the queries that gained and lost most, in the first measure."
    )
    queries: str | None = option_field(
        None, metavar="QUERIES", help="The queries' texts, for --per-query: JSONL or TSV."
    )
    to: Literal["table", "json"] | None = option_field(None, help="Default: by suffix of -o, else table.")
    output: Output = None


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
    options: EvaluationOptions,
    messages: MessageOptions,
) -> None:
    """Measure runs against judgements, and test whether differences are real.

    Each run is compared with the first, with the p-value of a paired randomisation test.
    """
    output, queries, per_query = options.output, options.queries, options.per_query
    read = [name for name in (*runs, qrels, queries) if name is not None]
    if read.count("-") > 1:
        raise UsageError("stdin is named more than once.", hint="Give - once.")
    if output is not None:
        require_other_file(output, read)
    format = options.to or format_of_output(output, _FORMATS, "table")
    if queries is not None and not per_query:
        raise UsageError("--queries gives texts for --per-query, which is missing.", hint="Add --per-query.")
    if per_query and format == "table" and len(runs) == 1:
        raise UsageError(
            "--per-query shows what a second run gains over the first, and there is one run.",
            hint="Name another run, or see the values of this one with --to json.",
        )
    with Activity(messages) as activity:
        # A misspelt measure, or an output that cannot be opened, is found before long files are read.
        measures = [str(parsed) for parsed in parse_measures(options.measure or DEFAULT_MEASURES)]
        with open_output(output, sys.stdout.buffer) as stream:
            known = {} if queries is None else read_queries(Source.from_name(queries))
            texts = {query_id: query.text for query_id, query in known.items()}
            activity.stage(f"Reading {qrels}")
            judgements = Source.from_name(qrels)
            grades = load_judgements(judgements)

            def load(name: str) -> Run:
                activity.stage(f"Measuring {name}")
                columns = options.columns.split(",") if options.columns else ()
                return load_run(Source.from_name(name), grades, columns)

            measured = evaluate_runs(map(load, runs), grades, measures)
            activity.stop()
            if format == "json":
                stream.write(_as_json(judgements.name, measured, texts, per_query=per_query).encode())
                return
            from .comparison import draw_evaluation, draw_gains

            drawn = io.StringIO()
            console = make_console(None if output is None else drawn)
            draw_evaluation(console, measured)
            for run in measured[1:] if per_query else ():
                console.print()
                draw_gains(console, measured[0], run, texts)
            stream.write(drawn.getvalue().encode())


def _as_json(
    judgements: str, runs: Sequence[MeasuredRun], texts: Mapping[str, str], *, per_query: bool
) -> str:
    """Return measured runs for scripts: an object with the fields of `MeasuredRun`."""
    shown = [asdict(run) for run in runs]
    if not per_query:
        for run in shown:
            del run["by_query"]
    query_ids = next(iter(runs[0].by_query.values()))
    facts: dict[str, Any] = {
        "judgements": judgements,
        "judged_queries": len(query_ids),
        "permutations": PERMUTATIONS,
        "seed": SEED,
        "runs": shown,
    }
    if texts:
        facts["queries"] = {query_id: texts.get(query_id) for query_id in query_ids}
    return f"{encode_json(facts)}\n"


class Gains(BatchOutput):
    """Measures the results of `batch`: those of its first stage, and those after it.

    If no file is written, this takes the rankings as the output of the batch. With several `weights` it takes
    logits, and blends the first stage's scores in with each.
    """

    def __init__(
        self, run: str | None, qrels: str, measures: Sequence[str] | None, weights: Sequence[float]
    ) -> None:
        # Read now, so that errors come before anything is scored.
        self._measures = tuple(measures or DEFAULT_MEASURES)
        parse_measures(self._measures)
        self._grades = load_judgements(Source.from_path(Path(qrels)))
        self._before = None if run is None else load_run(Source.from_path(Path(run)), self._grades)
        self._weights = weights if len(weights) > 1 else []
        self._first: dict[str, dict[str, float]] = {}
        self._after: dict[str, dict[str, dict[str, float]]] = {}

    def note(self, candidates: Candidates) -> None:
        """Record a first stage's scores or, without scores, its order, unless a run has them."""
        query_id = str(candidates.query.id)
        if self._before is None and query_id in self._grades:
            ids = [str(document.id) for document in candidates.documents]
            scores = candidates.first_scores or range(len(ids), 0, -1)
            self._first[query_id] = dict(zip(ids, map(float, scores), strict=True))

    def write(self, pool: RankedPool) -> None:
        """Take a pool's results."""
        import numpy as np

        for ranking in pool.rankings:
            logits = np.array([hit.score for hit in ranking], np.float32)
            first_scores = [hit.first_score or 0.0 for hit in ranking]
            for weight in self._weights or [0.0]:
                scores = blend(logits, first_scores, weight) if weight else logits
                order = select_top(scores)
                name = f"blend {weight:g}" if self._weights else "reranked"
                ids = [str(ranking[place].id) for place in order]
                values = zip(ids, separate_ties(scores[order]), strict=True)
                self._after.setdefault(name, {})[str(ranking.query.id)] = dict(values)
        super().write(pool)

    def draw(self, output: Path | None) -> None:
        """Draw the measures before and after on stdout; `output` is the file that was written, if one was."""
        from .comparison import draw_evaluation

        runs = [Run(name, scores) for name, scores in self._after.items()]
        if output is not None:
            runs = [replace(load_run(Source.from_path(output), self._grades), name=str(output))]
        before = self._before or Run("first stage", self._first)
        draw_evaluation(make_console(), evaluate_runs([before, *runs], self._grades, self._measures))
