"""Pairs to logits, the same for every engine: tokenize, batch by tokens, infer, restore the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .base import Engine, Float32s, TokenBatch
from .batching import plan_batches
from .tokenization import PairTokens


def score_rows(
    engine: Engine,
    rows: Sequence[PairTokens],
    *,
    batch_tokens: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Float32s:
    """Score tokenized pairs with as little padding as can be; gives their logits in the order of `rows`.

    `batch_tokens` is the budget of a batch, the engine's own by default. `on_progress` is called with the
    number of pairs just finished. NaN is handed on: what to do about it is the caller's to say.
    """
    budget = batch_tokens or engine.batch_tokens
    batches = plan_batches([len(row) for row in rows], budget, engine.companions)

    def padded() -> Iterator[TokenBatch]:
        for batch in batches:
            yield engine.tokenizer.pad([rows[place] for place in batch])

    logits = np.empty(len(rows), dtype=np.float32)
    for batch, batch_logits in zip(batches, engine.infer(padded()), strict=True):
        logits[batch] = batch_logits
        if on_progress is not None:
            on_progress(len(batch))
    return logits
