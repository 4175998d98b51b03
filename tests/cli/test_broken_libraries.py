"""A library that is here and cannot be loaded is told, and ranking goes on without it if possible.

A signal ends the program even where a library that is being imported swallows what it raises.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from marks import posix_only
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
    asked = shell("rank", "-m", "./tiny", "--engine", "openvino", "tides", "the moon")
    assert (asked.returncode, asked.stdout) == (4, "")
    assert "OpenVINO cannot be loaded (libopenvino.so is gone)." in asked.stderr
    shutil.rmtree(shell.folder / "shadows")  # once it is repaired, it is used
    assert ", openvino " in shell("rank", "-m", "./tiny", "tides", "the moon", "--details").stdout


def test_without_torch_nothing_new_can_be_run_and_the_doctor_is_named(shell: Shell) -> None:
    break_library(shell, "torch")
    done = shell("rank", "-m", "./tiny", "tides", "the moon")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith(
        "error: torch, which would run ./tiny, cannot be loaded: libtorch.so is gone.\n"
        "       `ce-rerank doctor` says what is wrong here.\n"
    )


def swallow_signal(shell: Shell, name: str, number: int, then: str) -> None:
    """Put a library in the way that gets a signal while it is imported, and swallows what that raises."""
    shell.shadow(
        name, f"import signal\ntry:\n    signal.raise_signal({number})\nexcept BaseException:\n    {then}\n"
    )


@posix_only
@pytest.mark.parametrize(
    ("library", "then", "number", "code"),
    [
        ("openvino", "raise ImportError('KeyboardInterrupt')", signal.SIGINT, 130),
        ("torch", "pass", signal.SIGTERM, 143),
    ],
)
def test_no_other_engine_and_no_error_takes_the_place_of_a_signal(
    shell: Shell, library: str, then: str, number: signal.Signals, code: int
) -> None:
    swallow_signal(shell, library, number, then)
    done = shell("rank", "-m", "./tiny", "tides", "the moon")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert not list(shell.cache.glob("**/declined.json"))
