"""Does it help, by how much, and is it real: runs against judgements, by ir_measures and scipy.

    judgements = load_judgements(Path("qrels.tsv"))
    runs = [load_run(path, judgements) for path in (Path("bm25.trec"), Path("reranked.jsonl"))]
    evaluation = evaluate(runs, judgements, ["nDCG@10"])
    evaluation.runs[1].comparisons["nDCG@10"].p_value

What a measure means, how ties are broken and how queries are averaged is decided by ir_measures, so that the
values are those of its own command.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import InputError, UnavailableError, UsageError
from .formats.source import Readable, as_source
from .formats.trec import read_judgements, read_run
from .interrupts import raise_if_interrupted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("ce_rerank")

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100")
PERMUTATIONS = 10_000
SEED = 42

Measure = Any
"""`ir_measures.Measure`, which carries no types."""

_SIGNS_AT_ONCE = 500_000  # that scipy holds, 8 bytes each


@dataclass(frozen=True, slots=True)
class Judgements:
    """Which documents are relevant for which queries, and how much: grades by query and document."""

    name: str
    grades: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Run:
    """What a system gave: scores by query and document; `unjudged_queries` more queries were left out."""

    name: str
    scores: Mapping[str, Mapping[str, float]]
    unjudged_queries: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against the first one, in one measure.

    `delta` is how much higher the run's value is. `p_value` is two-sided, of the paired randomisation test;
    `corrected_p_value` is it after Holm's correction over all runs that are compared with the first. The
    counts are of queries.
    """

    delta: float
    p_value: float
    corrected_p_value: float
    better: int
    worse: int
    same: int


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run's value in every measure, over all queries and (`by_query`) for each, as `query_ids` has them.

    A query is NaN where a measure is not defined for it. `missing_queries` are judged, not in the run, and
    counted as if nothing was found. `unjudged_share` is the mean share of documents without a judgement in
    the first ten places of a query. `comparisons` is empty for the first run.
    """

    name: str
    values: Mapping[str, float]
    by_query: Mapping[str, NDArray[np.float64]]
    missing_queries: int
    unjudged_queries: int
    unjudged_share: float
    comparisons: dict[str, Comparison] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Runs measured on the same judged queries; each is compared with the first."""

    judgements: str
    measures: tuple[str, ...]
    query_ids: tuple[str, ...]
    runs: tuple[MeasuredRun, ...]


def load_judgements(readable: Readable) -> Judgements:
    """Read judgements in any form, see `read_judgements`; raise InputError when there are none.

    A document that is judged twice for a query has its last grade, as in ir_measures, with a warning.
    """
    source = as_source(readable)
    grades: dict[str, dict[str, int]] = {}
    lines = 0
    for row in read_judgements(source):
        lines += 1
        grades.setdefault(row.query_id, {})[row.doc_id] = row.relevance
    if not grades:
        raise InputError(f"{source.name}: no judgements in it.")
    if again := lines - sum(map(len, grades.values())):
        log.warning("%s: documents judged twice: %d; the last grade counts.", source.name, again)
    return Judgements(source.name, grades)


def load_run(readable: Readable, judgements: Judgements, columns: Sequence[str] = ()) -> Run:
    """Read the judged queries of a run in any form, see `read_run`.

    A document that is there twice for a query has its first score, with a warning. Raises InputError when no
    query of the run is judged.
    """
    source = as_source(readable)
    scores: dict[str, dict[str, float]] = {}
    unjudged: set[str] = set()
    lines = 0
    for row in read_run(source, columns=columns):
        if row.query_id in judgements.grades:
            lines += 1
            scores.setdefault(row.query_id, {}).setdefault(row.doc_id, row.score)
        else:
            unjudged.add(row.query_id)
    if not scores and not unjudged:
        raise InputError(f"{source.name}: no results in it.")
    if not scores:
        raise InputError(
            f"{source.name}: none of its queries is judged in {judgements.name}.",
            hint=f"Are the ids the same? It has {min(unjudged)!r}, they have {min(judgements.grades)!r}.",
        )
    if again := lines - sum(map(len, scores.values())):
        log.warning("%s: documents that a query has twice: %d; the first counts.", source.name, again)
    return Run(source.name, scores, len(unjudged))


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Parse names as ir_measures has them, such as `nDCG@10` or `P(rel=2)@5`, each measure once.

    Every measure is tried on a tiny example, so that one that cannot be calculated is refused before long
    files are read. Raises UsageError for it, and UnavailableError when ir_measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise_if_interrupted()
        raise UnavailableError(
            "Measures are calculated by ir_measures, which is not installed.",
            hint="Install it: pip install 'ce-rerank[evaluate]'",
        ) from None
    measures = []
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it parses by old parts of `ast`
                measure = ir_measures.parse_measure(name.strip())
            if not 1 <= measure.params.get("cutoff", 1) < 2**31:
                raise ValueError("the cutoff must be a whole number from 1")  # trec_eval would abort
            ir_measures.calc([measure], {"1": {"a": 1, "b": 0}}, {"1": {"a": 2.0, "b": 1.0}})
        except Exception as error:
            reason = re.sub(r"invalid param (\w+)=<object .*", r"it needs a \1", str(error).rstrip("."))
            raise UsageError(
                f"{name!r} is not a measure that ir_measures can calculate ({reason}).",
                hint=f"Measures look like {', '.join(DEFAULT_MEASURES)}; see https://ir-measur.es",
            ) from None
        measures.append(measure)
    return list(dict.fromkeys(measures))


