"""Scores as text: as few digits as say which float32 it is, and an order that survives being read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def shortest_float32(score: float) -> float:
    """Give the double whose `repr` has the fewest digits that read back to the same float32.

    `score` is a float32, widened.
    """
    import numpy as np

    return float(str(np.float32(score)))


def separate_ties(scores: Iterable[float]) -> Iterator[float]:
    """Lower scores by as little as makes each less than the one before it, as float32.

    trec_eval holds scores as float32, sorts by them, and breaks ties by document id: an order that is to
    survive it must not have any.
    """
    import numpy as np

    lowest = np.float32("-inf")
    previous = float("inf")
    for score in scores:
        lowered = score if score < previous else float(np.nextafter(np.float32(previous), lowest))
        yield lowered
        previous = lowered
