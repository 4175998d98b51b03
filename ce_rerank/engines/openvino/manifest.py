"""What a compiled model says of itself: what it was made from, how it is fed, and what proves its scores.

A compiled model is a folder: `manifest.json` beside the graph, the weights and the tokenizer. The manifest
carries the digest of every other file and one of itself, so that nothing in the folder can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ...files import read_json_object, write_whole
from ..tokenizer import Layout

MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.xml"
WEIGHTS_NAME = "model.bin"
TOKENIZER_NAME = "tokenizer.json"
OWN_NAMES = (GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_FORMAT = 4  # of the manifest
_RECIPE = "4"  # of `convert.py` and `int8.py`: what was compiled by another is compiled anew
_LIBRARIES = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")

Form = Literal["full", "int8"]
"""The weights of a compiled model: float32, or 8 bits each."""


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A pair, the ids that sentence-transformers feeds for it and the logit that torch gives in float32."""

    query: str
    document: str
    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    logit: float

    def __post_init__(self) -> None:
        _require(isinstance(self.query, str) and isinstance(self.document, str))
        _require(bool(self.input_ids) and all(type(token) is int for token in self.input_ids))
        _require(len(self.token_type_ids) in (0, len(self.input_ids)))
        _require(all(type(token) is int for token in self.token_type_ids))
        _require(isinstance(self.logit, float) and math.isfinite(self.logit))


@dataclass(frozen=True, slots=True)
class Origin:
    """What a compiled model was made from.

    `content_sha256` is of the files of the checkpoint, `place` a digest of where they were: what is compiled
    at the same place later takes its room. `versions` are of all that made it.
    """

    source: str
    name: str
    revision: str | None
    place: str
    content_sha256: str
    versions: Mapping[str, str]
    form: Form = "full"

    def __post_init__(self) -> None:
        texts = (self.source, self.name, self.revision or "", self.place, self.content_sha256)
        _require(all(isinstance(text, str) for text in texts))


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

    def __post_init__(self) -> None:
        _require(set(self.inputs) <= set(INPUTS) and self.activation in ("identity", "sigmoid"))
        _require(self.companions in ("any", "equal", "none"))
        numbers = (self.max_length, self.pad_token_id, self.pad_type_id)
        _require(all(type(number) is int and number >= 0 for number in numbers) and self.max_length > 0)
        layouts = [layout for layout in (self.layout, self.instructed) if layout is not None]
        texts = [text for one in layouts for text in (one.before, one.between or "", one.after)]
        _require(all(isinstance(text, str) for text in (*texts, self.instruction or "")))
        switches = (self.with_type_ids, self.split_special_tokens, self.pad_left)
        _require(all(type(switch) is bool for switch in (*switches, *(one.trims for one in layouts))))


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that there is to know about a compiled model without loading it.

    `files` are the names of the other files in its folder, and the SHA-256 of each, in hexadecimal.
    """

    origin: Origin
    model: ModelFacts
    golden: tuple[GoldenPair, ...]
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        _require(bool(self.golden) and set(OWN_NAMES) <= set(self.files))
        # A name must not lead out of the folder.
        _require(all(re.fullmatch(r"\w[\w.-]*", name, re.ASCII) for name in self.files))
        _require(all(isinstance(digest, str) for digest in self.files.values()))

    def write(self, folder: Path) -> None:
        """Write the manifest, whole or not at all."""
        facts = {"format": _FORMAT, **asdict(self)}
        write_whole(folder / MANIFEST_NAME, json.dumps({**facts, "sha256": _digest_json(facts)}, indent=1))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a compiled model; None when there is none that is whole, sound and ours."""
    path = folder / MANIFEST_NAME
    facts = read_json_object(path) if path.is_file() else {}
    if facts.pop("sha256", None) != _digest_json(facts) or facts.pop("format", None) != _FORMAT:
        return None
    try:
        return Manifest(
            origin=Origin(**facts["origin"]),
            model=_read_facts(**facts["model"]),
            golden=tuple(_read_golden(**pair) for pair in facts["golden"]),
            files=dict(facts["files"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def maker_versions() -> dict[str, str]:
    """Return the versions of all that makes a compiled model: the libraries, and what is done with them."""
    return {**library_versions(), "recipe": _RECIPE}


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a compiled model is made by and made for."""
    # importlib.metadata knows best, but importing it takes longer than all else that a warm start reads.
    listed = "\n".join(path.name for entry in sys.path for path in Path(entry).glob("*.dist-info"))
    return {library: _find_version(library, listed) for library in _LIBRARIES}


def _find_version(library: str, listed: str) -> str:
    escaped = re.escape(library.replace("-", "_"))
    found = re.search(rf"^{escaped}-([^-\n]+)\.dist-info$", listed, flags=re.MULTILINE | re.IGNORECASE)
    if found:
        return found[1]
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"  # a model that was compiled elsewhere runs without what compiled it


def _read_facts(
    inputs: list[str], layout: dict[str, Any], instructed: dict[str, Any] | None, **facts: Any
) -> ModelFacts:
    return ModelFacts(
        inputs=tuple(inputs),
        layout=Layout(**layout),
        instructed=Layout(**instructed) if instructed else None,
        **facts,
    )


def _read_golden(input_ids: list[int], token_type_ids: list[int], **facts: Any) -> GoldenPair:
    return GoldenPair(input_ids=tuple(input_ids), token_type_ids=tuple(token_type_ids), **facts)


def _require(is_sound: bool) -> None:
    if not is_sound:
        raise ValueError("this is no manifest of a compiled model")


def _digest_json(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
