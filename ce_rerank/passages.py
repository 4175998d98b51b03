"""Cut a long text into overlapping passages. Pure.

A passage is one part of the text, so that its two offsets say exactly what was scored. Its length is counted
in the model's tokens. Its borders are moved back to where a reader would divide the text: between paragraphs,
sentences, lines or words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import regex

from .types import Passage

TokenSpan = tuple[int, int]
"""The offsets of a token in its text: its first character, and the one after its last."""

# There is no break before what belongs to the character before it: a combining accent, the LF of a CRLF.
_BELONGS_BEFORE = r"\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}"
_END = rf"(?![{_BELONGS_BEFORE}]|(?<=\r)\n)"
_NO_WORD_GOES_ON = r"(?!\p{Ll})"  # a small letter follows "e.g.", and goes on in a wrapped line
_CLOSERS = r"[\p{Pe}\p{Pf}\"']*"
_BREAKS = tuple(
    regex.compile(f"(?:{pattern}){_END}")
    for pattern in (
        r"\R[^\S\n\r]*\R\s*",
        rf"(?:\p{{STerm}}+{_CLOSERS}\s+|\R\s*){_NO_WORD_GOES_ON}|[。！？｡।॥።]+{_CLOSERS}\s*",
        r"\R\s*",
        r"[\s\u200b]+",
    )
)
"""Ends of paragraphs, sentences, lines and spaces; the best first."""
# By Unicode's rules (Annex 29): in scripts without spaces, between any two characters.
_WORD_BORDER = regex.compile(rf"(?w)(?<!\p{{GCB=Prepend}})\b(?![\p{{Pe}}\p{{Pf}}\p{{Po}}{_BELONGS_BEFORE}])")
_CHARACTER = regex.compile(r"\X")
_LOOKAHEAD = 16  # characters after a border, which decide whether it is one


def cut_passages(
    text: str, spans: Iterable[TokenSpan], *, chunk_tokens: int, overlap_tokens: int
) -> Iterator[Passage]:
    """Cut a text into passages of at most `chunk_tokens` tokens that overlap by about `overlap_tokens`.

    `spans` are the places of the text's tokens, in their order. They may be empty or overlap, and need not
    cover the text. A text of at most `chunk_tokens` tokens is one passage.

    Every character is in a passage. A border is inside a word only if that word is longer than a passage, and
    inside what a reader sees as one character only if that character is. `overlap_tokens` is less than
    `chunk_tokens`.
    """
    # Where tokens begin, without the space before a word that some tokenizers count as the word's.
    heads = np.fromiter(
        (head + (end - head > 1 and text[head].isspace()) for head, end in spans if head < end), np.int64
    )
    # However far its borders are moved, a passage starts at least a third of a stride after the last.
    stride = chunk_tokens - overlap_tokens
    end_slack, start_slack = stride // 3, min(overlap_tokens, stride) // 3
    start = read = counted = 0
    line = 1
    while (last := int(np.searchsorted(heads, start)) + chunk_tokens) < len(heads):
        limit = int(heads[last])
        end = _last_border(_BREAKS, text, max(read, int(heads[last - end_slack - 1])), limit)
        end = end or _last_border((_WORD_BORDER,), text, read, limit)
        if end is None and start < read:
            start = read  # the next word does not fit beside the overlap
            continue
        end = end or _last_border((_CHARACTER,), text, start, limit) or max(limit, start + 1)
        line += _count_lines(text, counted, start)
        counted = start
        yield _make_passage(text, start, end, line)
        if end == len(text):
            return
        read = end
        goal = int(np.searchsorted(heads, end)) - overlap_tokens
        if overlap_tokens and goal > 0:
            lowest, goal_place = max(start, int(heads[max(0, goal - start_slack)]) - 1), int(heads[goal])
            start = _last_border((*_BREAKS, _WORD_BORDER), text, lowest, goal_place) or end
        else:
            start = end
    yield _make_passage(text, start, len(text), line + _count_lines(text, counted, start))


def whole_passage(text: str) -> Passage:
    """Return the one passage of a text that is short enough to be read whole."""
    return _make_passage(text, 0, len(text), 1)


def _last_border(patterns: Iterable[regex.Pattern[str]], text: str, after: int, limit: int) -> int | None:
    """Return the last border after `after`, at most at `limit`, of the first kind that there is."""
    for pattern in patterns:
        ends = (match.end() for match in pattern.finditer(text, after, limit + _LOOKAHEAD))
        last: int | None = max((end for end in ends if after < end <= limit), default=None)
        if last is not None:
            return last
    return None


def _make_passage(text: str, start: int, end: int, line: int) -> Passage:
    """Return a passage; `line` is where it starts, and its first word may be on a later one."""
    passage = text[start:end]
    space = len(passage) - len(passage.lstrip())
    skipped = _count_lines(passage, 0, space) if space < len(passage) else 0
    return Passage(passage, start, end, line + skipped)


def _count_lines(text: str, start: int, end: int) -> int:
    """Count the line ends (LF, CRLF, or CR alone) in `text[start:end]`; a CRLF counts where its LF is."""
    lone_returns = text.count("\r", start, end) - text.count("\r\n", start, end + 1)
    return text.count("\n", start, end) + lone_returns
