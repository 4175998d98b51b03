from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ce_rerank import evaluation as evaluation_module
from ce_rerank.errors import InputError, UsageError
from ce_rerank.evaluation import (
    Evaluation,
    Gain,
    Judgements,
    Run,
    evaluate,
    list_gains,
    load_judgements,
    load_run,
)
from ce_rerank.formats.packed import PackedLists

pytest.importorskip("ir_measures", reason="needs ce-rerank[evaluate]")

EIGHT_MEASURES = [
    "nDCG@10",
    "RR@10",
    "AP@100",
    "R@100",
    "P@5",
    "Success@5",
    "Rprec",
    "nDCG(dcg='exp-log2')@10",
]


def judgements(**queries: dict[str, int]) -> Judgements:
    lists = PackedLists("q")
    for query_id, grades in queries.items():
        for doc_id, grade in grades.items():
            lists.add(query_id, doc_id, grade, 1)
    return Judgements("qrels.tsv", lists)


def run(name: str, **queries: str) -> Run:
    """A run of documents of one letter, best first."""
    lists = PackedLists("d")
    for query_id, doc_ids in queries.items():
        for place, doc_id in enumerate(doc_ids):
            lists.add(query_id, doc_id, -float(place), place + 1)
    return Run(name, lists)


def random_files(folder: Path, *, queries: int, seed: int = 5) -> tuple[Path, Path]:
    """A run with ties and interleaved queries, and judgements of grades -1 to 4, in TREC form."""
    chance = random.Random(seed)
    qrels, lines = [], []
    for query in range(queries):
        documents = [f"d{number}" for number in chance.sample(range(1000), 40)]
        qrels += [f"{query} 0 {doc_id} {chance.randint(-1, 4)}\n" for doc_id in documents[:20]]
        if query % 10:
            lines += [
                f"{query} Q0 {doc_id} 1 {chance.randint(0, 30) / 7} system\n" for doc_id in documents[10:]
            ]
    lines += [f"{queries + 1} Q0 d1 1 1.0 system\n"]
    chance.shuffle(lines)
    run_path, qrels_path = folder / "run.trec", folder / "qrels.trec"
    run_path.write_text("".join(lines), encoding="utf-8")
    qrels_path.write_text("".join(qrels), encoding="utf-8")
    return run_path, qrels_path


def ir_measures_command(run_path: Path, qrels_path: Path, measures: list[str], places: int) -> dict[str, str]:
    command = [sys.executable, "-W", "ignore", "-m", "ir_measures"]
    arguments = [str(qrels_path), str(run_path), *measures, "--places", str(places)]
    answer = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if answer.returncode and "perl" in answer.stderr + answer.stdout:
        pytest.skip("gdeval needs perl")
    return dict(line.split("\t") for line in answer.stdout.splitlines())


def shown(evaluation: Evaluation, places: int) -> dict[str, str]:
    (measured,) = evaluation.runs
    return {
        name: repr(value) if places == -1 else f"{value:.{places}f}"
        for name, value in measured.values.items()
    }


@pytest.mark.parametrize("places", [4, -1])
def test_values_are_those_of_ir_measures_own_command_to_the_last_digit(tmp_path: Path, places: int) -> None:
    run_path, qrels_path = random_files(tmp_path, queries=50)
    judged = load_judgements(qrels_path)
    ours = evaluate([load_run(run_path, judged)], judged, EIGHT_MEASURES)
    theirs = ir_measures_command(run_path, qrels_path, EIGHT_MEASURES, places)
    assert len(theirs) == 8
    assert shown(ours, places) == theirs


