"""Whether a compiled model gives the scores it must. Pure: numbers in, a verdict out."""

from __future__ import annotations

import numpy as np

from ..base import Float32s

TOLERANCES = {"fp32": 1e-3, "bf16": 0.15}
"""The most that a logit may differ from torch's in float32, by precision.

Two within it keep their order wherever the reference gap is over twice as much.
"""

_LOW_BITS = np.uint32(0xFFFF)  # those of a float32 that bf16 does not have


def find_infidelity(reference: Float32s, logits: Float32s, precision: str) -> str | None:
    """Say in a clause how logits fail their reference; None when they are true to it.

    They must be within the precision's tolerance, and not all be rounded to bf16 steps: that would make ties
    of scores that are not equal.
    """
    if not np.isfinite(logits).all():
        return "it gives scores that are no numbers"
    differences = np.abs(logits - reference)
    worst = int(differences.argmax())
    if differences[worst] > TOLERANCES[precision]:
        return f"it gives {logits[worst]:.4f} where the model says {reference[worst]:.4f}"
    if _is_rounded(logits) and not _is_rounded(reference):
        return "its scores are rounded to bf16"
    return None


def _is_rounded(logits: Float32s) -> bool:
    return not (logits.view(np.uint32) & _LOW_BITS).any()
