from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.formats.rows import shortest_float32
from ce_rerank.ranking import first_not_finite, order_by_score, select_top, sigmoid


def test_the_best_score_comes_first() -> None:
    assert order_by_score([-1.5, 3.0, 0.0]) == [1, 2, 0]


def test_equal_scores_keep_input_order() -> None:
    assert order_by_score([1.0, 2.0, 1.0, 2.0]) == [1, 3, 0, 2]


def test_top_k_beyond_the_end_gives_all() -> None:
    assert select_top([1.0, 2.0], top_k=9) == [1, 0]


def test_min_score_keeps_what_is_equal_to_it() -> None:
    assert select_top([1.0, 2.0, 3.0], min_score=2.0) == [2, 1]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_min_score_keeps_a_score_that_is_written_as_it_is(score: float) -> None:
    assert select_top([score], min_score=shortest_float32(score)) == [0]


def test_min_score_may_be_beyond_all_scores() -> None:
    assert select_top([3e38], min_score=1e39) == []
    assert select_top([-3e38], min_score=-1e39) == [0]


def test_min_score_is_applied_before_top_k() -> None:
    assert select_top([5.0, 1.0, 4.0], top_k=3, min_score=4.0) == [0, 2]


def test_the_first_score_that_is_no_number_is_found() -> None:
    assert first_not_finite([0.0, float("inf"), float("nan")]) == 1
    assert first_not_finite([0.0, -1e38]) is None


def test_sigmoid_is_exact_at_zero_and_quiet_at_both_ends() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([0, 200, -200], dtype=np.float32)).tolist() == [0.5, 1.0, 0.0]


@given(st.lists(st.floats(-80, 80, width=32), min_size=1))
def test_sigmoid_keeps_float32_and_agrees_with_double_precision(logits: list[float]) -> None:
    scores = sigmoid(np.array(logits, dtype=np.float32))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array(logits, dtype=np.float64))), rtol=1e-6)
