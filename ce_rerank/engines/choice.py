"""What would run a model here, and why, without loading it."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.kind import require_reranker
from ..models.store import Checkpoint
from .devices import find_device
from .openvino.cache import find_compiled
from .openvino.compilable import CannotCompileError, find_obstacle
from .processor import cpu_flags, has_native_bf16


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, device and precision that a model gets when nothing else is asked for, and the reason."""

    engine: str
    device: str
    precision: str
    reason: str


def foresee_choice(checkpoint: Checkpoint) -> Choice:
    """Say what `load_engine` would choose for a checkpoint by default; where there is a GPU, torch is asked.

    Raises UnavailableError, saying what the model is, for one that cannot rank.
    """
    require_reranker(checkpoint)
    device = "cpu" if checkpoint.source == "compiled" else find_device("auto")
    if device != "cpu":
        from .torch import choose_precision

        return Choice("torch", device, choose_precision("auto", device), f"there is {device}")
    try:
        obstacle = None if find_compiled(checkpoint) else find_obstacle(checkpoint.folder)
    except CannotCompileError as error:
        obstacle = str(error)
    if obstacle is not None:
        return Choice("torch", device, "fp32", f"it is not compiled: {obstacle}")
    if has_native_bf16():
        flags = ", ".join(sorted(flag for flag in cpu_flags() if flag.endswith("bf16")))
        return Choice("openvino", device, "bf16", f"it can be compiled, and the CPU has bf16 ({flags})")
    return Choice("openvino", device, "fp32", "it can be compiled, and the CPU has no native bf16")
