from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from itertools import count as counting
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from trained_tokenizers import texts

from ce_rerank.passages import TokenSpan, cut_passages
from ce_rerank.types import Passage


def word_pieces(text: str) -> list[TokenSpan]:
    """Words and marks in pieces of five characters; space is no token."""
    spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    return [(at, min(at + 5, end)) for start, end in spans for at in range(start, end, 5)]


def characters(text: str) -> list[TokenSpan]:
    return [(place, place + 1) for place in range(len(text))]


def bridging_pairs(text: str) -> list[TokenSpan]:
    """Every token shares a character with the next, so that no place is between tokens."""
    return [(place, min(place + 2, len(text))) for place in range(len(text))]


def words_with_space_before(text: str) -> list[TokenSpan]:
    """The way of metaspace, with an empty token first and last."""
    return [(0, 0), *(match.span() for match in re.finditer(r"\s?\S+|\s", text)), (len(text), len(text))]


SEPARABLE = [word_pieces, characters, words_with_space_before]
TOKENIZERS = [*SEPARABLE, bridging_pairs]


def cut(text: str, spans: Sequence[TokenSpan], chunk: int, overlap: int) -> list[Passage]:
    return list(cut_passages(text, spans, chunk_tokens=chunk, overlap_tokens=overlap))


def assert_sound(text: str, passages: Sequence[Passage]) -> None:
    """What holds of the passages of any text and tokens: exact, in order, leaving nothing out."""
    line_ends = [match.end() for match in re.finditer(r"\r\n|\n|\r", text)]
    for passage in passages:
        assert passage.text == text[passage.start : passage.end]
        blank = len(passage.text) - len(passage.text.lstrip()) if passage.text.strip() else 0
        assert passage.line == 1 + sum(place <= passage.start + blank for place in line_ends)
    assert (passages[0].start, passages[-1].end) == (0, len(text))
    for before, after in pairwise(passages):
        assert before.start < after.start <= before.end < after.end


def borders_of(pattern: str, text: str) -> list[int]:
    return [0, *(match.start() for match in regex.finditer(pattern, text)), len(text)]


sizes = st.integers(1, 24).flatmap(lambda chunk: st.tuples(st.just(chunk), st.integers(0, chunk - 1)))


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@given(text=texts(), size=sizes)
def test_every_character_is_read_and_no_passage_has_more_tokens_than_it_may(
    tokenize: Callable[[str], list[TokenSpan]], text: str, size: tuple[int, int]
) -> None:
    spans = tokenize(text)
    passages = cut(text, spans, *size)
    assert_sound(text, passages)
    heads = [
        (start + (end - start > 1 and text[start].isspace()), end) for start, end in spans if start < end
    ]
    for passage in passages:
        tokens = [span for span in heads if passage.start <= span[0] and span[1] <= passage.end]
        assert len(tokens) <= size[0] or len(passage.text) == 1


@pytest.mark.parametrize("tokenize", SEPARABLE)
@given(text=texts(), size=sizes)
@example(text=". \u200d", size=(1, 0))
@example(text="\r\n\r\né", size=(3, 0))
def test_borders_are_in_no_word_and_in_no_character_that_would_fit(
    tokenize: Callable[[str], list[TokenSpan]], text: str, size: tuple[int, int]
) -> None:
    spans = tokenize(text)
    borders = {place for passage in cut(text, spans, *size) for place in (passage.start, passage.end)}
    characters = [match.span() for match in regex.finditer(r"\X", text)]
    inside = {place for start, end in characters for place in range(start + 1, end)}
    word_borders = [place for place in borders_of(r"(?w)\b", text) if place not in inside]
    words = [one for one in pairwise(word_borders) if re.search(r"[^\W_]", text[slice(*one)])]
    for start, end in [*words, *characters]:
        if any(start < border < end for border in borders):
            assert sum(span[0] < end and span[1] > start for span in spans) > size[0], text[start:end]


def passages_of(text: str, chunk: int, overlap: int = 0) -> list[str]:
    return [passage.text for passage in cut(text, word_pieces(text), chunk, overlap)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two three four five six.\n\nSeven. Eight, nine ten", "One two three four five six.\n\n"),
        ("One two three four five six. Seven, eight nine ten", "One two three four five six. "),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight nine "),
        ("One two three four five six. See e.g. nine ten", "One two three four five six. "),
    ],
)
def test_passages_end_with_a_paragraph_a_sentence_or_a_word(text: str, first: str) -> None:
    assert passages_of(text, 9) == [first, text[len(first) :]]


def test_a_long_word_is_cut_only_when_it_is_longer_than_a_window() -> None:
    assert passages_of("one " + "x" * 20 + " two", 4) == ["one ", "x" * 20 + " ", "two"]
    assert passages_of("one " + "x" * 25 + " two", 4) == ["one ", "x" * 20, "x" * 5 + " two"]


def test_overlaps_start_with_a_sentence_where_one_starts_nearby() -> None:
    text = "Alpha beta gamma delta. " * 40
    for passage in cut(text, word_pieces(text), 60, 15):
        assert passage.text.startswith("Alpha")
        assert passage.text.endswith("delta. ")


@pytest.mark.parametrize("text", ["the lazy dog sleeps. ", "文", "word\n\n", "\u0301"])
def test_work_grows_with_the_text_and_no_faster(text: str) -> None:
    def count_calls(length: int) -> int:
        long_text = text * (length // len(text))
        spans = word_pieces(long_text)
        calls = counting()
        sys.setprofile(lambda frame, event, argument: next(calls))
        try:
            cut(long_text, spans, 100, 25)
        finally:
            sys.setprofile(None)
        return next(calls)

    assert count_calls(200_000) <= 22 * count_calls(10_000)
