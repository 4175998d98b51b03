"""Order, ties, thresholds and the scale of scores. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
import re
import struct
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def order_by_score(scores: Sequence[float]) -> list[int]:
    """Give the places of `scores`, best first; equal scores keep their order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def select_top(
    scores: Sequence[float], *, top_k: int | None = None, min_score: float | None = None
) -> list[int]:
    """Return the places of the best scores, best first: at most `top_k`, none below `min_score`.

    Scores are float32, widened, and `min_score` is rounded to that, as which a written score reads back. A
    score of -inf is that of a blank document, which no `min_score` lets in.
    """
    order = order_by_score(scores)
    if min_score is not None:
        least = _as_float32(min_score)
        order = [place for place in order if scores[place] >= least and scores[place] > -math.inf]
    return order if top_k is None else order[:top_k]


def _as_float32(number: float) -> float:
    try:
        rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def is_blank(text: str) -> bool:
    """Whether a text has no letter, digit or symbol (Unicode categories L, N and S)."""
    if _LETTER_OR_DIGIT.search(text):
        return False
    return not any(unicodedata.category(character)[0] in "LNS" for character in text)


def first_not_finite(scores: Sequence[float]) -> int | None:
    """Give the place of the first score that is NaN or infinite; None when all are numbers."""
    return next((place for place, score in enumerate(scores) if not math.isfinite(score)), None)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map logits to (0, 1) as 1 / (1 + exp(-x)), float32 in and out, without overflow at either end."""
    import numpy as np

    scores = np.empty_like(logits)
    positive = logits >= 0
    scores[positive] = 1 / (1 + np.exp(-logits[positive]))
    grown = np.exp(logits[~positive])
    scores[~positive] = grown / (1 + grown)
    return scores
