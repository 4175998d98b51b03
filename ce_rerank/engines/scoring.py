"""Pairs to logits, the same for every engine: tokenize, batch by tokens, infer, restore the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..types import Pair
from .base import Engine, Float32s, TokenBatch
from .batching import plan_batches


@dataclass(frozen=True, slots=True)
class PairScores:
    """What came out for each pair, in the order of the pairs; every array has shape (pairs,).

    `logits` are float32 as the model gave them, NaN included: what to do about those is the caller's to say.
    `tokens`, `truncated` and `characters_read` tell what the model was fed; see `PairTokens`.
    """

    logits: Float32s
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    characters_read: NDArray[np.int64]


def score_pairs(
    engine: Engine,
    pairs: Sequence[Pair],
    *,
    batch_tokens: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PairScores:
    """Score pairs with as little padding as can be.

    `batch_tokens` is the budget of a batch, the engine's own by default. `on_progress` is called with the
    number of pairs just finished. The order of the result is that of `pairs`.
    """
    rows = engine.tokenizer.encode(pairs)
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int32, count=len(rows))
    batches = plan_batches(lengths, batch_tokens or engine.batch_tokens)

    def padded() -> Iterator[TokenBatch]:
        for batch in batches:
            yield engine.tokenizer.pad([rows[place] for place in batch])

    logits = np.empty(len(rows), dtype=np.float32)
    for batch, batch_logits in zip(batches, engine.infer(padded()), strict=True):
        logits[batch] = batch_logits
        if on_progress is not None:
            on_progress(len(batch))
    return PairScores(
        logits=logits,
        tokens=lengths,
        truncated=np.fromiter((row.truncated for row in rows), dtype=np.bool_, count=len(rows)),
        characters_read=np.fromiter((row.characters_read for row in rows), dtype=np.int64, count=len(rows)),
    )
