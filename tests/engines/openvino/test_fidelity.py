from __future__ import annotations

import numpy as np
import pytest

from ce_rerank.engines.batching import Float32s
from ce_rerank.engines.openvino.engine import find_infidelity

REFERENCE = np.array([-11.283, -0.7441, 1.3512, 7.3226], dtype=np.float32)


def shifted(*differences: float) -> Float32s:
    return REFERENCE + np.array(differences, dtype=np.float32)


def rounded_to_bf16(logits: Float32s) -> Float32s:
    return (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize(
    ("precision", "near", "far"), [("fp32", 0.0009, 0.0011), ("bf16", 0.14, 0.16), ("int8", 0.34, 0.36)]
)
def test_a_logit_may_differ_by_the_tolerance_of_its_precision(
    precision: str, near: float, far: float
) -> None:
    assert find_infidelity(REFERENCE, shifted(near, 0, 0, -near), precision) is None
    fault = find_infidelity(REFERENCE, shifted(0, far, 0, 0), precision)
    assert fault == f"it gives {-0.7441 + far:.4f} where the model says -0.7441"


def test_the_tolerance_grows_with_the_largest_logit() -> None:
    large = np.array([-48, 0.5], dtype=np.float32)
    assert find_infidelity(large, large + np.float32(0.55), "bf16") is None
    assert find_infidelity(large, large + np.float32(0.65), "bf16") is not None


def test_scores_rounded_to_bf16_are_refused_though_they_are_close() -> None:
    rounded = rounded_to_bf16(REFERENCE)
    assert np.abs(rounded - REFERENCE).max() < 0.15
    assert find_infidelity(REFERENCE, rounded, "bf16") == "its scores are rounded to bf16"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_no_score(bad: float) -> None:
    assert find_infidelity(REFERENCE, shifted(0, 0, bad, 0), "bf16") == "it gives scores that are no numbers"
