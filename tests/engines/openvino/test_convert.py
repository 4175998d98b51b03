"""A model is compiled once, completely, and again when the model or the libraries have changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engines.families import (
    MAX_LENGTH,
    make_checkpoint,
)
from marks import posix_only

from ce_rerank.engines.openvino.cache import CompiledModel, find_compiled, prepare_compiled
from ce_rerank.engines.openvino.convert import GOLDEN_TEXTS
from ce_rerank.engines.openvino.manifest import maker_versions
from ce_rerank.engines.openvino.runtime import CannotCompileError
from ce_rerank.files import digest_file
from ce_rerank.models.checkpoint import Checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `pristine` holds a checkpoint, and a cache in which it was compiled at `at_work`."""
    folder = tmp_path_factory.mktemp("workplace")
    make_checkpoint("bert", folder / "at_work" / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CE_RERANK_CACHE", str(folder / "at_work" / "cache"))
        prepare_compiled(Checkpoint("tiny", folder / "at_work" / "checkpoint", "folder"))
    shutil.copytree(folder / "at_work", folder / "pristine")
    return folder


@pytest.fixture
def checkpoint(workplace: Path) -> Checkpoint:
    """A checkpoint that a test may change."""
    shutil.rmtree(workplace / "at_work")
    shutil.copytree(workplace / "pristine", workplace / "at_work")
    return Checkpoint("tiny", workplace / "at_work" / "checkpoint", "folder")


@pytest.fixture
def compiled(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> CompiledModel:
    """That checkpoint's compiled model, which a test may change."""
    monkeypatch.setenv("CE_RERANK_CACHE", str(checkpoint.folder.with_name("cache")))
    found = find_compiled(checkpoint)
    assert found is not None
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing."""
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_golden_scores_are_those_of_sentence_transformers(
    compiled: CompiledModel, checkpoint: Checkpoint
) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    manifest = compiled.manifest
    assert (manifest.origin.name, manifest.origin.source) == ("tiny", "folder")
    assert (manifest.model.max_length, manifest.model.activation) == (MAX_LENGTH, "identity")
    assert [(pair.query, pair.document) for pair in manifest.golden] == list(GOLDEN_TEXTS)
    reference = CrossEncoder(str(checkpoint.folder), device="cpu").predict(
        [list(pair) for pair in GOLDEN_TEXTS], activation_fn=torch.nn.Identity()
    )
    assert [pair.logit for pair in manifest.golden] == pytest.approx(reference.tolist(), abs=1e-6)


@pytest.mark.parametrize("maker", ["openvino", "recipe"])
def test_what_another_version_made_is_replaced(
    compiled: CompiledModel, checkpoint: Checkpoint, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {**maker_versions(), maker: "99.0"}
    monkeypatch.setattr("ce_rerank.engines.openvino.cache.maker_versions", lambda: versions)
    assert find_compiled(checkpoint) is None
    assert prepare_compiled(checkpoint).manifest.golden == compiled.manifest.golden
    assert not compiled.folder.exists()


def test_a_changed_checkpoint_is_compiled_again(compiled: CompiledModel, checkpoint: Checkpoint) -> None:
    make_checkpoint("bert", checkpoint.folder, seed=1)
    assert find_compiled(checkpoint) is None
    changed = prepare_compiled(checkpoint)
    assert not compiled.folder.exists()
    assert [pair.logit for pair in changed.manifest.golden] != [
        pair.logit for pair in compiled.manifest.golden
    ]


def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(
    compiled: CompiledModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint.folder, tmp_path / "elsewhere")
    assert find_compiled(replace(checkpoint, folder=tmp_path / "elsewhere")) == compiled


def test_files_that_did_not_change_are_not_read_again(
    compiled: CompiledModel, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return digest_file(path)

    assert find_compiled(checkpoint) == compiled
    monkeypatch.setattr("ce_rerank.engines.openvino.cache.digest_file", digest)
    assert find_compiled(checkpoint) == compiled
    assert read == []
    os.utime(compiled.folder / "model.bin")
    assert find_compiled(checkpoint) == compiled
    assert read == ["model.bin"]


def test_two_revisions_live_side_by_side(checkpoint: Checkpoint, cache: Path, tmp_path: Path) -> None:
    make_checkpoint("bert", tmp_path / "newer", seed=1)
    older = replace(checkpoint, name="owner/tiny", source="hub", revision="a" * 40)
    newer = replace(older, folder=tmp_path / "newer", revision="b" * 40)
    first, second = prepare_compiled(older), prepare_compiled(newer)
    assert first.folder.name.startswith("tiny-")
    assert first.folder != second.folder
    assert find_compiled(older) == first
    assert find_compiled(newer) == second
    assert first.manifest.golden != second.manifest.golden


@pytest.mark.parametrize("name", ["manifest.json", "model.xml", "model.bin", "tokenizer.json"])
def test_damage_is_noticed(compiled: CompiledModel, checkpoint: Checkpoint, name: str) -> None:
    path = compiled.folder / name
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    for damaged in (content[:-1000], bytes([content[0] ^ 1]) + content[1:]):
        path.write_bytes(damaged)
        os.utime(path, ns=times)
        assert find_compiled(checkpoint) is None
    path.unlink()
    assert find_compiled(checkpoint) is None


def compile_in_process(checkpoint: Checkpoint, before: str = "") -> subprocess.Popen[str]:
    code = (
        f"{before}\n"
        "import logging, pathlib, sys\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')\n"
        "from ce_rerank.engines.openvino.cache import prepare_compiled\n"
        "from ce_rerank.models.checkpoint import Checkpoint\n"
        f"prepare_compiled(Checkpoint('tiny', pathlib.Path({str(checkpoint.folder)!r}), 'folder'))\n"
        "print('done')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_start_together_compile_once(checkpoint: Checkpoint, cache: Path) -> None:
    processes = [compile_in_process(checkpoint) for _ in range(3)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [output.splitlines()[-1] for output, _ in outputs] == ["done"] * 3
    assert [error for _, error in outputs] == [""] * 3
    said = [line for output, _ in outputs for line in output.splitlines()]
    assert sum("for the CPU, once" in line for line in said) == 1
    assert find_compiled(checkpoint) is not None


@posix_only
def test_a_process_killed_while_it_compiles_leaves_no_model(checkpoint: Checkpoint, cache: Path) -> None:
    never_done = (
        "import time; from ce_rerank.engines.openvino.manifest import Manifest\n"
        "Manifest.write = lambda *_: (print('all but done', flush=True), time.sleep(600))"
    )
    process = compile_in_process(checkpoint, never_done)
    assert process.stdout is not None
    assert "all but done\n" in process.stdout
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("compiled/*.unfinished/tokenizer.json"))
    assert find_compiled(checkpoint) is None
    assert prepare_compiled(checkpoint) == find_compiled(checkpoint)
    assert [path.name for path in cache.glob("compiled/*") if "unfinished" in path.name] == []


def test_what_could_not_be_compiled_is_not_tried_again(
    checkpoint: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def fail(graph: object) -> None:
        tried.append(graph)
        raise RuntimeError("no rule for odd")

    monkeypatch.setattr("ce_rerank.engines.openvino.convert.keep_pooled_token", fail)
    for _ in range(2):
        with pytest.raises(CannotCompileError, match=r"^OpenVINO cannot convert it \(no rule for odd\)$"):
            prepare_compiled(checkpoint)
    assert len(tried) == 1
    config = checkpoint.folder / "config.json"
    config.write_text(config.read_text() + "\n")
    monkeypatch.undo()
    monkeypatch.setenv("CE_RERANK_CACHE", str(cache))
    assert prepare_compiled(checkpoint) == find_compiled(checkpoint)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "^there is too little memory to compile it$"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), "^there is too little memory"),
        (OSError(28, "No space left on device"), r"^the cache cannot hold it \(No space left"),
    ],
)
def test_what_could_not_be_compiled_on_this_machine_is_tried_again(
    checkpoint: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    name = "save_graph" if isinstance(error, OSError) else "keep_pooled_token"
    with monkeypatch.context() as patched:
        patched.setattr(f"ce_rerank.engines.openvino.convert.{name}", fail)
        with pytest.raises(CannotCompileError, match=reason):
            prepare_compiled(checkpoint)
    assert prepare_compiled(checkpoint) == find_compiled(checkpoint)


def test_a_cache_that_cannot_be_written_is_told_apart(checkpoint: Checkpoint, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(CannotCompileError, match="cannot be written"):
        prepare_compiled(checkpoint)
