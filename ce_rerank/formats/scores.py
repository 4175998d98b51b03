"""Scores as text: as few digits as say which float32 it is, and an order that survives being read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence


def shortest_float32(score: float) -> float:
    """Give the double whose `repr` has the fewest digits that read back to the same float32.

    `score` is a float32, widened.
    """
    import numpy as np

    return float(str(np.float32(score)))


def place_blanks(scores: Sequence[float]) -> list[float]:
    """Return scores with the lowest of them minus 1 in place of -inf, the score of blank documents."""
    lowest = min((score for score in scores if score > -math.inf), default=0.0)
    return [lowest - 1 if score == -math.inf else score for score in scores]


def separate_ties(scores: Iterable[float]) -> Iterator[float]:
    """Lower scores by as little as makes each less than the one before it, as float32.

    trec_eval holds scores as float32, sorts by them, and breaks ties by document id: an order that is to
    survive it must not have any.
    """
    import numpy as np

    lowest = np.float32("-inf")
    previous = float("inf")
    for score in map(float, np.array(list(scores), np.float32)):
        lowered = score if score < previous else float(np.nextafter(np.float32(previous), lowest))
        yield lowered
        previous = lowered
