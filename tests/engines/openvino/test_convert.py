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
import torch
from engines.families import MAX_LENGTH, make_checkpoint
from marks import posix_only
from sentence_transformers import CrossEncoder

from ce_rerank.engines.openvino.cache import CompiledModel, find_compiled, prepare_compiled
from ce_rerank.engines.openvino.convert import GOLDEN_TEXTS
from ce_rerank.engines.openvino.manifest import maker_versions
from ce_rerank.engines.openvino.runtime import CannotCompileError
from ce_rerank.files import digest_file
from ce_rerank.models.checkpoint import Checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def compiled(tiny: Checkpoint) -> CompiledModel:
    """The compiled model of `tiny`, which a test may change."""
    found = find_compiled(tiny)
    assert found is not None
    return found


@pytest.fixture
def cache(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds nothing of `tiny`."""
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_golden_scores_are_those_of_sentence_transformers(
    compiled: CompiledModel, tiny: Checkpoint
) -> None:
    manifest = compiled.manifest
    assert (manifest.origin.name, manifest.origin.source) == ("tiny", "folder")
    assert (manifest.model.max_length, manifest.model.activation) == (MAX_LENGTH, "identity")
    assert [(pair.query, pair.document) for pair in manifest.golden] == list(GOLDEN_TEXTS)
    reference = CrossEncoder(str(tiny.folder), device="cpu").predict(
        [list(pair) for pair in GOLDEN_TEXTS], activation_fn=torch.nn.Identity()
    )
    assert [pair.logit for pair in manifest.golden] == pytest.approx(reference.tolist(), abs=1e-5)


def test_what_another_version_made_is_replaced(
    compiled: CompiledModel, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {**maker_versions(), "recipe": "99.0"}
    monkeypatch.setattr("ce_rerank.engines.openvino.cache.maker_versions", lambda: versions)
    assert find_compiled(tiny) is None
    assert prepare_compiled(tiny).manifest.golden == compiled.manifest.golden
    assert not compiled.folder.exists()


def test_a_changed_checkpoint_is_compiled_again(compiled: CompiledModel, tiny: Checkpoint) -> None:
    make_checkpoint("bert", tiny.folder, seed=1)
    assert find_compiled(tiny) is None
    assert prepare_compiled(tiny).manifest.golden[0].logit != compiled.manifest.golden[0].logit
    assert not compiled.folder.exists()


def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(
    compiled: CompiledModel, tiny: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(tiny.folder, tmp_path / "elsewhere")
    assert find_compiled(replace(tiny, folder=tmp_path / "elsewhere")) == compiled


def test_files_that_did_not_change_are_not_read_again(
    compiled: CompiledModel, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return digest_file(path)

    assert find_compiled(tiny) == compiled
    monkeypatch.setattr("ce_rerank.engines.openvino.cache.digest_file", digest)
    assert find_compiled(tiny) == compiled
    assert read == []
    os.utime(compiled.folder / "model.bin")
    assert find_compiled(tiny) == compiled
    assert read == ["model.bin"]


@pytest.mark.parametrize("name", ["manifest.json", "model.xml", "model.bin", "tokenizer.json"])
def test_damage_is_noticed(compiled: CompiledModel, tiny: Checkpoint, name: str) -> None:
    path = compiled.folder / name
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    for damaged in (content[:-1000], bytes([content[0] ^ 1]) + content[1:]):
        path.write_bytes(damaged)
        os.utime(path, ns=times)
        assert find_compiled(tiny) is None
    path.unlink()
    assert find_compiled(tiny) is None


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


def test_processes_that_start_together_compile_once(tiny: Checkpoint, cache: Path) -> None:
    processes = [compile_in_process(tiny) for _ in range(3)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [output.splitlines()[-1] for output, _ in outputs] == ["done"] * 3
    assert [error for _, error in outputs] == [""] * 3
    said = [line for output, _ in outputs for line in output.splitlines()]
    assert sum("for the CPU, once" in line for line in said) == 1
    assert find_compiled(tiny) is not None


@posix_only
def test_a_process_killed_while_it_compiles_leaves_no_model(tiny: Checkpoint, cache: Path) -> None:
    never_done = (
        "import time; from ce_rerank.engines.openvino.manifest import Manifest\n"
        "Manifest.write = lambda *_: (print('all but done', flush=True), time.sleep(600))"
    )
    process = compile_in_process(tiny, never_done)
    assert process.stdout is not None
    assert "all but done\n" in process.stdout
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("compiled/*.unfinished/tokenizer.json"))
    assert find_compiled(tiny) is None
    assert prepare_compiled(tiny) == find_compiled(tiny)
    assert [path.name for path in cache.glob("compiled/*") if "unfinished" in path.name] == []


def test_what_could_not_be_compiled_is_not_tried_again(
    tiny: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def fail(graph: object) -> None:
        tried.append(graph)
        raise RuntimeError("no rule for odd")

    monkeypatch.setattr("ce_rerank.engines.openvino.convert.keep_pooled_token", fail)
    for _ in range(2):
        with pytest.raises(CannotCompileError, match=r"^OpenVINO cannot convert it \(no rule for odd\)$"):
            prepare_compiled(tiny)
    assert len(tried) == 1
    config = tiny.folder / "config.json"
    config.write_text(config.read_text() + "\n")
    monkeypatch.undo()
    monkeypatch.setenv("CE_RERANK_CACHE", str(cache))
    assert prepare_compiled(tiny) == find_compiled(tiny)


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_what_could_not_be_compiled_on_this_machine_is_tried_again(
    tiny: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    name = "save_graph" if isinstance(error, OSError) else "keep_pooled_token"
    with monkeypatch.context() as patched:
        patched.setattr(f"ce_rerank.engines.openvino.convert.{name}", fail)
        with pytest.raises(OSError if isinstance(error, OSError) else CannotCompileError):
            prepare_compiled(tiny)
    assert prepare_compiled(tiny) == find_compiled(tiny)


def test_a_cache_that_cannot_be_written_is_named(tiny: Checkpoint, cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(OSError, match=str(cache)):
        prepare_compiled(tiny)
