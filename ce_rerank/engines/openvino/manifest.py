"""The manifest of a compiled model: its origin, its inputs, and the golden scores that prove it.

A compiled model is a folder: `manifest.json` beside the graph, the weights and the tokenizer. The manifest
has the digest of every other file and one of itself, so that every change in the folder is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ...files import digest_file, read_json_object, write_json
from ...ranking import ACTIVATIONS
from ..tokenizer import ModelFacts

MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.xml"
WEIGHTS_NAME = "model.bin"
TOKENIZER_NAME = "tokenizer.json"
OWN_NAMES = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME)

_FORMAT = 6  # of the manifest
_RECIPE = "5"  # of `convert.py` and `graph.py`: what was compiled by another is compiled again
_LIBRARIES = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")

Form = Literal["full", "int8"]
"""The weights of a compiled model: float32, or 8 bits each."""


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A pair and the logit that sentence-transformers gives for it in float32."""

    query: str
    document: str
    logit: float


@dataclass(frozen=True, slots=True)
class Origin:
    """What a compiled model was made from.

    `place` is a digest of where that was: a later compiled model from the same place replaces this one.
    `versions` are those of the libraries and the recipe that made it.
    """

    source: str
    name: str
    revision: str | None
    place: str
    versions: Mapping[str, str]
    form: Form = "full"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known about a compiled model without loading it.

    `files` are the names of the other files in its folder, and the SHA-256 of each, in hexadecimal.
    """

    origin: Origin
    model: ModelFacts
    golden: tuple[GoldenPair, ...]
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write the manifest of the files in a folder, whatever `files` says; complete or not at all."""
        files = {path.name: digest_file(path) for path in folder.iterdir() if path.is_file()}
        files.pop(MANIFEST_NAME, None)
        facts = {"format": _FORMAT, **asdict(replace(self, files=files))}
        write_json(folder / MANIFEST_NAME, {**facts, "sha256": _digest_json(facts)})

    def _is_sound(self) -> bool:
        """Whether its values are possible; the name of a file must not lead out of the folder."""
        return (
            bool(self.golden)
            and all(math.isfinite(pair.logit) for pair in self.golden)
            and self.model.max_length > 0
            and self.model.activation in ACTIVATIONS
            and {*self.model.inputs} <= {"input_ids", "attention_mask", "token_type_ids"}
            and {*OWN_NAMES} <= {*self.files}
            and all(re.fullmatch(r"\w[\w.-]*", name, re.ASCII) for name in self.files)
        )


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a compiled model; None if there is none, or it is damaged or of another format."""
    path = folder / MANIFEST_NAME
    facts = read_json_object(path) if path.is_file() else {}
    if facts.pop("sha256", None) != _digest_json(facts) or facts.pop("format", None) != _FORMAT:
        return None
    try:
        manifest: Manifest = _read_as(Manifest, facts)
    except (TypeError, ValueError):
        return None
    return manifest if manifest._is_sound() else None


def maker_versions() -> dict[str, str]:
    """Return the versions of what makes a compiled model: the libraries, and our recipe."""
    return {**library_versions(), "recipe": _RECIPE}


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that make a compiled model, and run it."""
    # By the names of folders, since importing importlib.metadata takes too long.
    listed = [path.name for entry in reversed(sys.path) for path in Path(entry).glob("*.dist-info")]
    found = dict(name.removesuffix(".dist-info").lower().split("-")[:2] for name in listed if "-" in name)
    # An exported model runs without the libraries that compiled it.
    return {library: found.get(library.replace("-", "_"), "missing") for library in _LIBRARIES}


def _read_as(kind: Any, value: Any) -> Any:
    """Return a JSON value as the type of an annotation; raise TypeError or ValueError for other values."""
    origin, parts = get_origin(kind), get_args(kind)
    if hasattr(kind, "__dataclass_fields__") and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: _read_as(hints.get(name), part) for name, part in value.items()})
    if origin is tuple and isinstance(value, list):
        return tuple(_read_as(parts[0], part) for part in value)
    if origin is Mapping and isinstance(value, dict):
        return {name: _read_as(parts[1], part) for name, part in value.items()}
    if origin is UnionType:
        return None if value is None else _read_as(parts[0], value)
    if value not in parts if origin is Literal else type(value) is not kind:
        raise ValueError(value)
    return value


def _digest_json(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
