from __future__ import annotations

import numpy as np
from fakes import word_tokenizer

from ce_rerank.engines.tokenization import EncoderTokenizer, Padding, PairTokens, pad_rows


def encoder(max_length: int = 12, with_type_ids: bool = True) -> EncoderTokenizer:
    return EncoderTokenizer(word_tokenizer(), max_length=max_length, with_type_ids=with_type_ids)


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


def test_rows_are_padded_on_the_right_to_the_longest() -> None:
    batch = pad_rows([PairTokens([5, 6, 7], [0, 0, 1], False, 1), PairTokens([8], [0], False, 1)], Padding())
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch.input_ids.dtype == np.int64


def test_rows_are_padded_on_the_left_for_models_that_read_the_last_token() -> None:
    padding = Padding(token_id=9, left=True)
    batch = pad_rows([PairTokens([5, 6], (), False, 1), PairTokens([8], (), False, 1)], padding)
    assert batch.input_ids.tolist() == [[5, 6], [9, 8]]
    assert batch.attention_mask.tolist() == [[1, 1], [0, 1]]
    assert batch.token_type_ids is None


def test_rows_are_padded_to_a_multiple_within_what_the_model_has_positions_for() -> None:
    def width(tokens: int) -> int:
        return pad_rows(
            [PairTokens([5] * tokens, (), False, 1)], Padding(multiple=16, most=40)
        ).input_ids.shape[1]

    assert [width(tokens) for tokens in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
    (mask,) = pad_rows(
        [PairTokens([5, 6], (), False, 1)], Padding(multiple=4, most=8)
    ).attention_mask.tolist()
    assert mask == [1, 1, 0, 0]
