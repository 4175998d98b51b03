from __future__ import annotations

from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_tokenizers import texts

from ce_rerank.breaks import count_lines, find_breaks, splits_character, splits_group, splits_word


def breaks(text: str) -> list[list[int]]:
    return list(find_breaks(text, 0, len(text)))


@settings(max_examples=300)
@given(texts())
def test_no_cut_that_is_allowed_goes_through_a_grapheme_cluster(text: str) -> None:
    borders = {match.start() for match in regex.finditer(r"\X", text)}
    allowed = {place for place in range(1, len(text)) if not splits_character(text, place)}
    assert allowed <= borders


@pytest.mark.parametrize(
    "whole",
    ["e\u0301", "\r\n", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "\u1112\u1161\u11ab", "क्षि", "กำ", "❤\ufe0f"],
)
def test_what_is_read_as_one_character_is_not_parted(whole: str) -> None:
    text = f"x{whole}y"
    assert [place for place in range(len(text) + 1) if not splits_character(text, place)] == [
        0, 1, len(text) - 1, len(text),
    ]  # fmt: skip


def test_flags_pair_up_from_the_first() -> None:
    assert [place for place in range(7) if not splits_character("🇩🇪🇫🇷🇮🇹", place)] == [0, 2, 4, 6]


def test_the_halves_of_a_surrogate_pair_are_not_parted() -> None:
    assert [place for place in range(5) if splits_character("a\ud83d\ude00b", place)] == [2]


def test_letters_are_parted_freely_by_character_and_not_by_word() -> None:
    assert [place for place in range(1, 6) if splits_character("abc de", place)] == []
    assert [place for place in range(1, 6) if splits_word("abc de", place)] == [1, 2, 5]


@pytest.mark.parametrize(
    "word", ["don't", "rock’n’roll", "naïve", "nai\u0308ve", "snake_case", "हिन्दी", "2nd", "Übergröße"]
)
def test_a_word_is_not_parted(word: str) -> None:
    text = f"a {word} b"
    assert [place for place in range(2, len(text) - 1) if not splits_word(text, place)] == [2, len(text) - 2]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("没有空格。好", ["没", "有", "空", "格。", "好"]),
        ("「カード」っ", ["「カー", "ド」っ"]),
        ("用Python写", ["用", "Python", "写"]),
        ("เก่า", ["เก่า"]),
        ("a/b,c", ["a", "/", "b,", "c"]),
        ("(a) 'b'", ["(a)", " ", "'", "b", "'"]),
    ],
)
def test_signs_without_space_between_are_parted_but_for_what_clings_to_its_neighbour(
    text: str, parts: list[str]
) -> None:
    borders = [place for place in range(len(text) + 1) if not splits_group(text, place)]
    assert [text[start:end] for start, end in pairwise(borders)] == parts


def test_clinging_is_a_matter_of_taste_and_parts_no_word() -> None:
    assert splits_group("a!!", 2)
    assert not splits_word("a!!", 2)


def test_breaks_come_by_kind_best_first() -> None:
    text = "One.\n\nTwo. Three\nfour, five. 6"
    assert breaks(text) == [[6], [6, 11, 29], [6, 17], [23], [6, 11, 17, 23, 29]]


def test_an_abbreviation_and_a_wrapped_line_end_no_sentence() -> None:
    assert breaks("See e.g. this\nline.")[1] == []


@pytest.mark.parametrize("text", ["空格。它有", "です。」カ", "है। वह", "Why?” She", "End.) Next", "好！？好"])
def test_sentences_end_in_every_script(text: str) -> None:
    (place,) = breaks(text)[1]
    assert text[place:].strip() in {"它有", "カ", "वह", "She", "Next", "好"}


def test_a_break_is_never_before_a_lone_mark() -> None:
    assert breaks("a. \u0301b") == [[], [], [], [], []]


def test_line_ends_are_counted_once_each() -> None:
    assert count_lines("a\nb\r\nc\rd", 0, 8) == 3


@given(st.text(alphabet="a\r\n", max_size=20), st.integers(0, 20))
def test_line_ends_of_the_parts_add_up(text: str, place: int) -> None:
    place = min(place, len(text))
    lines = count_lines(text, 0, len(text))
    assert count_lines(text, 0, place) + count_lines(text, place, len(text)) == lines
    assert lines == len((text + "x").splitlines()) - 1
