from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines.families import make_checkpoint
from typer.testing import CliRunner, Result

from ce_rerank.cli import bench
from ce_rerank.cli.app import app
from ce_rerank.cli.options import ModelOptions

pytestmark = pytest.mark.slow

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `ce-rerank bench` on a tiny model, one round."""
    make_checkpoint("bert", tmp_path / "bert")
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CE_RERANK_MODEL", str(tmp_path / "bert"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["bench", "--rounds", "1", *arguments])


def test_every_kind_of_document_can_be_measured_with(run: Run) -> None:
    texts = ["tides and the moon " * 12_000, "a\0b", "月球的引力牵动海水，" * 30, "plain"]
    Path("odd.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    result = run("odd.jsonl", "--precision", "fp32", "--to", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    measured = {(one["engine"], one["precision"]): one for one in json.loads(result.stdout)}
    assert list(measured) == [("torch", "fp32"), ("openvino", "fp32")]
    ours = measured["openvino", "fp32"]
    assert ours["largest_difference"] < 1e-3
    assert min(ours["start_seconds"], ours["documents_per_second"], ours["peak_memory_bytes"]) > 0


def test_what_was_asked_for_is_measured_beside_the_reference() -> None:
    torch, openvino = ("torch", "fp32"), ("openvino", "bf16")
    assert bench.choose(ModelOptions(engine="torch", precision="fp32"), "cpu") == [torch]
    assert bench.choose(ModelOptions(engine="openvino", precision="bf16"), "cpu") == [torch, openvino]


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--precision", "fp16"], 2, "error: cpu has no --engine auto --precision fp16."),
        (["-m", "no/such-model", "--offline"], 4, "error: no/such-model is not in the cache, and --offline "),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, options: list[str], code: int, error: str) -> None:
    result = run(*options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(error)


def test_scores_are_compared_one_by_one_and_times_by_their_medians() -> None:
    told = {"scores": [1.0, 2.0, 4.0], "device": "cpu", "packed": False, "peak_memory_bytes": 7}
    rounds = [{**told, "start_seconds": n, "elapsed_seconds": n} for n in (1, 9, 2)]
    summary = bench.summarise(rounds, [1.0, 3.0, 2.0])
    assert (summary["largest_difference"], summary["mean_difference"]) == (2, 1)
    assert (summary["start_seconds"], summary["documents_per_second"]) == (2, 1.5)


def test_documents_come_from_the_field_and_the_stream_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(bench, "_measure", lambda model, lists, *rest: seen.extend(lists) or [])
    rows = "".join(json.dumps({"abstract": f"text {number}"}) + "\n" for number in range(4))
    result = CliRunner().invoke(app, ["bench", "-", "--text-field", "abstract", "--to", "json"], input=rows)
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert [text for _, texts in seen for text in texts] == [f"text {number}" for number in range(4)]


def test_queries_are_beginnings_in_any_script() -> None:
    words = "one two three four five six seven eight nine ten"
    lists = bench.split_documents([*(["月" * 500] * 5), *([words] * 15)])
    assert [len(texts) for _, texts in lists] == [2] * 10
    assert (lists[0][0], lists[-1][0]) == ("月" * 60, "one two three four five six seven eight")
