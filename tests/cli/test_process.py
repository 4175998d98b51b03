"""What only a process shows: imports, pipes, signals, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from marks import posix_only

# Pydantic and Rich come with Typer; they are not needed to read options or to show help.
HEAVY = (
    "pydantic",
    "torch", "transformers", "sentence_transformers", "numpy", "openvino", "tokenizers", "huggingface_hub",
    "pyarrow", "scipy", "ir_measures", "onnx",
)  # fmt: skip
COMMAND = [sys.executable, "-m", "ce_rerank"]


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, env={**os.environ, **environment}
    )


HELP = [["--help"], ["--version"], *([name, "--help"] for name in ("rank", "bench", "batch", "models"))]
USAGE_ERRORS = [
    ["q", "a", "--top-k", "0"], ["--nonsense"], ["q", "a", "-d", "tpu"], ["q", "-f", "no-such-file"],
    ["batch", "no-such-file"], ["batch", "a", "--shard", "3/2"],
]  # fmt: skip


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from ce_rerank.cli.app import app\n"
        "for heavy, lines in (({*HEAVY, 'rich'}, HELP), (set(HEAVY), USAGE_ERRORS)):\n"
        "    for line in lines:\n"
        "        app(line, standalone_mode=False)\n"
        "        if heavy & set(sys.modules): print('loads', line, heavy & set(sys.modules))\n"
        "print('done')\n"
    )
    values = f"HEAVY, HELP, USAGE_ERRORS = {HEAVY!r}, {HELP!r}, {USAGE_ERRORS!r}\n"
    done = subprocess.run([sys.executable, "-c", values + script], capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if line.startswith(("loads", "done"))] == ["done"]


def test_completion_knows_commands_and_options() -> None:
    def complete(line: str) -> list[str]:
        done = run(
            _CE_RERANK_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1)
        )
        return done.stdout.split()

    assert "bench" in complete("ce-rerank be")
    assert "--top-k" in complete("ce-rerank rank --top")


def test_without_a_word_the_help_goes_to_stderr_and_no_result_to_stdout() -> None:
    bare, asked = run(), run("--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.lstrip().startswith("Usage: ce-rerank ")
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", asked.stdout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is simulated by /dev/full")
def test_a_full_disk_behind_stdout_is_told_as_one() -> None:
    with Path("/dev/full").open("wb") as stdout:
        done = subprocess.run([*COMMAND, "--help"], stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (4, "error: No space left on device.\n")


@pytest.mark.parametrize("arguments", [["--help"], ["models"]])
def test_a_reader_that_has_left_is_no_fault(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@posix_only
def test_a_standard_stream_that_is_closed_is_refused_so_that_no_file_takes_its_place() -> None:
    script = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "--help"]
    done = subprocess.run(script, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (4, "error: stdin, stdout or stderr is closed.\n")


@pytest.mark.offline_weights
@pytest.mark.slow
class TestWithRealWeights:
    def test_a_reader_that_leaves_early_ends_it_quietly(self, tmp_path: Path) -> None:
        documents = tmp_path / "many.txt"
        # More than a pipe holds, so that writing must go on after the reader has left.
        documents.write_text("".join(f"{number} {'x' * 2000}\n" for number in range(120)), encoding="utf-8")
        command = [*COMMAND, "q", "-f", str(documents), "--max-length", "64", "-Q"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 0

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_ends_it_without_a_traceback_or_half_a_file(
        self, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        documents = tmp_path / "many.txt"
        documents.write_text("word " * 400 + "\n" + ("word " * 400 + "\n") * 5000, encoding="utf-8")
        output = tmp_path / "out.jsonl"
        command = [*COMMAND, "q", "-f", str(documents), "-o", str(output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("out*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == code
        assert stdout == b""
        assert b"Traceback" not in stderr
        assert list(tmp_path.glob("out*")) == []
