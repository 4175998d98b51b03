from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting
from itertools import islice, pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_tokenizers import KINDS, texts, trained_tokenizer

from ce_rerank.breaks import splits_character
from ce_rerank.engines.tokenizer import PairTokenizer
from ce_rerank.passages import TokenSpan, cut_passages, fit_passages, pool_scores, whole_passage
from ce_rerank.types import Passage, PoolName


def word_pieces(text: str) -> list[TokenSpan]:
    """Words and marks in pieces of five characters; space is no token."""
    spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    return [(at, min(at + 5, end)) for start, end in spans for at in range(start, end, 5)]


def characters(text: str) -> list[TokenSpan]:
    return [(place, place + 1) for place in range(len(text))]


def encoded_bytes(text: str) -> list[TokenSpan]:
    """Several tokens on one character."""
    return [(place, place + 1) for place, character in enumerate(text) for _ in character.encode()]


def bridging_pairs(text: str) -> list[TokenSpan]:
    """Every token shares a character with the next, so that no place is between tokens."""
    return [(place, min(place + 2, len(text))) for place in range(len(text))]


def words_with_space_before(text: str) -> list[TokenSpan]:
    """The way of metaspace, with an empty token first and last."""
    return [(0, 0), *(match.span() for match in re.finditer(r"\s?\S+|\s", text)), (len(text), len(text))]


SEPARABLE = [word_pieces, characters, encoded_bytes, words_with_space_before]
TOKENIZERS = [*SEPARABLE, bridging_pairs]


def real_spans(kind: str, text: str) -> list[TokenSpan]:
    return trained_tokenizer(kind).encode(text, add_special_tokens=False).offsets


def cut(text: str, spans: Sequence[TokenSpan], chunk: int, overlap: int) -> list[Passage]:
    return list(cut_passages(text, spans, chunk_tokens=chunk, overlap_tokens=overlap))


def stripped(text: str, span: TokenSpan) -> TokenSpan:
    start, end = span
    return (end - len(text[start:end].lstrip()), end) if text[start:end].strip() else span


def read_tokens(text: str, spans: Sequence[TokenSpan], passage: Passage) -> list[TokenSpan]:
    stripped_spans = [stripped(text, span) for span in spans]
    return [span for span in stripped_spans if passage.start <= span[0] and span[1] <= passage.end]


def assert_sound(text: str, spans: Sequence[TokenSpan], passages: Sequence[Passage]) -> None:
    """What holds of the windows of any text and tokens: exact, in order, leaving nothing out."""
    line_ends = [match.end() for match in re.finditer(r"\r\n|\n|\r", text)]
    for passage in passages:
        assert passage.text == text[passage.start : passage.end]
        blank = len(passage.text) - len(passage.text.lstrip()) if passage.text.strip() else 0
        assert passage.line == 1 + sum(place <= passage.start + blank for place in line_ends)
    assert (passages[0].start, passages[-1].end) == (0, len(text))
    for before, after in pairwise(passages):
        assert before.start <= after.start <= before.end < after.end
    found = {span for passage in passages for span in read_tokens(text, spans, passage)}
    assert found == {stripped(text, span) for span in spans}


sizes = st.integers(1, 24).flatmap(lambda chunk: st.tuples(st.just(chunk), st.integers(0, chunk - 1)))


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@given(text=texts(), size=sizes)
def test_windows_slice_the_text_exactly_and_leave_nothing_out(
    tokenize: Callable[[str], list[TokenSpan]], text: str, size: tuple[int, int]
) -> None:
    spans = tokenize(text)
    assert_sound(text, spans, cut(text, spans, *size))


@pytest.mark.parametrize("tokenize", SEPARABLE)
@given(text=texts(), size=sizes)
def test_no_window_has_more_tokens_than_it_may(
    tokenize: Callable[[str], list[TokenSpan]], text: str, size: tuple[int, int]
) -> None:
    spans = [span for span in tokenize(text) if span[0] < span[1]]
    for passage in cut(text, spans, *size):
        tokens = read_tokens(text, spans, passage)
        assert len(tokens) <= size[0] or len(passage.text) == 1


@pytest.mark.parametrize("tokenize", SEPARABLE)
@given(text=texts(), size=sizes)
def test_borders_part_no_word_and_no_character_that_would_fit(
    tokenize: Callable[[str], list[TokenSpan]], text: str, size: tuple[int, int]
) -> None:
    spans = tokenize(text)
    borders = {place for passage in cut(text, spans, *size) for place in (passage.start, passage.end)}
    part = r"[\w\p{M}\p{N}\p{Cf}\U0001f3fb-\U0001f3ff]+"
    words = [match.span() for match in regex.finditer(f"{part}(?:['’]{part})*", text) if match[0].isascii()]
    whole = [place for place in range(len(text) + 1) if not splits_character(text, place)]
    for start, end in [*words, *pairwise(whole)]:
        if any(start < border < end for border in borders):
            assert sum(span[0] < end and span[1] > start for span in spans) > size[0], text[start:end]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=texts(), size=sizes)
