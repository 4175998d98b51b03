"""Every kind of bad input gets one clear error, the right exit code, and nothing on stdout."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ce_rerank.cli.app import app

USAGE, INPUT, UNAVAILABLE = 2, 3, 4


@dataclass(frozen=True)
class Case:
    """A command line, what lies around it, and what must come of it; `{folder}` is a fresh folder."""

    name: str
    arguments: list[str]
    code: int
    message: str
    files: dict[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


CASES = [
    # The command line.
    Case("no query", ["-f", "{folder}/a.txt"], USAGE, r"There is no query\. Give it first", {"a.txt": b"one\n"}),
    Case("empty query", ["", "a"], USAGE, r"The query is empty\."),
    Case("two queries", ["-q", "a", "--query-file", "b", "c"], USAGE, "Both --query and --query-file"),
    Case("a server to measure", ["bench", "-m", "http://a:1"], USAGE, "needs a model of this machine"),
    Case("a server for workers", ["batch", "a", "--ray", "-o", "b", "-m", "http://a:1"], USAGE, "needs a model of this machine"),
    Case("a server without its scheme", ["q", "a", "-m", "localhost:8931"], UNAVAILABLE, r"Did you mean http://localhost:8931\?"),
    Case("max-length too small", ["q", "a", "--max-length", "2"], USAGE, "--max-length.*2 is less than 8"),
    Case("bad environment value", ["q", "a"], USAGE, "CE_RERANK_THREADS|--threads", environment={"CE_RERANK_THREADS": "lots"}),
    Case("stdin as query and documents", ["--query-file", "-", "-f", "-"], USAGE, "stdin is named more than once", stdin=b"one\n"),
    Case("rules for rows without rows", ["q", "a", "--text-field", "t"], USAGE, "An option is about the rows of a file, and no document is a row"),
    Case("a query that is no text", ["caf\udce9", "a"], USAGE, r"The argument 'caf\\udce9' is not UTF-8"),
    Case("a language without BM25", ["q", "a", "--bm25-language", "german"], USAGE, "--bm25-language is about --bm25"),
    # What holds the output.
    Case("a suffix of no format", ["q", "a", "-o", "{folder}/out.xyz"], USAGE, r"\.xyz is not a format that is written here\. .*--to"),
    Case("output in no folder", ["q", "a", "-o", "{folder}/none/out.jsonl"], USAGE, "none"),
    Case("output is a folder", ["q", "a", "-o", "{folder}"], UNAVAILABLE, "folder|directory"),
    Case("output with too long a name", ["q", "a", "-o", "a" * 300], UNAVAILABLE, "File name too long"),
    # Files.
    Case("no such file", ["q", "-f", "{folder}/hit.jsonl"], INPUT, r"hit\.jsonl: cannot be read \(No such file or directory\)\."),
    Case("blank query file", ["--query-file", "{folder}/q.txt", "a"], INPUT, r"q\.txt: no query in it", {"q.txt": b"\n"}),
    Case("text with the options of a table", ["q", "-f", "a.txt", "--from", "text", "--text-field", "t"], USAGE, "Lines of text have no fields"),
    # Models.
    Case("no such folder", ["q", "a", "-m", "{folder}/no-model"], UNAVAILABLE, "no-model"),
    Case("an empty folder", ["q", "a", "-m", "{folder}"], UNAVAILABLE, r"config\.json"),
    Case("a model that is not cached", ["q", "a", "-m", "nobody/nothing", "--offline"], UNAVAILABLE, "nobody/nothing.*not.*cache"),
    Case("revision of a folder", ["q", "a", "-m", "{folder}/model", "--revision", "v1"], USAGE, "revision", {"model/config.json": b"{}"}),
    Case("a broken configuration", ["q", "a", "-m", "{folder}/model"], UNAVAILABLE, r"config\.json", {"model/config.json": b"{"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_gets_one_clear_error(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in case.arguments]

    result = CliRunner().invoke(app, arguments, input=case.stdin)

    said = " ".join(result.stderr.split())
    assert result.stdout == ""
    assert re.search(case.message, said), said
    assert result.exit_code == case.code, said
    assert said.startswith("error: ")
    assert said.count("error: ") == 1
    assert "Traceback" not in said