def evaluate(
    runs: Iterable[Run], judgements: Judgements, measures: Iterable[str] = DEFAULT_MEASURES
) -> Evaluation:
    """Measure runs, and compare each with the first.

    `measures` are names as ir_measures has them. What does not fit is logged as warnings. Raises UsageError
    for a measure that means nothing, UnavailableError when ir_measures is not installed, and InputError for
    what a measure cannot be calculated from.
    """
    parsed = parse_measures(measures)
    # Numbers, and numbers behind one prefix, in their order. Sorted at all, so that no file's order matters.
    query_ids = tuple(sorted(judgements.grades, key=lambda query_id: (len(query_id), query_id)))
    measured = tuple(_measure_run(run, judgements, parsed, query_ids) for run in runs)
    names = tuple(map(str, parsed))
    for name in names if len(measured) > 1 else ():
        _compare(measured[0], measured[1:], name)
    return Evaluation(judgements.name, names, query_ids, measured)


def _measure_run(
    run: Run, judgements: Judgements, measures: Sequence[Measure], query_ids: Sequence[str]
) -> MeasuredRun:
    import ir_measures
    import numpy as np

    # Called by their places: gdeval, one of the programs behind ir_measures, takes only numbers as ids.
    grades = {str(place): judgements.grades[query_id] for place, query_id in enumerate(query_ids)}
    scores = {
        str(place): run.scores[query_id]
        for place, query_id in enumerate(query_ids)
        if run.scores.get(query_id)
    }
    values, by_query = {}, {}
    # One at a time: in one call, ir_measures 0.4.3 calculates an nDCG without `gains` by those of another.
    for measure in measures:
        try:
            found = ir_measures.calc([measure], grades, scores)
        except Exception as error:
            raise InputError(
                f"{run.name}: ir_measures cannot calculate {measure} from it and {judgements.name} "
                f"({type(error).__name__}: {error}).",
            ) from error
        of_queries = by_query[str(measure)] = np.full(len(query_ids), np.nan)
        for metric in found.per_query:
            of_queries[int(metric.query_id)] = metric.value
        values[str(measure)] = float(found.aggregated[measure])
    judged = [metric.value for metric in ir_measures.iter_calc([ir_measures.Judged @ 10], grades, scores)]
    share = 1 - sum(judged) / len(scores) if scores else 0.0
    missing = sum(query_id not in run.scores for query_id in query_ids)
    if missing:
        log.warning(
            "%s: %d of %d judged queries missing; each counts as 0.", run.name, missing, len(query_ids)
        )
    if run.unjudged_queries:
        log.warning("%s: queries without judgements, left out: %d.", run.name, run.unjudged_queries)
    if share:
        log.warning(
            "%s: %.1f%% of the documents in its first ten places have no judgement, and count as not "
            "relevant.", run.name, max(0.1, 100 * share),
        )  # fmt: skip
    return MeasuredRun(run.name, values, by_query, missing, run.unjudged_queries, share)


def _compare(first: MeasuredRun, others: Sequence[MeasuredRun], name: str) -> None:
    """Add to runs how each compares with the first in one measure."""
    import numpy as np

    differences = [run.by_query[name] - first.by_query[name] for run in others]
    p_values = [_p_value(row[np.isfinite(row)]) for row in differences]
    for run, row, p_value, corrected in zip(
        others, differences, p_values, correct_holm(p_values), strict=True
    ):
        run.comparisons[name] = Comparison(
            run.values[name] - first.values[name],
            p_value,
            corrected,
            better=int((row > 0).sum()),
            worse=int((row < 0).sum()),
            same=int((row == 0).sum()),
        )


def _p_value(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the paired randomisation test.

    Were the two runs equally good, each query's difference could as well have had the other sign. All signs
    are tried where that takes no more than `PERMUTATIONS`, else as many by chance. After Smucker, Allan and
    Carterette, "A comparison of statistical significance tests for information retrieval evaluation", 2007.
    """
    import numpy as np
    from scipy.stats import permutation_test

    changed = differences[differences != 0]  # the sign of the others changes nothing
    if len(changed) < 2:
        return 1.0
    tested = permutation_test(
        (changed,),
        np.sum,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        batch=max(1, _SIGNS_AT_ONCE // len(changed)),
        rng=SEED,
    )
    return float(tested.pvalue)


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several comparisons for their number, after Holm (1979), in the order given.

    The smallest is multiplied by how many there are, the next by one less, and so on; none falls below a
    smaller one, none exceeds 1.
    """
    import numpy as np

    order = np.argsort(p_values)
    steps = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(value) for value in corrected]
