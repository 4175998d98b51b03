"""Draw a ranking as a table for a terminal, with the part of a long text that has most of the query's words.

Nothing in a document can break the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from ..types import Passage, RankedDocument, Ranking
from .console import clean_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# A text column narrower than this is worse than text below the other columns.
_MIN_TEXT_WIDTH = 36
_GAP = "  "
_EXCERPT_CHARACTERS = 300  # of an excerpt, about
# Kana, Han and Hangul are mostly written without spaces: pairs of characters stand for words.
_CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORDS = r"[^\s!-&(-/:-@\[-`{-~\u2018\u201c-\u201f\u2026\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+"
_SENTENCE_END = r"[.!?…]['\"”’)]*\s+|[\u3002\uff01\uff1f]\s*|\n\s*"


def draw_ranking(
    ranking: Ranking, console: Console, *, details: bool = False, with_text: bool = True
) -> None:
    """Draw a ranking: rank, score, a bar that compares the score with the others, the id, the text.

    Of a long text the part with most of the query's words is shown, and these are marked. With passages it is
    a part of the best passage, with `id:line` if the document is a file. `details` adds how many tokens
    the model read and which texts were cut. If there is no room for the text beside the other columns, it is
    drawn below them.
    """
    from rich.text import Text

    words = find_words(ranking.query.text)
    starts = [find_excerpt(_read_text(hit), words) for hit in ranking]
    header, *heads = _draw_heads(ranking, starts, console, details=details, with_text=with_text)
    margin = header.cell_len + len(_GAP)
    is_beside = console.width - margin >= _MIN_TEXT_WIDTH
    if not is_beside:
        margin = len(str(len(ranking))) + len(_GAP)
    elif with_text:
        header.append(f"{_GAP}text", "dim")
    lines = [header] if heads else []
    for head, hit, start in zip(heads, ranking, starts, strict=True):
        lines.append(head)
        if with_text:
            width = max(console.width - margin, 10)
            excerpt = _draw_excerpt(_read_text(hit), start, words, console, width)
            if is_beside and excerpt:
                head.append(_GAP).append_text(excerpt.pop(0))
            lines += [Text(" " * margin).append_text(line) for line in excerpt]
    if summary := _count(ranking):
        lines.append(Text(summary, "dim"))
    for line in lines:
        line.rstrip()
    console.print(Text("\n").join(lines), soft_wrap=True)


def _count(ranking: Ranking) -> str:
    """Say how many documents are not shown, and how many BM25 has left out."""
    scored, left_out = ranking.coverage.documents, ranking.coverage.left_out
    shown = len(ranking) or "none"
    if left_out:
        chosen = f"{shown} of {scored:,} chosen by BM25 from {scored + left_out:,}"
        return chosen if scored else f"no document of {left_out:,} chosen by BM25"
    if len(ranking) < scored:
        return f"{shown} of {scored:,} documents"
    return "" if len(ranking) else "no documents"


def _draw_heads(
    ranking: Ranking, starts: Sequence[int], console: Console, *, details: bool, with_text: bool
) -> list[Text]:
    """Return a line for the header and for each document, with the columns before the text."""
    from rich.text import Text

    scores = [hit.score for hit in ranking]
    columns: list[tuple[str, list[str], str, Literal["left", "right"]]] = [
        ("", [str(hit.rank) for hit in ranking], "dim", "right"),
        ("score", _format_scores(scores), "", "right"),
        ("", _draw_bars(scores, 16 if console.width >= 100 else 10), "cyan", "left"),
    ]
    if details:
        columns.append(("tokens", [str(hit.tokens) for hit in ranking], "dim", "right"))
        if any(hit.truncated for hit in ranking):
            columns.append(("", ["cut" if hit.truncated else "" for hit in ranking], "yellow", "left"))
    names = [_make_name(hit, start) for hit, start in zip(ranking, starts, strict=True)]
    if any(names):
        columns.append(("id", names, "cyan", "left"))
    elif not with_text:
        columns.append(("index", [str(hit.index) for hit in ranking], "cyan", "left"))
    padded = []
    for header, cells, style, side in columns:
        column = [Text(header, "dim"), *(Text(cell, style) for cell in cells)]
        width = max(cell.cell_len for cell in column)
        for cell in column:
            cell.align(side, width)
        padded.append(column)
    return [Text(_GAP).join(cells) for cells in zip(*padded, strict=True)]


def _format_scores(scores: Sequence[float]) -> list[str]:
    """Write scores with the fewest decimals, from three to six, that show which neighbours differ."""
    written: list[str] = []
    for decimals in range(3, 7):
        written = ["-" if score == -math.inf else f"{score:.{decimals}f}" for score in scores]
        if all(a != b or one == two for (a, one), (b, two) in pairwise(zip(written, scores, strict=True))):
            break
    return written


def _draw_bars(scores: Sequence[float], width: int) -> list[str]:
    """Draw a bar for each score: half a cell for the lowest, `width` cells for the highest, 0 for a blank."""
    scored = [score for score in scores if score > -math.inf] or [0.0]
    lowest, spread = min(scored), max(scored) - min(scored)
    bars = []
    for score in scores:
        share = (score - lowest) / spread if spread else 1.0
        halves = 0 if score == -math.inf else 1 + round((2 * width - 1) * share)
        bars.append("\u2501" * (halves // 2) + "\u2578" * (halves % 2))
    return bars


def _make_name(hit: RankedDocument, start: int) -> str:
    """Return a document's id and, with passages of a file, the line of what is shown."""
    name = "" if hit.id is None else clean_text(str(hit.id))
    line = line_of_excerpt(hit, start) if hit.passage else 0
    if name:
        is_file = hit.id in (hit.document.origin, "-")  # as --whole-files names them
        return f"{name}:{line}" if line and is_file else name
    # Without an id, the first line goes without saying.
    return f"line {line}" if line > 1 else ""


