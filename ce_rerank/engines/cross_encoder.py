"""A checkpoint as sentence-transformers loads it, for torch to run or for the compiler to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from ..types import Pair
from .openvino.compilable import ACTIVATIONS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Of the report that transformers logs when it makes up what a checkpoint does not have, and goes on.
_MADE_UP = re.compile(r"^(\S+)\s*\|.*\b(?:MISSING|MISMATCH)\b", re.MULTILINE)


def load_cross_encoder(
    folder: Path,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    trust_remote_code: bool = False,
    offline: bool = True,
) -> CrossEncoder:
    """Load a checkpoint for inference; raises what sentence-transformers does.

    The hub is asked for nothing, except for code that is trusted, which may lie in another repository; and
    not for that, when `offline`.
    """
    model = CrossEncoder(
        str(folder),
        device=device,
        trust_remote_code=trust_remote_code,
        local_files_only=offline or not trust_remote_code,
        model_kwargs={"dtype": DTYPES[precision]},
    )
    return model.eval()


def made_up_weights(messages: Sequence[str]) -> list[str]:
    """Name the weights that were made up while a model was loaded, from what the libraries logged."""
    return [name for message in messages for name in _MADE_UP.findall(message)]


def preprocess_pair(model: CrossEncoder, pair: Pair) -> dict[str, Any]:
    """Give what sentence-transformers would feed the model for one pair, its prompt included."""
    return dict(model.preprocess([list(pair)], prompt=model._resolve_prompt(None, None)))


def find_score_layer(module: torch.nn.Module) -> str | None:
    """Name the last layer that makes a vector into one number; None when there is none."""
    names = [
        name
        for name, layer in module.named_modules()
        if type(layer) is torch.nn.Linear and layer.out_features == 1
    ]
    return names[-1] if names else None


def name_activation(model: CrossEncoder) -> str:
    """Name the activation of the scores: `identity`, `sigmoid`, or the dotted name of another."""
    activation = type(model.activation_fn)
    dotted = f"{activation.__module__}.{activation.__qualname__}"
    return ACTIVATIONS.get(dotted, dotted)


def first_line(error: Exception) -> str:
    """Give the first line of what a library's error says; its kind, when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
