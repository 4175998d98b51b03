"""Draw how runs compare: the table of measures, and the queries that gained and lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..evaluation import PERMUTATIONS, MeasuredRun
from .console import clean_text, draw_plainly

_SIGNIFICANT = 0.05
_GAINS_SHOWN = 10
_CHART_ROWS = 4  # above the axis, and as many below
_LABEL_WIDTH = 6  # +1.00, and a space


def draw_evaluation(console: Console, runs: Sequence[MeasuredRun]) -> None:
    """Draw a row for each measure and run: its value, and how it compares with the first run.

    The best value of a measure is bold, and a significant difference has a colour.
    """
    names = [clean_text(name) for name in short_names(runs)]
    compares = len(names) > 1
    # The box puts a space between columns, too.
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("measure", "run", "value", *(("change", "p", "queries") if compares else ())):
        table.add_column(heading, no_wrap=heading != "run", overflow="fold")
    for measure in runs[0].values:
        best = max(run.values[measure] for run in runs)
        for place, (name, run) in enumerate(zip(names, runs, strict=True)):
            is_best = compares and run.values[measure] == best
            value = Text(f"{run.values[measure]:.4f}", style="bold" if is_best else "")
            table.add_row(Text("" if place else measure), Text(name), value, *_compared(run, measure))
    draw_plainly(console, table)
    told = f"{len(next(iter(runs[0].by_query.values()))):,} judged queries."
    if compares:
        others = len(names) - 1
        holm = f", Holm's correction for {others} runs" if others > 1 else ""
        told += (
            f" Changes are from {names[0]}. p: paired randomisation test, at most {PERMUTATIONS:,} "
            f"permutations{holm}; * under {_SIGNIFICANT}. queries: those that got better (+), worse (-), "
            f"stayed (=).{' The best is bold.' if console.is_terminal else ''}"
        )
    draw_plainly(console, Text(f"\n{told}", style="dim"))


def _compared(run: MeasuredRun, measure: str) -> list[Text]:
    """Return the cells that compare a run with the first: change, p-value, counts of queries."""
    comparison = run.comparisons.get(measure)
    if comparison is None:
        return []
    p_value = comparison.corrected_p_value
    is_significant = p_value < _SIGNIFICANT
    style = ("green" if comparison.delta > 0 else "red") if is_significant else ""
    told = "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return [
        Text(f"{comparison.delta:+.4f}", style=style),
        Text(f"{told}{'*' if is_significant else ''}", style=style),
        Text(f"+{comparison.better} -{comparison.worse} ={comparison.same}"),
    ]


def draw_gains(console: Console, first: MeasuredRun, run: MeasuredRun, texts: Mapping[str, str]) -> None:
    """Draw a run's gains over the first run in the first measure: a chart, and the largest with `texts`."""
    measure = next(iter(first.by_query))
    first_name, name = short_names([first, run])
    title = f"{measure} by query: {name} against {first_name}"
    console.print(Text(clean_text(title), style="bold"))
    before, after = first.by_query[measure], run.by_query[measure]
    gains = list_gains(before, after)
    gained = [query_id for query_id, gain in gains.items() if gain > 0]
    lost = [query_id for query_id, gain in reversed(gains.items()) if gain < 0]
    if not gained and not lost:
        console.print("No query gained or lost.")
        return
    _draw_chart(console, list(gains.values()))
    for heading, style, listed in (("Gained", "green", gained), ("Lost", "red", lost)):
        if not listed:
            continue
        most = f", the most of {len(listed):,}" if len(listed) > _GAINS_SHOWN else ""
        console.print(Text(f"\n{heading}{most}:", style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0), expand=bool(texts))
        table.add_column(overflow="fold")
        table.add_column(width=len("+0.1234"), style=style)
        table.add_column(width=len("0.123 → 0.123"), style="dim")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for query_id in listed[:_GAINS_SHOWN]:
            values = f"{before[query_id]:.3f} → {after[query_id]:.3f}"
            text = Text(clean_text(texts.get(query_id, "")))
            table.add_row(Text(clean_text(query_id)), f"{gains[query_id]:+.4f}", values, text)
        draw_plainly(console, table)


def list_gains(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the gain of each query, the largest first; not of queries where the measure is not defined."""
    gains = {query_id: after[query_id] - value for query_id, value in before.items()}
    known = {query_id: gain for query_id, gain in gains.items() if not math.isnan(gain)}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def short_names(runs: Sequence[MeasuredRun]) -> list[str]:
    """Return the runs' names without folders, unless two would be the same then."""
    names = [run.name for run in runs]
    short = [Path(name).name or name for name in names]
    return short if len(set(short)) == len(set(names)) else names


def _draw_chart(console: Console, gains: Sequence[float]) -> None:
    """Draw gains, the largest first, as columns up and losses as columns down, in steps of half a row."""
    width = max(1, min(len(gains), console.width - _LABEL_WIDTH))
    cuts = [place * len(gains) // width for place in range(width + 1)]
    means = [sum(gains[start:stop]) / (stop - start) for start, stop in pairwise(cuts)]
    largest = max(map(abs, means)) or 1.0
    # In half rows; the smallest difference has one.
    heights = [math.ceil(abs(mean) / largest * 2 * _CHART_ROWS) for mean in means]

    def draw_row(level: int, sign: int, blocks: str) -> str:
        filled = [
            max(0, min(2, height - 2 * level)) if sign * mean > 0 else 0
            for height, mean in zip(heights, means, strict=True)
        ]
        return "".join(blocks[half_rows] for half_rows in filled).rstrip()

    rows = [(draw_row(level, 1, " ▄█"), "green") for level in reversed(range(_CHART_ROWS))]
    rows.append(("─" * width, "dim"))
    rows += [(draw_row(level, -1, " ▀█"), "red") for level in range(_CHART_ROWS)]
    labels = {0: f"{largest:+.2f}", _CHART_ROWS: "0", 2 * _CHART_ROWS: f"{-largest:+.2f}"}
    for place, row in enumerate(rows):
        label = labels.get(place, "").rjust(_LABEL_WIDTH - 1)
        console.print(Text.assemble(label, " ", row), no_wrap=True)
    if width < len(gains):
        console.print(Text(f"A column is the mean of {len(gains) / width:.1f} queries.", style="dim"))
