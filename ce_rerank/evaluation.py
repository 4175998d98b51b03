"""Does it help, by how much, and is it real: runs against judgements.

    judgements = load_judgements(Path("qrels.tsv"))
    runs = (load_run(path, judgements) for path in (Path("bm25.trec"), Path("reranked.jsonl")))
    evaluation = evaluate(runs, judgements, ["nDCG@10"])
    evaluation.runs[1].comparisons["nDCG@10"].p_value

Only one run is held at a time, packed: some 30 bytes a row.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from .errors import InputError
from .formats.packed import PackedLists
from .formats.results import read_judgements, read_results
from .formats.source import Readable, as_source
from .measures import DEFAULT_MEASURES, Measure, aggregate, iter_values, parse_measures
from .significance import PERMUTATIONS, SEED, correct_holm, randomisation_p_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("ce_rerank")

Progress = Callable[[int], None]
"""Told now and then while a file is read, how many rows were read since the last time."""

_Row = TypeVar("_Row")

_ROWS_BETWEEN_PROGRESS = 20_000
_ROWS_AT_ONCE = 200_000  # that ir_measures is given, as dicts of some 200 bytes a row
_UNJUDGED_DEPTH = 10
_LONGEST_NUMBER = 1_000  # digits of a query id; int() refuses some thousands
# trec_eval counts the documents of every grade from 0 up; from 2**31 its measures are silently 0.
_HIGHEST_GRADE = 1_000_000


@dataclass(frozen=True, slots=True)
class Judgements:
    """Which documents are relevant for which queries, and how much: `lists` holds the grades."""

    name: str
    lists: PackedLists


@dataclass(frozen=True, slots=True)
class Run:
    """What a system gave for the judged queries, with scores. `unjudged_queries` counts what was left out."""

    name: str
    lists: PackedLists
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
    counted as if nothing was found; `unjudged_share` is the share of the documents in the first ten places
    that have no judgement. `comparisons` is empty for the first run.
    """

    name: str
    values: Mapping[str, float]
    by_query: Mapping[str, NDArray[np.float64]]
    missing_queries: int
    unjudged_queries: int
    unjudged_share: float
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Runs measured on the same judged queries; each is compared with the first."""

    judgements: str
    measures: tuple[str, ...]
    query_ids: tuple[str, ...]
    runs: tuple[MeasuredRun, ...]
    permutations: int
    seed: int


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better a run does on one query than the first run; negative when it does worse."""

    query_id: str
    before: float
    after: float
    delta: float


def load_judgements(readable: Readable, *, on_progress: Progress | None = None) -> Judgements:
    """Read judgements in TREC form or as BEIR's `qrels.tsv`, told apart by content.

    A document that is judged twice for a query has its last grade, as in ir_measures, with a warning. Raises
    InputError, naming file and line, for what cannot be read.
    """
    source = as_source(readable)
    lists = PackedLists("q")
    for row in _watched(read_judgements(source), on_progress):
        if abs(row.relevance) > _HIGHEST_GRADE:
            raise InputError(f"{source.name}:{row.line_number}: {row.relevance} is too large for a grade.")
        lists.add(row.query_id, row.doc_id, row.relevance, row.line_number)
    if not len(lists):
        raise InputError(f"{source.name}: no judgements in it.")
    again = sum(map(lists.count_duplicates, lists))
    if again:
        rows = "1 row judges" if again == 1 else f"{again} rows judge"
        log.warning("%s: %s a document again; its last grade counts.", source.name, rows)
    return Judgements(source.name, lists)


def load_run(readable: Readable, judgements: Judgements, *, on_progress: Progress | None = None) -> Run:
    """Read a run in TREC form, or as `batch` writes it in JSONL, told apart by content.

    Only the judged queries are kept. Raises InputError, naming file and line, for what cannot be read, and
    when no query of the run is judged.
    """
    source = as_source(readable)
    lists = PackedLists("d")
    unjudged: set[str] = set()
    for row in _watched(read_results(source), on_progress):
        if row.query_id in judgements.lists:
            lists.add(row.query_id, row.doc_id, row.score, row.line_number)
        else:
            unjudged.add(row.query_id)
    if not len(lists) and not unjudged:
        raise InputError(f"{source.name}: no results in it.")
    if not len(lists):
        raise InputError(
            f"{source.name}: none of its queries is judged in {judgements.name}.",
            hint=f"Are the ids the same? It has {min(unjudged)!r}, the judgements {min(judgements.lists)!r}.",
        )
    return Run(source.name, lists, len(unjudged))


