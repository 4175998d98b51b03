"""How many tokens a pair may have."""

from __future__ import annotations

from typing import Any

LONGEST = 2**31 - 1  # what a tokenizer without a limit of its own is given, tokens


def longest_pair(model: Any) -> int:
    """Give the most tokens that a `CrossEncoder` takes: its tokenizer's limit, within its position table."""
    limit = min(model.max_seq_length or LONGEST, LONGEST)
    for module in model.modules():
        positions = getattr(getattr(module, "position_embeddings", None), "num_embeddings", None)
        padding_place = getattr(module, "padding_idx", None)
        if positions is not None:
            # RoBERTa's family counts positions from the padding token's id on: not all of its table counts.
            unused = padding_place + 1 if isinstance(padding_place, int) else 0
            limit = min(limit, positions - unused)
    return int(limit)
