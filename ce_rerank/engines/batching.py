"""Batches are made of tokens, not of documents.

Padding is work that counts for nothing. Pairs sorted by their length in tokens and cut under a token budget
pad about 1%; sorted by characters and cut every 32 documents, the same pairs padded 63%.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import Companions


def plan_batches(
    lengths: Sequence[int] | NDArray[np.integer], batch_tokens: int, companions: Companions = "any"
) -> list[NDArray[np.intp]]:
    """Cut pairs into batches of at most `batch_tokens` tokens, padding included.

    `lengths` are the pairs' lengths in tokens. Each batch holds the places of its pairs in `lengths`; every
    place occurs once, and a pair that is over the budget alone is a batch alone. The longest pairs come
    first: what does not fit in memory fails at the start, and the last batches, on which idle workers wait,
    are the short ones. Equal lengths keep their order, so that a plan depends on nothing but its arguments.
    `companions` says which pairs may share a batch.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    descending = -sizes[order]
    batches = []
    start = 0
    while start < len(order):
        longest = max(1, int(sizes[order[start]]))
        stop = start + (1 if companions == "none" else max(1, batch_tokens // longest))
        if companions == "equal":
            stop = min(stop, int(np.searchsorted(descending, descending[start], side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches
