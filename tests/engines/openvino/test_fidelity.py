from __future__ import annotations

import numpy as np
import pytest

from ce_rerank.engines.batching import Float32s
from ce_rerank.engines.openvino.engine import choose_batch_tokens, find_infidelity

REFERENCE = np.array([-11.283, -0.7441, 1.3512, 7.3226], dtype=np.float32)


def shifted(*differences: float) -> Float32s:
    return REFERENCE + np.array(differences, dtype=np.float32)


def rounded_to_bf16(logits: Float32s) -> Float32s:
    return (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_reference_itself_is_true(precision: str) -> None:
    assert find_infidelity(REFERENCE, REFERENCE.copy(), precision) is None


def test_float32_may_differ_by_a_thousandth() -> None:
    assert find_infidelity(REFERENCE, shifted(0.0009, 0, 0, -0.0009), "fp32") is None
    assert find_infidelity(REFERENCE, shifted(0, 0.002, 0, 0), "fp32") == (
        "it gives -0.7421 where the model says -0.7441"
    )


def test_bf16_may_differ_by_fifteen_hundredths() -> None:
    assert find_infidelity(REFERENCE, shifted(0.14, 0, -0.14, 0), "bf16") is None
    assert find_infidelity(REFERENCE, shifted(0, 0, 0, 0.16), "bf16") == (
        "it gives 7.4826 where the model says 7.3226"
    )


def test_int8_may_differ_by_a_third() -> None:
    assert find_infidelity(REFERENCE, shifted(0.34, -0.34, 0, 0), "int8") is None
    assert find_infidelity(REFERENCE, shifted(0, 0.36, 0, 0), "int8") == (
        "it gives -0.3841 where the model says -0.7441"
    )


def test_what_is_true_keeps_the_order_of_the_reference_where_that_is_clear() -> None:
    reference = np.array([1.0, 1.31], dtype=np.float32)
    swapped = np.array([1.16, 1.15], dtype=np.float32)
    assert find_infidelity(reference, swapped, "bf16") == "it gives 1.1600 where the model says 1.0000"


def test_scores_rounded_to_bf16_are_refused_though_they_are_close() -> None:
    rounded = rounded_to_bf16(REFERENCE)
    assert np.abs(rounded - REFERENCE).max() < 0.15
    assert find_infidelity(REFERENCE, rounded, "bf16") == "its scores are rounded to bf16"


def test_a_reference_that_is_round_itself_may_be_given() -> None:
    round_numbers = np.array([0.5, 1.5], dtype=np.float32)
    assert find_infidelity(round_numbers, round_numbers.copy(), "bf16") is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_no_score(bad: float) -> None:
    assert find_infidelity(REFERENCE, shifted(0, 0, bad, 0), "bf16") == "it gives scores that are no numbers"


@pytest.mark.parametrize(("threads", "tokens"), [(1, 512), (2, 1024), (4, 2048), (16, 2048)])
def test_a_batch_grows_with_the_threads_that_share_it(threads: int, tokens: int) -> None:
    assert choose_batch_tokens(threads, with_tiles=False) == tokens


@pytest.mark.parametrize("threads", [1, 16])
def test_a_cpu_with_tiles_gets_large_batches(threads: int) -> None:
    assert choose_batch_tokens(threads, with_tiles=True) == 2048
