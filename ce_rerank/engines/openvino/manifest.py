"""The manifest of a compiled model: its origin, its inputs, and the golden scores that prove it.

A compiled model is a folder: `manifest.json` beside the graph, the weights and the tokenizer. The manifest
has the digest of every other file and one of itself, so that every change in the folder is noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from ...files import digest_file, digest_json, read_json_object, write_json
from ...ranking import ACTIVATIONS
from ..batching import Padding
from ..tokenizer import Layout, ModelFacts

MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.xml"
TOKENIZER_NAME = "tokenizer.json"

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
        write_json(folder / MANIFEST_NAME, {**facts, "sha256": digest_json(facts)})


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a compiled model; None if there is none, or it is damaged or of another format."""
    path = folder / MANIFEST_NAME
    facts = read_json_object(path) if path.is_file() else {}
    if facts.pop("sha256", None) != digest_json(facts) or facts.pop("format", None) != _FORMAT:
        return None
    try:  # somebody else may have made the folder
        model, files = facts["model"], facts["files"]
        layouts = {name: model[name] and Layout(**model[name]) for name in ("layout", "instructed")}
        others = {"inputs": tuple(model["inputs"]), "padding": Padding(**model["padding"])}
        manifest = Manifest(
            origin=Origin(**facts["origin"]),
            model=ModelFacts(**{**model, **layouts, **others}),
            golden=tuple(GoldenPair(**pair) for pair in facts["golden"]),
            files=files,
        )
        is_sound = manifest.model.activation in ACTIVATIONS and all(Path(name).name == name for name in files)
    except (KeyError, TypeError):
        return None
    return manifest if is_sound else None


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
