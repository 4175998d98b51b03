"""Does it help, by how much, and is it real: runs against judgements, by ir_measures and scipy.

    judgements = load_judgements(Source.from_name("qrels.tsv"))
    runs = [load_run(Source.from_name(name), judgements) for name in ("bm25.trec", "reranked.jsonl")]
    evaluate(runs, judgements, ["nDCG@10"])[1].comparisons["nDCG@10"].p_value

ir_measures decides what a measure means, how ties are broken and how queries are averaged, so that values are
those of its own command.
"""

from __future__ import annotations

import logging
import math
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

Grades = Mapping[str, Mapping[str, int]]
"""How relevant documents are, by query and document."""

_SIGNS_AT_ONCE = 500_000  # that scipy holds, 8 bytes each


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
    """A run's value in every measure, over all queries and for each (`by_query`, in the same order always).

    The value of a query is NaN if a measure is not defined for it. `missing_queries` are judged but not in
    the run, and count as if nothing was found. `unjudged_share` is the mean share of documents without a
    judgement among the first ten of a query. `comparisons` has one for each measure, or none for the first
    run.
    """

    name: str
    values: Mapping[str, float]
    by_query: Mapping[str, Mapping[str, float]]
    missing_queries: int
    unjudged_queries: int
    unjudged_share: float
    comparisons: dict[str, Comparison] = field(default_factory=dict)


def load_judgements(source: Source) -> Grades:
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
    return grades


def load_run(source: Source, grades: Grades, columns: Sequence[str] = ()) -> Run:
    """Read the judged queries of a run in any form, see `read_run`.

    If a query has a document twice, the first score counts, and a warning says so. Raises InputError if no
    query of the run is judged.
    """
    scores: dict[str, dict[str, float]] = {}
    unjudged: set[str] = set()
    again = 0
    for row in read_run(source, columns=columns):
        if row.query_id not in grades:
            unjudged.add(row.query_id)
            continue
        of_query = scores.setdefault(row.query_id, {})
        again += row.doc_id in of_query
        of_query.setdefault(row.doc_id, row.score)
    if not scores and not unjudged:
        raise InputError(f"{source.name}: no results in it.")
    if not scores:
        ids = f"It has {min(unjudged)!r}, the judgements have {min(grades)!r}."
        raise InputError(
            f"{source.name}: none of its queries is judged.", hint=f"Are the ids the same? {ids}"
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
    runs: Iterable[Run], grades: Grades, measures: Iterable[str] = DEFAULT_MEASURES
) -> list[MeasuredRun]:
    """Measure runs on the judged queries, and compare each with the first.

    `measures` are names of ir_measures. Queries and documents without judgements, and missing queries, are
    logged as warnings. Raises UsageError for an unknown measure, UnavailableError if ir_measures is not
    installed, and InputError for a run from which a measure cannot be calculated.
    """
    import numpy as np

    parsed = parse_measures(measures)
    first, *others = measured = [_measure(run, grades, parsed) for run in runs]
    for name in first.values:
        before, *after = [np.array(list(run.by_query[name].values())) for run in measured]
        differences = [values - before for values in after]
        p_values = list(map(_p_value, differences))
        corrected = correct_holm(p_values)
        for place, (other, row) in enumerate(zip(others, differences, strict=True)):
            counts = [int(counted.sum()) for counted in (row > 0, row < 0, row == 0)]
            delta = other.values[name] - first.values[name]
            other.comparisons[name] = Comparison(delta, p_values[place], corrected[place], *counts)
    return measured


def _measure(run: Run, grades: Grades, measures: Sequence[Measure]) -> MeasuredRun:
    import ir_measures

    # Sorted, so that the order of files does not matter; by length first, so that q2 comes before q10.
    query_ids = sorted(grades, key=lambda query_id: (len(query_id), query_id))
    # With their places for ids: gdeval, one of the programs behind ir_measures, takes only numbers.
    found = [(str(place), run.scores.get(query_id)) for place, query_id in enumerate(query_ids)]
    scores = {place: of_query for place, of_query in found if of_query}
    judged = {str(place): grades[query_id] for place, query_id in enumerate(query_ids)}
    values, by_query = {}, {}
    # One at a time: in one call, ir_measures 0.4.3 calculates an nDCG without `gains` by those of another.
    for measure in measures:
        try:
            calculated = ir_measures.calc([measure], judged, scores)
        except Exception as error:  # Accuracy, say, where no document is judged as not relevant
            raise InputError(f"{run.name}: {measure} cannot be calculated ({error}).") from error
        values[str(measure)] = float(calculated.aggregated[measure])
        of_queries = by_query[str(measure)] = dict.fromkeys(query_ids, math.nan)
        for metric in calculated.per_query:
            of_queries[query_ids[int(metric.query_id)]] = float(metric.value)
    shares = [metric.value for metric in ir_measures.iter_calc([ir_measures.Judged @ 10], judged, scores)]
    unjudged_share = 1 - sum(shares) / len(scores) if scores else 0.0
    missing = len(query_ids) - len(scores)
    if missing:
        log.warning(
            "%s: %d of %d judged queries missing; each counts as 0.", run.name, missing, len(query_ids)
        )
    if run.unjudged_queries:
        log.warning("%s: queries without judgements, left out: %d.", run.name, run.unjudged_queries)
    if unjudged_share:
        log.warning(
            "%s: %.1f%% of the documents in its first ten places have no judgement, and count as not "
            "relevant.", run.name, max(0.1, 100 * unjudged_share),
        )  # fmt: skip
    return MeasuredRun(run.name, values, by_query, missing, run.unjudged_queries, unjudged_share)


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
    batch = max(1, _SIGNS_AT_ONCE // len(changed))
    tested = permutation_test(
        (changed,), np.sum, permutation_type="samples", n_resamples=PERMUTATIONS, batch=batch, rng=SEED
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
