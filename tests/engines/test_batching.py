from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.engines.base import Companions
from ce_rerank.engines.batching import plan_batches

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


def test_pairs_that_padding_would_change_share_a_batch_with_those_of_their_length() -> None:
    def plan(companions: Companions) -> list[list[int]]:
        return [batch.tolist() for batch in plan_batches([3, 9, 3, 5, 3, 5, 3], 9, companions)]

    assert plan("equal") == [[1], [3], [5], [0, 2, 4], [6]]
    assert plan("none") == [[1], [3], [5], [0], [2], [4], [6]]


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
