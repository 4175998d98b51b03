"""A signal ends the program even where a library that is being imported swallows what it raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell

from ce_rerank.errors import exit_code_if_interrupted, raise_if_interrupted

BOTH = [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, SystemExit, 143)]


# Each in a process of its own: in this one are libraries that signals are better not tried on.
_SENT = """
import signal
from ce_rerank.errors import end_on_signals, exit_code_if_interrupted, raise_if_interrupted
number = signal.Signals({number})
end_on_signals()
for act in (lambda: signal.raise_signal(number), raise_if_interrupted):
    try:
        act()
    except BaseException as error:
        print(type(error).__name__, exit_code_if_interrupted())
"""
_IGNORED = """
import signal
from ce_rerank.errors import end_on_signals, exit_code_if_interrupted, raise_if_interrupted
signal.signal(signal.SIGINT, signal.SIG_IGN)
end_on_signals()
signal.raise_signal(signal.SIGINT)
raise_if_interrupted()
print(exit_code_if_interrupted())
"""


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_without_a_signal_nothing_is_raised() -> None:
    raise_if_interrupted()
    assert exit_code_if_interrupted() is None


@pytest.mark.parametrize(("number", "kind", "code"), BOTH)
def test_what_a_signal_raises_can_be_raised_again(
    number: signal.Signals, kind: type[BaseException], code: int
) -> None:
    assert run_python(_SENT.format(number=int(number))) == f"{kind.__name__} {code}\n" * 2


def test_a_signal_that_is_ignored_stays_so() -> None:
    assert run_python(_IGNORED) == "None\n"


def break_library(shell: Shell, name: str, number: int, then: str) -> None:
    """Put a library in the way that gets a signal while it is imported, and swallows what that raises."""
    shell.shadow(
        name, f"import signal\ntry:\n    signal.raise_signal({number})\nexcept BaseException:\n    {then}\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there, signals end a process at once")
@pytest.mark.parametrize(
    ("library", "then", "number", "code"),
    [
        ("openvino", "raise ImportError('KeyboardInterrupt')", signal.SIGINT, 130),
        ("openvino", "pass", signal.SIGTERM, 143),
        ("torch", "raise ImportError('KeyboardInterrupt')", signal.SIGTERM, 143),
        ("torch", "pass", signal.SIGINT, 130),
    ],
)
def test_no_other_engine_and_no_error_takes_the_place_of_a_signal(
    tmp_path: Path, library: str, then: str, number: signal.Signals, code: int
) -> None:
    from engines.families import make_checkpoint

    make_checkpoint("bert", tmp_path / "tiny")
    shell = Shell.below(tmp_path)
    break_library(shell, library, number, then)
    done = shell("rank", "-m", "./tiny", "tides", "the moon")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert not list(shell.cache.glob("**/declined.json"))


def test_without_ir_measures_a_signal_is_not_told_as_if_it_were_not_installed(
    samples: Path, tmp_path: Path
) -> None:
    shell = Shell.below(tmp_path)
    break_library(shell, "ir_measures", signal.SIGINT, "raise ImportError('KeyboardInterrupt')")
    done = shell("evaluate", os.fspath(samples / "run.trec"), "--qrels", os.fspath(samples / "qrels.tsv"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
