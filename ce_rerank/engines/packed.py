"""The packed engine: the sequences of a batch lie end to end on the GPU, and no token is padding.

A function of our own, registered with transformers' attention interface, keeps every sequence to itself:
torch's kernel for sequences of different lengths on CUDA, one attention after the other elsewhere.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from ..errors import UnavailableError
from ..types import Pair
from .batching import Float32s, PairTokens, join_rows, pad_rows
from .model import LONGER, PROBE, Model, first_line, first_position
from .network import Network
from .openvino.runtime import says_out_of_memory
from .torch import TorchEngine

log = logging.getLogger("ce_rerank")

_ATTENTION = "ce_rerank_packed"
_BATCH_TOKENS = 65_536
_BYTES = 64  # for a token and a unit of the model's width: about twice what the layers of an encoder hold
# Longer than the windows of attention that encoders have: a model that is given none must not pass.
_LONGEST: Pair = (LONGER[0], LONGER[1] * 12)


class CannotPackError(Exception):
    """A model whose sequences cannot lie end to end; its text is the reason, as a clause."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows end to end: int64 arrays of shape (tokens,), int32 `borders` of shape (rows + 1,).

    `token_type_ids` is None for models that take none; `longest` is the tokens of the longest row.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None
    borders: NDArray[np.int32]
    longest: int


def pack_rows(rows: Sequence[PairTokens], first_position: int = 0) -> Pack:
    """Lay rows end to end; the positions of each count from the model's first."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    ids, types = join_rows(rows)
    return Pack(
        input_ids=ids,
        position_ids=np.arange(borders[-1]) - np.repeat(borders[:-1], lengths) + first_position,
        token_type_ids=None if types is None else types.astype(np.int64),
        borders=borders.astype(np.int32),
        longest=int(lengths.max()),
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Let every sequence of a pack attend to itself; the tensors are of shape (1, heads, tokens, size).

    What the kernel's version does not take is done here: torch 2.10 has neither scale nor windows.
    """
    if any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ValueError("its attention adds something of its own")
    varlen_attn, takes = _find_kernel(query.is_cuda)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    usual, groups = query.shape[-1] ** -0.5, query.shape[1] // key.shape[1]
    options: dict[str, Any] = {"num_splits": 1} if "num_splits" in takes else {}  # else neighbours may matter
    if "scale" in takes:
        options["scale"] = scaling
    elif scaling is not None and scaling != usual:
        query = query * (scaling / usual)
    if "window_size" in takes:
        reach = -1 if sliding_window is None else sliding_window - 1
        options["window_size"] = (reach, 0 if causal else reach)
    elif sliding_window is None:
        options["is_causal"] = causal
    else:
        raise ValueError(f"its attention has a window, which torch {torch.__version__} has no kernel for")
    if groups > 1 and "enable_gqa" in takes:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    borders, longest = cu_seq_lens_q, max_length_q
    return varlen_attn(query, key, value, borders, borders, longest, longest, **options)[None], None


AttentionInterface.register(_ATTENTION, attend)
AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)


@cache
def _find_kernel(on_cuda: bool) -> tuple[Callable[..., torch.Tensor], frozenset[str]]:
    """Return the attention for sequences of different lengths, and the names of what it takes."""
    kernel: Any = _attend_in_turn
    if on_cuda:
        from torch.nn.attention.varlen import varlen_attn as kernel
    return kernel, frozenset(inspect.signature(kernel).parameters)


def _attend_in_turn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    _: torch.Tensor,
    longest: int,
    __: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Do what torch's kernel does by ordinary attention, one sequence after the other, on any device."""
    places = torch.arange(longest, device=query.device)
    back = places[:, None] - places
    left, right = (longest if reach < 0 else reach for reach in window_size)
    seen = (back <= left) & (back >= -right)
    results = []
    for start, stop in pairwise(borders.tolist()):
        one, other, values = (tensor[start:stop].transpose(0, 1)[None] for tensor in (query, key, value))
        mask = seen[: stop - start, : stop - start]
        attended = functional.scaled_dot_product_attention(
            one, other, values, mask, scale=scale, enable_gqa=enable_gqa
        )
        results.append(attended[0].transpose(0, 1))
    return torch.cat(results)


def pack_engine(padded: TorchEngine) -> PackedEngine | TorchEngine:
    """Return the packed engine of the same model; where it cannot be packed, which is logged, the padded."""
    try:
        return PackedEngine(padded)
    except CannotPackError as reason:
        log.info("%s is run padded, not packed: %s.", padded.info.model, reason)
        return padded


