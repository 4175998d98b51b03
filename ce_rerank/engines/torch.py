"""The torch engine: any device, and any model with one label that sentence-transformers can load."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnavailableError
from ..models.checkpoint import Checkpoint
from ..types import Precision
from .base import EngineInfo, EngineOptions
from .batching import Float32s, PairTokens, end_of_batch, pad_rows, sort_longest_first
from .model import Model, first_line, load_model
from .openvino.runtime import says_out_of_memory

if TYPE_CHECKING:
    from .packed import PackedModel

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}


def load_torch_engine(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    """Load a checkpoint by sentence-transformers; the options name a device and a precision (no auto).

    On CUDA it is packed if that is possible; if not, the reason is logged. Raises UnavailableError as
    `load_model` does.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log.info("Loading %s", checkpoint.name, extra={"stage": True})
    model = load_model(
        checkpoint,
        device=options.device,
        precision=options.precision,
        trust_remote_code=options.trust_remote_code,
        offline=options.offline,
    )
    packed = None
    if options.device.startswith("cuda") and options.precision != "fp32":  # which the kernel does not have
        from .packed import CannotPackError, PackedModel

        try:
            packed = PackedModel(model)
        except CannotPackError as reason:
            log.info("%s is run padded, not packed: %s.", checkpoint.name, reason)
    return TorchEngine(model, checkpoint, options, packed)


class TorchEngine:
    """A `Model` behind the engine protocol, padded or packed."""

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint,
        options: EngineOptions,
        packed: PackedModel | None = None,
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
        self._start: Callable[[Sequence[PairTokens]], torch.Tensor] = packed.score if packed else self._score
        self._padding = model.facts.padding
        self._limit: int | None = None  # tokens of a batch, once one was too large for the memory
        # On MPS two threads in one model abort the process, and memory for a new shape is never freed.
        self._has_few_shapes = kind == "mps"
        self._turn = threading.Lock() if kind == "mps" else nullcontext()
        if kind == "mps":
            self._padding = replace(self._padding, multiple=0, most=model.facts.max_length)

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order.

        A batch that does not fit in memory is tried again in halves. The next batch is started before the
        scores of the last one are read.
        """
        wanted = batch_tokens or self.batch_tokens
        order, lengths = sort_longest_first(rows)
        logits = np.empty(len(rows), dtype=np.float32)
        started: deque[tuple[NDArray[np.intp], torch.Tensor]] = deque()
        start = 0
        with self._turn:
            while start < len(order) or started:
                if start < len(order):
                    budget = min(wanted, self._limit or wanted)
                    companions = "packed" if self.info.packed else self._padding.companions
                    stop = end_of_batch(lengths, start, budget, companions)
                    places = order[start:stop]
                    scores = self._try([rows[place] for place in places])
                    if scores is None:
                        self._halve(lengths[start:stop])
                        continue
                    started.append((places, scores))
                    start = stop
                if len(started) > 1 or start == len(order):
                    places, scores = started.popleft()
                    logits[places] = scores.cpu().numpy()
                    if on_progress is not None:
                        on_progress(len(places))
        return logits

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, by torch, as sentence-transformers does."""
        with torch.inference_mode():
            scores: Float32s = self.model.activation_fn(torch.from_numpy(logits)).float().numpy()
            return scores

    def _score(self, rows: Sequence[PairTokens]) -> torch.Tensor:
        """Return the float32 logits of rows, of shape (rows,), on the device; they may still be computed."""
        count = len(rows)
        if self._has_few_shapes:
            rows = [*rows, *[rows[-1]] * ((1 << (count - 1).bit_length()) - count)]
        return self.model.score(pad_rows(rows, self._padding))[:count]

    def _try(self, rows: Sequence[PairTokens]) -> torch.Tensor | None:
        """Start scoring rows; return None if there is not enough memory."""
        try:
            return self._start(rows)
        except Exception as error:  # whatever a model's forward pass may raise
            if not says_out_of_memory(error):
                raise UnavailableError(
                    f"{self.info.model} cannot score a batch: {first_line(error)}.",
                    hint="`--debug` shows where it failed.",
                ) from error
        torch.cuda.empty_cache()  # here the error is gone, and with it the tensors that it held
        return None

    def _halve(self, lengths: NDArray[np.int64]) -> None:
        """Halve the batches after one that did not fit; raise UnavailableError if it was a single pair."""
        tokens = int(lengths.sum()) if self.info.packed else int(lengths[0]) * len(lengths)
        if len(lengths) == 1:
            raise UnavailableError(
                f"{self.info.device} ran out of memory on one pair of {tokens} tokens.",
                hint=f"Give --max-length less than {tokens}, a smaller model, or --device cpu.",
            )
        self._limit = tokens // 2
        log.info("%s lacks memory for %d tokens: batches halved.", self.info.device, tokens)


def choose_precision(precision: Precision, device: str) -> Precision:
    """Return the precision to run in on a device."""
    if precision == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return precision
