from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ce_rerank.cli.app import app

pytest.importorskip("ir_measures", reason="needs ce-rerank[evaluate]")

Evaluate = Callable[..., Result]

QRELS = "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\ta\t1\nq{n}\tb\t0\nq{n}\tc\t0\n" for n in range(30))
QUERIES = "".join(f'{{"_id": "q{n}", "text": "what is number {n}"}}\n' for n in range(30))


def trec(*lists: str, name: str = "run") -> str:
    """A run of documents of one letter, best first, for queries q0, q1 and so on."""
    return "".join(
        f"q{n} Q0 {doc_id} {rank} {-rank} {name}\n"
        for n, doc_ids in enumerate(lists)
        for rank, doc_id in enumerate(doc_ids, start=1)
    )


def nested(*lists: str) -> str:
    results = ([{"id": d, "score": -p} for p, d in enumerate(doc_ids)] for doc_ids in lists)
    return "".join(json.dumps({"query_id": f"q{n}", "results": one}) + "\n" for n, one in enumerate(results))


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Run the command in a folder with judgements, queries, and three runs, the second of them better."""
    for name, content in {
        "qrels.tsv": QRELS,
        "queries.jsonl": QUERIES,
        "bm25.trec": trec(*["bac"] * 30),
        "better.jsonl": nested(*["abc"] * 20, *["bac"] * 10),
        "worse.trec": trec(*["bca"] * 30),
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str, stdin: str | bytes = b"") -> Result:
        result = CliRunner().invoke(app, ["evaluate", *arguments], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_a_run_is_measured_by_the_four_default_measures(evaluate: Evaluate) -> None:
    result = evaluate("-", "--qrels", "qrels.tsv", stdin=trec(*["bac"] * 30))
    assert (result.stderr, result.exit_code) == ("", 0)
    assert result.stdout == (
        "measure  run    value\n"
        "──────────────────────\n"
        "nDCG@10  stdin  0.6309\n"
        "RR@10    stdin  0.5000\n"
        "AP@100   stdin  0.5000\n"
        "R@100    stdin  1.0000\n"
        "\n"
        "30 judged queries.\n"
    )


def test_runs_in_any_form_are_compared_with_the_first(evaluate: Evaluate) -> None:
    result = evaluate("bm25.trec", "better.jsonl", "worse.trec", "--qrels", "qrels.tsv", "--measure", "RR")
    assert (result.stderr, result.exit_code) == ("", 0)
    assert result.stdout == (
        "measure  run           value   change   p        queries\n"
        "───────────────────────────────────────────────────────────\n"
        "RR       bm25.trec     0.5000\n"
        "         better.jsonl  0.8333  +0.3333  <0.001*  +20 -0 =10\n"
        "         worse.trec    0.3333  -0.1667  <0.001*  +0 -30 =0\n"
        "\n"
        "30 judged queries. Changes are from bm25.trec. p: paired randomisation test, at\n"
        "most 10,000 permutations, Holm's correction for 2 runs; * under 0.05. queries:\n"
        "those that got better (+), worse (-), stayed (=).\n"
    )


def test_json_holds_every_number_exactly_and_each_query_with_its_text(evaluate: Evaluate) -> None:
    result = evaluate(
        "bm25.trec", "better.jsonl", "--qrels", "qrels.tsv", "--measure", "P@1", "--to", "json",
        "--per-query", "--queries", "queries.jsonl",
    )  # fmt: skip
    facts = json.loads(result.stdout)
    (first, second), queries = facts.pop("runs"), facts.pop("queries")
    assert facts == {"judgements": "qrels.tsv", "judged_queries": 30, "permutations": 10_000, "seed": 42}
    assert first == {
        "name": "bm25.trec", "values": {"P@1": 0.0}, "by_query": {"P@1": {f"q{n}": 0.0 for n in range(30)}},
        "missing_queries": 0, "unjudged_queries": 0, "unjudged_share": 0.0, "comparisons": {},
    }  # fmt: skip
    assert second["comparisons"]["P@1"] == {
        "delta": 20 / 30, "p_value": 2 / 10_001, "corrected_p_value": 2 / 10_001,
        "better": 20, "worse": 0, "same": 10,
    }  # fmt: skip
    assert queries == {f"q{n}": f"what is number {n}" for n in range(30)}


def test_a_table_lists_the_queries_that_gained_and_lost_most(evaluate: Evaluate) -> None:
    result = evaluate(
        "bm25.trec", "better.jsonl", "worse.trec", "--qrels", "qrels.tsv", "--measure", "RR",
        "--per-query", "--queries", "queries.jsonl",
    )  # fmt: skip
    assert "\nRR by query: better.jsonl against bm25.trec\n" in result.stdout
    assert (
        "\nGained, the most of 20:\nq0  +0.5000  0.500 → 1.000  what is number 0\n"
        "q1  +0.5000  0.500 → 1.000  what is number 1\n"
    ) in result.stdout
    assert "\nRR by query: worse.trec against bm25.trec\n" in result.stdout
    assert "\nLost, the most of 30:\n" in result.stdout


def test_output_goes_to_a_file_in_the_form_that_its_suffix_names(evaluate: Evaluate, tmp_path: Path) -> None:
    arguments = ("bm25.trec", "--qrels", "qrels.tsv", "--measure", "RR", "-o")
    for name in ("table.txt", "values.json"):
        result = evaluate(*arguments, name)
        assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)
    assert (tmp_path / "table.txt").read_text(encoding="utf-8").startswith("measure  run")
    assert json.loads((tmp_path / "values.json").read_text(encoding="utf-8"))["judged_queries"] == 30


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bm25.trec"], 2, "Missing option '--qrels'."),
        (["bm25.trec", "--qrels", "qrels.tsv", "--queries", "queries.jsonl"], 2, "--queries gives texts"),
        (["bm25.trec", "--qrels", "qrels.tsv", "--per-query"], 2, "--per-query shows what a second run "),
        (["-", "--qrels", "-"], 2, "stdin is named more than once.\n"),
        (["bm25.trec", "--qrels", "qrels.tsv", "-o", "./bm25.trec"], 2, "bm25.trec is input, and writing"),
        (["bm25.tre", "--qrels", "qrels.tsv"], 3, "bm25.tre: cannot be read (No such file or directory)."),
        (["other.trec", "--qrels", "qrels.tsv"], 3, "other.trec: none of its queries is judged."),
    ],
)
def test_a_mistake_is_told_with_its_place_and_code(
    evaluate: Evaluate, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "other.trec").write_text("Q0 Q0 a 1 1 x\n", encoding="utf-8")
    result = evaluate(*arguments)
    assert result.stderr.startswith(f"error: {message}")
    assert (result.stdout, result.exit_code) == ("", code)


def test_without_ir_measures_the_install_line_is_given(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    result = evaluate("bm25.trec", "--qrels", "qrels.tsv")
    assert "Install it: pip install 'ce-rerank[evaluate]'" in result.stderr
    assert (result.stdout, result.exit_code) == ("", 4)


def test_a_run_of_three_columns_is_read_by_their_names(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "marco.tsv").write_text("".join(f"q{n}\ta\t1\nq{n}\tb\t2\n" for n in range(30)))
    arguments = ("marco.tsv", "--qrels", "qrels.tsv", "--measure", "RR", "--to", "json")
    refused = evaluate(*arguments)
    assert (refused.exit_code, "--columns qid,pid,rank" in refused.stderr) == (3, True)
    result = evaluate(*arguments, "--columns", "qid,pid,rank")
    assert json.loads(result.stdout)["runs"][0]["values"] == {"RR": 1.0}
