from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.engines.batching import Padding, PairTokens, pad_rows, plan_batches

lengths_and_budgets = st.tuples(st.lists(st.integers(0, 600), max_size=200), st.integers(1, 4096))


def plan(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan_batches(lengths, batch_tokens)]


def test_longest_pairs_come_first_and_equal_lengths_keep_their_order() -> None:
    assert plan([3, 9, 3, 5], 9) == [[1], [3], [0, 2]]


def test_the_budget_counts_padding() -> None:
    assert plan([10, 2, 2, 2], 30) == [[0, 1, 2], [3]]


def test_a_pair_over_the_budget_is_a_batch_alone() -> None:
    assert plan([500, 400], 100) == [[0], [1]]


def test_no_pairs_make_no_batches() -> None:
    assert plan([], 100) == []


def test_a_budget_under_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        plan_batches([1], 0)


@given(lengths_and_budgets)
def test_every_pair_is_in_exactly_one_batch(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    assert sorted(place for batch in plan(lengths, budget) for place in batch) == list(range(len(lengths)))


@given(lengths_and_budgets)
def test_no_batch_is_over_the_budget_unless_it_is_one_pair(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    for batch in plan(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget


def test_padding_is_a_few_hundredths_on_lengths_like_those_of_passages() -> None:
    lengths = np.random.default_rng(7).normal(95, 35, 1000).clip(12, 512).astype(int)
    fed = sum(len(batch) * lengths[batch].max() for batch in plan_batches(lengths, 2048))
    assert fed / lengths.sum() < 1.03


def test_batches_of_equal_lengths_hold_no_other() -> None:
    lengths = [3, 5, 3, 5, 5, 4]
    batches = [batch.tolist() for batch in plan_batches(lengths, 10, equal_lengths=True)]
    assert batches == [[1, 3], [4], [5], [0, 2]]


def test_where_padding_changes_scores_nothing_is_padded() -> None:
    batch = pad_rows(
        [PairTokens([5, 6, 7], b"", False, 1)], Padding(multiple=16, most=32, companions="equal")
    )
    assert batch.input_ids.tolist() == [[5, 6, 7]]


def test_rows_are_padded_on_the_right_to_the_longest() -> None:
    batch = pad_rows(
        [PairTokens([5, 6, 7], bytes([0, 0, 1]), False, 1), PairTokens([8], bytes(1), False, 1)], Padding()
    )
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch.input_ids.dtype == np.int64


def test_rows_are_padded_on_the_left_for_models_that_read_the_last_token() -> None:
    padding = Padding(token_id=9, left=True)
    batch = pad_rows([PairTokens([5, 6], b"", False, 1), PairTokens([8], b"", False, 1)], padding)
    assert batch.input_ids.tolist() == [[5, 6], [9, 8]]
    assert batch.attention_mask.tolist() == [[1, 1], [0, 1]]
    assert batch.token_type_ids is None


def test_rows_are_padded_to_a_multiple_within_what_the_model_has_positions_for() -> None:
    def width(tokens: int) -> int:
        return pad_rows(
            [PairTokens([5] * tokens, b"", False, 1)], Padding(multiple=16, most=40)
        ).input_ids.shape[1]

    assert [width(tokens) for tokens in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
    (mask,) = pad_rows(
        [PairTokens([5, 6], b"", False, 1)], Padding(multiple=4, most=8)
    ).attention_mask.tolist()
    assert mask == [1, 1, 0, 0]
