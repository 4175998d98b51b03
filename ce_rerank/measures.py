"""Measures by their ir_measures names: parsed, checked before anything is read, and calculated.

The only module that imports ir_measures (extra `evaluate`). What a measure means, how ties are broken and how
queries are averaged is ir_measures' business, so that the numbers are those of its own command.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import InputError, UnavailableError, UsageError
from .interrupts import raise_if_interrupted

Measure = Any
"""`ir_measures.Measure`, which carries no types."""

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100")

# trec_eval's C code aborts the process on a cutoff below 1 and takes no more than an int.
_LARGEST_NUMBER = 2**31 - 1
_NUMBERS = {"cutoff": "It is a whole number from 1.", "rel": "It is a whole number from 1."}
# Each stands for many measures, some of which ir_measures prints that it lacks.
_TREC_EVAL_NICKNAMES = ("all_prefs", "all_trec", "official", "prefs", "qrels_jg", "set")
_CALCULATION_ERRORS = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    OSError,
    subprocess.SubprocessError,
)
_GDEVAL_HIGHEST_GRADE = 4


class QueryValue(NamedTuple):
    """What a measure gives for one query."""

    measure: Measure
    query_id: str
    value: float


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Parse names such as `nDCG@10` or `P(rel=2)@5`, each measure once, in the order given.

    Every measure is tried on a tiny example: one that cannot be calculated is refused before long files are
    read. Raises UsageError for a name that means nothing, with the nearest that does, and UnavailableError
    when ir_measures or the package that calculates the measure is missing.
    """
    measures = [_parse_measure(name.strip()) for name in names]
    if not measures:
        raise UsageError("No measure is named.", hint=f"Name one, for example {DEFAULT_MEASURES[0]}.")
    return list(dict.fromkeys(measures))


def iter_values(
    measures: Sequence[Measure],
    grades: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
) -> Iterator[QueryValue]:
    """Calculate every measure for every judged query.

    `grades` (whole numbers) and `scores` are by query and document. A judged query without scores has what
    ir_measures gives for an empty list. Query ids must be decimal numbers: one of the programs behind
    ir_measures, gdeval, takes no others. Raises InputError for what a measure cannot be calculated from.
    """
    if any(_provider_name(measure) == "gdeval" for measure in measures):
        _check_for_gdeval(grades, scores)
    for together in _calls(measures):
        yield from _calculate(together, grades, scores)


def aggregate(measure: Measure, values: Iterable[float]) -> float:
    """Put the values of all queries together as the measure does: a mean for most, a sum for counts."""
    aggregator = measure.aggregator()
    for value in values:
        aggregator.add(value)
    return float(aggregator.result())


def _calculate(
    measures: Sequence[Measure],
    grades: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
) -> Iterator[QueryValue]:
    try:
        for metric in _ir_measures().evaluator(measures, grades).iter_calc(scores):
            yield QueryValue(metric.measure, metric.query_id, metric.value)
    except _CALCULATION_ERRORS as error:
        raise InputError(
            f"ir_measures cannot calculate {', '.join(map(str, measures))} from these judgements and this "
            f"run ({type(error).__name__}: {error}).",
            hint="Try the measures one by one." if len(measures) > 1 else "",
        ) from error


def _calls(measures: Sequence[Measure]) -> Iterator[list[Measure]]:
    """Put measures together as ir_measures may be given them at once.

    In one call, it calculates an nDCG without `gains` by those of another (ir_measures 0.4.3).
    """
    by_grades = [measure for measure in measures if "gains" not in measure.params]
    if by_grades:
        yield by_grades
    for measure in measures:
        if "gains" in measure.params:
            yield [measure]


def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError:
        raise_if_interrupted()
        raise UnavailableError(
            "Measures are calculated by ir_measures, which is not installed.",
            hint="Install it: pip install 'ce-rerank[evaluate]'",
        ) from None
    return ir_measures


def _parse_measure(name: str) -> Measure:
    ir_measures = _ir_measures()
    try:
        with warnings.catch_warnings():
            # It parses with parts of `ast` that Python 3.12 and later deprecate.
            warnings.simplefilter("ignore", DeprecationWarning)
            measure = ir_measures.parse_measure(name)
    except (ValueError, NameError, TypeError, MemoryError, RecursionError):
        raise UsageError(f"{name!r} is no measure of ir_measures.", hint=_nearest_measure(name)) from None
    _check_parameters(name, measure)
    _check_provider(name, measure)
    _try_out(name, measure)
    return measure


