"""Which checkpoints can be compiled, told from their configuration before anything heavy is loaded."""

from __future__ import annotations

from ...models.checkpoint import ACTIVATIONS as ACTIVATIONS
from ...models.checkpoint import Checkpoint

# As transformers names them in `model_type`; the tests convert and compare each, at several shapes.
FAMILIES = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "gemma",
    "llama",
    "modernbert",
    "mpnet",
    "qwen2",
    "qwen3",
    "roberta",
    "xlm-roberta",
)


def find_obstacle(checkpoint: Checkpoint) -> str | None:
    """Return what in a checkpoint's files keeps it from being compiled, as a clause; None when nothing."""
    if checkpoint.code:
        return "it brings Python code of its own"
    if checkpoint.family not in FAMILIES:
        return f"models of the type {checkpoint.family!r} have not been tried"
    if checkpoint.activation not in ACTIVATIONS.values():
        return f"its activation is {checkpoint.activation}"
    return None
