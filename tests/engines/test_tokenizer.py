from __future__ import annotations

from fakes import word_tokenizer

from ce_rerank.engines.tokenizer import PairTokenizer


def encoder(max_length: int = 12, with_type_ids: bool = True) -> PairTokenizer:
    return PairTokenizer(word_tokenizer(), max_length=max_length, with_type_ids=with_type_ids)


def test_a_pair_is_the_query_a_separator_and_the_document() -> None:
    (row,) = encoder().encode([("one", "two three")])
    assert list(row.input_ids) == [2, 5, 3, 6, 7, 3]
    assert list(row.token_type_ids) == [0, 0, 0, 1, 1, 1]
    assert (row.truncated, row.characters_read) == (False, len("two three"))


def test_models_without_token_types_get_none() -> None:
    (row,) = encoder(with_type_ids=False).encode([("one", "two")])
    assert list(row.token_type_ids) == []


def test_the_document_is_cut_and_the_query_is_not() -> None:
    (row,) = encoder(max_length=8).encode([("one two three", "four five six seven")])
    assert list(row.input_ids) == [2, 5, 6, 7, 3, 8, 9, 3]
    assert (row.truncated, row.characters_read) == (True, len("four five"))


def test_a_document_that_just_fits_is_not_cut() -> None:
    (row,) = encoder(max_length=8).encode([("one two three", "four five")])
    assert (len(row), row.truncated) == (8, False)


def test_document_room_is_what_the_query_and_the_special_tokens_leave() -> None:
    assert encoder(max_length=12).document_room("one two") == 7
    assert encoder(max_length=12).document_room("one " * 20) == -11


def test_token_spans_are_ranges_of_characters() -> None:
    assert list(encoder().token_spans("one  déjà two")) == [(0, 3), (5, 9), (10, 13)]