class PackedEngine:
    """A model whose rows are scored without padding, behind the engine protocol.

    Takes the model of a padded engine over. Raises CannotPackError, and leaves the model as it was, where
    rows would not get their scores in this way.
    """

    def __init__(self, padded: TorchEngine) -> None:
        model, network = padded.model, padded.model.network
        if not isinstance(network, Network):
            raise CannotPackError("it is not one backbone, pooled token and head")
        if "position_ids" not in inspect.signature(network.backbone.forward).parameters:
            raise CannotPackError("it takes no positions")
        self._network = network
        self._backbone: Any = network.backbone
        self._device: torch.device = model.cross_encoder.device
        self._first_position = first_position(self._backbone)
        self._constants = {"use_cache": False} if hasattr(self._backbone.config, "use_cache") else {}
        self._limit: int | None = None
        self.tokenizer = padded.tokenizer
        self.activate = padded.activate
        self.info = replace(padded.info, packed=True)
        self._take_over(model)
        self.batch_tokens = self._choose_batch_tokens()

    def _take_over(self, model: Model) -> None:
        """Give the backbone our attention, if pairs keep the scores that they get alone and padded."""
        rows = model.tokenizer.encode([_LONGEST, PROBE, LONGER])
        alone = [model.score(pad_rows([row], model.padding)).item() for row in rows]
        before = self._backbone.config._attn_implementation
        try:
            self._backbone.set_attn_implementation(_ATTENTION)
            if self._backbone.config._attn_implementation != _ATTENTION:
                raise ValueError("its attention is of a kind of its own")
            for logit, expected in zip(self._score(rows).tolist(), alone, strict=True):
                if not model.is_near(logit, expected):
                    raise ValueError(f"a pair's logit would be {logit:.4g}, not {expected:.4g}")
        except (ImportError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            self._backbone.set_attn_implementation(before)
            raise CannotPackError(first_line(error).rstrip(".")) from error

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order; the budget counts no padding.

        The longest rows come first. What does not fit in memory is tried again in halves. One batch is on its
        way while the one before is waited for.
        """
        budget = min(batch_tokens or self.batch_tokens, self._limit or batch_tokens or self.batch_tokens)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        ends = np.cumsum(lengths[order])
        logits = np.empty(len(rows), dtype=np.float32)
        started: list[tuple[NDArray[np.intp], torch.Tensor]] = []

        def finish() -> None:
            places, scores = started.pop(0)
            logits[places] = scores.cpu().numpy()
            if on_progress is not None:
                on_progress(len(places))

        start = 0
        while start < len(order):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + budget, side="right")))
            tokens = int(ends[stop - 1]) - done
            scores = self._try([rows[place] for place in order[start:stop]])
            if scores is None:
                if stop - start == 1:
                    raise UnavailableError(
                        f"{self.info.device} ran out of memory on one pair of {tokens} tokens.",
                        hint=f"Give --max-length less than {tokens}, a smaller model, or --device cpu.",
                    )
                budget = self._limit = max(1, tokens // 2)
                log.info("%s lacks memory for %d tokens: batches halved.", self.info.device, tokens)
                continue
            started.append((order[start:stop], scores))
            start = stop
            if len(started) > 1:
                finish()
        while started:
            finish()
        return logits

    def _try(self, rows: Sequence[PairTokens]) -> torch.Tensor | None:
        """Start scoring rows; return None when memory does not suffice."""
        try:
            return self._score(rows)
        except (RuntimeError, MemoryError) as error:
            if not says_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # not above, where the error holds the tensors that did fit
        return None

    def _score(self, rows: Sequence[PairTokens]) -> torch.Tensor:
        """Return the float32 logits of rows, of shape (rows,), on the device; they may still be computed."""
        pack = pack_rows(rows, self._first_position)
        borders = self._send(pack.borders)
        inputs = {"input_ids": pack.input_ids, "position_ids": pack.position_ids}
        if pack.token_type_ids is not None:
            inputs["token_type_ids"] = pack.token_type_ids
        with torch.inference_mode():
            hidden = self._backbone(
                **{name: self._send(ids)[None] for name, ids in inputs.items()},
                **self._constants,
                cu_seq_lens_q=borders,
                cu_seq_lens_k=borders,
                max_length_q=pack.longest,
                max_length_k=pack.longest,
            )[0][0]
            logits: torch.Tensor = self._network.head(self._pool(hidden, borders))
            return logits.float().squeeze(-1)

    def _pool(self, hidden: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
        """Return the float32 vectors, of shape (rows, width), that the scores are made of."""
        if self._network.pooling == "mean":
            lengths = borders.diff().long()
            return torch.segment_reduce(hidden.float(), "mean", lengths=lengths)
        places = borders[:-1] if self._network.pooling == "first" else borders[1:] - 1
        return hidden[places].float()

    def _send(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _choose_batch_tokens(self) -> int:
        """Return the usual budget, or as much of it as takes no more than half of the memory that is free."""
        budget = _BATCH_TOKENS
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            width = getattr(self._backbone.config, "hidden_size", 1024)
            while budget > 1024 and budget * width * _BYTES > free / 2:
                budget //= 2
        return budget
