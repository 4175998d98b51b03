"""The torch engine: any device, and any model with one label that sentence-transformers can load."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import torch

from ..errors import UnavailableError
from ..models.checkpoint import Checkpoint
from ..ranking import ACTIVATIONS
from .base import EngineInfo, EngineOptions
from .batching import Float32s, PairTokens, pad_rows, score_in_batches
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
        on_progress: Callable[[int], None] | None = None,
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
