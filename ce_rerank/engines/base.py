"""The engine protocol: a loaded model that maps rows of token ids to logits, and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args

from ..ranking import Activation
from ..types import EngineName, OnProgress, Precision, require_choice, require_whole_number

if TYPE_CHECKING:
    from .batching import Float32s, PairTokens
    from .tokenizer import PairTokenizer


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs, where and how; scores depend on this and on the text.

    `max_length` is the most tokens that a pair may have, special tokens included. `activation` is the
    function that the model's configuration applies to its logit: `identity`, `sigmoid`, or the dotted name of
    another. `notes` are short phrases that the model's user should know. `instruction` is the task that the
    model is given; None if it takes none. `packed` is whether sequences are end to end, without padding.
    """

    engine: str
    device: str
    precision: str
    model: str
    revision: str | None
    max_length: int
    activation: str
    notes: tuple[str, ...] = ()
    instruction: str | None = None
    packed: bool = False

    @property
    def description(self) -> str:
        """One line: `NAME@REVISION (notes), ENGINE PRECISION [packed] on DEVICE`."""
        name = self.model if self.revision is None else f"{self.model}@{self.revision[:8]}"
        told = [*self.notes, *([f'instruction "{self.instruction.strip()}"'] if self.instruction else [])]
        notes = f" ({'; '.join(told)})" if told else ""
        return f"{name}{notes}, {self.engine} {self.precision}{' packed' * self.packed} on {self.device}"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model. The defaults choose what is best on this machine.

    `device` is auto, cpu, cuda, cuda:N or mps. `max_length` lowers the model's own limit, in tokens.
    `threads` is how many CPU threads may run, by default all. With `offline`, trusted code is not fetched
    either. `instruction` is the task for models that take one, by default their own.
    """

    engine: EngineName = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    max_length: int | None = None
    threads: int | None = None
    trust_remote_code: bool = False
    offline: bool = False
    instruction: str | None = None

    def __post_init__(self) -> None:
        require_choice("engine", self.engine, get_args(EngineName))
        require_choice("precision", self.precision, get_args(Precision))
        require_whole_number("max_length", self.max_length)
        require_whole_number("threads", self.threads)


class Engine(Protocol):
    """A loaded model that scores rows. Threads may share it."""

    info: EngineInfo
    tokenizer: PairTokenizer
    """Makes the ids of pairs for this model."""
    batch_tokens: int
    """The best token budget of a batch, padding included."""
    activate: Activation
    """Applies the activation that the model's own configuration names."""

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, shape (rows,), in their order.

        The engine plans its batches, and pads or packs them. `batch_tokens` is the budget of a batch, by
        default the engine's own; `on_progress` is called with the number of rows just finished. A NaN is
        returned as it is. Raises UnavailableError if there is not enough memory.
        """
        ...
