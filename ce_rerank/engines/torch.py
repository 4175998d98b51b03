"""The torch engine: any device, and any model with one label that sentence-transformers can load.

On CUDA the sequences of a batch are packed: they are end to end, without padding. Our function, registered
with transformers' attention interface, lets every sequence attend only to itself, by torch's kernel for
sequences of different lengths.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface

from ..errors import UnavailableError
from ..models.checkpoint import Checkpoint
from ..ranking import ACTIVATIONS
from ..types import OnProgress, Pair
from .base import EngineInfo, EngineOptions
from .batching import Float32s, PairTokens, join_rows, pad_rows, score_in_batches
from .model import LONGER, PROBE, Model, first_line, load_model
from .network import Network, first_position
from .openvino.runtime import says_out_of_memory

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
_PACKED_TOKENS = 65_536
_ATTENTION = "ce_rerank_packed"
_BYTES = 64  # for a token and a unit of the model's width: about twice what the layers of an encoder need
# Longer than encoders' windows of attention, so that a model whose window gets lost is refused.
_LONGEST: Pair = (LONGER[0], LONGER[1] * 12)


def load_torch_engine(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    """Load a checkpoint by sentence-transformers; the options name a device and a precision (no auto).

    On CUDA it is packed if that is possible; if not, the reason is logged. Raises UnavailableError as
    `load_model` does.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log.info("Loading %s", checkpoint.name, extra={"stage": True})
    model = load_model(checkpoint, options)
    packed = None
    if options.device.startswith("cuda") and options.precision != "fp32":  # which the kernel does not have
        try:
            packed = PackedModel(model)
        except CannotPackError as reason:
            log.info("%s is run padded, not packed: %s.", checkpoint.name, reason)
    return TorchEngine(model, checkpoint, options, packed)


class TorchEngine:
    """A `Model` behind the engine protocol, padded or packed."""

    def __init__(
        self, model: Model, checkpoint: Checkpoint, options: EngineOptions, packed: PackedModel | None = None
    ) -> None:
        kind = options.device.partition(":")[0]
        self.model = model
        self.batch_tokens = packed.batch_tokens if packed else _BATCH_TOKENS[kind]
        self.tokenizer = model.make_tokenizer(options.max_length, options.instruction)
        self.info = EngineInfo(
            engine="torch",
            device=options.device,
            precision=model.precision,
            model=checkpoint.name,
            revision=checkpoint.revision,
            max_length=self.tokenizer.max_length,
            activation=model.facts.activation,
            instruction=model.facts.instruction if options.instruction is None else options.instruction,
            notes=checkpoint.notes,
            packed=packed is not None,
        )
        self.activate = ACTIVATIONS.get(model.facts.activation, self._activate)
        self._start: Callable[[Sequence[PairTokens]], torch.Tensor] = (
            packed.score if packed else self._start_padded
        )
        self._padding = model.facts.padding
        self._limit = sys.maxsize  # tokens of a batch; less once one was too large for the memory
        # On MPS two threads in one model abort the process, and memory for a new shape is never freed.
        self._has_few_shapes = kind == "mps"
        self._turn = threading.Lock() if kind == "mps" else nullcontext()
        if kind == "mps":
            self._padding = replace(self._padding, multiple=0, most=model.facts.max_length)

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order.

        A batch that does not fit in memory is scored in halves, and so are later ones of its size.
        """
        companions = "packed" if self.info.packed else self._padding.companions
        budget = batch_tokens or self.batch_tokens
        with self._turn:
            return score_in_batches(rows, self._score, budget, companions, on_progress)

    def _score(self, batches: Iterable[Sequence[PairTokens]]) -> Iterator[Float32s]:
        # The next batch is started before the logits of this one are read.
        for parts, _ in pairwise(chain(map(self._start_in_parts, batches), [None])):
            assert parts is not None
            yield torch.cat(parts).cpu().numpy()

    def _start_in_parts(self, rows: Sequence[PairTokens]) -> list[torch.Tensor]:
        """Start scoring rows, in one part or more; return the logits of each part, which may not be ready."""
        lengths = [len(row) for row in rows]
        tokens = sum(lengths) if self.info.packed else max(lengths) * len(rows)
        if len(rows) == 1 or tokens <= self._limit:
            try:
                return [self._start(rows)]
            except Exception as error:  # whatever a model's forward pass may raise
                if not says_out_of_memory(error):
                    raise UnavailableError(
                        f"{self.info.model} cannot score a batch: {first_line(error)}.",
                        hint="`--debug` shows where it failed.",
                    ) from error
            # Here the error is gone, and with it the tensors that it held.
            if len(rows) == 1:
                raise UnavailableError(
                    f"{self.info.device} ran out of memory on one pair of {tokens} tokens.",
                    hint=f"Give --max-length less than {tokens}, a smaller model, or --device cpu.",
                )
            torch.cuda.empty_cache()
            self._limit = tokens // 2
            log.info("%s lacks memory for %d tokens: batches halved.", self.info.device, tokens)
        half = len(rows) // 2
        return [*self._start_in_parts(rows[:half]), *self._start_in_parts(rows[half:])]

    def _start_padded(self, rows: Sequence[PairTokens]) -> torch.Tensor:
        count = len(rows)
        if self._has_few_shapes:
            rows = [*rows, *[rows[-1]] * ((1 << (count - 1).bit_length()) - count)]
        return self.model.score(pad_rows(rows, self._padding))[:count]

    def _activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, by torch, as sentence-transformers does."""
        with torch.inference_mode():
            scores: Float32s = self.model.activation_fn(torch.from_numpy(logits)).float().numpy()
            return scores


