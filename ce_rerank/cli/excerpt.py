"""Excerpts: find the part of a long text that has most of the query's words."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace

from ..types import Passage, RankedDocument, Ranking

_CHARACTERS = 300  # of an excerpt, about
# Kana, Han and Hangul are mostly written without spaces: pairs of characters stand for words.
_CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_WORDS = r"[^\s!-&(-/:-@\[-`{-~\u2018\u201c-\u201f\u2026\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+"
_SENTENCE_END = r"[.!?…]['\"”’)]*\s+|[\u3002\uff01\uff1f]\s*|\n\s*"


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

    It is where the different words of the query that are in the excerpt have the most letters together: short
    words, which are in every text, count little. Of equal places the first is taken.
    """
    if len(text) <= _CHARACTERS:
        return 0
    found = [(match.start(), match[0].casefold()) for match in words.finditer(text)]
    starts = [start for start, _ in found]
    last = len(text) - _CHARACTERS * 3 // 4  # an excerpt that began later would be too short
    last += len(re.match(r"\S*\s|", text[last:])[0])  # type: ignore[index]  # matches all
    best, most = 0, 0
    for begin in (0, *starts):
        begin = min(_step_back(text, begin), last)
        inside = found[bisect_left(starts, begin) : bisect_left(starts, begin + _CHARACTERS * 3 // 4)]
        weight = sum(map(len, {word for _, word in inside}))
        if weight > most:
            best, most = begin, weight
    return best


def _step_back(text: str, start: int) -> int:
    """Return where a sentence, or else a word, begins, at most a quarter of an excerpt before `start`."""
    floor = start - _CHARACTERS // 4
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
        shown = text[start : start + _CHARACTERS]
        if len(text) > start + _CHARACTERS:
            shown = re.sub(r"\s\S*\Z", "", shown)  # no half word
        place = hit.passage.start + start
        passage = Passage(shown, place, place + len(shown), line_of_excerpt(hit, start))
        return replace(hit, passage=passage)

    return replace(ranking, results=tuple(map(cut, ranking)))
