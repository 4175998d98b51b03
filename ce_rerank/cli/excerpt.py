"""Which part of a text is shown, how it is broken into lines, and where the query's words are in it.

A text may hold anything: escape sequences, half an emoji, a megabyte without a space. What leaves here is
safe to print and counts terminal cells, not characters, since 茶 takes two of them and a joiner none.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Span = tuple[int, int]

# Kana, Han and Hangul, mostly written without spaces: a word is looked for as pairs of characters, and a line
# may end after any character that no closing mark follows.
_DENSE = (
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_CLOSING = (  # With them the selectors that choose the shape of the character before.
    "\u3001\u3002\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u30fc\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff5d"
    "\ufe00-\ufe0f\U000e0100-\U000e01ef"
)
_OPENING = "\u3008\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff5b"
_DENSE_RUN = re.compile(f"[{_DENSE}]+")
_HIRAGANA = re.compile("[\u3040-\u309f]+")
_UNBREAKABLE = re.compile(f"[{_OPENING}]*[{_DENSE}][{_CLOSING}]*|[^\\s{_DENSE}]+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(f"[.!?…]['\"”’)]*\\s+|[\u3002\uff01\uff1f][{_CLOSING}]*\\s*")

# Words that nobody looks for, unless the query has no others.
_STOPWORDS = frozenset(
    """
    a about after again all also am an and any are aren't as at be because been before being between both
    but by can can't cannot could did didn't do does doesn't doing don't down during each few for from
    further had has have having he her here hers him his how i if in into is isn't it it's its itself just
    me more most my no nor not of off on once only or other our ours out over own same she should so some
    such than that that's the their them then there these they this those through to too under until up
    very was wasn't we were what what's when where which while who whom whose why will with won't would
    you your yours
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that fits, and the places in it that hold words of the query, in characters."""

    text: str
    marks: tuple[Span, ...] = ()


def clean_text(text: str, encoding: str = "utf-8") -> str:
    """Make a text safe to print on one line in `encoding`; what cannot be is shown by a stand-in.

    White space, tabs and line ends become single spaces. Control characters, escape among them, become their
    pictures (␛), and what reorders or hides text (direction overrides, soft hyphens) goes.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text.isprintable():
        text = "".join(map(_stand_in, text))
    return text.encode(encoding, "replace").decode(encoding) if not encoding.startswith("utf") else text


def _stand_in(character: str) -> str:
    """Give what is shown for a character: itself, where it is harmless."""
    # Joiners make families of emoji, and Persian letters, what they are.
    if character.isprintable() or character in "\u200c\u200d":
        return character
    category = unicodedata.category(character)
    if category == "Cc":
        code = ord(character)
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
    if category == "Cs":
        return "\ufffd"
    if category.startswith("Z"):
        return " "
    return "" if category == "Cf" else character


class QueryWords:
    """Finds a query's words in texts: whole words in any case, pairs of characters in Chinese and its like.

    Stopwords of English are passed over, unless the query is made of nothing else.
    """

    def __init__(self, query: str) -> None:
        query = clean_text(query)
        words = _WORD.findall(_DENSE_RUN.sub(" ", query))
        words = [word for word in words if word.casefold() not in _STOPWORDS] or words
        runs = _DENSE_RUN.findall(query)
        pairs = {run[at : at + 2] for run in runs for at in range(max(1, len(run) - 1))}
        # Hiragana alone is endings and particles, the stopwords of Japanese.
        self._pairs = {pair for pair in pairs if not _HIRAGANA.fullmatch(pair)} or pairs
        choices = "|".join(sorted(map(re.escape, set(words)), key=len, reverse=True))
        letter = f"[^\\W_{_DENSE}]"
        pattern = f"(?<!{letter})(?:{choices})(?!{letter})"
        self._words = re.compile(pattern, re.IGNORECASE) if choices else None

    def find(self, text: str) -> list[Span]:
        """Give the places of the query's words in `text`, in order, without overlaps."""
        spans = [match.span() for match in self._words.finditer(text)] if self._words else []
        spans = [span for span in spans if not _goes_on(text, span[1])]
        if self._pairs:
            spans = sorted(spans + list(self._find_pairs(text)))
        return spans

    def _find_pairs(self, text: str) -> Iterator[Span]:
        for run in _DENSE_RUN.finditer(text):
            start = end = run.start()
            for at in range(run.start(), run.end()):
                length = 2 if text[at : at + 2] in self._pairs else 1 if text[at] in self._pairs else 0
                if length and at > end:
                    if end > start:
                        yield start, end
                    start = at
                if length:
                    end = max(end, at + length)
            if end > start:
                yield start, end


