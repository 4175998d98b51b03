"""Does it help, by how much, and is it real: runs against judgements, by ir_measures and scipy.

    judgements = load_judgements(Source.from_name("qrels.tsv"))
    runs = [load_run(Source.from_name(name), judgements) for name in ("bm25.trec", "reranked.jsonl")]
    evaluation = evaluate(runs, judgements, ["nDCG@10"])
    evaluation.runs[1].comparisons["nDCG@10"].p_value

ir_measures decides what a measure means, how ties are broken and how queries are averaged, so that values are
those of its own command.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import InputError, UsageError, missing_package
from .formats.source import Source
from .formats.trec import read_judgements, read_run

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
    """Scores by query and document; `unjudged_queries` is how many other queries were left out."""

    name: str
    scores: Mapping[str, Mapping[str, float]]
    unjudged_queries: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run compared with the first one, in one measure.

    `delta` is how much higher the run's value is. `p_value` is that of the two-sided paired randomisation
    test, and `corrected_p_value` the same after Holm's correction for all runs that are compared with the
    first. `better`, `worse` and `same` count queries.
    """

    delta: float
    p_value: float
    corrected_p_value: float
    better: int
    worse: int
    same: int


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run's value in every measure, over all queries and for each (`by_query`, in the evaluation's order).

    The value of a query is NaN if a measure is not defined for it. `missing_queries` are judged but not in
    the run, and count as if nothing was found. `unjudged_share` is the mean share of documents without a
    judgement among the first ten of a query. `comparisons` has one for each measure, or none for the first
    run.
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


def load_judgements(source: Source) -> Judgements:
    """Read judgements in any form, see `read_judgements`; raise InputError if there are none.

    If a document is judged twice for a query, the last grade counts, as in ir_measures; a warning says so.
    """
    grades: dict[str, dict[str, int]] = {}
    again = 0
    for row in read_judgements(source):
        of_query = grades.setdefault(row.query_id, {})
        again += row.doc_id in of_query
        of_query[row.doc_id] = int(row.score)
    if not grades:
        raise InputError(f"{source.name}: no judgements in it.")
    if again:
        log.warning("%s: documents judged twice: %d; the last grade counts.", source.name, again)
    return Judgements(source.name, grades)


def load_run(source: Source, judgements: Judgements, columns: Sequence[str] = ()) -> Run:
    """Read the judged queries of a run in any form, see `read_run`.

    If a query has a document twice, the first score counts, and a warning says so. Raises InputError if no
    query of the run is judged.
    """
    scores: dict[str, dict[str, float]] = {}
    unjudged: set[str] = set()
    again = 0
    for row in read_run(source, columns=columns):
        if row.query_id not in judgements.grades:
            unjudged.add(row.query_id)
            continue
        of_query = scores.setdefault(row.query_id, {})
        again += row.doc_id in of_query
        of_query.setdefault(row.doc_id, row.score)
    if not scores and not unjudged:
        raise InputError(f"{source.name}: no results in it.")
    if not scores:
        raise InputError(
            f"{source.name}: none of its queries is judged in {judgements.name}.",
            hint=f"Are the ids the same? It has {min(unjudged)!r}, they have {min(judgements.grades)!r}.",
        )
    if again:
        log.warning("%s: documents that a query has twice: %d; the first counts.", source.name, again)
    return Run(source.name, scores, len(unjudged))


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Parse names of ir_measures, such as `nDCG@10` or `P(rel=2)@5`; each measure is returned once.

    Every measure is tried on a tiny example, before long files are read. Raises UsageError for one that
    cannot be calculated, and UnavailableError if ir_measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        problem = "Measures are calculated by ir_measures, which is not installed."
        raise missing_package(problem, "evaluate") from None
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

    `measures` are names of ir_measures. Queries and documents without judgements, and missing queries, are
    logged as warnings. Raises UsageError for an unknown measure, UnavailableError if ir_measures is not
    installed, and InputError for a run from which a measure cannot be calculated.
    """
    parsed = parse_measures(measures)
    # Sorted, so that the order of files does not matter; by length first, so that q2 comes before q10.
    query_ids = tuple(sorted(judgements.grades, key=lambda query_id: (len(query_id), query_id)))
    measured = tuple(_measure(run, judgements, parsed, query_ids) for run in runs)
    names = tuple(map(str, parsed))
    for name in names:
        _compare(measured[0], measured[1:], name)
    return Evaluation(judgements.name, names, query_ids, measured)


def _measure(
    run: Run, judgements: Judgements, measures: Sequence[Measure], query_ids: Sequence[str]
) -> MeasuredRun:
    import ir_measures
    import numpy as np

    # With their places for ids: gdeval, one of the programs behind ir_measures, takes only numbers.
    found = [(str(place), run.scores.get(query_id)) for place, query_id in enumerate(query_ids)]
    scores = {place: of_query for place, of_query in found if of_query}
    grades = {str(place): judgements.grades[query_id] for place, query_id in enumerate(query_ids)}
    values, by_query = {}, {}
    # One at a time: in one call, ir_measures 0.4.3 calculates an nDCG without `gains` by those of another.
    for measure in measures:
        try:
            calculated = ir_measures.calc([measure], grades, scores)
        except Exception as error:
            raise InputError(
                f"{run.name}: ir_measures cannot calculate {measure} from it and {judgements.name} "
                f"({type(error).__name__}: {error}).",
            ) from error
        values[str(measure)] = float(calculated.aggregated[measure])
        of_queries = by_query[str(measure)] = np.full(len(query_ids), np.nan)
        for metric in calculated.per_query:
            of_queries[int(metric.query_id)] = metric.value
    judged = [metric.value for metric in ir_measures.iter_calc([ir_measures.Judged @ 10], grades, scores)]
    share = 1 - sum(judged) / len(scores) if scores else 0.0
    missing = len(query_ids) - len(scores)
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
    """Compare runs with the first in one measure, and add the comparisons to the runs."""
    differences = [run.by_query[name] - first.by_query[name] for run in others]
    p_values = list(map(_p_value, differences))
    for run, row, p_value, corrected in zip(
        others, differences, p_values, correct_holm(p_values), strict=True
    ):
        counts = [int(counted.sum()) for counted in (row > 0, row < 0, row == 0)]
        delta = run.values[name] - first.values[name]
        run.comparisons[name] = Comparison(delta, p_value, corrected, *counts)


def _p_value(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the paired randomisation test.

    If both runs were equally good, the difference of each query could have the other sign just as well. All
    combinations of signs are tried if there are at most `PERMUTATIONS`, or else that many random ones. After
    Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval
    evaluation", 2007.
    """
    import numpy as np
    from scipy.stats import permutation_test

    # The sign of no difference changes nothing.
    changed = differences[np.isfinite(differences) & (differences != 0)]
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
    """Return p-values corrected for the number of comparisons, after Holm (1979), in the same order.

    The smallest is multiplied by their number, the next by one less, and so on; each is at least as large as
    the one before, and at most 1.
    """
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, p_values[index] * (len(p_values) - place))
        corrected[index] = min(1.0, largest)
    return corrected
