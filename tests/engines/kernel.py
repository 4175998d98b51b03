"""Ordinary attention in place of torch's kernel for sequences of different lengths, which the CPU lacks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ce_rerank.engines import packed

OPTIONS = frozenset({"scale", "window_size", "enable_gqa", "num_splits"})
"""What the newest kernel takes."""


def attend_apart(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    *others: object,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    num_splits: int,
) -> torch.Tensor:
    """Attend with a mask that keeps sequences apart; the tensors have shape (tokens, heads, size)."""
    sequences = torch.repeat_interleave(torch.arange(len(borders) - 1), borders.diff().long())
    places = torch.arange(len(sequences))
    back = places[:, None] - places
    left, right = (len(places) if reach < 0 else reach for reach in window_size)
    mask = (sequences[:, None] == sequences) & (back <= left) & (back >= -right)
    one, other, values = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    attended = scaled_dot_product_attention(one, other, values, mask, scale=scale, enable_gqa=enable_gqa)
    return attended[0].transpose(0, 1)


def use_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    """Let packed models be run without a GPU."""
    patch.setattr(packed, "find_kernel", lambda: (attend_apart, OPTIONS))
