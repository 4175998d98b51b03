"""Long texts to windows, and the scores of windows to the score of their document. Pure.

A window is a stretch of the text, never pieces put together, so that its offsets say exactly what was
scored. How long it may be is counted in the model's tokens, whose places come in as half-open ranges of
characters; where it may start and end is asked of the text.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from .breaks import count_lines, find_breaks, splits_character, splits_group, splits_word
from .types import Passage, PoolName

TokenSpan = tuple[int, int]
"""Where a token lies in its text: from the first character up to, not including, the second."""


class Encoded(Protocol):
    """What a tokenizer makes of a passage: all that matters here is whether it was cut."""

    @property
    def truncated(self) -> bool:
        """Whether a part of the passage was left out."""
        ...


Row = TypeVar("Row", bound=Encoded)


def cut_passages(
    text: str, spans: Iterable[TokenSpan], *, chunk_tokens: int, overlap_tokens: int
) -> Iterator[Passage]:
    """Cut a text into windows of at most `chunk_tokens` tokens that overlap by about `overlap_tokens`.

    `spans` are the places of the text's tokens in order: neither their starts nor their ends go back. They
    may be empty or share characters, and need not cover the text. They are drawn as they are needed, a window
    ahead. A text of no more than `chunk_tokens` tokens gives one window, the whole of it.

    Windows leave nothing out: the first starts where the text starts, each starts inside the one before or
    where that ends, the last ends where the text ends, and every token lies whole in at least one (but for
    the space before a word that some tokenizers count as the word's). Their borders fall, best first, between
    paragraphs, sentences or lines, clauses, words. A border is inside a word only where that alone is longer
    than a window, and inside what is read as one character only where that alone is.

    Takes time in proportion to the text, and memory in proportion to a window. Raises ValueError when
    `chunk_tokens` is below 1 or `overlap_tokens` is not from 0 up to, not including, `chunk_tokens`.
    """
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    if not 0 <= overlap_tokens < chunk_tokens:
        raise ValueError(f"overlap_tokens is {overlap_tokens}; it must be from 0 to {chunk_tokens - 1}")
    return _Cutter(text, iter(spans), chunk_tokens, overlap_tokens).cut()


def whole_passage(text: str) -> Passage:
    """Give the one window of a text that fits in a window."""
    return _passage(text, 0, len(text), 1)


def fit_passages(
    passages: Iterable[Passage],
    encode: Callable[[Sequence[str]], Sequence[Row]],
    token_spans: Callable[[str], Iterable[TokenSpan]],
) -> list[tuple[Passage, Row]]:
    """Pair passages, in order, with what `encode` makes of them, splitting those that are too long for it.

    Out of its context a text can be a few tokens longer than it was in it. A passage that `encode` truncates
    is cut into shorter ones that overlap by about a quarter, until each is read whole; only one that is a
    single token or character is left as it is. `encode` is called with all texts at once, then with the parts
    of those that were split.
    """
    whole = list(passages)
    fitted: list[tuple[Passage, Row]] = []
    for passage, row in zip(whole, encode([passage.text for passage in whole]), strict=True):
        parts = _split(passage, list(token_spans(passage.text))) if row.truncated else []
        if len(parts) > 1:
            fitted += fit_passages(parts, encode, token_spans)
        else:
            fitted.append((passage, row))
    return fitted if len(fitted) == len(whole) else _without_contained(fitted)


def pool_scores(scores: Sequence[float], pool: PoolName) -> tuple[float, int]:
    """Give a document's score, and the place of the window that stands for it, from its windows' scores.

    `max`: the best window's score. `mean-top3`: the mean of the three best, or of all when there are fewer,
    rounded to float32 as every score is; the best window stands for the document. `first`: the first window's
    score. Of equal windows the earlier stands. Any NaN among scores that count is the result, so that it is
    seen. Raises ValueError when there are no scores.
    """
    if not scores:
        raise ValueError("scores is empty; a document has at least one window")
    if pool == "first":
        return scores[0], 0
    for place, score in enumerate(scores):
        if score != score:  # NaN is unequal to itself, and comes out best or worst by chance
            return score, place
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    if pool == "max":
        return scores[order[0]], order[0]
    best = [scores[place] for place in order[:3]]
    mean: float = struct.unpack("f", struct.pack("f", sum(best) / len(best)))[0]
    return mean, order[0]


class _Cutter:
    """One text on its way into windows; `_tokens` are those of the current window and the one after it."""

    def __init__(self, text: str, spans: Iterator[TokenSpan], chunk_tokens: int, overlap_tokens: int) -> None:
        self._text = text
        self._spans = spans
        self._chunk = chunk_tokens
        self._overlap = overlap_tokens
        # How far, in tokens, a border may be moved to a better place. Both together are two thirds of a
        # stride, so that every window gets on by a third.
        stride = chunk_tokens - overlap_tokens
        self._end_slack = stride // 3
        self._start_slack = min(overlap_tokens, stride) // 3
        self._tokens: list[TokenSpan] = []

    def cut(self) -> Iterator[Passage]:
        """Give the windows in order."""
        text = self._text
        start = 0  # of the window
        read = unread = 0  # the end of the one before, and the first token that was not whole in it
        line, line_place = 1, 0
        while self._move_to(start):
            read = max(read, self._first_token_end() - 1)
            end = self._find_end(read, may_wait=start < unread)
            if end is None and start < unread:
                start = unread  # what comes next does not fit beside the overlap
                continue
            if end is None:
                end = min(max(self._word_start(self._chunk), read + 1), len(text))
            line += count_lines(text, line_place, start)
            line_place = start
            yield _passage(text, start, end, line)
            if end == len(text):
                return
            read, unread = end, self._first_unread(end)
            start = self._find_start(start, end, unread)
        yield _passage(text, start, len(text), line + count_lines(text, line_place, start))

    def _move_to(self, start: int) -> bool:
        """Hold the tokens of a window from `start` on and one more; False when there is no one more."""
        self._drop_before(start)
        while len(self._tokens) <= self._chunk:
            drawn = list(islice(self._spans, self._chunk + 1 - len(self._tokens)))
            if not drawn:
                return False
            self._tokens += drawn
            self._drop_before(start)
        return True

    def _drop_before(self, start: int) -> None:
        """Let go of the tokens that are not whole in a window from `start` on."""
        count = bisect_left(self._tokens, start, key=_start_of)
        while count > 0 and self._word_start(count - 1) >= start:
            count -= 1
        del self._tokens[:count]

    def _first_token_end(self) -> int:
        """Where the first token that is not empty ends: a window that ended before it would read nothing."""
        return next((end for start, end in self._tokens if end > start), 0)

    def _count_until(self, place: int) -> int:
        """Count the tokens that end at `place` or before."""
        return bisect_right(self._tokens, place, key=_end_of)

    def _first_unread(self, read: int) -> int:
        """Where the first token starts that is not whole before `read`; `read` itself where there is none."""
        count = self._count_until(read)
        while count == len(self._tokens):
            drawn = list(islice(self._spans, 1))
            if not drawn:
                return read
            self._tokens += drawn
            count = self._count_until(read)
        return min(self._word_start(count), read)

    def _word_start(self, number: int) -> int:
        """Where a token starts, without the space before a word that some tokenizers count as its own.

        With it comes what no token holds and no cut may part from it (the space that carries a mark).
        """
        start, end = self._tokens[number]
        if self._text[start:end][:1].isspace():
            word = end - len(self._text[start:end].lstrip())
            return start if word == end or splits_character(self._text, word) else word
        behind = self._tokens[number - 1][1] if number else start
        while behind < start and splits_character(self._text, start):
            start -= 1
        return start

    def _find_end(self, read: int, *, may_wait: bool) -> int | None:
        """Find the window's end, beyond what the one before it has read.

        None when not one more word fits, and the next might if the window started later (`may_wait`); None
        too when not one more character does.
        """
        text = self._text
        last = self._word_start(self._chunk)
        first = max(self._word_start(self._chunk - self._end_slack - 1), read)
        for places in find_breaks(text, first, last):
            if places and places[-1] > read:
                return places[-1]
        group_end = self._last_border(self._chunk - self._end_slack, read, splits_group)
        word_end = group_end or self._last_border(1, read, splits_word)
        if word_end is not None or (may_wait and not splits_word(text, read)):
            return word_end
        return self._last_border(1, read, splits_character)

    def _last_border(self, least: int, read: int, splits: Callable[[str, int], bool]) -> int | None:
        """Find the last border at a token from `least` on, beyond `read`."""
        for number in range(self._chunk, least - 1, -1):
            place = self._word_start(number)
            if place <= read:
                return None
            if not splits(self._text, place):
                return place
        return None

    def _find_start(self, start: int, end: int, unread: int) -> int:
        """Find where the window after this one should start: about the overlap before this one's end."""
        count = min(self._count_until(end), self._chunk)
        target = count - self._overlap
        if target < 1 or not self._overlap:
            return unread
        first = self._word_start(max(0, target - self._start_slack - 1))
        last = min(self._word_start(min(target + self._start_slack, count)), unread)
        goal = self._word_start(target)
        for places in find_breaks(self._text, max(first, start), last):
            if places:
                return min(places, key=lambda place: abs(place - goal))
        # From where the next window still gets on, by what its end may give up.
        numbers = range(max(1, count - self._chunk + self._end_slack), count)
        nearest = sorted(numbers, key=lambda number: abs(number - target))
        places = [place for place in map(self._word_start, nearest) if start < place <= unread]
        for splits in (splits_group, splits_word, splits_character):
            for place in places:
                if not splits(self._text, place):
                    return place
            if not splits(self._text, unread):
                return unread
        return unread


def _passage(text: str, start: int, end: int, line: int) -> Passage:
    """Make a window that starts on a line, and has its first word on that one or a later one."""
    window = text[start:end]
    words = window.lstrip()
    skipped = len(window) - len(words) if words else 0
    return Passage(window, start, end, line + count_lines(window, 0, skipped))


def _without_contained(fitted: Sequence[tuple[Passage, Row]]) -> list[tuple[Passage, Row]]:
    """Put passages in order, and leave out the parts of one that lie within the next one."""
    kept: list[tuple[Passage, Row]] = []
    for passage, row in sorted(fitted, key=lambda pair: (pair[0].start, -pair[0].end)):
        if not kept or passage.end > kept[-1][0].end:
            kept.append((passage, row))
    return kept


def _start_of(span: TokenSpan) -> int:
    return span[0]


def _end_of(span: TokenSpan) -> int:
    return span[1]


def _split(passage: Passage, spans: Sequence[TokenSpan]) -> list[Passage]:
    """Cut a passage into two or three with places in the document; into none when it is a single token."""
    if len(spans) < 2:
        return []
    chunk_tokens = min(len(spans) - 1, -(-len(spans) * 5 // 8))
    overlap_tokens = chunk_tokens * 2 // 5
    parts = cut_passages(passage.text, spans, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
    before = passage.line - whole_passage(passage.text).line
    return [
        Passage(
            text=part.text,
            start=passage.start + part.start,
            end=passage.start + part.end,
            line=before + part.line,
        )
        for part in parts
    ]
