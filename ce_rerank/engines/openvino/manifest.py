"""What a compiled model says of itself: what its scores depend on, and what proves that it still gives them.

A compiled model is a folder: `manifest.json` beside the graph, the weights and the tokenizer. The manifest
carries the digest of every other file and one of itself, so that nothing in the folder can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ...files import read_json_object, write_whole
from ..tokenizer import Layout

MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.xml"
WEIGHTS_NAME = "model.bin"
TOKENIZER_NAME = "tokenizer.json"

_FORMAT = 2  # of the manifest
_RECIPE = "3"  # of `convert.py`: a compiled model that was made by another is made anew
_LIBRARIES = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A pair, the ids that sentence-transformers feeds for it and the logit that torch gives in float32."""

    query: str
    document: str
    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    logit: float


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The size of a file in bytes, and the hexadecimal SHA-256 of its content."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Read a file, a piece at a time, and tell what it is; other threads run meanwhile."""
        with path.open("rb") as file:
            return cls(os.fstat(file.fileno()).st_size, _digest(file))


@dataclass(frozen=True, slots=True)
class Origin:
    """What a compiled model was made from.

    `fingerprint` changes when the checkpoint may have changed, and costs nothing to take; `content_sha256`,
    of all files that the checkpoint takes to run, decides.
    """

    source: str
    name: str
    revision: str | None
    fingerprint: str
    content_sha256: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How a model is fed and read.

    `inputs` are what its graph takes, `max_length` is the most tokens that a pair may have, and `activation`
    is identity or sigmoid. `companions` says which pairs may share a batch. `layout` is what
    surrounds query and document, `instructed` the same for any instruction and `instruction` the model's own.
    """

    inputs: tuple[str, ...]
    max_length: int
    activation: str
    with_type_ids: bool
    split_special_tokens: bool
    pad_token_id: int
    pad_type_id: int
    pad_left: bool
    companions: Literal["any", "equal", "none"]
    layout: Layout
    instructed: Layout | None
    instruction: str | None
    num_labels: int = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that there is to know about a compiled model without loading it."""

    origin: Origin
    model: ModelFacts
    golden: tuple[GoldenPair, ...]
    files: Mapping[str, FileFacts]

    def write(self, folder: Path) -> None:
        """Write the manifest, whole or not at all."""
        facts = {"format": _FORMAT, **asdict(self)}
        write_whole(folder / MANIFEST_NAME, json.dumps({**facts, "sha256": _digest_json(facts)}, indent=1))

    def with_fingerprint(self, fingerprint: str) -> Manifest:
        """Give the manifest of the same content in files that are newer."""
        return replace(self, origin=replace(self.origin, fingerprint=fingerprint))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a compiled model; None when there is none that is whole and of our making."""
    facts = read_json_object(folder / MANIFEST_NAME)
    if facts.pop("sha256", None) != _digest_json(facts) or facts.pop("format", None) != _FORMAT:
        return None
    return Manifest(
        origin=Origin(**facts["origin"]),
        model=_model_facts(facts["model"]),
        golden=tuple(_golden_pair(pair) for pair in facts["golden"]),
        files={name: FileFacts(**file) for name, file in facts["files"].items()},
    )


def maker_versions() -> dict[str, str]:
    """Give the versions of all that makes a compiled model: the libraries, and what is done with them."""
    return {**library_versions(), "recipe": _RECIPE}


@cache
def library_versions() -> dict[str, str]:
    """Give the versions of the libraries that a compiled model is made by and made for."""
    listed = "\n".join(name for entry in sys.path for name in _list_distributions(entry))
    return {library: _find_version(library, listed) for library in _LIBRARIES}


def _model_facts(facts: dict[str, Any]) -> ModelFacts:
    layouts = {name: facts[name] and Layout(**facts[name]) for name in ("layout", "instructed")}
    return ModelFacts(**{**facts, **layouts, "inputs": tuple(facts["inputs"])})


def _golden_pair(facts: dict[str, Any]) -> GoldenPair:
    ids = {name: tuple(facts[name]) for name in ("input_ids", "token_type_ids")}
    return GoldenPair(**{**facts, **ids})


def _find_version(library: str, listed: str) -> str:
    # importlib.metadata knows best, but importing it takes longer than all else that a warm start reads.
    escaped = re.escape(library.replace("-", "_"))
    found = re.search(rf"^{escaped}-([^-\n]+)\.dist-info$", listed, flags=re.MULTILINE | re.IGNORECASE)
    if found:
        return found[1]
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"  # a model that was compiled elsewhere runs without what compiled it


def _list_distributions(folder: str) -> list[str]:
    try:
        return [path.name for path in Path(folder).glob("*.dist-info")]
    except OSError:
        return []


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _digest_json(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
