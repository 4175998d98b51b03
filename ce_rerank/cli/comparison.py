"""Draw how runs compare: the table of measures, and the queries that gained and lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

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


class Gain(NamedTuple):
    """How much better a run is than the first run for one query; negative if it is worse."""

    delta: float
    query_id: str
    before: float
    after: float


def draw_evaluation(console: Console, runs: Sequence[MeasuredRun]) -> None:
    """Draw a row for each measure and run: its value, and how it compares with the first run.

    The best value of a measure is bold, and a significant difference has a colour.
    """
    names = [clean_text(name, console.encoding) for name in short_names(runs)]
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
    console.print(Text(clean_text(title, console.encoding), style="bold"))
    gains = list_gains(first.by_query[measure], run.by_query[measure])
    gained = [gain for gain in gains if gain.delta > 0]
    lost = [gain for gain in reversed(gains) if gain.delta < 0]
    if not gained and not lost:
        console.print("No query gained or lost.")
        return
    _draw_chart(console, [gain.delta for gain in gains])
    for heading, style, listed in (("Gained", "green", gained), ("Lost", "red", lost)):
        if listed:
            most = f", the most of {len(listed):,}" if len(listed) > _GAINS_SHOWN else ""
            console.print(Text(f"\n{heading}{most}:", style="bold"))
            draw_plainly(console, _gain_table(listed[:_GAINS_SHOWN], style, texts, console))


def list_gains(before: Mapping[str, float], after: Mapping[str, float]) -> list[Gain]:
    """Return the gains of queries, the largest first; not of queries where the measure is not defined."""
    gains = [
        Gain(after[query_id] - value, query_id, value, after[query_id]) for query_id, value in before.items()
    ]
    return sorted((gain for gain in gains if not math.isnan(gain.delta)), key=lambda gain: -gain.delta)


def short_names(runs: Sequence[MeasuredRun]) -> list[str]:
    """Return the runs' names without folders, unless two would be the same then."""
    names = [run.name for run in runs]
    short = [Path(name).name or name for name in names]
    return short if len(set(short)) == len(set(names)) else names


def _draw_chart(console: Console, deltas: Sequence[float]) -> None:
    """Draw gains, the largest first, as columns up and losses as columns down, in steps of half a row."""
    full, upper, lower, axis = "###-" if console.options.ascii_only else "█▀▄─"
    width = max(1, min(len(deltas), console.width - _LABEL_WIDTH))
    cuts = [place * len(deltas) // width for place in range(width + 1)]
    means = [sum(deltas[start:stop]) / (stop - start) for start, stop in pairwise(cuts)]
    largest = max(map(abs, means)) or 1.0
    # In half rows; the smallest difference has one.
    heights = [
        math.copysign(max(1, round(abs(mean) / largest * 2 * _CHART_ROWS)), mean) if mean else 0
        for mean in means
    ]

    def draw_row(level: int, sign: int, half: str) -> str:
        reached = (sign * height - 2 * (level - 1) for height in heights)
        return "".join(full if halves >= 2 else half if halves == 1 else " " for halves in reached).rstrip()

    levels = range(1, _CHART_ROWS + 1)
    rows = [(draw_row(level, 1, lower), "green") for level in reversed(levels)]
    rows += [(axis * width, "dim"), *((draw_row(level, -1, upper), "red") for level in levels)]
    labels = {0: f"{largest:+.2f}", _CHART_ROWS: "0", 2 * _CHART_ROWS: f"{-largest:+.2f}"}
    for place, row in enumerate(rows):
        label = labels.get(place, "").rjust(_LABEL_WIDTH - 1)
        console.print(Text.assemble(label, " ", row), no_wrap=True)
    if width < len(deltas):
        console.print(Text(f"A column is the mean of {len(deltas) / width:.1f} queries.", style="dim"))


def _gain_table(gains: Sequence[Gain], style: str, texts: Mapping[str, str], console: Console) -> Table:
    """Return a table of queries: gain, the values before and after, and as much of the text as fits."""
    is_ascii = console.options.ascii_only
    arrow = "->" if is_ascii else "→"
    table = Table.grid(padding=(0, 2, 0, 0), expand=bool(texts))
    table.add_column(overflow="fold")
    table.add_column(width=len("+0.1234"))
    table.add_column(width=len(f"0.123 {arrow} 0.123"), style="dim")
    table.add_column(ratio=1, no_wrap=True, overflow="crop" if is_ascii else "ellipsis")
    for gain in gains:
        table.add_row(
            Text(clean_text(gain.query_id, console.encoding)),
            Text(f"{gain.delta:+.4f}", style=style),
            f"{gain.before:.3f} {arrow} {gain.after:.3f}",
            Text(clean_text(texts.get(gain.query_id, ""), console.encoding)),
        )
    return table
