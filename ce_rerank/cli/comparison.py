"""Draws how runs compare: the table of measures, and which queries gained and lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..evaluation import PERMUTATIONS, Evaluation, MeasuredRun
from .console import clean_text

_SIGNIFICANT = 0.05
_GAINS_SHOWN = 10
_CHART_ROWS = 4  # above the axis, and as many below
_LABEL_WIDTH = 6  # +1.00, and a space
_GAP = 2
_NARROWEST_NAME = 14
_NARROWEST_CELL = 14  # 0.1234 +0.1234


class Gain(NamedTuple):
    """How much better a run does on one query than the first run; negative when it does worse."""

    delta: float
    query_id: str
    before: float
    after: float


def draw_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Draw a row a run and a column a measure, in as many tables as it takes to fit the console's width.

    Below a run's value stand its difference from the first run, the p-value, and the queries that got better,
    worse, or stayed; the best value of a column is bold.
    """
    names = [
        clean_text(name, console.encoding) for name in short_names([run.name for run in evaluation.runs])
    ]
    at_once = max(1, (console.width - _NARROWEST_NAME) // (_NARROWEST_CELL + _GAP))
    for start in range(0, len(evaluation.measures), at_once):
        measures = evaluation.measures[start : start + at_once]
        room = console.width - len(measures) * (_NARROWEST_CELL + _GAP)
        name_width = min(max(map(cell_len, (*names, "run"))), max(_NARROWEST_NAME, room))
        cell_width = (console.width - name_width) // len(measures) - _GAP
        cells = [[_pieces(evaluation, run, measure) for measure in measures] for run in evaluation.runs]
        pieces = [cell for row in cells for cell in row]
        fits = all(len(Text(" ").join(cell)) <= cell_width for cell in pieces)
        between = Text(" " if fits else "\n")
        # The box puts a space between columns, too.
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column("run", overflow="fold", max_width=name_width)
        for measure in measures:
            table.add_column(Text(measure), overflow="fold", max_width=cell_width)
        for name, row in zip(names, cells, strict=True):
            table.add_row(Text(name), *map(between.join, row))
        console.print(table)
        console.print()
    console.print(Text(_explanation(evaluation, names[0]), style="dim"))


def draw_gains(
    console: Console, evaluation: Evaluation, run: MeasuredRun, measure: str, texts: Mapping[str, str]
) -> None:
    """Draw a run's gains over the first run: all as a chart, the largest as a list with `texts` by id."""
    first, name = short_names([evaluation.runs[0].name, run.name])
    title = f"{measure} by query: {name} against {first}"
    console.print(Text(clean_text(title, console.encoding), style="bold"))
    gains = list_gains(evaluation, run, measure)
    gained = [gain for gain in gains if gain.delta > 0]
    lost = [gain for gain in reversed(gains) if gain.delta < 0]
    if not gained and not lost:
        console.print("No query gained or lost.")
        return
    _draw_chart(console, [gain.delta for gain in gains])
    for heading, style, listed in (("Gained", "green", gained), ("Lost", "red", lost)):
        if listed:
            shown = listed[:_GAINS_SHOWN]
            most = f", the most of {len(listed):,}" if len(listed) > len(shown) else ""
            console.print(Text(f"\n{heading}{most}:", style="bold"))
            console.print(_gain_table(shown, style, texts, console))


def list_gains(evaluation: Evaluation, run: MeasuredRun, measure: str) -> list[Gain]:
    """Return the gains on the queries for which the measure is defined in both runs, the largest first."""
    before, after = evaluation.runs[0].by_query[measure], run.by_query[measure]
    rows = zip((after - before).tolist(), evaluation.query_ids, before.tolist(), after.tolist(), strict=True)
    return sorted((Gain(*row) for row in rows if not math.isnan(row[0])), key=lambda gain: -gain.delta)


def short_names(names: Sequence[str]) -> list[str]:
    """Return the file names alone, unless two of them are then the same."""
    short = [Path(name).name or name for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _pieces(evaluation: Evaluation, run: MeasuredRun, measure: str) -> list[Text]:
    """Return what a cell shows: the value with its difference, the p-value, the counts of queries."""
    value = run.values[measure]
    best = len(evaluation.runs) > 1 and value == max(other.values[measure] for other in evaluation.runs)
    shown = Text(f"{value:.4f}", style="bold" if best else "")
    if measure not in run.comparisons:
        return [shown]
    comparison = run.comparisons[measure]
    p_value = comparison.corrected_p_value
    significant = p_value < _SIGNIFICANT
    style = ("green" if comparison.delta > 0 else "red") if significant else ""
    told = "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"
    return [
        Text.assemble(shown, " ", (f"{comparison.delta:+.4f}", style)),
        Text(f"{told}{'*' if significant else ''}", style=style),
        Text(f"+{comparison.better} -{comparison.worse} ={comparison.same}", style="dim"),
    ]


def _explanation(evaluation: Evaluation, first: str) -> str:
    queries = f"{len(evaluation.query_ids):,} judged queries."
    compared = len(evaluation.runs) - 1
    if not compared:
        return queries
    holm = f", Holm's correction for {compared} runs" if compared > 1 else ""
    return (
        f"{queries} Below a value: the difference from {first}; its p-value (paired randomisation test, "
        f"at most {PERMUTATIONS:,} permutations{holm}; * under {_SIGNIFICANT}); queries that got "
        "better (+), worse (-), stayed (=). The best is bold."
    )


def _draw_chart(console: Console, deltas: Sequence[float]) -> None:
    """Draw gains, the largest first, as columns up and losses as columns down, half a row fine."""
    full, upper, lower, axis = "###-" if console.options.ascii_only else "█▀▄─"
    width = max(1, min(len(deltas), console.width - _LABEL_WIDTH))
    cuts = [place * len(deltas) // width for place in range(width + 1)]
    means = [sum(deltas[start:stop]) / (stop - start) for start, stop in pairwise(cuts)]
    largest = max(map(abs, means)) or 1.0
    # Counted in half rows; what differs at all is to be seen.
    heights = [
        math.copysign(max(1, round(abs(mean) / largest * 2 * _CHART_ROWS)), mean) if mean else 0
        for mean in means
    ]
    up = [(_columns(heights, level, full, lower), "green") for level in range(_CHART_ROWS, 0, -1)]
    flipped = [-height for height in heights]
    down = [(_columns(flipped, level, full, upper), "red") for level in range(1, _CHART_ROWS + 1)]
    labels = {0: f"{largest:+.2f}", _CHART_ROWS: "0", 2 * _CHART_ROWS: f"{-largest:+.2f}"}
    for place, (columns, style) in enumerate([*up, (axis * width, "dim"), *down]):
        label = labels.get(place, "").rjust(_LABEL_WIDTH - 1)
        console.print(Text.assemble(label, " ", (columns, style)), no_wrap=True)
    if width < len(deltas):
        console.print(Text(f"A column is the mean of {len(deltas) / width:.1f} queries.", style="dim"))


def _columns(heights: Sequence[float], level: int, full: str, half: str) -> str:
    """Draw one row of a chart, `level` rows from the axis: what is full there, half full, or empty."""
    reached = (height - 2 * (level - 1) for height in heights)
    return "".join(full if halves >= 2 else half if halves == 1 else " " for halves in reached).rstrip()


def _gain_table(gains: Sequence[Gain], style: str, texts: Mapping[str, str], console: Console) -> Table:
    """Lay out queries with their gains, the values before and after, and as much of a text as fits."""
    ascii_only = console.options.ascii_only
    arrow = "->" if ascii_only else "→"
    table = Table.grid(padding=(0, _GAP, 0, 0), expand=bool(texts))
    table.add_column(overflow="fold")
    table.add_column(width=len("+0.1234"))
    table.add_column(width=len(f"0.123 {arrow} 0.123"), style="dim")
    table.add_column(ratio=1, no_wrap=True, overflow="crop" if ascii_only else "ellipsis")
    for gain in gains:
        table.add_row(
            Text(clean_text(gain.query_id, console.encoding)),
            Text(f"{gain.delta:+.4f}", style=style),
            f"{gain.before:.3f} {arrow} {gain.after:.3f}",
            Text(clean_text(texts.get(gain.query_id, ""), console.encoding)),
        )
    return table
