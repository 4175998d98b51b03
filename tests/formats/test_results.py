from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ce_rerank.errors import InputError
from ce_rerank.formats.results import read_judgements, read_results
from ce_rerank.formats.rows import WriteOptions
from ce_rerank.formats.source import Source
from ce_rerank.formats.trec import read_run
from ce_rerank.formats.writers import open_batch_writer
from ce_rerank.types import Document, Query, RankedDocument, Ranking


def read(*rows: Any) -> list[tuple[str, str, float, int]]:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    lines = read_results(Source.from_stream(io.BytesIO(text.encode())))
    return [(line.query_id, line.doc_id, line.score, line.line_number) for line in lines]


def nested(query_id: object, *results: tuple[object, float]) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": "?",
        "results": [{"index": place, "score": score, "id": id} for place, (id, score) in enumerate(results)],
    }


def test_a_line_a_query_gives_its_results() -> None:
    assert read(nested("q1", ("a", 2.5), ("b", -1)), nested("q2"), nested("q3", ("a", 0.5))) == [
        ("q1", "a", 2.5, 1),
        ("q1", "b", -1.0, 1),
        ("q3", "a", 0.5, 3),
    ]


def test_a_line_a_document_is_a_result_whatever_else_it_holds() -> None:
    rows = [
        {"query_id": "q", "score": 1.5, "id": "a", "text": "t"},
        {"query_id": "q", "score": 1, "docid": "b"},
    ]
    assert read(*rows) == [("q", "a", 1.5, 1), ("q", "b", 1.0, 2)]


def test_ids_that_are_numbers_are_written_out() -> None:
    assert read(nested(7, (42, 1.0))) == [("7", "42", 1.0, 1)]


def test_what_does_not_start_like_json_is_a_trec_run() -> None:
    assert read("\n q1 Q0 a 1 2.5 system\n") == [("q1", "a", 2.5, 2)]


def test_blank_lines_and_a_byte_order_mark_before_json_do_no_harm() -> None:
    text = "\ufeff\n\n" + json.dumps(nested("q", ("a", 1.0)))
    assert read(text) == [("q", "a", 1.0, 3)]


def test_nothing_is_an_empty_run() -> None:
    assert read("") == []
    assert read("\n \n") == []


def test_a_compressed_file_is_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "hits.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(nested("q", ("a", 1.0))).encode()))
    assert [line.doc_id for line in read_results(path)] == ["a"]


def test_equal_scores_keep_the_order_of_the_list() -> None:
    (a, b, c) = read(nested("q", ("z", 5.0), ("y", 5.0), ("x", 4.9999995)))
    assert [row[1] for row in (a, b, c)] == ["z", "y", "x"]
    assert a[2] == 5.0
    assert a[2] > b[2] > c[2]
    assert c[2] == pytest.approx(5.0, abs=2e-6)


def test_a_list_that_is_not_sorted_is_ranked_by_score() -> None:
    assert read(nested("q", ("low", 1.0), ("high", 2.0))) == [("q", "high", 2.0, 1), ("q", "low", 1.0, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"query_id": query_id, "id": id, "score": 1.5} for query_id, id in ("1a", "2a", "1b", "1c")],
        [nested(1, ("a", 1.5)), nested("2", ("a", 1.5)), nested("1", ("b", 1.5), ("c", 2.5))],
    ],
    ids=["flat", "nested"],
)
def test_results_of_a_query_that_stand_apart_are_refused_for_their_ties(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError) as raised:
        read(*rows)
    assert raised.value.message == 'stdin:3: the query "1" is here again, after other queries.'
    assert raised.value.hint == "Let the results of a query stand together: sort the file by query."


def test_lines_of_a_trec_run_may_stand_in_any_order() -> None:
    assert [row[0] for row in read("1 Q0 a 1 2.5 s\n2 Q0 a 1 2.5 s\n1 Q0 b 2 1.5 s\n")] == ["1", "2", "1"]


def ranking(query_id: str, *scores: float) -> Ranking:
    results = tuple(
        RankedDocument(Document(f"text {place}", id=f"d{place}"), place, place + 1, score)
        for place, score in enumerate(scores)
    )
    return Ranking(Query("?", id=query_id), results)


