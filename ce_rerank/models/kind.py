"""Names of before, for those who still use them."""

from pathlib import Path
from typing import Any

from .checkpoint import LONGEST as LONGEST
from .checkpoint import Checkpoint
from .checkpoint import require_reranker as require_reranker


def untrusted_activation(folder: Path) -> str | None:
    """Return an activation that is code outside torch."""
    return Checkpoint("", folder, "folder").foreign_activation


def named_activation(config: dict[str, Any], library_config: dict[str, Any]) -> str | None:
    """Return the activation that is named."""
    return (
        library_config.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return a configuration."""
    return Checkpoint("", path.parent, "folder")._read_object(path.name)


read_config_if_there = read_config
