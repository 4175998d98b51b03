"""Runs and judgements, read in the forms that people have them in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ce_rerank.errors import InputError, UsageError
from ce_rerank.formats.source import Source
from ce_rerank.formats.trec import RunLine, read_judgements, read_run
from ce_rerank.formats.writers import ResultWriter, WriteOptions
from ce_rerank.types import Document, Query, RankedDocument, Ranking


def stdin(data: bytes | str) -> Source:
    return Source.from_stream(io.BytesIO(data if isinstance(data, bytes) else data.encode()))


def run_of(*rows: Any, columns: tuple[str, ...] = ()) -> list[tuple[str, str, float, int]]:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    return [(*line[:3], line.line_number) for line in read_run(stdin(text), columns=columns)]


def judgements_of(text: str) -> list[tuple[str, str, int]]:
    return [row[:3] for row in read_judgements(stdin(text))]


def nested(query_id: object, *results: tuple[object, float | None]) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": "?",
        "results": [{"index": place, "score": score, "id": id} for place, (id, score) in enumerate(results)],
    }


def error_of(read: Callable[[Source], Any], data: bytes | str) -> str:
    with pytest.raises(InputError) as caught:
        list(read(stdin(data)))
    return caught.value.message


class TestARun:
    def test_is_read_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        path.write_bytes(b"q2 Q0 d1 1 6.5 bm25\n\nq1\tQ0  d2 2 -1e-3 bm25\r\nq2 Q0 d2 2 1 bm25\n")
        assert list(read_run(Source.from_path(path))) == [
            RunLine("q2", "d1", 6.5, f"{path}:1"),
            RunLine("q1", "d2", -0.001, f"{path}:3"),
            RunLine("q2", "d2", 1.0, f"{path}:4"),
        ]

    def test_may_have_ranks_like_1_0_comments_and_ids_with_a_no_break_space(self) -> None:
        assert run_of("q\tQ0\td\t1\t2.0\ttext\n") == [("q", "d", 2.0, 1)]
        text = "# made by hand\nq\u00a01 Q0 d\u00a01 1.0 2.0 r\n[1] Q0 d 2.0 1.0 r\n"
        assert run_of(text) == [("q\u00a01", "d\u00a01", 2.0, 2), ("[1]", "d", 1.0, 3)]

    def test_of_three_columns_is_read_by_their_names(self) -> None:
        text = "2\t10\t1\n2\t11\t2\n"
        assert run_of(text, columns=("qid", "pid", "rank")) == [("2", "10", -1.0, 1), ("2", "11", -2.0, 2)]
        assert run_of(text, columns=("query_id", "doc_id", "score"))[1] == ("2", "11", 2.0, 2)
        assert run_of("2 Q0 10 1 6.5 x\n", columns=("qid", "pid", "rank")) == [("2", "10", 6.5, 1)]

    def test_needs_columns_for_the_ids_and_the_order(self) -> None:
        with pytest.raises(UsageError, match="columns qid,text lacks some"):
            run_of("1 a\n", columns=("qid", "text"))

    @pytest.mark.parametrize("tab", [" ", ",", "\t"])
    def test_may_have_a_header_as_pyterrier_and_pandas_write_it(self, tab: str) -> None:
        lines = ("qid docid docno rank score", "1 17 a 0 12.5", "1 99 b 1 11.5")
        text = "".join(line.replace(" ", tab) + "\n" for line in lines)
        assert run_of(text) == [("1", "a", 12.5, 2), ("1", "b", 11.5, 3)]

    def test_may_be_an_object_of_objects(self) -> None:
        lists = {"q1": {"d1": 1.5, "d2": -2}, "q2": {"d1": 1}}
        expected = [("q1", "d1", 1.5, 1), ("q1", "d2", -2.0, 1), ("q2", "d1", 1.0, 1)]
        assert run_of(json.dumps(lists)) == run_of(json.dumps(lists, indent=2)) == expected
        assert run_of("{}") == run_of("\n \n") == []

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("q1 Q0 d1 1 6.5", "5 fields, not 6 (query_id, Q0, doc_id, rank, score, run_name)."),
            ("q1 Q0 d1 1 six x", 'the score of "d1" for "q1" is "six", not a number.'),
        ],
    )
    def test_names_the_column_that_is_wrong(self, line: str, problem: str) -> None:
        assert error_of(read_run, f"q1 Q0 d0 1 7 bm25\n{line}\n") == f"stdin:2: {problem}"

    def test_can_be_read_without_its_bad_lines(self) -> None:
        rejected: list[tuple[str, str]] = []
        data = b"what is this\nq1 Q0 d1 1 7 x\n x\r\nq1 Q0 d\xe9 2 6 x\nq1 Q0 d3 3 5 x\n"
        rows = read_run(stdin(data), lambda error, line: rejected.append((error.message, line)))
        assert [(row.doc_id, row.line_number) for row in rows] == [("d1", 2), ("d3", 5)]
        assert [(message.partition(": ")[0], line) for message, line in rejected] == [
            ("stdin:1", "what is this"), ("stdin:3", " x"), ("stdin:4", "q1 Q0 d\ufffd 2 6 x")
        ]  # fmt: skip


class TestResultsAsARun:
    def test_are_read_nested_and_flat_whatever_else_they_hold(self) -> None:
        rows = [nested("q1", ("a", 2.5), (7, -1)), nested("q2"), nested(3, ("a", 0.5))]
        expected = [("q1", "a", 2.5, 1), ("q1", "7", -1.0, 1), ("3", "a", 0.5, 3)]
        assert run_of(*rows) == expected
        assert run_of("\ufeff\n", *rows)[2] == ("3", "a", 0.5, 4)
        flat = [
            {"query_id": "q", "score": 1.5, "id": "a", "text": "t"},
            {"query_id": "q", "score": 1, "docno": "b", "docid": 9},
        ]
        assert run_of(*flat) == [("q", "a", 1.5, 1), ("q", "b", 1.0, 2)]
        assert [line[:3] for line in run_of(json.dumps(flat))] == [("q", "a", 1.5), ("q", "b", 1.0)]

    def test_keep_their_order_where_scores_are_equal_as_float32(self) -> None:
        rows = [
            {"query_id": "q", "id": id, "score": score}
            for id, score in (("z", 5.0), ("y", 5.0 - 1e-9), ("p", 9.0), ("x", 4.9999995))
        ]
        lines = run_of(*rows)
        assert [line[1] for line in lines] == ["p", "z", "y", "x"]
        scores = np.array([line[2] for line in lines], np.float32)
        assert (np.diff(scores) < 0).all()

    def test_of_blank_documents_come_last(self) -> None:
        lines = run_of(nested("q", ("a", -3.0), ("b", None), ("c", None)))
        assert [line[1] for line in lines] == ["a", "b", "c"]
        assert [line[2] for line in lines] == [
            -3.0,
            -4.0,
            float(np.nextafter(np.float32(-4), np.float32(-9))),
        ]

    @pytest.mark.parametrize("format", ["jsonl", "rows", "csv", "tsv", "parquet"])
    def test_are_what_batch_writes_as_trec(self, tmp_path: Path, format: str) -> None:
        def ranking(query_id: str, *scores: float) -> Ranking:
            results = (
                RankedDocument(Document("a\ttext,\nof lines", id=f"d{place}"), place, place + 1, score)
                for place, score in enumerate(scores)
            )
            return Ranking(Query("?", id=query_id), tuple(results))

        rankings = [ranking("q1", 3.25, 3.25, 3.2499998, -7.5), ranking("q2", 0.1), ranking("q3")]

        def lines_of(name: str) -> list[tuple[str, str, float]]:
            with (tmp_path / name).open("wb") as stream:
                writer = ResultWriter(name, stream, WriteOptions(), many=True)
                for one in rankings:
                    writer.write(one)
                writer.close()
            return [
                (*line[:2], float(np.float32(line.score)))
                for line in read_run(Source.from_path(tmp_path / name))
            ]

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
            ({"query_id": "q", "id": "q", "results": [{"score": 1}]}, "the row needs"),
            ({"query_id": "q", "id": "a", "score": True}, 'the score of "a" for "q" is true'),
            ('"text"', "the row is a string, not an object"),
        ],
    )
    def test_are_refused_with_their_line(self, row: object, problem: str) -> None:
        text = json.dumps(nested("q")) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n"
        assert error_of(read_run, text).startswith(f"stdin:2: {problem}")


class TestJudgements:
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
    def test_are_read_in_every_form(self, text: str) -> None:
        assert judgements_of(text) == [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d1", -1)]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("q 0 a 1\nq a 1\n", ":2: 3 fields, not 4 (query_id, 0, doc_id, relevance)."),
            ("q 0 a high\n", ':1: the relevance of "a" for "q" is "high", not a whole number'),
            ("q 0 a 1000001\n", ':1: the relevance of "a" for "q" is "1000001", not a whole number'),
            ('{"q": {"a": 0.5}}', ':1: the relevance of "a" for "q" is 0.5, not a whole number'),
            (
                '{"q": {"a": 1}, "r": 2}',
                ":1: the row needs a query_id, a doc_id and a relevance (has: q.a",
            ),
            ('{"q": {"a": 1}', ":1: broken JSON"),
            ('{"query-id": "q", "score": 1}\n', ":1: the row needs a query_id, a doc_id and a relevance"),
        ],
    )
    def test_name_what_is_wrong(self, text: str, problem: str) -> None:
        assert error_of(read_judgements, text).startswith(f"stdin{problem}")
