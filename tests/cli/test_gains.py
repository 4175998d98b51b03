"""`ce-rerank batch --qrels`: from candidates to numbers in one command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from batch_fakes import make_counting_checkpoint
from fakes import CountingEngine
from typer.testing import CliRunner, Result

from ce_rerank.cli.app import app
from ce_rerank.cli.gains import Gains
from ce_rerank.errors import UsageError

pytest.importorskip("ir_measures", reason="needs ce-rerank[evaluate]")

JOB = ["batch", "--run", "run.trec", "--queries", "queries.tsv", "--corpus", "corpus.tsv"]


@pytest.fixture(autouse=True)
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three documents, of which the first stage has the relevant one last, and the model has it first."""
    engine = CountingEngine()
    monkeypatch.setattr("ce_rerank.engines.load_engine", lambda checkpoint, options: engine)
    monkeypatch.setenv("CE_RERANK_MODEL", str(make_counting_checkpoint(tmp_path / "counting")))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    Path("queries.tsv").write_text("q\tred\n", encoding="utf-8")
    Path("corpus.tsv").write_text("a\tone\nb\ttwo\nc\tnine\n", encoding="utf-8")
    Path("run.trec").write_text("q Q0 a 1 3 x\nq Q0 b 2 2 x\nq Q0 c 3 1 x\n", encoding="utf-8")
    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tc\t1\nq\ta\t0\nq\tb\t0\n", encoding="utf-8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*JOB, *arguments])


def test_before_and_after_are_all_that_is_shown_without_an_output() -> None:
    result = run("--qrels", "qrels.tsv", "--measure", "RR@10")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["run", "RR@10"]
    assert lines[2] == ["run.trec", "0.3333"]
    assert lines[3][:3] == ["reranked", "1.0000", "+0.6667"]
    assert "Q0" not in result.stdout


def test_the_results_are_kept_where_an_output_is_named() -> None:
    result = run("--qrels", "qrels.tsv", "-o", "out.jsonl")
    assert result.exit_code == 0
    assert "out.jsonl" in result.stdout
    assert "nDCG@10" in result.stdout
    assert (
        Path("out.jsonl")
        .read_text(encoding="utf-8")
        .startswith('{"query_id": "q", "query": "red", "results"')
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qrels", "qrels.tsv", "--measure", "nDGC@10"], "nDGC@10"),
        (["--qrels", "qrels.tsv", "-o", "out.csv"], "--qrels reads the output again, which is csv"),
        (["--measure", "nDCG@10"], "--measure needs judgements"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_scored(
    arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not Path("out.csv").exists()


def test_without_a_run_there_is_no_before() -> None:
    result = CliRunner().invoke(app, ["batch", "-", "--qrels", "qrels.tsv"], input="{}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no --run" in result.stderr


def refusal(run: str = "run.trec", format: str = "trec", **arguments: object) -> str:
    with pytest.raises(UsageError) as raised:
        Gains.prepare(run, "qrels.tsv", None, format, **arguments)  # type: ignore[arg-type]
    return str(raised.value)


@pytest.mark.parametrize("name", ["/dev/stdout", os.devnull])
def test_an_output_that_cannot_be_read_again_is_refused(name: str) -> None:
    assert refusal(output=Path(name)) == (
        f"--qrels reads the output again, and {name} is no file. "
        "Name a file with --output, or leave it out to see the measures alone."
    )


def test_the_judgements_are_not_replaced_by_the_output() -> None:
    assert refusal(output=Path("./qrels.tsv")) == (
        "qrels.tsv is both input and output. Write to another file."
    )


def test_the_judgements_do_not_lie_where_the_errors_go() -> None:
    Path("out.trec.errors.jsonl").touch()
    with pytest.raises(UsageError, match=r"^out\.trec\.errors\.jsonl is input, and would be written over"):
        Gains.prepare("run.trec", "out.trec.errors.jsonl", None, "trec", output=Path("out.trec"))


def test_a_part_is_not_measured_against_the_whole() -> None:
    assert refusal(shard="1/2") == (
        "--qrels measures a whole run, and --shard ranks a part of it. "
        "Measure all parts together: ce-rerank evaluate RUN RERANKED --qrels QRELS."
    )


@pytest.mark.parametrize("name", ["-", "fifo"])
def test_a_run_that_can_be_read_once_is_refused(name: str) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo("fifo")
    result = CliRunner().invoke(
        app, ["batch", "--run", name, "--queries", "q", "--corpus", "c", "--qrels", "qrels.tsv"]
    )
    shown = "stdin" if name == "-" else name
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: --qrels reads the run twice, to measure it and to rank it, and {shown} can be read once.\n"
        "       Put it into a file first.\n",
    )