class CannotPackError(Exception):
    """A model cannot be packed; the text is the reason, as a clause."""


def pack_rows(
    rows: Sequence[PairTokens], first_position: int = 0
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int32], int]:
    """Lay rows end to end; the positions of each count from the model's first.

    Return the inputs of a model by their names, of shape (1, tokens); the borders of the rows, of shape
    (rows + 1,); and the tokens of the longest.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(borders[-1]) - np.repeat(borders[:-1], lengths) + first_position
    ids, types = join_rows(rows)
    inputs = {"input_ids": ids[None], "position_ids": positions[None]}
    if types is not None:
        inputs["token_type_ids"] = types[None].astype(np.int64)
    return inputs, borders.astype(np.int32), int(lengths.max())


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
    """Let every sequence of a pack attend only to itself; the tensors have shape (1, heads, tokens, size).

    Needs torch 2.11: the kernel of 2.10 has no scale and no windows.
    """
    if any(others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ValueError("its attention adds something of its own")
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    reach = -1 if sliding_window is None else sliding_window - 1
    groups = query.shape[1] // key.shape[1]
    kernel, takes = find_kernel()
    options: dict[str, Any] = {"scale": scaling, "window_size": (reach, 0 if causal else reach)}
    if {"enable_gqa", "num_splits"} <= takes:  # since torch 2.12
        # With more splits, a sequence's result depends on its neighbours.
        options |= {"enable_gqa": groups > 1, "num_splits": 1}
    else:
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    borders = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return kernel(query, key, value, *borders, **options)[None], None


AttentionInterface.register(_ATTENTION, attend)
AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)


@cache
def find_kernel() -> tuple[Any, frozenset[str]]:
    """Return the attention for sequences of different lengths, and the options of this torch's version."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


class PackedModel:
    """Scores rows by a model without padding. After that the model itself cannot be used padded any more.

    `batch_tokens` is the usual budget of a batch, or less if half of the free memory has no room for it.
    Raises CannotPackError, and leaves the model unchanged, if rows would get other scores.
    """

    def __init__(self, model: Model) -> None:
        network = model.network
        if not isinstance(network, Network):
            raise CannotPackError("it is not one backbone, pooled token and head")
        if "position_ids" not in inspect.signature(network.backbone.forward).parameters:
            raise CannotPackError("it takes no positions")
        self._network = network
        self._backbone: Any = network.backbone
        self._device: torch.device = model.cross_encoder.device
        self._first_position = first_position(self._backbone)
        self._constants = {"use_cache": False} if hasattr(self._backbone.config, "use_cache") else {}
        self._take_over(model)
        self.batch_tokens = _PACKED_TOKENS
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            width = getattr(self._backbone.config, "hidden_size", 1024)
            while self.batch_tokens > 1024 and self.batch_tokens * width * _BYTES > free / 2:
                self.batch_tokens //= 2

    def _take_over(self, model: Model) -> None:
        """Give our attention to the backbone, if pairs get the same scores as alone and padded."""
        rows = model.tokenizer.encode([_LONGEST, PROBE, LONGER])
        alone = [model.score(pad_rows([row], model.facts.padding)).item() for row in rows]
        before = self._backbone.config._attn_implementation
        try:
            self._backbone.set_attn_implementation(_ATTENTION)
            if self._backbone.config._attn_implementation != _ATTENTION:
                raise ValueError("its attention is of a kind of its own")
            for logit, expected in zip(self.score(rows).tolist(), alone, strict=True):
                if not model.is_near(logit, expected):
                    raise ValueError(f"a pair's logit would be {logit:.4g}, not {expected:.4g}")
        except (ImportError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            self._backbone.set_attn_implementation(before)
            raise CannotPackError(first_line(error).rstrip(".")) from error

    def score(self, rows: Sequence[PairTokens]) -> torch.Tensor:
        """Return the float32 logits of rows, of shape (rows,), on the device; they may still be computed."""
        inputs, starts, longest = pack_rows(rows, self._first_position)
        borders = self._send(starts)
        with torch.inference_mode():
            hidden = self._backbone(
                **{name: self._send(ids) for name, ids in inputs.items()},
                **self._constants,
                cu_seq_lens_q=borders,
                cu_seq_lens_k=borders,
                max_length_q=longest,
                max_length_k=longest,
            )[0][0]
            logits: torch.Tensor = self._network.head(self._pool(hidden, borders))
            return logits.float().squeeze(-1)

    def _pool(self, hidden: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
        """Return the float32 vectors that the head reads, of shape (rows, width)."""
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