@pytest.mark.parametrize("name", ["scifact", "cranfield"])
def test_published_collections_have_ir_measures_values_too(
    tmp_path: Path, collections: Path, name: str
) -> None:
    folder = collections / name
    judged = load_judgements(folder / "qrels.tsv")
    ours = evaluate([load_run(folder / "run.trec", judged)], judged, EIGHT_MEASURES)
    in_trec_form = tmp_path / "qrels.trec"
    rows = [line.split() for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    in_trec_form.write_text("".join(f"{row[0]} 0 {row[1]} {row[2]}\n" for row in rows), encoding="utf-8")
    assert shown(ours, 4) == ir_measures_command(folder / "run.trec", in_trec_form, EIGHT_MEASURES, 4)


@pytest.mark.parametrize(
    ("name", "run_name", "measure", "value"),
    [
        ("scifact", "run.trec", "nDCG@10", "0.6769"),
        ("cranfield", "run.trec", "nDCG@10", "0.3429"),
        ("wikiqa-test", "candidates.trec", "RR@10", "0.6398"),
    ],
)
def test_published_collections_have_their_known_values(
    collections: Path, name: str, run_name: str, measure: str, value: str
) -> None:
    judged = load_judgements(collections / name / "qrels.tsv")
    run = load_run(collections / name / run_name, judged)
    assert shown(evaluate([run], judged, [measure]), 4) == {measure: value}


def test_values_are_the_same_in_chunks_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_path, qrels_path = random_files(tmp_path, queries=30)
    judged = load_judgements(qrels_path)
    at_once = evaluate([load_run(run_path, judged)], judged, EIGHT_MEASURES)
    monkeypatch.setattr(evaluation_module, "_ROWS_AT_ONCE", 100)
    in_chunks = evaluate([load_run(run_path, judged)], judged, EIGHT_MEASURES)
    for name, values in at_once.runs[0].by_query.items():
        assert values.tolist() == in_chunks.runs[0].by_query[name].tolist()
    assert shown(at_once, 10) == shown(in_chunks, 10)


def test_gdeval_measures_take_query_ids_that_are_no_numbers() -> None:
    judged = judgements(what={"a": 1}, **{"MARCO-1": {"a": 1}, "TREC-1": {"b": 1}})
    found = run("run", what="ba", **{"MARCO-1": "ab", "TREC-1": "ab"})
    try:
        measured = evaluate([found], judged, ["ERR@5"]).runs[0]
    except UsageError:
        pytest.skip("gdeval needs perl")
    assert measured.by_query["ERR@5"].tolist() == [0.0625, 0.03125, 0.03125]


def test_a_run_against_itself_differs_by_nothing_with_a_p_value_of_one(tmp_path: Path) -> None:
    run_path, qrels_path = random_files(tmp_path, queries=40)
    judged = load_judgements(qrels_path)
    runs = (load_run(run_path, judged) for _ in range(2))
    first, second = evaluate(runs, judged).runs
    assert first.comparisons == {}
    assert first.values == second.values
    for comparison in second.comparisons.values():
        assert (comparison.delta, comparison.p_value, comparison.corrected_p_value) == (0.0, 1.0, 1.0)
        assert (comparison.better, comparison.worse, comparison.same) == (0, 0, 40)


def test_the_same_run_in_another_order_of_lines_differs_by_nothing(tmp_path: Path) -> None:
    run_path, qrels_path = random_files(tmp_path, queries=40)
    judged = load_judgements(qrels_path)
    other = tmp_path / "sorted.trec"
    other.write_text("".join(sorted(run_path.read_text().splitlines(keepends=True))), encoding="utf-8")
    second = evaluate([load_run(run_path, judged), load_run(other, judged)], judged).runs[1]
    assert {comparison.delta for comparison in second.comparisons.values()} == {0.0}
    assert {comparison.p_value for comparison in second.comparisons.values()} == {1.0}


def test_a_shuffled_run_is_significantly_worse() -> None:
    queries = {f"q{number}": "abcdefghij" for number in range(40)}
    judged = judgements(**{query_id: {"a": 1} for query_id in queries})
    chance = random.Random(4)
    shuffled = {query_id: "".join(chance.sample(letters, 10)) for query_id, letters in queries.items()}
    second = evaluate([run("good", **queries), run("shuffled", **shuffled)], judged).runs[1]
    comparison = second.comparisons["nDCG@10"]
    assert comparison.delta < -0.3
    assert comparison.p_value < 0.001
    assert comparison.worse > 30


def test_a_comparison_counts_what_got_better_worse_and_stayed() -> None:
    judged = judgements(q1={"a": 1}, q2={"a": 1}, q3={"a": 1}, q4={"a": 1})
    before = run("before", q1="ba", q2="ba", q3="ab", q4="ab")
    after = run("after", q1="ab", q2="ab", q3="ba", q4="ab")
    comparison = evaluate([before, after], judged, ["RR"]).runs[1].comparisons["RR"]
    assert (comparison.better, comparison.worse, comparison.same) == (2, 1, 1)
    assert comparison.delta == pytest.approx(0.125)


def test_several_runs_have_p_values_after_holms_correction_too() -> None:
    judged = judgements(**{f"q{number}": {"a": 1} for number in range(20)})
    first = run("first", **{f"q{number}": "ba" for number in range(20)})
    better = run("better", **{f"q{number}": "ab" for number in range(20)})
    hardly = run("hardly", q0="ab", **{f"q{number}": "ba" for number in range(1, 20)})
    _, second, third = evaluate([first, better, hardly], judged, ["RR", "P@1"]).runs
    for name in ("RR", "P@1"):
        assert second.comparisons[name].p_value == pytest.approx(1 / 10_001)
        assert second.comparisons[name].corrected_p_value == pytest.approx(2 / 10_001)
        assert third.comparisons[name].p_value == third.comparisons[name].corrected_p_value == 1.0


def test_the_seed_decides_the_p_value_and_nothing_else_does() -> None:
    chance = random.Random(1)
    letters = {f"q{number}": "".join(chance.sample("abcd", 4)) for number in range(30)}
    judged = judgements(**{query_id: {"a": 1} for query_id in letters})
    again = judgements(**{query_id: {"a": 1} for query_id in reversed(letters)})
    before = run("before", **dict.fromkeys(letters, "bacd"))
    p_values = [
        evaluate([before, run("after", **letters)], grades, measures, seed=seed)
        .runs[1]
        .comparisons["RR"]
        .p_value
        for grades, measures, seed in [
            (judged, ["RR"], 1),
            (again, ["P@1", "RR"], 1),
            (judged, ["RR"], 2),
        ]
    ]
    assert p_values[0] == p_values[1]
    assert p_values[0] != p_values[2]


def test_gains_come_largest_first_and_equal_ones_by_query() -> None:
    judged = judgements(q10={"a": 1}, q9={"a": 1}, **{"10": {"a": 1}, "9": {"a": 1}})
    before = run("before", q10="ba", q9="ba", **{"10": "ab", "9": "ba"})
    after = run("after", q10="ab", q9="ab", **{"10": "ba", "9": "ba"})
    evaluation = evaluate([before, after], judged, ["RR"])
    assert list_gains(evaluation, evaluation.runs[1], "RR") == [
        Gain("q10", 0.5, 1.0, 0.5),
        Gain("q9", 0.5, 1.0, 0.5),
        Gain("9", 0.5, 0.5, 0.0),
        Gain("10", 1.0, 0.5, -0.5),
    ]


def test_query_ids_are_sorted_as_numbers_first_whatever_their_length() -> None:
    judged = judgements(**{query_id: {"a": 1} for query_id in ("b", "10", "9", "1" * 5000, "a", "٣")})
    assert evaluate([run("run", b="a")], judged, ["RR"]).query_ids == ("9", "10", "1" * 5000, "a", "b", "٣")


def test_a_query_for_which_a_measure_is_not_defined_is_in_no_comparison() -> None:
    judged = judgements(q1={"a": 1}, q2={"z": 1})
    evaluation = evaluate([run("one", q1="ba", q2="ab"), run("two", q1="ab", q2="ab")], judged, ["Accuracy"])
    comparison = evaluation.runs[1].comparisons["Accuracy"]
    assert (comparison.better, comparison.worse, comparison.same) == (1, 0, 0)
    assert [gain.query_id for gain in list_gains(evaluation, evaluation.runs[1], "Accuracy")] == ["q1"]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_does_not_fit_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\nq2\ta\t1\nq3\ta\t0\n", encoding="utf-8")
    found = tmp_path / "run.trec"
    lines = ["q1 Q0 a 1 3 x", "q1 Q0 b 2 2 x", "q1 Q0 c 3 1 x", "q8 Q0 a 1 1 x", "q9 Q0 a 1 1 x"]
    found.write_text("\n".join(lines), encoding="utf-8")
    judged = load_judgements(qrels)
    measured = evaluate([load_run(found, judged)], judged, ["RR"]).runs[0]
    assert measured.values == {"RR": pytest.approx(1 / 3)}
    assert (measured.missing_queries, measured.unjudged_queries) == (2, 2)
    assert measured.unjudged_share == pytest.approx(2 / 3)
    assert warnings_of(caplog) == [
        f"{found}: 2 of 3 judged queries missing; each counts as 0.",
        f"{found}: 2 queries without judgements left out.",
        f"{found}: 66.7% of the documents in its first ten places have no judgement, "
        "and count as not relevant.",
    ]


def test_what_fits_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    evaluate([run("run", q="ab")], judgements(q={"a": 1, "b": 0}))
    assert warnings_of(caplog) == []


def test_unjudged_documents_are_counted_in_the_first_ten_places_only() -> None:
    judged = judgements(q=dict.fromkeys("abcdefghij", 0))
    measured = evaluate([run("run", q="abcdefghijxyz")], judged).runs[0]
    assert measured.unjudged_share == 0.0


def test_a_document_twice_in_a_list_is_named_with_both_lines(tmp_path: Path) -> None:
    found = tmp_path / "run.trec"
    found.write_text("q Q0 a 1 3 x\nq Q0 b 2 2 x\n\nq Q0 a 3 1 x\n", encoding="utf-8")
    judged = judgements(q={"a": 1})
    with pytest.raises(InputError) as raised:
        evaluate([load_run(found, judged)], judged)
    assert raised.value.message == f"{found}:4: document 'a' of query 'q' again, after line 1."


def test_a_document_judged_twice_has_its_last_grade(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    qrels = tmp_path / "qrels.trec"
    qrels.write_text("q 0 a 0\nq 0 b 0\nq 0 a 1\n", encoding="utf-8")
    assert load_judgements(qrels).lists.numbers("q") == {"a": 1, "b": 0}
    assert warnings_of(caplog) == [f"{qrels}: 1 row judges a document again; its last grade counts."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no judgements in it."),
        ("query-id\tcorpus-id\tscore\n", "no judgements in it."),
        ("q 0 a 1\nq 0 b 1000001\n", "2: 1000001 is too large for a grade."),
        ("q 0 a 1\nq 0 b\n", "2: "),
    ],
)
def test_judgements_that_cannot_be_read_are_named_by_file_and_line(
    tmp_path: Path, content: str, message: str
) -> None:
    qrels = tmp_path / "qrels"
    qrels.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^{re.escape(str(qrels))}:\s?{message}"):
        load_judgements(qrels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", ": no results in it."),
        ("x Q0 a 1 1 s\n", ": none of its queries is judged in qrels.tsv."),
        ("q Q0 a 1 1 s\nq Q0 b 1 one s\n", ":2: "),
        ('{"query_id": "q", "results": [{"id": "a"}]}\n', ':1: result 1: no "score".'),
    ],
)
def test_a_run_that_cannot_be_read_is_named_by_file_and_line(
    tmp_path: Path, content: str, message: str
) -> None:
    found = tmp_path / "run"
    found.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_run(found, judgements(q={"a": 1}))
    assert raised.value.message.startswith(f"{found}{message}")


