from __future__ import annotations

import io
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from ce_rerank.errors import InputError, UsageError
from ce_rerank.evaluation import (
    DEFAULT_MEASURES,
    Comparison,
    Grades,
    Run,
    correct_holm,
    evaluate,
    load_judgements,
    load_run,
    parse_measures,
)
from ce_rerank.formats.source import Source

pytest.importorskip("ir_measures", reason="needs ce-rerank[evaluate]")

MEASURES = [
    *("nDCG@10", "RR@10", "AP@100", "R@100", "P@5", "Success@5", "Rprec", "nDCG(dcg='exp-log2')@10"),
]


def judgements(**queries: dict[str, int]) -> Grades:
    return queries


def run(name: str, **queries: str) -> Run:
    """A run of documents of one letter, best first."""
    scores = {
        query_id: {doc_id: -float(place) for place, doc_id in enumerate(doc_ids)}
        for query_id, doc_ids in queries.items()
    }
    return Run(name, scores)


def source(name: str, *lines: str) -> Source:
    return Source.from_stream(io.BytesIO("\n".join(lines).encode()), name)


def test_values_are_those_of_ir_measures_own_command(tmp_path: Path) -> None:
    chance = random.Random(5)
    qrels, lines = [], ["51 Q0 d1 1 1.0 system"]  # a query without judgements
    for query in range(50):
        documents = [f"d{number}" for number in chance.sample(range(1000), 40)]
        qrels += [f"{query} 0 {doc_id} {chance.randint(-1, 4)}" for doc_id in documents[:20]]
        found = documents[10:] if query % 10 else ()
        lines += [f"{query} Q0 {doc_id} 1 {chance.randint(0, 30) / 7} x" for doc_id in found]  # with ties
    chance.shuffle(lines)
    judged = load_judgements(source("qrels", *qrels))
    ours = evaluate([load_run(source("run", *lines), judged)], judged, MEASURES)[0]
    for name, content in (("run", lines), ("qrels", qrels)):
        (tmp_path / name).write_text("\n".join(content), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "ir_measures", "qrels", "run", *MEASURES]
    answer = subprocess.run([*command, "--places", "-1"], capture_output=True, text=True, cwd=tmp_path)
    if answer.returncode and "perl" in answer.stderr + answer.stdout:
        pytest.skip("gdeval needs perl")
    theirs = dict(line.split("\t") for line in answer.stdout.splitlines())
    assert len(theirs) == 8
    expected = {name: float(value) for name, value in theirs.items()}
    assert ours.values == pytest.approx(expected, rel=1e-12)


def test_gdeval_measures_take_query_ids_that_are_no_numbers() -> None:
    judged = judgements(what={"a": 1}, **{"MARCO-1": {"a": 1}, "TREC-1": {"b": 1}})
    found = run("run", what="ba", **{"MARCO-1": "ab", "TREC-1": "ab"})
    try:
        measured = evaluate([found], judged, ["ERR@5"])[0]
    except UsageError:
        pytest.skip("gdeval needs perl")
    assert list(measured.by_query["ERR@5"].values()) == [0.03125, 0.03125, 0.0625]


def test_a_run_against_itself_differs_by_nothing_with_a_p_value_of_one() -> None:
    queries = {f"q{number}": "ab" for number in range(40)}
    judged = judgements(**{query_id: {"b": 1} for query_id in queries})
    first, second = evaluate([run("one", **queries), run("two", **queries)], judged)
    assert first.comparisons == {}
    assert first.values == second.values
    assert list(second.comparisons.values()) == [Comparison(0.0, 1.0, 1.0, 0, 0, 40)] * 4


def test_several_runs_have_p_values_after_holms_correction_too() -> None:
    judged = judgements(**{f"q{number}": {"a": 1} for number in range(20)})
    first = run("first", **{f"q{number}": "ba" for number in range(20)})
    better = run("better", **{f"q{number}": "ab" for number in range(20)})
    hardly = run("hardly", q0="ab", **{f"q{number}": "ba" for number in range(1, 20)})
    _, second, third = evaluate([first, better, hardly], judged, ["RR", "P@1"])
    assert correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for name, delta in (("RR", 0.5), ("P@1", 1.0)):
        p_value = pytest.approx(2 / 10_001)
        assert second.comparisons[name] == Comparison(delta, p_value, pytest.approx(4 / 10_001), 20, 0, 0)
        assert third.comparisons[name].p_value == third.comparisons[name].corrected_p_value == 1.0


