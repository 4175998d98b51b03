"""A signal ends the program even where a library that is being imported swallows what it raises."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import Shell

from ce_rerank import interrupts
from ce_rerank.interrupts import end_on_signals, exit_code_if_interrupted, raise_if_interrupted

BOTH = [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, SystemExit, 143)]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the signals of this process as they were."""
    before = {number: signal.getsignal(number) for number in interrupts.EXIT_CODES}
    monkeypatch.setattr(interrupts, "_received", [])
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_a_signal_nothing_is_raised() -> None:
    raise_if_interrupted()
    assert exit_code_if_interrupted() is None


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "kind", "code"), BOTH)
def test_what_a_signal_raises_can_be_raised_again(
    number: signal.Signals, kind: type[BaseException], code: int
) -> None:
    end_on_signals()
    with pytest.raises(kind):
        signal.raise_signal(number)
    assert exit_code_if_interrupted() == code
    with pytest.raises(kind):
        raise_if_interrupted()


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_on_signals()
    signal.raise_signal(signal.SIGINT)
    assert exit_code_if_interrupted() is None


def break_library(shell: Shell, name: str, number: int, then: str) -> None:
    """Put a library in the way that gets a signal while it is imported, and swallows what that raises."""
    package = shell.folder / "broken" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"import signal\ntry:\n    signal.raise_signal({number})\nexcept BaseException:\n    {then}\n"
    )
    shell.environment["PYTHONPATH"] = str(shell.folder / "broken")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there, signals end a process at once")
@pytest.mark.parametrize("library", ["openvino", "torch"])
@pytest.mark.parametrize("then", ["raise ImportError('KeyboardInterrupt')", "pass"], ids=["error", "silence"])
@pytest.mark.parametrize(("number", "kind", "code"), BOTH)
def test_no_other_engine_and_no_error_takes_the_place_of_a_signal(
    tmp_path: Path, library: str, then: str, number: signal.Signals, kind: type[BaseException], code: int
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