def _nearest_measure(name: str) -> str:
    registry = _ir_measures().measures.registry
    base, rest = re.fullmatch(r"(\w*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]  # matches all
    if base in registry:
        return "Measures look like P@5, P(rel=2)@5 or nDCG(dcg='exp-log2')@10."
    if name not in _TREC_EVAL_NICKNAMES:
        with contextlib.suppress(ValueError):
            return f"What trec_eval calls {name} is {_ir_measures().parse_trec_measure(name)[0]} here."
    # An alias comes after the name it stands for; of two that differ in case only, the name is meant.
    known = {known.lower(): known for known in reversed(registry)}
    exact = known.get(base.lower())
    nearest = [exact] if exact else [known[key] for key in difflib.get_close_matches(base.lower(), known)]
    if not nearest:
        return f"Measures look like {', '.join(DEFAULT_MEASURES)}."
    rest = rest if re.fullmatch(r"@\d+", rest) else ""
    return f"Is it {' or '.join(near + rest for near in nearest)}?"


def _check_parameters(name: str, measure: Measure) -> None:
    taken = measure.SUPPORTED_PARAMS
    unknown = [key for key in measure.params if key not in taken]
    if unknown:
        raise UsageError(f"{name}: {measure.NAME} has no {unknown[0]}.", hint=f"It has: {', '.join(taken)}.")
    lacking = [key for key, info in taken.items() if info.required and key not in measure.params]
    if lacking:
        example = "@10" if lacking[0] == measure.AT_PARAM else f"({lacking[0]}=...)"
        raise UsageError(
            f"{name} needs its {lacking[0]}.", hint=f"Write it like this: {measure.NAME}{example}."
        )
    for key, value in measure.params.items():
        if not taken[key].validate(value):
            choices = taken[key].choices
            hint = f"It is one of: {', '.join(map(repr, choices))}." if isinstance(choices, list) else ""
            raise UsageError(f"{name}: {key} cannot be {value!r}.", hint=hint or _NUMBERS.get(key, ""))
        if key in _NUMBERS and not 1 <= value <= _LARGEST_NUMBER:
            raise UsageError(f"{name}: {key} cannot be {value}.", hint=_NUMBERS[key])


def _check_provider(name: str, measure: Measure) -> None:
    pipeline = _ir_measures().DefaultPipeline
    if pipeline.supports(measure):
        return
    missing = [provider for provider in pipeline.providers if provider.supports(measure)]
    if not missing:
        raise UsageError(f"{name}: nothing behind ir_measures calculates this measure in this form.")
    raise UnavailableError(
        f"{name} is calculated by {missing[0].NAME}, which is not installed.",
        hint=f"Install it: {missing[0].install_instructions()}",
    )


def _try_out(name: str, measure: Measure) -> None:
    grades, scores = {"1": {"a": 1, "b": 0}}, {"1": {"a": 2.0, "b": 1.0}}
    try:
        list(_ir_measures().evaluator([measure], grades).iter_calc(scores))
    except _CALCULATION_ERRORS as error:
        raise UsageError(f"{name} cannot be calculated: {str(error).rstrip('.')}.") from error


def _provider_name(measure: Measure) -> str:
    providers = _ir_measures().DefaultPipeline.providers
    return next(
        (provider.NAME for provider in providers if provider.supports(measure) and provider.is_available()),
        "",
    )


def _check_for_gdeval(
    grades: Mapping[str, Mapping[str, float]], scores: Mapping[str, Mapping[str, float]]
) -> None:
    # It would die with a line of its own, or read one id as two columns and go on.
    highest = max((int(grade) for judged in grades.values() for grade in judged.values()), default=0)
    if highest > _GDEVAL_HIGHEST_GRADE:
        raise InputError(
            f"The judgements go up to {highest}, and gdeval, which calculates ERR and nDCG(dcg='exp-log2'), "
            f"takes {_GDEVAL_HIGHEST_GRADE} at most.",
            hint="Leave these measures out.",
        )
    for documents in (*grades.values(), *scores.values()):
        spaced = next((doc_id for doc_id in documents if len(doc_id.split()) != 1), None)
        if spaced is not None:
            raise InputError(
                f"The document id {spaced!r} has a space in it, and gdeval, which calculates ERR and "
                "nDCG(dcg='exp-log2'), takes no such ids.",
                hint="Leave these measures out.",
            )