def test_the_p_value_of_few_queries_is_exact() -> None:
    judged = judgements(**{f"q{number}": {"a": 1} for number in range(5)})
    before = run("before", q0="ba", q1="ba", q2="ba", q3="ab", q4="ab")
    after = run("after", q0="ab", q1="ab", q2="ab", q3="ba", q4="ab")
    comparison = evaluate([before, after], judged, ["RR"])[1].comparisons["RR"]
    # Of the 16 ways to give four differences of one half a sign, those as far from 0 as three against one.
    sums = [abs(sum(signs)) for signs in product((1, -1), repeat=4)]
    assert comparison.p_value == sum(total >= 2 for total in sums) / 16
    assert (comparison.better, comparison.worse, comparison.same) == (3, 1, 1)
    assert comparison.delta == pytest.approx(0.2)


def test_what_does_not_fit_is_said(caplog: pytest.LogCaptureFixture) -> None:
    qrels = ("query-id\tcorpus-id\tscore", "q1\ta\t0", "q1\ta\t1", "q2\ta\t1", "q3\ta\t0")
    judged = load_judgements(source("qrels", *qrels))
    lines = [f"q1 Q0 {line} x" for line in ("a 1 3", "b 2 2", "c 3 1", "a 4 0")]
    lines += ["q8 Q0 a 1 1 x", "q9 Q0 a 1 1 x"]
    measured = evaluate([load_run(source("run", *lines), judged)], judged, ["RR"])[0]
    assert measured.values == {"RR": pytest.approx(1 / 3)}
    assert (measured.missing_queries, measured.unjudged_queries) == (2, 2)
    assert measured.unjudged_share == pytest.approx(2 / 3)
    assert caplog.messages == [
        "qrels: documents judged twice: 1; the last grade counts.",
        "run: documents that a query has twice: 1; the first counts.",
        "run: 2 of 3 judged queries missing; each counts as 0.",
        "run: queries without judgements, left out: 2.",
        "run: 66.7% of the documents in its first ten places have no judgement, and count as not relevant.",
    ]


@pytest.mark.parametrize("content", ["", "query-id\tcorpus-id\tscore\n", "{}"])
def test_no_judgements_are_an_input_error(content: str) -> None:
    with pytest.raises(InputError, match=r"^qrels: no judgements in it\."):
        load_judgements(source("qrels", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "run: no results in it."),
        ("x Q0 a 1 1 s\n", "run: none of its queries is judged."),
        ("q Q0 a 1 1 s\nq Q0 b 1 one s\n", "run:2: the score"),
    ],
)
def test_a_run_that_cannot_be_measured_is_named(content: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_run(source("run", content), judgements(q={"a": 1}))
    assert raised.value.message.startswith(message)


def test_measures_are_parsed_each_once() -> None:
    assert [str(measure) for measure in parse_measures(DEFAULT_MEASURES)] == list(DEFAULT_MEASURES)
    names = ["NDCG@10", "P@5", "nDCG@10", " P(cutoff=5)"]
    assert [str(measure) for measure in parse_measures(names)] == ["nDCG@10", "P@5"]


@pytest.mark.parametrize(
    "name", ["ndcg@10", "", "P", "P@0", "nDCG@1.5", "P@9999999999", "P(depth=5)@5", "SDCG@10", "(" * 5000]
)
def test_what_is_no_measure_is_refused_and_nothing_is_printed(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="is not a measure that ir_measures can calculate"):
        parse_measures([name])
    assert capfd.readouterr() == ("", "")


def test_gains_of_their_own_change_no_other_measure_that_is_asked_for_beside_them() -> None:
    measures = ["nDCG@10", "nDCG(gains={2:9})@10"]
    judged, found = judgements(q={"a": 1, "b": 2, "c": 0}), run("run", q="cab")
    (together,) = evaluate([found], judged, measures)
    alone = [evaluate([found], judged, [name])[0].values[name] for name in measures]
    assert alone[0] != alone[1]
    assert list(together.values.values()) == alone


def test_what_a_measure_cannot_be_calculated_from_is_said() -> None:
    # Accuracy divides by the number of documents that are not relevant: here none.
    with pytest.raises(InputError, match=r"Accuracy cannot be calculated \(float division by zero\)"):
        evaluate([run("run", q="a")], judgements(q={"a": 1}), ["Accuracy"])
