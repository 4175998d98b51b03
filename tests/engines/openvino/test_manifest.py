"""A manifest can tell when it, or a file beside it, was changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from marks import posix_only

from ce_rerank.engines.batching import Padding
from ce_rerank.engines.openvino.manifest import (
    MANIFEST_NAME,
    GoldenPair,
    Manifest,
    Origin,
    library_versions,
    read_manifest,
)
from ce_rerank.engines.tokenizer import Layout, ModelFacts

MANIFEST = Manifest(
    origin=Origin("hub", "owner/name", "0123abc", "7" * 64, {"openvino": "2026.0"}),
    model=ModelFacts(
        inputs=("input_ids", "attention_mask"),
        max_length=512,
        activation="sigmoid",
        split_special_tokens=False,
        padding=Padding(token_id=1),
        layout=Layout(before="task: ", between=" document: ", after="\n", trims=True),
        instructed=None,
        instruction="task: ",
    ),
    golden=(GoldenPair("a query", "ein Döcument 🌊", -11.283199310302734),),
    files={},
)


FILES = ("model.xml", "model.bin", "tokenizer.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a compiled model, and their manifest."""
    for name in FILES:
        (tmp_path / name).write_text(name)
    MANIFEST.write(tmp_path)
    return tmp_path


def test_what_is_written_is_read_back_equal(folder: Path) -> None:
    found = read_manifest(folder)
    assert found is not None
    assert replace(found, files={}) == MANIFEST
    assert found.files == {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}


@pytest.mark.parametrize(
    ("old", "new"),
    [('"max_length": 512', '"max_length": 256'), ("302734", "302834"), ('"format"', '"former"'), ("{", "[")],
)
def test_a_changed_word_makes_it_no_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / MANIFEST_NAME
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert read_manifest(folder) is None


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, as somebody would who knows how its digest is made."""
    facts = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    del facts["sha256"]
    change(facts)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps({**facts, "sha256": digest}), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("origin"),
        lambda facts: facts["model"].update(surprise=1),
        lambda facts: facts["model"].update(activation="tanh"),
        lambda facts: facts.update(files=None),
        lambda facts: facts["files"].update({"../outside": "d" * 64}),
        lambda facts: facts["files"].update({"/dev/zero": "d" * 64}),
        lambda facts: facts.update(format=99),
    ],
)
def test_odd_content_is_no_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    forge(folder, lambda facts: None)
    assert read_manifest(folder) is not None
    forge(folder, change)
    assert read_manifest(folder) is None


@posix_only
def test_a_device_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/zero")
    assert read_manifest(tmp_path) is None


def test_the_versions_are_those_that_are_installed() -> None:
    assert library_versions() == {name: metadata.version(name) for name in library_versions()}
