"""Every command of the README is run, and does what the README shows.

A block that starts with ```console holds commands (`$ ...`) and what they print. Scores differ in their last
digits from machine to machine, so that what is measured and bars are compared by their places alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from marks import posix_only
from typer.main import get_command

from ce_rerank.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("rank", "batch", "serve", "evaluate", "models", "doctor", "bench")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # jq does not know NO_COLOR
_MEASURED = re.compile(r"-?\d+\.\d+(e-?\d+)?|\d+(?= MB)")
_PRECISION = re.compile(r"\b(bf16|fp32)\b")
_BAR = re.compile(r"[━╸]+ *")


@dataclass(frozen=True)
class Example:
    """A command of the README, and what it is shown to print, on stdout and stderr as they come."""

    command: str
    output: str


def examples() -> list[Example]:
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            found.append(Example("\n".join(lines[:count]), "\n".join(lines[count:])))
    return found


def normalise(text: str) -> str:
    """Leave out what differs from machine to machine: figures, bars, the precision, trailing space."""
    text = _MEASURED.sub("0", _BAR.sub("| ", _PRECISION.sub("precision", text)))
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run_on_terminal(command: str, folder: Path) -> str:
    """Run a shell command as a person would see it: on a terminal, 80 columns wide, without colours."""
    environment = {**os.environ, "COLUMNS": "80", "LINES": "50", "NO_COLOR": "1", "TERM": "dumb"}
    environment["HF_HOME"] = str(folder / "hub")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        printed = b""
        # A terminal whose last user is gone is an error to read, not an end.
        with suppress(OSError):
            while data := os.read(ours, 65536):
                printed += data
    os.close(ours)
    return _COLOUR.sub("", printed.decode().replace("\r\n", "\n"))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[Example, str]:
    """What each example prints, run in the README's order: some read what others before them wrote."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "samples", folder / "samples")
    return {example: run_on_terminal(example.command, folder) for example in examples()}


@posix_only
@pytest.mark.slow
@pytest.mark.offline_weights
@pytest.mark.parametrize("example", examples(), ids=lambda example: example.command)
def test_a_command_prints_what_the_readme_shows(example: Example, printed: dict[Example, str]) -> None:
    if "jq" in example.command and shutil.which("jq") is None:
        pytest.skip("needs jq")
    assert normalise(printed[example]) == normalise(example.output)


def options_of(command: Any) -> set[tuple[str, ...]]:
    """The options of a command and of those below it, each in all its spellings."""
    own = {tuple(parameter.opts) for parameter in command.params if parameter.opts[0].startswith("-")}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_readme(command: str) -> None:
    group = get_command(app)
    options = options_of(group.get_command(group.make_context("ce-rerank", [command]), command))
    assert f"ce-rerank {command}" in README
    named = set(re.findall(r"(?<!\w)--?[a-zA-Z][a-z0-9-]*", README))
    assert options
    assert [spellings for spellings in options if named.isdisjoint(spellings)] == []


@pytest.mark.slow
@pytest.mark.offline_weights
@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
def test_python_examples_run(block: str) -> None:
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