def _read_text(hit: RankedDocument) -> str:
    """Return what the model has read: the best passage, or the document up to where it was cut."""
    if hit.passage is not None:
        return hit.passage.text
    return hit.text[: hit.characters_read] if hit.truncated else hit.text


def _draw_excerpt(text: str, start: int, words: re.Pattern[str], console: Console, width: int) -> list[Text]:
    """Return the lines of a text's excerpt, with an ellipsis if something is left out."""
    from rich.text import Text

    style = "bold underline" if console.no_color else "bold magenta"
    max_lines = max(2, min(5, 300 // width))
    end = start + 2 * max_lines * width  # more than fits; the rest of a long text need not be cleaned
    shown = Text(("\u2026 " if start else "") + clean_text(text[start:end]))
    shown.highlight_regex(words, style)
    lines = list(shown.wrap(console, width))
    if len(lines) > max_lines or len(text) > end:
        lines = list(shown.wrap(console, width - 2))[:max_lines]
        lines[-1].rstrip()
        lines[-1].append(" \u2026")
    return lines if shown else []


def find_words(query: str) -> re.Pattern[str]:
    """Return a pattern for the query's words, in any case; short words only if there are no others."""
    words = {word.strip("'’") for word in re.findall(_WORDS, re.sub(_CJK, " ", query))} - {""}
    words = {word for word in words if len(word) > 3 or not word.islower()} or words
    pairs = [(match[0], match[1]) for match in re.findall(f"(?=({_CJK})({_CJK}))", query)]
    parts = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in sorted(words, key=len, reverse=True)]
    parts += [f"{first}(?={second})|(?<={first}){second}" for first, second in dict.fromkeys(pairs)]
    return re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)


def find_excerpt(text: str, words: re.Pattern[str]) -> int:
    """Return the offset at which the excerpt begins: at a sentence or a word, or 0 if the text is short.

    It is the first place from which the excerpt has most letters of the query's different words: short words,
    which are in every text, count little.
    """
    if len(text) <= _EXCERPT_CHARACTERS:
        return 0
    found = [(match.start(), match[0].casefold()) for match in words.finditer(text)]
    window = _EXCERPT_CHARACTERS * 3 // 4
    last = len(text) - window  # an excerpt that began later would be too short
    last += len(re.match(r"\S*\s|", text[last:])[0])  # type: ignore[index]  # matches all

    def count_letters(begin: int) -> int:
        return sum(map(len, {word for start, word in found if begin <= start < begin + window}))

    begins = [0, *(min(_step_back(text, start), last) for start, _ in found)]
    return max(begins, key=count_letters)


def _step_back(text: str, start: int) -> int:
    """Return where a sentence, or else a word, begins, at most a quarter of an excerpt before `start`."""
    floor = start - _EXCERPT_CHARACTERS // 4
    if floor <= 0:
        return 0
    sentence = re.search(_SENTENCE_END, text[floor:start])
    space = sentence or re.search(r"\s+", text[floor:start])
    return floor + space.end() if space else floor


def line_of_excerpt(hit: RankedDocument, start: int) -> int:
    """Return the line of the document, from 1, where an excerpt of its best passage starts."""
    text, place = hit.text, start + (hit.passage.start if hit.passage else 0)
    place += len(text[place:]) - len(text[place:].lstrip())
    return text.count("\n", 0, place) + 1


def cut_passages(ranking: Ranking) -> Ranking:
    """Return the ranking with each best passage cut to its excerpt, for `--to text`."""
    words = find_words(ranking.query.text)

    def cut(hit: RankedDocument) -> RankedDocument:
        if hit.passage is None:
            return hit
        text = hit.passage.text
        start = find_excerpt(text, words)
        shown = text[start : start + _EXCERPT_CHARACTERS]
        if len(text) > start + _EXCERPT_CHARACTERS:
            shown = re.sub(r"\s\S*\Z", "", shown)  # no half word
        place = hit.passage.start + start
        passage = Passage(shown, place, place + len(shown), line_of_excerpt(hit, start))
        return replace(hit, passage=passage)

    return replace(ranking, results=tuple(map(cut, ranking)))