def _goes_on(text: str, at: int) -> bool:
    """Tell whether a combining mark belongs to the character before `at`, so that the word is not over."""
    return at < len(text) and unicodedata.category(text[at]).startswith("M")


def make_excerpt(
    text: str, words: QueryWords, *, width: int, max_lines: int, ellipsis: str = "…"
) -> list[Line]:
    """Break a cleaned text into lines of at most `width` cells; of a long one, show the part that says most.

    That is the part with most different words of the query, and of equal ones the first. What was left out
    before and after it is marked by `ellipsis`.
    """
    marks = words.find(text)
    room = max(2, width - len(ellipsis) - 1)
    start = _choose_start(text, marks, max_lines * room)
    prefix = f"{ellipsis} " if start else ""
    # More characters than fit, and few enough that a long text costs no more than a short one.
    shown = prefix + text[start : start + 2 * max_lines * width]
    complete = start + len(shown) - len(prefix) == len(text)
    ends = _wrap(shown, width)
    if not complete or len(ends) > max_lines:
        ends = _wrap(shown, room)[:max_lines]
        complete = False
    shift = start - len(prefix)
    places = [(max(at, start) - shift, end - shift) for at, end in marks if end > start]
    lines = [
        Line(
            shown[line_start:line_end],
            tuple(
                (max(at, line_start) - line_start, min(end, line_end) - line_start)
                for at, end in places
                if at < line_end and end > line_start
            ),
        )
        for line_start, line_end in ends
    ]
    if lines and not complete:
        lines[-1] = Line(f"{lines[-1].text} {ellipsis}", lines[-1].marks)
    return lines


def _choose_start(text: str, marks: Sequence[Span], budget: int) -> int:
    """Choose where the shown part begins: a little before the richest place, at a sentence if it can."""
    from rich.cells import cell_len

    sample = text[: 2 * budget]
    length = budget * len(sample) // max(1, cell_len(sample))
    if len(text) <= length:
        return 0
    last_start = text.find(" ", len(text) - length) + 1 or len(text) - length
    found = [text[start:end].casefold() for start, end in marks]
    starts = [start for start, _ in marks]
    best = 0
    most = len(set(found[: bisect_left(starts, length)]))
    for place, start in enumerate(starts):
        begin = min(_step_back(text, start, length // 3), last_start)
        different = len(set(found[place : bisect_left(starts, begin + length)]))
        if different > most:
            best, most = begin, different
    return best


def _step_back(text: str, start: int, reach: int) -> int:
    """Go back from a word to where its sentence begins, or to a space, within `reach` characters."""
    floor = max(0, start - reach)
    if floor == 0:
        return 0
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, floor, start)]
    if sentences:
        return sentences[0]
    space = text.find(" ", floor, start)
    return space + 1 if space >= 0 else floor


def _wrap(text: str, width: int) -> list[Span]:
    """Break a text into lines of at most `width` cells; gives where each starts and ends in it."""
    lines: list[Span] = []
    start = end = 0
    used = 0
    for piece_start, piece_end, cells in _pieces(text, width):
        gap = piece_start - end
        if end > start and used + gap + cells > width:
            lines.append((start, end))
            start, used = piece_start, 0
        elif end == start:
            start = piece_start
        else:
            used += gap
        used += cells
        end = piece_end
    if end > start:
        lines.append((start, end))
    return lines


def _pieces(text: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Cut a text into what no line break may cut, with its width in cells; what is too wide is chopped."""
    from rich.cells import cell_len, chop_cells

    for match in _UNBREAKABLE.finditer(text):
        cells = cell_len(match.group())
        if cells <= width:
            yield match.start(), match.end(), cells
            continue
        start = match.start()
        for part in chop_cells(match.group(), max(2, width)):
            yield start, start + len(part), cell_len(part)
            start += len(part)
