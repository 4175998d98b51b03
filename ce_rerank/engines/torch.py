"""The torch engine: any device, any model that sentence-transformers can load with one label."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from ..errors import UnavailableError
from ..models.checkpoint import Checkpoint
from ..types import Precision
from .base import EngineInfo, EngineOptions
from .batching import Float32s, PairTokens, TokenBatch, score_in_batches
from .model import Model, load_model
from .openvino.runtime import says_out_of_memory
from .tokenizer import instruct

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}


def load_torch_engine(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    """Load a checkpoint by sentence-transformers; the options name a device and a precision (no auto).

    Raises UnavailableError as `load_model` does.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log.info("Loading %s", checkpoint.name, extra={"stage": True})
    model = load_model(
        checkpoint,
        device=options.device,
        precision=options.precision,
        max_length=options.max_length,
        trust_remote_code=options.trust_remote_code,
        offline=options.offline,
    )
    return TorchEngine(model, checkpoint, options)


class TorchEngine:
    """A `Model` behind the engine protocol."""

    def __init__(self, model: Model, checkpoint: Checkpoint, options: EngineOptions) -> None:
        self.model = model
        self.batch_tokens = _BATCH_TOKENS[options.device.partition(":")[0]]
        self.tokenizer = model.tokenizer
        if options.instruction is not None:
            layout = instruct(model.instructed, options.instruction, checkpoint.name)
            self.tokenizer = model.make_tokenizer(model.max_length, layout)
        self.info = EngineInfo(
            engine="torch",
            device=options.device,
            precision=model.precision,
            model=checkpoint.name,
            revision=checkpoint.revision,
            max_length=model.max_length,
            activation=model.activation,
            instruction=model.instruction if options.instruction is None else options.instruction,
            notes=checkpoint.notes,
        )

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order."""
        budget = batch_tokens or self.batch_tokens
        return score_in_batches(rows, self._infer, self.model.padding, budget, on_progress)

    def _infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Yield the float32 logits of each batch, in order; one is waited for when the next is on its way."""
        started: torch.Tensor | None = None
        for batch in batches:
            ahead = self._start(batch)
            if started is not None:
                yield _to_numpy(started)
            started = ahead
        if started is not None:
            yield _to_numpy(started)

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, by torch, as sentence-transformers does."""
        with torch.inference_mode():
            return _to_numpy(self.model.activation_fn(torch.from_numpy(logits)))

    def _start(self, batch: TokenBatch) -> torch.Tensor:
        try:
            return self.model.score(batch)
        except (RuntimeError, MemoryError) as error:  # for the CPU, torch has no kind of its own
            if not says_out_of_memory(error):
                raise
            pairs, tokens = batch.input_ids.shape
            device = self.info.device
            raise UnavailableError(
                f"{device} ran out of memory on a batch of {pairs} pairs of {tokens} tokens.",
                hint=f"Give --batch-tokens less than {pairs * tokens}"
                + (", or a smaller model." if device == "cpu" else ", or --device cpu."),
            ) from error


def choose_precision(precision: Precision, device: str) -> Precision:
    """Return the precision to run in on a device."""
    if precision == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return precision


def _to_numpy(scores: torch.Tensor) -> Float32s:
    return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
