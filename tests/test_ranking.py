from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.ranking import blend, is_blank, pool_passages, select_top, shortest_float32, sigmoid
from ce_rerank.types import PoolName


def test_equal_scores_keep_input_order() -> None:
    assert select_top([1.0, 2.0, 1.0, 2.0]) == [1, 3, 0, 2]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_min_score_keeps_a_score_that_is_written_as_it_is(score: float) -> None:
    assert select_top([score], min_score=shortest_float32(score)) == [0]


def test_min_score_may_be_beyond_all_scores() -> None:
    assert select_top([3e38], min_score=1e39) == []
    assert select_top([-3e38], min_score=-1e39) == [0]


def test_min_score_leaves_out_what_was_not_scored() -> None:
    assert select_top([-math.inf, 1.0], min_score=-math.inf) == [1]
    assert select_top([-math.inf, 1.0]) == [1, 0]


@pytest.mark.parametrize("text", ["", " \n", "-------", " .", "\u0301", "!?…—“”", "_", "\x00", "\u200b"])
def test_a_text_without_letter_digit_or_symbol_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "--é--", "7", "½", "Ⅷ", "+", "€", "😀", "文", "ไทย", "ʰ"])
def test_a_letter_a_digit_or_a_symbol_is_text(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("pool", "scores", "best"),
    [
        ("max", [3.0, -2.0, 0.6666667], [1, 4, 7]),
        ("first", [1.0, -2.0, 0.0], [0, 4, 5]),
        ("mean-top3", [2.6666667, -2.0, 0.22222222], [1, 4, 7]),
    ],
)
def test_scores_of_passages_are_pooled(pool: PoolName, scores: list[float], best: list[int]) -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0, -2.0, 0.0, 0.0, 0.6666667], dtype=np.float32)
    pooled, places = pool_passages(logits, np.array([4, 1, 3]), pool)
    assert pooled.dtype == np.float32
    assert pooled.tolist() == np.array(scores, dtype=np.float32).tolist()
    assert places.tolist() == best


@given(st.lists(st.floats(-80, 80, width=32), min_size=1))
def test_sigmoid_keeps_float32_and_agrees_with_double_precision(logits: list[float]) -> None:
    scores = sigmoid(np.array(logits, dtype=np.float32))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array(logits, dtype=np.float64))), rtol=1e-6)


def test_a_blend_standardises_both_scores_and_leaves_blank_documents_out() -> None:
    logits = np.array([1, -np.inf, 3], np.float32)
    assert blend(logits, [10.0, 99.0, 0.0], 0.25).tolist() == [-0.5, -np.inf, 0.5]
    assert blend(logits, [5.0, 99.0, 5.0], 0.5).tolist() == [-0.5, -np.inf, 0.5]
    assert blend(logits[:0], [], 0.5).tolist() == []
