"""What a checkpoint says of itself, read from its files without loading it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contents import list_code, list_files, select_pickled
from .kind import LONGEST, named_activation, named_labels, read_config, read_config_if_there

_HEADER_LIMIT = 100_000_000  # bytes; what safetensors itself allows for a header


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint's own files say; empty or None where they say nothing.

    `activation` is `identity`, `sigmoid` or a dotted name. `max_length` is the least of the limits that are
    declared, in tokens of a pair. `files` are names with their sizes in bytes, `pickled` those of them that
    are weights which can run code. `code` names the Python code that it brings, a phrase for each piece.
    """

    architecture: str
    family: str | None
    labels: tuple[str, ...]
    activation: str
    max_length: int | None
    parameters: int | None
    licence: str | None
    languages: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    pickled: tuple[str, ...]
    code: tuple[str, ...]


def inspect_checkpoint(folder: Path) -> CheckpointFacts:
    """Read what a checkpoint says of itself; raises UnavailableError when its configuration is unreadable."""
    config = read_config(folder / "config.json")
    names = list_files(folder)
    licence, languages = _read_card(folder / "README.md")
    return CheckpointFacts(
        architecture=str((config.get("architectures") or [""])[0]),
        family=config.get("model_type"),
        labels=tuple(named_labels(config)),
        activation=_activation(folder, config),
        max_length=_max_length(folder, config),
        parameters=_count_parameters([folder / name for name in names if name.endswith(".safetensors")]),
        licence=licence,
        languages=languages,
        files=tuple((name, (folder / name).stat().st_size) for name in names),
        pickled=tuple(select_pickled(names)),
        code=tuple(list_code(folder)),
    )


def _activation(folder: Path, config: dict[str, Any]) -> str:
    """Name the activation as sentence-transformers chooses it: what is stored, else sigmoid for one label."""
    named = named_activation(config, read_config_if_there(folder / "config_sentence_transformers.json"))
    dotted = str(named or "torch.nn.modules.activation.Sigmoid")
    return {"Identity": "identity", "Sigmoid": "sigmoid"}.get(dotted.rpartition(".")[2], dotted)


def _max_length(folder: Path, config: dict[str, Any]) -> int | None:
    tokenizer = read_config_if_there(folder / "tokenizer_config.json")
    module = read_config_if_there(folder / "sentence_bert_config.json")
    declared = (
        module.get("max_seq_length"),
        tokenizer.get("model_max_length"),
        config.get("max_position_embeddings"),
    )
    limits = [int(limit) for limit in declared if isinstance(limit, int | float) and 0 < limit < LONGEST]
    return min(limits, default=None)


def _count_parameters(paths: list[Path]) -> int | None:
    """Add up the weights in safetensors files; None where there are none, or one cannot be read."""
    try:
        return sum(map(_count_in_header, paths)) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _count_in_header(path: Path) -> int:
    """Add up the weights that the head of a safetensors file lists: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, _HEADER_LIMIT)))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _read_card(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Read the licence and the languages from the head of a model card."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        card: Any = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        card = card.to_dict()
    except (OSError, ValueError, TypeError, YAMLError):
        return None, ()
    return ", ".join(_list_texts(card.get("license"))) or None, _list_texts(card.get("language"))


def _list_texts(value: Any) -> tuple[str, ...]:
    """Give as texts what a card may say once or several times; people write all sorts of things there."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(one) for one in values if one is not None)
