"""Ranking where a library is there and cannot be loaded: it is told, and gone on without if possible."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shell import Shell

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell with a tiny model in the folder `tiny`."""
    from engines.families import make_checkpoint

    make_checkpoint("bert", tmp_path / "tiny")
    return Shell.below(tmp_path)


def break_library(shell: Shell, name: str) -> None:
    shell.shadow(name, f"raise ImportError('lib{name}.so is gone')")


def test_without_openvino_torch_ranks_and_it_is_said(shell: Shell) -> None:
    break_library(shell, "openvino")
    done = shell("rank", "-m", "./tiny", "tides", "the moon", "--to", "text")
    assert (done.returncode, done.stdout) == (0, "the moon\n")
    assert done.stderr == (
        "warning: Torch runs ./tiny on cpu: openvino cannot run it: OpenVINO cannot be loaded "
        "(libopenvino.so is gone).\n"
    )
    shutil.rmtree(shell.folder / "shadows")  # once it is mended, it is used
    assert ", openvino " in shell("rank", "-m", "./tiny", "tides", "the moon", "--details").stdout


def test_openvino_that_is_asked_for_and_broken_is_an_error(shell: Shell) -> None:
    break_library(shell, "openvino")
    done = shell("rank", "-m", "./tiny", "--engine", "openvino", "tides", "the moon")
    assert (done.returncode, done.stdout) == (4, "")
    assert "OpenVINO cannot be loaded (libopenvino.so is gone)." in done.stderr


def test_without_torch_what_was_compiled_before_ranks_on(shell: Shell) -> None:
    before = shell("rank", "-m", "./tiny", "tides", "the moon")
    break_library(shell, "torch")
    after = shell("rank", "-m", "./tiny", "tides", "the moon")
    assert (after.returncode, after.stdout, after.stderr) == (0, before.stdout, "")


def test_without_torch_nothing_new_can_be_run_and_the_doctor_is_named(shell: Shell) -> None:
    break_library(shell, "torch")
    done = shell("rank", "-m", "./tiny", "tides", "the moon")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith(
        "error: torch, which would run ./tiny, cannot be loaded: libtorch.so is gone.\n"
        "       `ce-rerank doctor` says what is wrong here.\n"
    )
