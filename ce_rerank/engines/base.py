"""What an engine is.

An engine turns batches of token ids into logits, and nothing else: which ids, in which batches and in which
order is decided once for all of them, in `tokenization.py`, `batching.py` and `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UnavailableError, UsageError
from ..interrupts import raise_if_interrupted
from ..models.kind import require_reranker
from ..models.store import Checkpoint
from ..types import EngineName, Precision
from .openvino.compilable import IMPORT_FAILURES

if TYPE_CHECKING:
    from .tokenization import PairTokenizer

Float32s = NDArray[np.float32]
Companions = Literal["any", "equal", "none"]
"""Which pairs may share a batch: any; those of the same length, where padding changes scores; or none."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs, where and how: all that a score depends on besides the text.

    `max_length` is the most tokens that a pair may have, special tokens included. `activation` is what the
    model's own configuration puts on its logit: `identity`, `sigmoid`, or the dotted name of another.
    `notes` are facts about the model that its user should know, as short phrases.
    """

    engine: str
    device: str
    precision: str
    model: str
    revision: str | None
    max_length: int
    activation: str
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Say in a line what scores come from: `NAME@REVISION (notes), ENGINE PRECISION on DEVICE`."""
        name = self.model if self.revision is None else f"{self.model}@{self.revision[:8]}"
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{name}{notes}, {self.engine} {self.precision} on {self.device}"


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Pairs padded to one length; the arrays are int64 of shape (pairs, tokens).

    `token_type_ids` is None for models that take none.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None


class Engine(Protocol):
    """A loaded model that scores batches of pairs. Safe to use from several threads."""

    @property
    def info(self) -> EngineInfo:
        """What runs, where and how."""
        ...

    @property
    def tokenizer(self) -> PairTokenizer:
        """What turns pairs into the ids that this model was trained on."""
        ...

    @property
    def batch_tokens(self) -> int:
        """The token budget of a batch, padding included, that this engine runs best with."""
        ...

    @property
    def companions(self) -> Companions:
        """Which pairs may share a batch without changing each other's scores."""
        ...

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Give the float32 logits of each batch, shape (pairs,), in the order of the batches.

        Batches are drawn as they are needed, a few ahead of the results.
        """
        ...

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the activation that the model's own configuration names; float32 in and out."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is to be run. The defaults choose what is best on this machine.

    `device` is auto, cpu, cuda, cuda:N or mps. `max_length` lowers the model's own limit, in tokens.
    `threads` is how many CPU threads may work, all of them by default. With `offline`, code that is trusted
    is not fetched either.
    """

    engine: EngineName = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    max_length: int | None = None
    threads: int | None = None
    trust_remote_code: bool = False
    offline: bool = False


def load_engine(checkpoint: Checkpoint, options: EngineOptions) -> Engine:
    """Load a checkpoint into the engine that the options name, or the best one for the device.

    Raises UnavailableError when the device, the engine or the model is not to be had in the form asked for.
    """
    try:
        return _load_engine(checkpoint, options)
    finally:
        # A signal may have been lost in the imports, and an engine or an error be here in its place.
        raise_if_interrupted()


def _load_engine(checkpoint: Checkpoint, options: EngineOptions) -> Engine:
    from .devices import find_device

    require_reranker(checkpoint)
    if checkpoint.source == "compiled":
        _require_cpu(checkpoint, options)
        device = "cpu"
    else:
        device = find_device(options.device)
    if options.engine == "openvino" and device != "cpu":
        raise UsageError(
            f"--engine openvino runs on the CPU, and the device is {device}.",
            hint="Give --device cpu, or --engine torch.",
        )
    if options.engine != "torch" and device == "cpu":
        from .openvino.engine import load_openvino_engine

        engine = load_openvino_engine(checkpoint, options)
        if engine is not None:
            return engine
    try:
        from .torch import load_torch_engine
    except IMPORT_FAILURES as error:
        raise UnavailableError(
            f"torch, which would run {checkpoint.name}, cannot be loaded: {error}.",
            hint="`ce-rerank doctor` says what is wrong here.",
        ) from error

    return load_torch_engine(checkpoint, options, device)


def _require_cpu(checkpoint: Checkpoint, options: EngineOptions) -> None:
    """Refuse options under which a model that is there in its compiled form alone cannot be run."""
    if options.engine == "torch" or options.device not in ("auto", "cpu"):
        asked = "--engine torch" if options.engine == "torch" else f"--device {options.device}"
        raise UsageError(
            f"{checkpoint.name} is a compiled model, which the CPU runs by openvino, not {asked}.",
            hint=f"Leave {asked} out, or give the model that it was compiled from.",
        )
