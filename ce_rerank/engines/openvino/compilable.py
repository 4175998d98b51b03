"""Which checkpoints can be compiled, told from their configuration before anything heavy is loaded."""

from __future__ import annotations

import re

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

_NO_MEMORY = re.compile(r"bad.alloc|can't alloc|out of memory", re.IGNORECASE)


class CannotCompileError(Exception):
    """A checkpoint that cannot be compiled; the message is the reason, as a clause."""


class MishapError(CannotCompileError):
    """It could be compiled, but not here and now; this is to be said, and not to be remembered."""


class UnusableCacheError(MishapError):
    """There is no place to keep it."""


class BrokenLibraryError(MishapError):
    """A library that this takes cannot be loaded."""


class OutOfMemoryError(MishapError):
    """There is too little memory for it."""


def says_out_of_memory(error: Exception) -> bool:
    """Tell whether an error is for want of memory; on the CPU torch and OpenVINO have no kind for it."""
    # torch's own kind for devices says it in its message, too.
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def find_obstacle(checkpoint: Checkpoint) -> str | None:
    """Return what in a checkpoint's files keeps it from being compiled, as a clause; None when nothing."""
    if checkpoint.code:
        return "it brings Python code of its own"
    if checkpoint.family not in FAMILIES:
        return f"models of the type {checkpoint.family!r} have not been tried"
    if checkpoint.activation not in ACTIVATIONS.values():
        return f"its activation is {checkpoint.activation}"
    return None
