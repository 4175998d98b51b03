"""What kind of model a checkpoint is, read from its own configuration before anything heavy is loaded.

Only models that give one score for a pair can rank. Others load without complaint, with a head of random
weights or with classes for scores, so they are told apart here and refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from .store import Checkpoint

LONGEST = 2**31 - 1  # what a tokenizer without a limit of its own is given, tokens
_RANKING_HINT = "Give a cross-encoder with one label, cross-encoder/ms-marco-MiniLM-L-6-v2 for one."
_DEFAULT_LABEL_COUNT = 2  # what transformers assumes of a classifier whose configuration names no labels


def require_reranker(checkpoint: Checkpoint) -> None:
    """Raise UnavailableError, saying what the model is, unless it can give one score for a pair."""
    config = read_config(checkpoint.folder / "config.json")
    is_cross_encoder = _sentence_transformers_type(checkpoint.folder) == "CrossEncoder"
    architecture = _architecture(config)
    if architecture.endswith("ForSequenceClassification"):
        labels = _labels(config)
        if len(labels) != 1:
            raise UnavailableError(
                f"{checkpoint.name} is a classifier with {len(labels)} labels ({', '.join(labels)}), "
                "not a reranker: it gives no single score to rank by.",
                hint=_RANKING_HINT,
            )
    elif is_cross_encoder or architecture.endswith("ForCausalLM"):
        return
    elif "Ranking" in architecture:
        raise UnavailableError(
            f"{checkpoint.name} is a listwise reranker ({architecture}): it scores a whole list at once, "
            "not a pair at a time.",
            hint=_RANKING_HINT,
        )
    elif (checkpoint.folder / "modules.json").exists() or architecture.endswith("Model"):
        raise UnavailableError(
            f"{checkpoint.name} is an embedding model ({architecture or 'no classification head'}): it turns "
            "one text into a vector and has no head that scores a pair.",
            hint=_RANKING_HINT,
        )
    else:
        raise UnavailableError(
            f"{checkpoint.name} is a {architecture or 'model of no named architecture'}, "
            "which cannot score pairs.",
            hint=_RANKING_HINT,
        )


def untrusted_activation(folder: Path) -> str | None:
    """Give the dotted name of an activation that is code outside torch; None when there is none.

    sentence-transformers replaces such an activation, unless remote code is trusted, and scores change.
    """
    config = read_config(folder / "config.json")
    library_config = read_config_if_there(folder / "config_sentence_transformers.json")
    for activation in (named_activation(config, library_config), named_activation(config, {})):
        if isinstance(activation, str) and not activation.startswith("torch."):
            return activation
    return None


def named_activation(config: dict[str, Any], library_config: dict[str, Any]) -> str | None:
    """Give the activation that a checkpoint's configurations name, in the order in which they are asked."""
    return (
        library_config.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON configuration; raises UnavailableError for one that cannot be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"{path} cannot be read as a model's configuration: {error}.",
            hint="Fetch the model again, or give another folder.",
        ) from error
    if not isinstance(config, dict):
        raise UnavailableError(f"{path} is not a model's configuration.", hint="Give a checkpoint's folder.")
    return config


def read_config_if_there(path: Path) -> dict[str, Any]:
    """Read a configuration as `read_config` does; what is not there is empty."""
    return read_config(path) if path.exists() else {}


def _sentence_transformers_type(folder: Path) -> str:
    config = read_config_if_there(folder / "config_sentence_transformers.json")
    return str(config.get("model_type", "SentenceTransformer" if config else ""))


def _architecture(config: dict[str, Any]) -> str:
    architectures = config.get("architectures") or [""]
    return str(architectures[0])


def named_labels(config: dict[str, Any]) -> list[str]:
    """Give the labels that a configuration names; raises UnavailableError for what transformers cannot read.

    None where it names none.
    """
    named = config.get("id2label") or {}
    if not isinstance(named, dict):
        raise UnavailableError(
            f"id2label in its config.json is {named!r}, which transformers cannot read.",
            hint='Its labels must be an object: {"0": "LABEL_0"}.',
        )
    return [str(label) for label in named.values()]


def _labels(config: dict[str, Any]) -> list[str]:
    named = named_labels(config)
    if named:
        return named
    count = int(config.get("num_labels", _DEFAULT_LABEL_COUNT))
    return [f"LABEL_{number}" for number in range(count)]
