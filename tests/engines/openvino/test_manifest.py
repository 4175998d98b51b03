"""What a manifest holds, and that it can tell when it was changed."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from ce_rerank.engines.openvino.manifest import (
    MANIFEST_NAME,
    FileFacts,
    GoldenPair,
    Manifest,
    ModelFacts,
    Origin,
    library_versions,
    maker_versions,
    read_manifest,
    write_whole,
)

MANIFEST = Manifest(
    origin=Origin("hub", "owner/name", "0123abc", "commit 0123abc", "5" * 64, {"openvino": "2026.0"}),
    model=ModelFacts(
        inputs=("input_ids", "attention_mask"),
        max_length=512,
        activation="sigmoid",
        with_type_ids=False,
        pad_token_id=1,
        pad_type_id=0,
        pad_left=False,
    ),
    golden=(GoldenPair("a query", "ein Döcument 🌊", (0, 5, 2), (), -11.283199310302734),),
    files={"model.xml": FileFacts(12, "a" * 64)},
)


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST


def test_it_is_json_that_people_can_read(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    facts = json.loads((tmp_path / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert facts["origin"]["name"] == "owner/name"
    assert facts["model"]["num_labels"] == 1
    assert facts["golden"][0]["logit"] == -11.283199310302734


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"max_length": 512', '"max_length": 256'),
        ('"activation": "sigmoid"', '"activation": "identity"'),
        ("-11.283199310302734", "-11.283199310302834"),
        ("a" * 64, "b" * 64),
        ('"format"', '"former"'),
    ],
)
def test_a_changed_word_makes_it_no_manifest(tmp_path: Path, old: str, new: str) -> None:
    MANIFEST.write(tmp_path)
    path = tmp_path / MANIFEST_NAME
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\0" * 400, b'{"format": 1', b"\xff\xfe"])
def test_what_is_no_manifest_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    assert read_manifest(tmp_path) is None


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_a_new_fingerprint_changes_nothing_else() -> None:
    changed = MANIFEST.with_fingerprint("files 1")
    assert changed.origin.fingerprint == "files 1"
    assert changed.with_fingerprint("commit 0123abc") == MANIFEST
    assert replace(changed, origin=MANIFEST.origin) == MANIFEST


def test_the_versions_are_those_that_are_installed() -> None:
    versions = library_versions()
    assert list(versions) == ["openvino", "torch", "transformers", "sentence-transformers", "tokenizers"]
    assert versions == {name: metadata.version(name) for name in versions}
    assert maker_versions().items() > versions.items()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "after \ud800")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
