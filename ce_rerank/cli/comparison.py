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

from ..evaluation import PERMUTATIONS, Comparison, Evaluation, MeasuredRun
from .console import clean_text

_SIGNIFICANT = 0.05
_GAINS_SHOWN = 10
_CHART_ROWS = 4  # above the axis, and as many below
_LABEL_WIDTH = 6  # +1.00, and a space
_GAIN_WIDTH = 7  # +0.1234
_WIDE = 60  # enough for a bar
_HALF_WIDE = 40  # enough for the values before and after
_TEXT_BAR_WIDTH = 10  # beside a text
_BAR_WIDTH = 40
_GAP = 2
_NARROWEST_NAME = 14
_NARROWEST_CELL = 13  # +102 -88 =110

# How a cell's pieces (value, difference, p-value, counts) go on lines; the first that fits is taken.
_LAYOUTS = (((0, 1, 2, 3),), ((0, 1), (2, 3)), ((0, 1), (2,), (3,)), ((0,), (1,), (2,), (3,)))


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
        layout = _choose_layout([cell for row in cells for cell in row], cell_width)
        # The box puts a space between columns, too.
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column("run", overflow="fold", max_width=name_width)
        for measure in measures:
            table.add_column(Text(measure), overflow="fold", max_width=cell_width)
        for name, row in zip(names, cells, strict=True):
            table.add_row(Text(name), *(_lay_out(pieces, layout) for pieces in row))
        console.print(table)
        console.print()
    console.print(Text(_explanation(evaluation, names[0]), style="dim"))


def draw_gains(
    console: Console, evaluation: Evaluation, run: MeasuredRun, measure: str, texts: Mapping[str, str]
) -> None:
    """Draw a run's gains over the first run in one measure: all of them as a chart, the largest as a list.

    `texts` are the queries' texts by id; where there are none, the bars are longer instead.
    """
    first, name = short_names([evaluation.runs[0].name, run.name])
    gains = list_gains(evaluation, run, measure)
    title = f"{measure} by query: {name} against {first}"
    console.print(Text(clean_text(title, console.encoding), style="bold"))
    largest = max((abs(gain.delta) for gain in gains), default=0.0)
    if not largest:
        console.print("No query gained or lost.")
        return
    _draw_chart(console, [gain.delta for gain in gains])
    gained = [gain for gain in gains if gain.delta > 0]
    lost = [gain for gain in reversed(gains) if gain.delta < 0]
    for heading, style, listed in (("Gained", "green", gained), ("Lost", "red", lost)):
        if listed:
            shown = listed[:_GAINS_SHOWN]
            most = f", the most of {len(listed):,}" if len(listed) > len(shown) else ""
            console.print(Text(f"\n{heading}{most}:", style="bold"))
            console.print(_gain_table(shown, largest, style, texts, console))


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
    value = run.values[measure]
    best = len(evaluation.runs) > 1 and value == max(other.values[measure] for other in evaluation.runs)
    pieces = [Text(f"{value:.4f}", style="bold" if best else "")]
    if measure in run.comparisons:
        pieces += _comparison_pieces(run.comparisons[measure])
    return pieces


def _comparison_pieces(comparison: Comparison) -> list[Text]:
    p_value = comparison.corrected_p_value
    significant = p_value < _SIGNIFICANT
    style = ("green" if comparison.delta > 0 else "red") if significant else ""
    shown = "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"
    return [
        Text(f"{comparison.delta:+.4f}", style=style),
        Text(f"{shown}{'*' if significant else ''}", style=style),
        Text(f"+{comparison.better} -{comparison.worse} ={comparison.same}", style="dim"),
    ]


def _choose_layout(cells: Sequence[Sequence[Text]], width: int) -> Sequence[Sequence[int]]:
    for layout in _LAYOUTS:
        if all(len(line) <= width for pieces in cells for line in _lay_out(pieces, layout).split()):
            return layout
    return _LAYOUTS[-1]


def _lay_out(pieces: Sequence[Text], layout: Sequence[Sequence[int]]) -> Text:
    lines = ([pieces[place] for place in places if place < len(pieces)] for places in layout)
    return Text("\n").join(Text(" ").join(line) for line in lines if line)


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


def _gain_table(
    gains: Sequence[Gain], largest: float, style: str, texts: Mapping[str, str], console: Console
) -> Table:
    """Lay out queries with their gains, then, as far as there is room: bar, values before and after, text."""
    ascii_only = console.options.ascii_only
    arrow = "->" if ascii_only else "→"
    changes = [f"{gain.before:.3f} {arrow} {gain.after:.3f}" for gain in gains]
    ids = [clean_text(gain.query_id, console.encoding) for gain in gains]
    id_width = min(max(map(cell_len, ids)), max(8, console.width // 6))
    taken = id_width + _GAIN_WIDTH + len(changes[0]) + 3 * _GAP
    bar_width = 0 if console.width < _WIDE else min(_BAR_WIDTH, console.width - taken)
    if texts:
        bar_width = min(_TEXT_BAR_WIDTH, bar_width)
    table = Table.grid(padding=(0, _GAP, 0, 0), expand=bool(texts))
    table.add_column(width=id_width, overflow="fold")
    change_width = len(changes[0]) if console.width >= _HALF_WIDE else 0
    for width in filter(None, (_GAIN_WIDTH, bar_width, change_width)):
        table.add_column(width=width, overflow="fold")
    if texts:
        table.add_column(ratio=1, no_wrap=True, overflow="crop" if ascii_only else "ellipsis")
    for query_id, gain, change in zip(ids, gains, changes, strict=True):
        row = [Text(query_id), Text(f"{gain.delta:+.4f}")]
        if bar_width:
            row.append(Text(_bar(abs(gain.delta) / largest, bar_width, ascii_only), style=style))
        if change_width:
            row.append(Text(change, style="dim"))
        if texts:
            row.append(Text(clean_text(texts.get(gain.query_id, ""), console.encoding)))
        table.add_row(*row)
    return table


def _bar(share: float, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(share * width * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
