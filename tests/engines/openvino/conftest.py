"""A checkpoint that was compiled once, for tests that damage it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from engines.families import make_checkpoint

from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.models.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `pristine` holds a checkpoint, and a cache in which it was compiled at `at_work`."""
    folder = tmp_path_factory.mktemp("workplace")
    checkpoint = replace(make_checkpoint("bert", folder / "at_work" / "checkpoint"), name="tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CE_RERANK_CACHE", str(folder / "at_work" / "cache"))
        for options in (EngineOptions(precision="fp32"), EngineOptions(precision="fp32", threads=2)):
            load_engine(checkpoint, options)
    shutil.copytree(folder / "at_work", folder / "pristine")
    return folder


@pytest.fixture
def tiny(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint, compiled, and a cache of a test's own."""
    shutil.rmtree(workplace / "at_work")
    shutil.copytree(workplace / "pristine", workplace / "at_work")
    monkeypatch.setenv("CE_RERANK_CACHE", str(workplace / "at_work" / "cache"))
    return Checkpoint("tiny", workplace / "at_work" / "checkpoint", "folder")
