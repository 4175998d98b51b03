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
    excerpts = [find_excerpt(hit, words) for hit in ranking]
    header, *heads = _draw_heads(ranking, excerpts, console, details=details, with_text=with_text)
    margin = header.cell_len + len(_GAP)
    is_beside = console.width - margin >= _MIN_TEXT_WIDTH
    if not is_beside:
        margin = len(str(len(ranking))) + len(_GAP)
    elif with_text:
        header.append(f"{_GAP}text", "dim")
    lines = [header] if heads else []
    for head, hit, excerpt in zip(heads, ranking, excerpts, strict=True):
        lines.append(head)
        if with_text:
            below = _draw_excerpt(hit, excerpt, words, console, max(console.width - margin, 10))
            if is_beside and below:
                head.append(_GAP).append_text(below.pop(0))
            lines += [Text(" " * margin).append_text(line) for line in below]
    scored, left_out = ranking.coverage.documents, ranking.coverage.left_out
    if left_out or len(ranking) < max(scored, 1):
        chosen = f"{scored:,} chosen by BM25 from {scored + left_out:,}"
        lines.append(Text(f"{len(ranking)} of {chosen if left_out else f'{scored:,} documents'}", "dim"))
    for line in lines:
        line.rstrip()
    console.print(Text("\n").join(lines), soft_wrap=True)


def _draw_heads(
    ranking: Ranking, excerpts: Sequence[Passage], console: Console, *, details: bool, with_text: bool
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
    names = [_make_name(hit, excerpt.line) for hit, excerpt in zip(ranking, excerpts, strict=True)]
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


def _make_name(hit: RankedDocument, line: int) -> str:
    """Return a document's id and, with passages of a file, the line of what is shown."""
    if hit.id is None:  # line 1 is not worth a name
        return f"line {line}" if hit.passage and line > 1 else ""
    is_file = hit.id in (hit.document.origin, "-")  # as --whole-files names them
    return clean_text(str(hit.id)) + (f":{line}" if hit.passage and is_file else "")


def _draw_excerpt(
    hit: RankedDocument, excerpt: Passage, words: re.Pattern[str], console: Console, width: int
) -> list[Text]:
    """Return the lines of an excerpt, with an ellipsis where something is left out."""
    from rich.text import Text

    begin, end = _read_range(hit)
    shown = Text(("\u2026 " if excerpt.start > begin else "") + clean_text(excerpt.text))
    shown.highlight_regex(words, "bold underline" if console.no_color else "bold magenta")
    max_lines = max(2, min(5, _EXCERPT_CHARACTERS // width))
    lines = list(shown.wrap(console, width))
    if len(lines) > max_lines or excerpt.end < end:
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


def _read_range(hit: RankedDocument) -> tuple[int, int]:
    """Return where in the document the model has read: the best passage, or all up to where it was cut."""
    if hit.passage is not None:
        return hit.passage.start, hit.passage.end
    return 0, hit.characters_read if hit.truncated else len(hit.text)


def find_excerpt(hit: RankedDocument, words: re.Pattern[str]) -> Passage:
    """Return what is shown of a document: a part of what the model has read, with its line.

    It begins at a sentence or a word: the first from which it has most letters of the query's different
    words. Short words, which are in every text, count little.
    """
    begin, end = _read_range(hit)
    text, start = hit.text[begin:end], 0
    if len(text) > _EXCERPT_CHARACTERS:
        found = [(match.start(), match[0].casefold()) for match in words.finditer(text)]
        window = _EXCERPT_CHARACTERS * 3 // 4
        last = len(text) - window  # an excerpt that began later would be too short
        last += len(re.match(r"\S*\s|", text[last:])[0])  # type: ignore[index]  # matches all

        def count_letters(start: int) -> int:
            return sum(map(len, {word for place, word in found if start <= place < start + window}))

        starts = [0, *(min(_step_back(text, place), last) for place, _ in found)]
        start = max(starts, key=count_letters)
    shown = text[start : start + _EXCERPT_CHARACTERS]
    if start + len(shown) < len(text):
        shown = re.sub(r"\s\S{,40}\Z", "", shown)  # no half word
    start += begin
    first_word = start + len(shown) - len(shown.lstrip())
    return Passage(shown, start, start + len(shown), hit.text.count("\n", 0, first_word) + 1)


def _step_back(text: str, start: int) -> int:
    """Return where a sentence, or else a word, begins, at most a quarter of an excerpt before `start`."""
    floor = start - _EXCERPT_CHARACTERS // 4
    if floor <= 0:
        return 0
    sentence = re.search(_SENTENCE_END, text[floor:start])
    space = sentence or re.search(r"\s+", text[floor:start])
    return floor + space.end() if space else floor


def cut_to_excerpts(ranking: Ranking) -> Ranking:
    """Return the ranking with each best passage cut to its excerpt, for `--to text`."""
    words = find_words(ranking.query.text)
    cut = (replace(hit, passage=find_excerpt(hit, words)) if hit.passage else hit for hit in ranking)
    return replace(ranking, results=tuple(cut))
