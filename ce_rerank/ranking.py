"""Order, ties, thresholds, scales, and passages' scores pooled. Pure: numbers in, numbers out."""

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

    from .types import PoolName

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def is_blank(text: str) -> bool:
    """Whether a text has no letter, digit or symbol (Unicode categories L, N and S)."""
    if _LETTER_OR_DIGIT.search(text):
        return False
    return not any(unicodedata.category(character)[0] in "LNS" for character in text)


def select_top(
    scores: Sequence[float], *, top_k: int | None = None, min_score: float | None = None
) -> list[int]:
    """Return the places of the best scores, best first: at most `top_k`, none below `min_score`.

    Equal scores keep their order. Scores are float32, widened, and `min_score` is rounded to that, as which a
    written score reads back. A score of -inf is that of a blank document, which no `min_score` lets in.
    """
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    if min_score is not None:
        least = _as_float32(min_score)
        order = [place for place in order if scores[place] >= least and scores[place] > -math.inf]
    return order[:top_k]


def _as_float32(number: float) -> float:
    try:
        rounded: float = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def pool_passages(
    logits: NDArray[np.float32], counts: NDArray[np.intp], pool: PoolName
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return each document's score, and the place of the passage that stands for it, from passages' scores.

    `logits`, shape (passages,), are numbers without NaN; those of a document stand together, and `counts`,
    shape (documents,), says how many each has, 1 or more. `max` is the best passage's score. `mean-top3` is
    the mean of the three best, or of all when there are fewer; the best passage stands for the document.
    `first` is the first passage's score. Of equal passages the earlier stands.
    """
    import numpy as np

    starts = np.cumsum(counts) - counts
    if pool == "first":
        return logits[starts], starts
    documents = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-logits, documents))
    best = order[starts]
    if pool == "max":
        return logits[best], best
    among_best = np.arange(len(logits)) - starts[documents] < 3
    sums = np.bincount(documents[among_best], weights=logits[order[among_best]], minlength=len(counts))
    return (sums / np.minimum(counts, 3)).astype(np.float32), best


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map logits to (0, 1) as 1 / (1 + exp(-x)), float32 in and out, without overflow at either end."""
    import numpy as np

    scores = np.empty_like(logits)
    positive = logits >= 0
    scores[positive] = 1 / (1 + np.exp(-logits[positive]))
    grown = np.exp(logits[~positive])
    scores[~positive] = grown / (1 + grown)
    return scores


def blend(logits: NDArray[np.float32], first_scores: Sequence[float], weight: float) -> NDArray[np.float32]:
    """Mix the model's scores with a first stage's: (1 - weight) * model + weight * first.

    Both are standardised over the documents first (mean 0, deviation 1); a deviation of 0 gives 0. Documents
    that were not scored, with a logit of -inf, take no part and stay so. Arrays are of shape (documents,).
    """
    import numpy as np

    scored = ~np.isneginf(logits)
    mixed = np.zeros(int(scored.sum()), np.float64)
    for values, share in ((logits, 1 - weight), (first_scores, weight)):
        of_scored = np.asarray(values, np.float64)[scored]
        centred = of_scored - of_scored.mean() if len(of_scored) else of_scored
        deviation = centred.std() if len(of_scored) else 0.0
        if deviation > 0:
            mixed += share * centred / deviation
    blended = np.full(len(logits), -np.inf, np.float32)
    blended[scored] = mixed
    return blended
