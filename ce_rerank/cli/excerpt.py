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

from .console import clean_text

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
# Patterns are compiled at their first use, which takes longer than importing all else of this module.
_DENSE_RUN = f"[{_DENSE}]+"
_HIRAGANA = "[\u3040-\u309f]+"
# Thai, Lao, Burmese, Khmer and the Tai scripts (line break class SA in Unicode): without spaces too, but what
# stands between two of them is a phrase.
_UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\U00011700-\U0001174f]"
)
_UNBREAKABLE = f"[{_OPENING}]*[{_DENSE}][{_CLOSING}]*|[^\\s{_DENSE}]+"
_APOSTROPHES = "'’"
_JOINERS = "\u200c\u200d"
_SENTENCE_END = f"[.!?…]['\"”’)]*\\s+|[\u3002\uff01\uff1f][{_CLOSING}]*\\s*"

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


class QueryWords:
    """Finds a query's words in texts: whole words in any case, pairs of characters in Chinese and its like.

    Stopwords of English are passed over, unless the query is made of nothing else.
    """

    def __init__(self, query: str) -> None:
        query = clean_text(query)
        words = list(_split_words(re.sub(_DENSE_RUN, " ", query)))
        words = [word for word in words if word.casefold().replace("’", "'") not in _STOPWORDS] or words
        runs = re.findall(_DENSE_RUN, query)
        pairs = {run[at : at + 2] for run in runs for at in range(max(1, len(run) - 1))}
        # Hiragana alone is endings and particles, the stopwords of Japanese.
        self._pairs = {pair for pair in pairs if not re.fullmatch(_HIRAGANA, pair)} or pairs
        choices = "|".join(map(_as_pattern, sorted(set(words), key=len, reverse=True)))
        self._words = re.compile(choices, re.IGNORECASE) if choices else None

    def find(self, text: str) -> list[Span]:
        """Give the places of the query's words in `text`, in order, without overlaps."""
        found = (match.span() for match in self._words.finditer(text)) if self._words else ()
        spans = [span for span in found if _stands_alone(text, *span)]
        return sorted([*spans, *self._find_pairs(text)]) if self._pairs else spans

    def _find_pairs(self, text: str) -> Iterator[Span]:
        for run in re.finditer(_DENSE_RUN, text):
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


def _split_words(text: str) -> Iterator[str]:
    """Give the words of a text: letters and digits, with the marks on them and what joins them inside."""
    word = ""
    for character in f"{text} ":
        joins = character in _APOSTROPHES + _JOINERS or _is_mark(character)
        if character.isalnum() or (word and joins):
            word += character
        elif word:
            yield word.rstrip(_APOSTROPHES + _JOINERS)
            word = ""


def _as_pattern(word: str) -> str:
    """Give a pattern for a word, whichever apostrophe is in it."""
    return re.sub(f"[{_APOSTROPHES}]", f"[{_APOSTROPHES}]", re.escape(word))


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Tell whether no word goes on before `start` or at `end`."""
    if start > 0 and _is_in_word(text[start - 1]):
        return False
    return end == len(text) or not (_is_in_word(text[end]) or _is_mark(text[end]))


def _is_in_word(character: str) -> bool:
    """Tell whether it is a letter or digit of a spaced script, or a mark on one."""
    if re.match(_UNSPACED, character):
        return False
    if character.isalnum():
        return not re.match(_DENSE_RUN, character)
    return _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def make_excerpt(
    text: str, words: QueryWords, *, width: int, max_lines: int, ellipsis: str = "…"
) -> list[Line]:
    """Break a cleaned text into lines of at most `width` cells; of a long one, show the part that says most.

    That is the part with most different words of the query, and of equal ones the first. What was left out
    before and after it is marked by `ellipsis`.
    """
    marks = words.find(text)
    most = (
        2 * max_lines * width
    )  # more characters than fit, so that a long text costs no more than a short one
    ends = _wrap(text[:most], width, max_lines + 1)
    if len(text) <= most and len(ends) <= max_lines:
        return _mark_lines(text, ends, marks)
    room = max(2, width - len(ellipsis) - 1)
    start = _choose_start(text, marks, seen=_wrap(text[:most], room, max_lines)[-1][1])
    prefix = f"{ellipsis} " if start else ""
    shown = prefix + text[start : start + most]
    ends = _wrap(shown, width, max_lines + 1)
    complete = len(text) <= start + most and len(ends) <= max_lines
    if not complete:
        ends = _wrap(shown, room, max_lines)
    shift = start - len(prefix)
    inside = [(max(at, start) - shift, end - shift) for at, end in marks if end > start]
    lines = _mark_lines(shown, ends, inside)
    if not complete:
        lines[-1] = Line(f"{lines[-1].text} {ellipsis}", lines[-1].marks)
    return lines


def _mark_lines(text: str, ends: Sequence[Span], marks: Sequence[Span]) -> list[Line]:
    """Cut a text into lines, and its marks with it."""
    return [
        Line(
            text[start:end],
            tuple(
                (max(at, start) - start, min(to, end) - start) for at, to in marks if at < end and to > start
            ),
        )
        for start, end in ends
    ]


def _choose_start(text: str, marks: Sequence[Span], seen: int) -> int:
    """Choose where the shown part begins: a little before the richest place, at a sentence if it can.

    `seen` is how many characters are shown of the text when it is shown from its start.
    """
    length = seen * 3 // 4  # of another part it may be less
    last_start = text.find(" ", len(text) - length) + 1 or len(text) - length
    found = [text[start:end].casefold() for start, end in marks]
    starts = [start for start, _ in marks]
    all_different = len(set(found))
    best = 0
    most = len(set(found[: bisect_left(starts, seen)]))
    for place, start in enumerate(starts):
        if most == all_different:
            break
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
    sentences = [floor + match.end() for match in re.finditer(_SENTENCE_END, text[floor:start])]
    if sentences:
        return sentences[0]
    space = text.find(" ", floor, start)
    return space + 1 if space >= 0 else floor


def _wrap(text: str, width: int, max_lines: int) -> list[Span]:
    """Break a text into its first `max_lines` lines of at most `width` cells: where each starts and ends."""
    lines: list[Span] = []
    start = end = used = 0
    for piece_start, piece_end, cells in _pieces(text, width):
        if end > start and used + piece_start - end + cells > width:
            lines.append((start, end))
            if len(lines) == max_lines:
                return lines
            start, used = piece_start, 0
        elif end > start:
            used += piece_start - end
        used += cells
        end = piece_end
    return [*lines, (start, end)] if end > start else lines


def _pieces(text: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Cut a text into what no line break may cut, with its width in cells; what is too wide is chopped."""
    from rich.cells import cell_len, chop_cells

    for match in re.finditer(_UNBREAKABLE, text):
        cells = cell_len(match.group())
        if cells <= width:
            yield match.start(), match.end(), cells
            continue
        start = match.start()
        for part in chop_cells(match.group(), max(2, width)):
            yield start, start + len(part), cell_len(part)
            start += len(part)
