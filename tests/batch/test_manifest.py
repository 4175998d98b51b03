from __future__ import annotations

from pathlib import Path

import pytest

from ce_rerank.batch.manifest import digest_folder

MODEL = ("config.json", "model.safetensors", "tokenizer.json", "1_Dense/model.safetensors", "modeling.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*MODEL, "checkpoint-500/optimizer.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", MODEL)
def test_a_model_is_told_from_one_with_another_file(folder: Path, name: str) -> None:
    before = digest_folder(folder)
    (folder / name).write_text("another")
    assert digest_folder(folder) not in (None, before)


def test_what_is_no_part_of_a_model_tells_nothing(folder: Path) -> None:
    before = digest_folder(folder)
    (folder / "checkpoint-500" / "optimizer.pt").write_text("another")
    assert digest_folder(folder) == before


def test_what_is_no_folder_has_no_digest(tmp_path: Path) -> None:
    assert digest_folder(tmp_path / "owner" / "name") is None
