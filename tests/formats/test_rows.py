from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ce_rerank.formats.writers import WriteOptions, flat_rows, nested_row, result_row
from ce_rerank.types import Document, Passage, Query, RankedDocument, Ranking

PLAIN = WriteOptions()
NO_TEXT = WriteOptions(with_text=False)
DETAILS = WriteOptions(details=True)


def ranked(document: Document, **facts: Any) -> RankedDocument:
    return RankedDocument(document, index=4, rank=1, score=0.5, **facts)


def items(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(row.items())


def test_a_row_is_index_score_text_id_and_then_the_inputs_fields() -> None:
    document = Document("T b", "x", {"url": "u", "id": "x", "title": "T", "body": "b"}, ("title", "body"))
    assert items(result_row(ranked(document), PLAIN)) == [
        ("index", 4), ("score", 0.5), ("text", "T b"), ("id", "x"),
        ("url", "u"), ("title", "T"), ("body", "b"),
    ]  # fmt: skip


def test_an_input_field_with_one_of_our_names_goes_under_input() -> None:
    document = Document("T b", fields={"text": "b", "title": "T", "score": 9, "rank": 3})
    assert result_row(ranked(document), PLAIN) == {
        "index": 4, "score": 0.5, "text": "T b", "title": "T", "rank": 3, "input": {"text": "b", "score": 9},
    }  # fmt: skip


def test_the_same_value_is_not_said_twice() -> None:
    document = RankedDocument(Document("t", 1, {"id": 1.0, "text": "t"}), 1, 1, 0.5)
    assert result_row(document, PLAIN) == {"index": 1, "score": 0.5, "text": "t", "id": 1}


def test_a_field_of_the_input_that_is_called_input_goes_there_too() -> None:
    row = result_row(ranked(Document("t", fields={"input": {"text": "old"}})), PLAIN)
    assert row["input"] == {"input": {"text": "old"}}


def test_no_text_drops_what_the_text_was_made_from_but_not_the_title() -> None:
    fields = {"title": "T", "body": "b", "url": "u", "text": "another"}
    document = Document("T b", "x", fields, ("title", "body"))
    assert items(result_row(ranked(document), NO_TEXT)) == [
        ("index", 4), ("score", 0.5), ("id", "x"), ("title", "T"), ("url", "u"), ("text", "another"),
    ]  # fmt: skip


def test_details_come_before_the_inputs_fields() -> None:
    passage = Passage("ssa", 2, 5, 3)
    document = Document("passage", "x", {"url": "u"})
    assert items(result_row(ranked(document, tokens=12, truncated=True, passage=passage), DETAILS)) == [
        ("index", 4), ("score", 0.5), ("text", "passage"), ("id", "x"),
        ("rank", 1), ("tokens", 12), ("truncated", True),
        ("passage", "ssa"), ("start", 2), ("end", 5), ("line", 3), ("url", "u"),
    ]  # fmt: skip


def test_a_query_holds_its_results_and_its_other_fields() -> None:
    query = Query("why", 7, {"query": "why", "topic": "x", "results": 3})
    assert items(nested_row(Ranking(query, (ranked(Document("t")),)), PLAIN)) == [
        ("query_id", 7), ("query", "why"), ("results", [{"index": 4, "score": 0.5, "text": "t"}]),
        ("topic", "x"), ("input", {"results": 3}),
    ]  # fmt: skip


def test_flat_rows_start_with_the_query() -> None:
    query = Query("why", "q1", {"topic": "x", "url": "of the query"})
    document = Document("t", "d", {"query": "why", "query_id": 1, "url": "u"})
    (row,) = flat_rows(Ranking(query, (ranked(document),)), PLAIN)
    assert items(row) == [
        ("query_id", "q1"), ("query", "why"), ("index", 4), ("score", 0.5), ("text", "t"), ("id", "d"),
        ("url", "u"), ("input", {"query_id": 1}), ("topic", "x"), ("query_input", {"url": "of the query"}),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["id", "_id", "pid", "text", "passage", "title", "score"])
def test_what_a_query_says_of_itself_is_not_said_of_its_documents(name: str) -> None:
    query = Query("why", "q1", {name: "the query's"})
    (row,) = flat_rows(Ranking(query, (ranked(Document("t")),)), replace(PLAIN, with_text=False))
    assert row == {
        "query_id": "q1", "query": "why", "index": 4, "score": 0.5, "query_input": {name: "the query's"}
    }  # fmt: skip


def test_an_id_that_is_the_querys_id_is_not_said_twice() -> None:
    (row,) = flat_rows(Ranking(Query("why", "q1", {"id": "q1"}), (ranked(Document("t")),)), PLAIN)
    assert row == {"query_id": "q1", "query": "why", "index": 4, "score": 0.5, "text": "t"}