def test_a_run_of_other_queries_shows_an_id_of_each(tmp_path: Path) -> None:
    found = tmp_path / "run.trec"
    found.write_text("MED-1 Q0 a 1 1 s\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_run(found, judgements(PLAIN_1={"a": 1}))
    assert raised.value.hint == "Are the ids the same? It has 'MED-1', the judgements 'PLAIN_1'."


def test_the_same_results_have_the_same_values_in_every_form(tmp_path: Path) -> None:
    judged = judgements(q1={"a": 1, "b": 2}, q2={"b": 1})
    rows = [
        ("q1", [("c", 2.5), ("a", 1.25), ("b", 0.5)]),
        ("q2", [("a", 3.0), ("b", -1.0)]),
    ]
    nested, flat, trec = (tmp_path / name for name in ("nested.jsonl", "flat.jsonl", "run.trec"))
    nested.write_text(
        "".join(
            json.dumps({"query_id": query_id, "results": [{"id": d, "score": s} for d, s in results]}) + "\n"
            for query_id, results in rows
        ),
        encoding="utf-8",
    )
    flat.write_text(
        "".join(
            json.dumps({"query_id": query_id, "query": "?", "id": d, "score": s}) + "\n"
            for query_id, results in rows
            for d, s in results
        ),
        encoding="utf-8",
    )
    trec.write_text(
        "".join(f"{query_id} Q0 {d} 1 {s} x\n" for query_id, results in rows for d, s in results),
        encoding="utf-8",
    )
    runs = evaluate((load_run(path, judged) for path in (nested, flat, trec)), judged).runs
    assert runs[0].values == runs[1].values == runs[2].values


def test_how_much_was_read_is_told_now_and_then(tmp_path: Path) -> None:
    found = tmp_path / "run.trec"
    found.write_text("".join(f"q Q0 d{n} 1 {n} x\n" for n in range(50_000)), encoding="utf-8")
    told: list[int] = []
    load_run(found, judgements(q={"a": 1}), on_progress=told.append)
    assert told == [20_000, 20_000]


def test_runs_are_taken_one_at_a_time() -> None:
    judged = judgements(q={"a": 1})
    events: list[str] = []

    def runs() -> object:
        for name in ("one", "two"):
            events.append(name)
            yield run(name, q="ab")

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            events.append(record.getMessage())

    log, watch = logging.getLogger("ce_rerank"), Watch()
    level = log.level
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    try:
        evaluate(runs(), judged, ["RR"])  # type: ignore[arg-type]
    finally:
        log.removeHandler(watch)
        log.setLevel(level)
    assert [event for event in events if "%" not in event] == ["one", "Measuring one", "two", "Measuring two"]


def test_a_run_without_any_results_is_0_everywhere() -> None:
    measured = evaluate([Run("empty", PackedLists("d"))], judgements(q={"a": 1}), ["RR", "nDCG@10"]).runs[0]
    assert measured.values == {"RR": 0.0, "nDCG@10": 0.0}
    assert (measured.missing_queries, measured.unjudged_share) == (1, 0.0)