def test_tokens_of_real_tokenizers_are_all_covered(kind: str, text: str, size: tuple[int, int]) -> None:
    spans = real_spans(kind, text)
    assert_sound(text, spans, cut(text, spans, *size))


@given(text=texts(), tokenize=st.sampled_from(TOKENIZERS), spare=st.integers(0, 3))
def test_a_text_that_fits_is_one_window_the_whole_of_it(
    text: str, tokenize: Callable[[str], list[TokenSpan]], spare: int
) -> None:
    spans = tokenize(text)
    chunk = max(1, len(spans) + spare)
    assert cut(text, spans, chunk, chunk // 4) == [whole_passage(text)]


@pytest.mark.parametrize("text", ["", " ", " \n\n "])
def test_a_text_without_tokens_is_one_window(text: str) -> None:
    assert cut(text, [], 1, 0) == [Passage(text, 0, len(text), 1)]


def windows(text: str, chunk: int, overlap: int = 0) -> list[str]:
    return [passage.text for passage in cut(text, word_pieces(text), chunk, overlap)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two three four five six.\n\nSeven. Eight, nine ten", "One two three four five six.\n\n"),
        ("One two three four five six. Seven, eight nine ten", "One two three four five six. "),
        ("one two three four five six, seven eight nine", "one two three four five six, "),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight nine "),
        ("One two three four five six. See e.g. nine ten", "One two three four five six. "),
    ],
)
def test_windows_end_with_a_paragraph_sentence_clause_or_word(text: str, first: str) -> None:
    assert windows(text, 9) == [first, text[len(first) :]]


def test_lines_that_start_a_new_thing_are_borders() -> None:
    assert windows("- one two\n- three four\n- five six", 8) == ["- one two\n- three four\n", "- five six"]


def test_text_without_spaces_is_cut_behind_its_marks() -> None:
    text = "这是一个很长的文档。它有很多，很多的句子！每一句都不同吗？"
    assert [passage.text for passage in cut(text, characters(text), 13, 0)] == [
        "这是一个很长的文档。",
        "它有很多，很多的句子！",
        "每一句都不同吗？",
    ]


def test_text_without_spaces_or_marks_is_cut_between_characters() -> None:
    text = "カードをちょっと見せてください"
    passages = cut(text, characters(text), 6, 0)
    assert [passage.text for passage in passages] == ["カードを", "ちょっと見せ", "てください"]


def test_thai_vowels_stay_with_their_consonants() -> None:
    text = "เขาไปโรงเรียน"
    assert [passage.text for passage in cut(text, characters(text), 6, 0)] == ["เขาไป", "โรงเรี", "ยน"]


def test_a_long_word_is_cut_only_when_it_is_longer_than_a_window() -> None:
    assert windows("one " + "x" * 20 + " two", 4) == ["one ", "x" * 20 + " ", "two"]
    assert windows("one " + "x" * 25 + " two", 4) == ["one ", "x" * 20, "x" * 5 + " two"]


def test_windows_overlap_by_about_what_was_asked() -> None:
    text = " ".join(f"w{number}" for number in range(1000))
    passages = cut(text, word_pieces(text), 100, 25)
    shared = [len(text[after.start : before.end].split()) for before, after in pairwise(passages)]
    assert set(shared) == {25}


def test_overlaps_start_with_a_sentence_where_one_starts_nearby() -> None:
    text = "Alpha beta gamma delta. " * 40
    for passage in cut(text, word_pieces(text), 60, 15):
        assert passage.text.startswith("Alpha")
        assert passage.text.endswith("delta. ")


def test_a_passage_knows_the_line_that_it_starts_on() -> None:
    text = "".join(f"Line {number} of the text.\r\n" for number in range(1, 200))
    for passage in cut(text, word_pieces(text), 40, 10):
        assert passage.text.startswith(f"Line {passage.line} of")


def test_blank_lines_before_a_passages_first_word_count() -> None:
    assert whole_passage("\n\r\n  tides\n") == Passage("\n\r\n  tides\n", 0, 11, 3)
    assert whole_passage(" \n \n") == Passage(" \n \n", 0, 4, 1)
    whole = Passage("\nthree four\n\nfive six", 7, 28, 4)
    parts = [passage for passage, _ in fit_passages([whole], longer_out_of_context(16), characters)]
    assert [(part.text.split()[0], part.line) for part in parts] == [("three", 4), ("five", 6), ("five", 6)]


def test_tokens_are_drawn_a_window_ahead_and_no_further() -> None:
    drawn = counting()
    text = "word " * 1000
    spans = ((5 * number, 5 * number + 4) for number in drawn)
    list(islice(cut_passages(text, spans, chunk_tokens=20, overlap_tokens=5), 3))
    assert next(drawn) <= 3 * 20 + 2


