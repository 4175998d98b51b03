from __future__ import annotations

import io
import math
from dataclasses import replace

from rich.console import Console

from ce_rerank.cli.comparison import draw_evaluation, draw_gains, list_gains
from ce_rerank.evaluation import Comparison, MeasuredRun


def console(width: int, *, color: bool = False) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    return Console(
        file=file,
        width=width,
        markup=False,
        highlight=False,
        force_terminal=color or None,
        color_system="standard" if color else None,
        legacy_windows=False,
    )


def drawn(target: Console) -> str:
    buffer = target.file.buffer.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in buffer.decode(target.encoding).splitlines())


def measured(
    name: str, value: float, values: list[float], comparison: Comparison | None = None
) -> MeasuredRun:
    by_query = {f"q{number}": of_query for number, of_query in enumerate(values, 1)}
    compared = {"nDCG@10": comparison} if comparison else {}
    return MeasuredRun(name, {"nDCG@10": value}, {"nDCG@10": by_query}, 0, 0, 0.0, compared)


BEFORE = measured("runs/bm25.trec", 0.5, [0.5, 0.5, 0.5])
BETTER = measured("runs/reranked.trec", 0.75, [1.0, 0.75, 0.5], Comparison(0.25, 0.0004, 0.0008, 2, 0, 1))
WORSE = measured("runs/shuffled.trec", 0.25, [0.0, 0.5, 0.25], Comparison(-0.25, 0.03, 0.03, 0, 2, 1))


def test_the_best_is_bold_and_only_what_is_significant_has_a_colour() -> None:
    target = console(80, color=True)
    luck = measured("luck.trec", 0.5, [0.5, 0.5, 0.5], Comparison(0.0, 1.0, 1.0, 0, 0, 3))
    draw_evaluation(target, [BEFORE, BETTER, WORSE, luck])
    text = drawn(target)
    assert "\x1b[1m0.7500\x1b[0m" in text
    assert "The best is bold." in " ".join(text.split())
    assert "\x1b[1m0.5000" not in text
    assert "\x1b[32m+0.2500" in text
    assert "\x1b[31m-0.2500" in text
    assert "m+0.0000" not in text


def test_escape_sequences_in_names_and_ids_do_not_reach_the_terminal() -> None:
    target = console(80)
    odd = replace(BETTER, name="\x1b[31mred.trec", by_query={"nDCG@10": {"\x1b[2J": 1.0, "q2": 1.0}})
    first = replace(BEFORE, by_query={"nDCG@10": {"\x1b[2J": 0.5, "q2": 0.5}})
    draw_evaluation(target, [first, odd])
    draw_gains(target, first, odd, {"q2": "\x1b]0;title\x07"})
    assert "\x1b" not in drawn(target)


def test_gains_come_largest_first_and_equal_ones_by_query() -> None:
    before = dict.fromkeys("abcde", 0.5)
    after = dict(zip("abcde", [0.25, 1.0, math.nan, 0.5, 1.0], strict=True))
    assert list(list_gains(before, after).items()) == [("b", 0.5), ("e", 0.5), ("d", 0.0), ("a", -0.25)]


def test_gains_are_a_chart_and_what_gained_and_lost_most_is_listed_with_as_much_text_as_fits() -> None:
    target = console(60)
    mixed = measured("reranked.trec", 0.5, [1.0, 0.5, 0.25])
    texts = {"q1": "what similarity laws must be obeyed when constructing aeroelastic models of aircraft"}
    draw_gains(target, BEFORE, mixed, texts)
    assert drawn(target) == (
        "nDCG@10 by query: reranked.trec against bm25.trec\n"
        "+0.50 █\n"
        "      █\n"
        "      █\n"
        "      █\n"
        "    0 ───\n"
        "        █\n"
        "        █\n"
        "\n"
        "-0.50\n"
        "\n"
        "Gained:\n"
        "q1  +0.5000  0.500 → 1.000  what similarity laws must be ob…\n"
        "\n"
        "Lost:\n"
        "q3  -0.2500  0.500 → 0.250"
    )


def many_gains(queries: int) -> tuple[MeasuredRun, MeasuredRun]:
    after = [number / queries for number in range(queries)]
    return measured("before", 0.5, [0.5] * queries), measured("after", 0.5, after)


def test_ten_of_many_queries_are_listed() -> None:
    target = console(80)
    draw_gains(target, *many_gains(740), {})
    assert "A column is the mean of 10.0 queries." in drawn(target)
    assert "Gained, the most of 369:" in drawn(target)
    assert drawn(target).count("0.500 → ") == 20
