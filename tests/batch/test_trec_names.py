"""What a TREC run calls queries and documents that have no ids, and what is refused for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from batch_files import jsonl, shape

from ce_rerank.batch.candidates import RowCandidates
from ce_rerank.formats.base import ReadOptions
from ce_rerank.formats.source import Source
from ce_rerank.formats.trec import TrecWriter
from ce_rerank.types import Candidates, RankedDocument, Ranking

WAY_OUT = "A TREC run has nothing but ids: give each an id of its own, or use --to jsonl."


def left_out(folder: Path, text: str, name: str = "hits.jsonl") -> tuple[list[Candidates], list[str]]:
    """Read rows for a TREC run; gives the lists, and why rows were left out."""
    (folder / name).write_text(text, encoding="utf-8")
    reasons: list[str] = []
    candidates = RowCandidates([Source.from_path(folder / name)], ReadOptions(), for_trec=True)
    lists = list(candidates.read(lambda error, row: reasons.append(str(error))))
    return lists, [reason.removeprefix(f"{folder}/") for reason in reasons]


def test_the_name_of_a_query_without_an_id_is_its_number_which_no_other_may_have(tmp_path: Path) -> None:
    rows = [
        {"query_id": 2, "query": "first", "documents": ["a"]},
        {"query": "second", "documents": ["b"]},
        {"query_id": "x", "query": "third", "documents": []},
        {"query": "fourth", "documents": []},
        {"query_id": "3", "query": "fifth", "documents": []},
    ]
    lists, reasons = left_out(tmp_path, jsonl(*rows))
    assert [one.query.text for one in lists] == ["first", "third", "fourth"]
    assert reasons == [
        f"hits.jsonl:2: the query has no id, and its number, 2, is the id of another. {WAY_OUT}",
        f'hits.jsonl:5: the id "3" is the number of a query that has no id. {WAY_OUT}',
    ]


def test_the_name_of_a_query_in_flat_rows_is_its_number_too(tmp_path: Path) -> None:
    text = "query_id,query,id,text\n2,red,a,one\n,blue,a,two\n2,red,b,three\n1,cat,a,four\n"
    lists, reasons = left_out(tmp_path, text, "hits.csv")
    assert shape(lists) == [("2", "red", [("a", "one"), ("b", "three")]), ("1", "cat", [("a", "four")])]
    assert reasons == [f"hits.csv:3: the query has no id, and its number, 2, is the id of another. {WAY_OUT}"]


def test_a_flat_query_that_comes_back_asks_for_sorted_rows(tmp_path: Path) -> None:
    text = "query_id,query,text\n1,red,one\n2,blue,two\n1,red,three\n"
    assert left_out(tmp_path, text, "hits.csv")[1] == [
        'hits.csv:4: the query "1" is here again, after other queries. '
        "Let the rows of a query stand together: sort the input by query."
    ]


def test_the_name_is_the_number_that_the_writer_gives_it(tmp_path: Path) -> None:
    rows = [{"query": f"query {number}", "documents": ["one"]} for number in (1, 2)]
    lists, reasons = left_out(
        tmp_path, jsonl(rows[0], {"query_id": 2}, rows[1], {"query_id": "2", **rows[0]})
    )
    run = io.BytesIO()
    writer = TrecWriter(run, "x")
    for number, candidates in enumerate(lists, start=1):
        writer.write(Ranking(candidates.query, (RankedDocument(candidates.documents[0], 0, 1, 1),)), number)
    assert run.getvalue() == b"1 Q0 0 1 1.0 x\n2 Q0 0 1 1.0 x\n"
    assert reasons[1:] == [f'hits.jsonl:4: the id "2" is the number of a query that has no id. {WAY_OUT}']


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (
            [{"id": "1", "text": "one"}, "two"],
            "documents[1]: the document has no id, and its place, 1, is the id of another.",
        ),
        (
            ["one", {"id": 0, "text": "two"}],
            'documents[1]: the id "0" is the place of a document that has no id.',
        ),
    ],
)
def test_the_name_of_a_document_without_an_id_is_its_place_which_no_other_may_have(
    tmp_path: Path, documents: list[Any], reason: str
) -> None:
    row = {"query": "red", "documents": documents}
    assert left_out(tmp_path, jsonl(row)) == ([], [f"hits.jsonl:1: {reason} {WAY_OUT}"])
    apart = {"query": "red", "documents": ["one", {"id": 7, "text": "two"}, {"id": 7, "text": "again"}]}
    assert left_out(tmp_path, jsonl(apart, {**apart, "query": "blue"}))[1] == []


def test_the_names_of_documents_in_flat_rows_are_looked_at_a_list_at_a_time(tmp_path: Path) -> None:
    rows = [
        {"query": "red", "text": "one"},
        {"query": "red", "id": "0", "text": "two"},
        {"query": "red", "id": "2", "text": "three"},
        {"query": "red", "text": "four"},
        {"query": "red", "text": "five"},
        {"query": "blue", "id": "0", "text": "six"},
    ]
    lists, reasons = left_out(tmp_path, jsonl(*rows))
    assert shape(lists) == [
        (None, "red", [(None, "one"), ("2", "three")]),
        (None, "blue", [("0", "six")]),
    ]
    assert [reason.partition(":")[2].partition(":")[0] for reason in reasons] == ["2", "4", "5"]