def evaluate(
    runs: Iterable[Run],
    judgements: Judgements,
    measures: Iterable[str] = DEFAULT_MEASURES,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> Evaluation:
    """Measure runs, and compare each with the first.

    `measures` are names as ir_measures has them. A generator of runs is taken a run at a time. What does not
    fit is said in warnings. Raises UsageError for a measure that means nothing, UnavailableError when
    ir_measures is not installed, and InputError for a document that stands twice in a list.
    """
    parsed = parse_measures(measures)
    query_ids = tuple(sorted(judgements.lists, key=_natural_order))
    measured = []
    for run in runs:
        log.info("Measuring %s", run.name, extra={"stage": True})
        measured.append(_measure_run(run, judgements, parsed, query_ids))
        _warn_of_misfits(measured[-1], len(query_ids))
    names = tuple(map(str, parsed))
    compared = _compare(measured, parsed, permutations, seed) if len(measured) > 1 else measured
    return Evaluation(judgements.name, names, query_ids, tuple(compared), permutations, seed)


def list_gains(evaluation: Evaluation, run: MeasuredRun, measure: str) -> list[Gain]:
    """Give each query's values in the first run and in `run`, the largest gain first, ties by query id.

    Queries for which the measure is not defined in one of the two are left out.
    """
    before, after = evaluation.runs[0].by_query[measure], run.by_query[measure]
    rows = zip(evaluation.query_ids, before.tolist(), after.tolist(), (after - before).tolist(), strict=True)
    gains = [Gain(*row) for row in rows if not math.isnan(row[3])]
    return sorted(gains, key=lambda gain: -gain.delta)


def _watched(rows: Iterable[_Row], on_progress: Progress | None) -> Iterator[_Row]:
    if on_progress is None:
        yield from rows
        return
    for count, row in enumerate(rows, start=1):
        yield row
        if count % _ROWS_BETWEEN_PROGRESS == 0:
            on_progress(_ROWS_BETWEEN_PROGRESS)


def _natural_order(query_id: str) -> tuple[int, int, str]:
    # Numbers as numbers: so gdeval adds values up. Sorted at all, so that p-values hang on no file's order.
    if query_id.isascii() and query_id.isdigit() and len(query_id) <= _LONGEST_NUMBER:
        return 0, int(query_id), query_id
    return 1, 0, query_id


def _measure_run(
    run: Run, judgements: Judgements, measures: Sequence[Measure], query_ids: Sequence[str]
) -> MeasuredRun:
    import numpy as np

    places = {query_id: place for place, query_id in enumerate(query_ids)}
    missing = [query_id for query_id in judgements.lists if query_id not in run.lists]
    by_query = {measure: np.full(len(query_ids), np.nan) for measure in measures}
    # In the order in which ir_measures gives them: it adds them up as they come, and so must we.
    values: dict[Measure, list[float]] = {measure: [] for measure in measures}
    top = unjudged = 0
    for chunk in _chunks([*run.lists, *missing], run.lists, judgements.lists):
        grades = {query_id: judgements.lists.numbers(query_id) for query_id in chunk}
        scores = {query_id: _unique_scores(run, query_id) for query_id in chunk if query_id in run.lists}
        for query_id, ranked in scores.items():
            best = heapq.nlargest(_UNJUDGED_DEPTH, ranked, key=lambda doc_id: (ranked[doc_id], doc_id))
            top += len(best)
            unjudged += sum(doc_id not in grades[query_id] for doc_id in best)
        numbered = _by_place(grades, places), _by_place(scores, places)
        for measure, place, value in iter_values(measures, *numbered):
            values[measure].append(value)
            by_query[measure][int(place)] = value
    return MeasuredRun(
        run.name,
        {str(measure): aggregate(measure, values[measure]) for measure in measures},
        {str(measure): by_query[measure] for measure in measures},
        len(missing),
        run.unjudged_queries,
        unjudged / top if top else 0.0,
    )


def _chunks(query_ids: Sequence[str], *lists: PackedLists) -> Iterator[list[str]]:
    chunk: list[str] = []
    rows = 0
    for query_id in query_ids:
        chunk.append(query_id)
        rows += sum(packed.count_rows(query_id) for packed in lists)
        if rows >= _ROWS_AT_ONCE:
            yield chunk
            chunk, rows = [], 0
    if chunk:
        yield chunk


def _unique_scores(run: Run, query_id: str) -> dict[str, float]:
    scores = run.lists.numbers(query_id)
    if len(scores) < run.lists.count_rows(query_id) and (found := run.lists.find_duplicate(query_id)):
        doc_id, first_line, line = found
        raise InputError(
            f"{run.name}:{line}: document {doc_id!r} of query {query_id!r} again, after line {first_line}.",
            hint="A list holds a document once; keep the better place.",
        )
    return scores


def _by_place(lists: Mapping[str, _Row], places: Mapping[str, int]) -> dict[str, _Row]:
    return {str(places[query_id]): row for query_id, row in lists.items()}


def _warn_of_misfits(run: MeasuredRun, judged: int) -> None:
    if run.missing_queries:
        log.warning(
            "%s: %d of %d judged queries missing; each counts as 0.", run.name, run.missing_queries, judged
        )
    if run.unjudged_queries:
        queries = "query" if run.unjudged_queries == 1 else "queries"
        log.warning("%s: %d %s without judgements left out.", run.name, run.unjudged_queries, queries)
    if run.unjudged_share:
        share = f"{run.unjudged_share:.1%}" if run.unjudged_share >= 0.001 else "less than 0.1%"
        log.warning(
            "%s: %s of the documents in its first ten places have no judgement, and count as not relevant.",
            run.name, share,
        )  # fmt: skip


def _compare(
    measured: Sequence[MeasuredRun], measures: Sequence[Measure], permutations: int, seed: int
) -> Iterator[MeasuredRun]:
    import numpy as np

    first, *others = measured
    names = [str(measure) for measure in measures]
    differences = np.array([[run.by_query[name] - first.by_query[name] for name in names] for run in others])
    flat = np.nan_to_num(differences).reshape(len(others) * len(measures), -1).T
    p_values = randomisation_p_values(flat, permutations=permutations, seed=seed)
    p_values = p_values.reshape(len(others), len(measures))
    corrected = np.array([correct_holm(column) for column in p_values.T.tolist()]).T
    yield first
    for run, rows, raw, holm in zip(others, differences, p_values.tolist(), corrected.tolist(), strict=True):
        comparisons = {
            name: Comparison(
                delta=aggregate(measure, row[~np.isnan(row)].tolist()),
                p_value=p_value,
                corrected_p_value=corrected_p_value,
                better=int((row > 0).sum()),
                worse=int((row < 0).sum()),
                same=int((row == 0).sum()),
            )
            for name, measure, row, p_value, corrected_p_value in zip(
                names, measures, rows, raw, holm, strict=True
            )
        }
        yield replace(run, comparisons=comparisons)