@pytest.mark.parametrize("format", ["jsonl", "rows"])
def test_what_batch_writes_as_jsonl_reads_back_as_what_it_writes_as_trec(tmp_path: Path, format: str) -> None:
    rankings = [ranking("q1", 3.25, 3.25, 3.2499998, -7.5), ranking("q2", 0.1), ranking("q3")]

    def written(name: str) -> Path:
        with (tmp_path / name).open("wb") as stream:
            writer = open_batch_writer(name, stream, WriteOptions())
            for one in rankings:
                writer.write(one)
            writer.close()
        return tmp_path / name

    def in_float32(path: Path, reader: Any) -> list[tuple[str, str, int, float]]:
        import numpy as np

        return [(one.query_id, one.doc_id, one.rank, float(np.float32(one.score))) for one in reader(path)]

    assert in_float32(written(format), read_results) == in_float32(written("trec"), read_run)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"query_id": "q", "results": [}\n', "stdin:1: broken JSON (expecting value at })."),
        ({"results": []}, 'stdin:1: no "query_id", by which judgements are found.'),
        ({"query_id": [1], "results": []}, 'stdin:1: "query_id" is a list, not a string or an integer.'),
        ({"query_id": True, "results": []}, 'stdin:1: "query_id" is true, not a string or an integer.'),
        ({"query_id": "q", "results": {}}, 'stdin:1: "results" is an object, not a list.'),
        ({"query_id": "q", "results": ["a"]}, "stdin:1: result 1 is a string, not an object."),
        (nested("q", (None, 1.0)), 'stdin:1: result 1: no "id", by which judgements are found.'),
        ({"query_id": "q", "results": [{"id": "a"}]}, 'stdin:1: result 1: no "score".'),
        ({"query_id": "q", "id": "a", "score": "1"}, 'stdin:1: a string as "score".'),
        ({"query_id": "q", "id": "a", "score": True}, 'stdin:1: true as "score".'),
        (
            {"query_id": "q", "id": "a", "score": 1e39},
            "stdin:1: the score 1e+39 is out of a float32's range.",
        ),
        ({"query_id": "q", "documents": ["a"]}, 'stdin:1: no "id", by which judgements are found.'),
        ('{"query_id": "q", "results": []}\n"text"\n', "stdin:2: the row is a string, not an object."),
    ],
)
def test_a_row_that_is_no_result_is_refused_with_its_place(row: object, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read(row)
    assert raised.value.message == message


def test_judgements_are_read_in_both_their_forms(tmp_path: Path) -> None:
    for content in ("query-id\tcorpus-id\tscore\nq\ta\t1\n", "q 0 a 1\n"):
        (tmp_path / "qrels").write_text(content, encoding="utf-8")
        (row,) = read_judgements(tmp_path / "qrels")
        assert (row.query_id, row.doc_id, row.relevance) == ("q", "a", 1)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1\x15\x04\xff\xfe", "Parquet"),
        (b"query_id,query,index,score,id\nq,why,0,1.5,a\n", "a table with a header"),
        (b'\xef\xbb\xbf"query_id"\t"score"\r\nq\t1.5\r\n', "a table with a header"),
    ],
)
def test_a_table_is_called_one_with_what_is_read_instead(content: bytes, kind: str) -> None:
    with pytest.raises(InputError) as raised:
        list(read_results(Source.from_stream(io.BytesIO(content))))
    assert raised.value.message == f"stdin: this is {kind}, and runs are not read from that."
    assert raised.value.hint == (
        "A run is in TREC form or JSONL: `ce-rerank batch --to trec` or `--to rows` writes it."
    )


@pytest.mark.parametrize(
    "content", ['[{"query_id": "q", "results": []}]', '[\n  {"query_id": "q"}\n]', "[]\n"]
)
def test_a_json_array_is_called_one_with_the_way_to_jsonl(content: str) -> None:
    with pytest.raises(InputError) as raised:
        read(content)
    assert raised.value.message == "stdin: this is a JSON array, and runs are not read from that."
    assert raised.value.hint == "Make it JSONL, an object a line, for example: jq -c '.[]'"


def test_a_query_of_a_trec_run_may_start_like_an_array() -> None:
    assert read("[1] Q0 a 1 2.5 system\n") == [("[1]", "a", 2.5, 1)]


@pytest.mark.parametrize(
    "content", [b"PAR1\xff\xff", b"query-id,corpus-id,score\n1,a,1\n", b'[{"score": 1}]']
)
def test_judgements_in_another_form_are_called_that_too(content: bytes) -> None:
    with pytest.raises(InputError, match="and judgements are not read from that"):
        list(read_judgements(Source.from_stream(io.BytesIO(content))))


def test_a_run_separated_by_tabs_is_no_table() -> None:
    assert read("score\tQ0\ta\t1\t2.5\tsystem\n") == [("score", "a", 2.5, 1)]
