"""Runs and judgements, read in the forms that people have them in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ce_rerank.errors import InputError, UsageError
from ce_rerank.formats.source import Source
from ce_rerank.formats.trec import read_judgements, read_run
from ce_rerank.formats.writers import ResultWriter, WriteOptions
from ce_rerank.types import Document, Query, RankedDocument, Ranking


def stdin(*rows: Any) -> Source:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    return Source.from_stream(io.BytesIO(text.encode()))


def run_of(*rows: Any, columns: tuple[str, ...] = ()) -> list[tuple[str, str, float, int]]:
    return [(*line[:3], line.line_number) for line in read_run(stdin(*rows), columns=columns)]


def nested(query_id: object, *results: tuple[object, float | None]) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": "?",
        "results": [{"index": place, "score": score, "id": id} for place, (id, score) in enumerate(results)],
    }


RANKS = ("qid", "pid", "rank")
HEADED = "qid docid docno rank score\n1 17 a 0 12.5\n1 99 b 1 11.5\n"
OF_HEADED = [("1", "a", 12.5, 2), ("1", "b", 11.5, 3)]
LISTS = {"q1": {"d1": 1.5, "d2": -2}, "q2": {"d1": 1}}
OF_LISTS = [("q1", "d1", 1.5, 1), ("q1", "d2", -2.0, 1), ("q2", "d1", 1.0, 1)]


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        # TREC's columns, in the order of the file, with any white space; ids may hold a no-break space.
        ("q2 Q0 d1 1 6.5 x\n\nq1\tQ0  d2 2 -1e-3 x\r\n", (), [("q2", "d1", 6.5, 1), ("q1", "d2", -0.001, 3)]),
        ("# by hand\nq\u00a01 Q0 d\u00a01 1.0 2.0 r\n", (), [("q\u00a01", "d\u00a01", 2.0, 2)]),
        ("[1] Q0 d 2.0 1.0 r\n", (), [("[1]", "d", 1.0, 1)]),
        # Three columns by their names, which TREC's six do not need.
        ("2\t10\t1\n2\t11\t2\n", RANKS, [("2", "10", -1.0, 1), ("2", "11", -2.0, 2)]),
        ("2 11 2.5\n", ("query_id", "doc_id", "score"), [("2", "11", 2.5, 1)]),
        ("2 Q0 10 1 6.5 x\n", RANKS, [("2", "10", 6.5, 1)]),
        # A header, as PyTerrier and pandas write it.
        *((HEADED.replace(" ", tab), (), OF_HEADED) for tab in " ,\t"),
        # An object of objects.
        (json.dumps(LISTS), (), OF_LISTS),
        (json.dumps(LISTS, indent=2), (), OF_LISTS),
        ("{}", (), []),
        ("\n \n", (), []),
    ],
)
def test_a_run_is_read_in_every_form(text: str, columns: tuple[str, ...], lines: list[Any]) -> None:
    assert run_of(text, columns=columns) == lines


def test_a_run_needs_columns_for_the_ids_and_the_order() -> None:
    with pytest.raises(UsageError, match="columns qid,text lacks some"):
        run_of("1 a\n", columns=("qid", "text"))


def test_a_run_can_be_read_without_its_bad_lines() -> None:
    rejected: list[tuple[str, str]] = []
    data = b"what is this\nq1 Q0 d1 1 7 x\n x\r\nq1 Q0 d\xe9 2 6 x\nq1 Q0 d3 3 5 x\n"
    source = Source.from_stream(io.BytesIO(data))
    rows = read_run(source, lambda error, line: rejected.append((error.message.partition(": ")[0], line)))
    assert [(row.doc_id, row.line_number) for row in rows] == [("d1", 2), ("d3", 5)]
    assert rejected == [("stdin:1", "what is this"), ("stdin:3", " x"), ("stdin:4", "q1 Q0 d\ufffd 2 6 x")]


def test_results_are_a_run_nested_and_flat_whatever_else_they_hold() -> None:
    rows = [nested("q1", ("a", 2.5), (7, -1)), nested("q2"), nested(3, ("a", 0.5))]
    assert run_of(*rows) == [("q1", "a", 2.5, 1), ("q1", "7", -1.0, 1), ("3", "a", 0.5, 3)]
    flat = [
        {"query_id": "q", "score": 1.5, "id": "a", "text": "t"},
        {"query_id": "q", "score": 1, "docno": "b", "docid": 9},
    ]
    assert run_of(*flat) == [("q", "a", 1.5, 1), ("q", "b", 1.0, 2)]


def test_results_keep_their_order_where_scores_are_equal_as_float32() -> None:
    scores = {"z": 5.0, "y": 5.0 - 1e-9, "p": 9.0, "x": 4.9999995}
    lines = run_of(*({"query_id": "q", "id": id, "score": score} for id, score in scores.items()))
    assert [line[1] for line in lines] == ["p", "z", "y", "x"]
    assert (np.diff(np.array([line[2] for line in lines], np.float32)) < 0).all()


def test_results_without_a_score_come_last() -> None:
    lines = run_of(nested("q", ("a", -3.0), ("b", None), ("c", None)))
    assert [line[1] for line in lines] == ["a", "b", "c"]
    assert [line[2] for line in lines] == [-3.0, -4.0, float(np.nextafter(np.float32(-4), np.float32(-9)))]


@pytest.mark.parametrize("format", ["jsonl", "rows", "csv", "tsv", "parquet"])
def test_results_are_read_as_the_run_that_batch_writes_as_trec(tmp_path: Path, format: str) -> None:
    def ranking(query_id: str, *scores: float) -> Ranking:
        results = (
            RankedDocument(Document("a\ttext,\nof lines", id=f"d{place}"), place, place + 1, score)
            for place, score in enumerate(scores)
        )
        return Ranking(Query("?", id=query_id), tuple(results))

    def lines_of(name: str) -> list[tuple[str, str, float]]:
        with (tmp_path / name).open("wb") as stream:
            writer = ResultWriter(name, stream, WriteOptions(), many=True)
            for one in (ranking("q1", 3.25, 3.25, 3.2499998, -7.5), ranking("q2", 0.1), ranking("q3")):
                writer.write(one)
            writer.close()
        lines = read_run(Source.from_path(tmp_path / name))
        return [(*line[:2], float(np.float32(line.score))) for line in lines]

    assert lines_of(format) == lines_of("trec")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"query_id": "q", "score": 1},
            "the row needs a query_id, a doc_id and a score (has: query_id, score)",
        ),
        ({"query_id": True, "id": "a", "score": 1}, "the query_id is true, not a string or a number"),
        ({"query_id": "q", "results": ["a"]}, '"results" is not a list of objects'),
        (nested("q", (None, 1.0)), "the id is null"),
        (nested("q", ("", 1.0)), "the id is empty."),
        ({"query_id": "q", "id": "q", "results": [{"score": 1}]}, "the row needs"),
        ({"query_id": "q", "id": "a", "score": True}, 'the score of "a" for "q" is true'),
        (
            '{"query_id": "q", "id": "a", "score": 1e999}',
            'the score of "a" for "q" is Infinity, not a number',
        ),
        ('"text"', "the row is a string, not an object"),
    ],
)
def test_results_that_are_no_run_are_refused_with_their_line(row: object, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        run_of(nested("q"), row)
    assert caught.value.message.startswith(f"stdin:2: {problem}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q1 Q0 d1 1 6.5", "5 fields, not 6 (query_id, Q0, doc_id, rank, score, run_name)."),
        ("q1 Q0 d1 1 six x", 'the score of "d1" for "q1" is "six", not a number.'),
        ("q1 Q0 d1 1 nan x", 'the score of "d1" for "q1" is "nan", not a number.'),
    ],
)
def test_a_wrong_column_of_a_run_is_named(line: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        run_of(f"q1 Q0 d0 1 7 bm25\n{line}\n")
    assert caught.value.message == f"stdin:2: {problem}"


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d1 2\nq1 0 d2 0\n\nq2\t0\td1\t-1\n",
        "# by hand\nq1 0 d1 2.0\nq1 0 d2 0.0\nq2 0 d1 -1.0\n",
        "q1 d1 2\nq1   d2\t0\r\nq2 d1 -1\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        "query_id doc_id relevance iteration\nq1 d1 2 0\nq1 d2 0 0\nq2 d1 -1 0\n",
        ",qid,docno,label\n0,q1,d1,2\n1,q1,d2,0\n2,q2,d1,-1\n",
        'Topic;DocID;Rel\r"q1";"d1";2.0\rq1;d2;0\rq2;d1;-1\r',
        '{"q1": {"d1": 2, "d2": 0.0}, "q2": {"d1": -1}}',
        '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n'
        '{"query-id": "q1", "corpus-id": "d2", "score": 0}\n'
        '{"query-id": "q2", "corpus-id": "d1", "score": -1.0}\n',
    ],
)
def test_judgements_are_read_in_every_form(text: str) -> None:
    found = [row[:3] for row in read_judgements(stdin(text))]
    assert found == [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d1", -1)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q 0 a 1\nq a 1\n", ":2: 3 fields, not 4 (query_id, 0, doc_id, relevance)."),
        ("q 0 a high\n", ':1: the relevance of "a" for "q" is "high", not a whole number'),
        ("q 0 a 1000001\n", ':1: the relevance of "a" for "q" is "1000001", not a whole number'),
        ('{"q": {"a": 0.5}}', ':1: the relevance of "a" for "q" is 0.5, not a whole number'),
        ('{"q": {"a": 1}, "r": 2}', ":1: the row needs a query_id, a doc_id and a relevance (has: q.a"),
        ('{"q": {"a": 1}', ":1: broken JSON"),
    ],
)
def test_what_is_wrong_with_judgements_is_named(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_judgements(stdin(text)))
    assert caught.value.message.startswith(f"stdin{problem}")