@pytest.mark.parametrize("text", ["the lazy dog sleeps. ", "word", "文", "a,", "word\n\n", "\u0301"])
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


@pytest.mark.parametrize(("chunk", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_sizes_that_cannot_mean_anything_are_refused_at_once(chunk: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="it must be"):
        cut_passages("one", [], chunk_tokens=chunk, overlap_tokens=overlap)


@dataclass
class Row:
    text: str
    truncated: bool


def longer_out_of_context(limit: int) -> Callable[[Sequence[str]], list[Row]]:
    """An encoder of which every text is three tokens longer than in its place."""
    return lambda texts: [Row(text, len(characters(text)) + 3 > limit) for text in texts]


def test_a_passage_that_turns_out_too_long_is_split_until_it_is_read_whole() -> None:
    text = "one two three four five six seven"
    passages = cut(text, characters(text), 20, 5)
    fitted = fit_passages(passages, longer_out_of_context(20), characters)
    assert [row.truncated for _, row in fitted] == [False] * len(fitted)
    assert [(passage.text, row.text) for passage, row in fitted] == [(p.text, p.text) for p, _ in fitted]
    assert_sound(text, characters(text), [passage for passage, _ in fitted])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts(150), query=st.sampled_from(["the", "这文", "dog fox"]), max_length=st.integers(24, 48))
def test_passages_are_read_whole_beside_their_query(
    kind: str, text: str, query: str, max_length: int
) -> None:
    encoder = PairTokenizer(trained_tokenizer(kind), max_length=max_length, with_type_ids=False)
    room = encoder.document_room(query)
    spans = list(encoder.token_spans(text))
    fitted = fit_passages(
        cut(text, spans, room, room // 4),
        lambda texts: encoder.encode([(query, text) for text in texts]),
        encoder.token_spans,
    )
    assert_sound(text, spans, [passage for passage, _ in fitted])
    for passage, row in fitted:
        assert not row.truncated or len(passage.text) == 1
        assert row == encoder.encode([(query, passage.text)])[0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts(40))
def test_a_document_that_fits_is_fed_to_the_model_as_if_it_were_not_chunked(kind: str, text: str) -> None:
    encoder = PairTokenizer(trained_tokenizer(kind), max_length=64, with_type_ids=False)
    (truncated,) = encoder.encode([("the", text)])
    room = encoder.document_room("the")
    passages = cut(text, list(encoder.token_spans(text)), room, room // 4)
    if not truncated.truncated:
        assert passages == [whole_passage(text)]
    if len(passages) == 1:
        assert not truncated.truncated


def test_the_parts_of_a_passage_have_their_place_in_the_document() -> None:
    whole = Passage("three four\nfive six", 8, 27, 3)
    assert [passage for passage, _ in fit_passages([whole], longer_out_of_context(16), characters)] == [
        Passage("three four\n", 8, 19, 3),
        Passage("four\nfive ", 14, 24, 3),
        Passage("five six", 19, 27, 4),
    ]


def test_what_cannot_be_split_is_left_as_it_is() -> None:
    passages = [Passage("文", 0, 1, 1)]
    ((_, row),) = fit_passages(passages, longer_out_of_context(2), encoded_bytes)
    assert row.truncated


def test_passages_that_fit_are_encoded_once_and_together() -> None:
    calls: list[int] = []

    def encode(texts: Sequence[str]) -> Iterator[Row]:
        calls.append(len(texts))
        return [Row(text, False) for text in texts]  # type: ignore[return-value]

    text = "one two three four five six seven"
    fit_passages(cut(text, characters(text), 10, 2), encode, characters)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("pool", "scores", "expected"),
    [
        ("max", [1.0, 3.0, 2.0, 3.0], (3.0, 1)),
        ("max", [-2.0], (-2.0, 0)),
        ("first", [1.0, 3.0], (1.0, 0)),
        ("mean-top3", [1.0, 6.0, 2.0, 4.0], (4.0, 1)),
        ("mean-top3", [1.0, 2.0], (1.5, 1)),
        ("mean-top3", [0.0, 0.0, 1.0], (0.3333333432674408, 2)),
    ],
)
def test_window_scores_are_pooled(pool: PoolName, scores: list[float], expected: tuple[float, int]) -> None:
    assert pool_scores(scores, pool) == expected


@pytest.mark.parametrize("pool", ["max", "mean-top3"])
def test_a_score_that_is_no_number_is_not_lost(pool: PoolName) -> None:
    score, place = pool_scores([1.0, float("nan"), 3.0], pool)
    assert score != score
    assert place == 1


def test_a_document_without_windows_has_no_score() -> None:
    with pytest.raises(ValueError, match="empty"):
        pool_scores([], "max")
