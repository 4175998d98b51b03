"""Results as rows, and as bytes of every format."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.errors import InputError, UsageError
from ce_rerank.formats.documents import ReadOptions, read_documents
from ce_rerank.formats.source import Source
from ce_rerank.formats.writers import (
    ResultWriter,
    WriteOptions,
    flat_rows,
    nested_row,
    require_format,
    result_row,
)
from ce_rerank.types import Document, Passage, Query, RankedDocument, Ranking

WHY = Query("why")
PLAIN = WriteOptions()


def ranked(document: Document, **facts: Any) -> RankedDocument:
    return RankedDocument(document, index=4, rank=1, score=0.5, **facts)


def items(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(row.items())


def rank(*documents: Document, query: Query = WHY, scores: tuple[float, ...] = ()) -> Ranking:
    scores = scores or tuple(float(-place) for place in range(len(documents)))
    results = (
        RankedDocument(document, index=place, rank=place + 1, score=score)
        for place, (document, score) in enumerate(zip(documents, scores, strict=True))
    )
    return Ranking(query, tuple(results))


def written(format: str, *rankings: Ranking, options: WriteOptions = PLAIN, **more: Any) -> str:
    stream = io.BytesIO()
    writer = ResultWriter(format, stream, options, **more)
    for ranking in rankings:
        writer.write(ranking)
    writer.close()
    return stream.getvalue().decode()


class TestARow:
    def test_is_index_score_text_id_and_then_the_inputs_fields(self) -> None:
        document = Document("T b", "x", {"url": "u", "id": "x", "title": "T", "body": "b"}, ("title", "body"))
        assert items(result_row(ranked(document), PLAIN)) == [
            ("index", 4), ("score", 0.5), ("text", "T b"), ("id", "x"),
            ("url", "u"), ("title", "T"), ("body", "b"),
        ]  # fmt: skip

    def test_has_input_fields_with_our_names_under_input_unless_they_are_equal(self) -> None:
        fields = {"id": 1.0, "text": "b", "title": "T", "score": 9, "rank": 3, "input": "old"}
        assert result_row(ranked(Document("T b", 1, fields)), PLAIN) == {
            "index": 4, "score": 0.5, "text": "T b", "id": 1, "title": "T", "rank": 3,
            "input": {"text": "b", "score": 9, "input": "old"},
        }  # fmt: skip

    def test_without_text_lacks_what_the_text_was_made_from_but_not_the_title(self) -> None:
        fields = {"title": "T", "body": "b", "text": "another"}
        document = Document("T b", "x", fields, ("title", "body"))
        assert items(result_row(ranked(document), WriteOptions(with_text=False))) == [
            ("index", 4), ("score", 0.5), ("id", "x"), ("title", "T"), ("text", "another"),
        ]  # fmt: skip

    def test_has_details_before_the_inputs_fields(self) -> None:
        found = ranked(
            Document("passage", "x", {"url": "u"}), tokens=12, truncated=True, passage=Passage("ssa", 2, 5, 3)
        )
        assert items(result_row(found, WriteOptions(details=True))) == [
            ("index", 4), ("score", 0.5), ("text", "passage"), ("id", "x"),
            ("rank", 1), ("tokens", 12), ("truncated", True),
            ("passage", "ssa"), ("start", 2), ("end", 5), ("line", 3), ("url", "u"),
        ]  # fmt: skip

    def test_of_a_query_has_its_results_and_its_other_fields(self) -> None:
        query = Query("why", 7, {"query": "why", "topic": "x", "results": 3})
        assert items(nested_row(Ranking(query, (ranked(Document("t")),)), PLAIN)) == [
            ("query_id", 7), ("query", "why"), ("results", [{"index": 4, "score": 0.5, "text": "t"}]),
            ("topic", "x"), ("input", {"results": 3}),
        ]  # fmt: skip

    def test_of_a_document_may_start_with_its_query(self) -> None:
        query = Query("why", "q1", {"topic": "x", "url": "of the query", "id": "q1", "pid": 5, "title": "T"})
        document = Document("t", "d", {"query": "why", "query_id": 1, "url": "u"})
        (row,) = flat_rows(Ranking(query, (ranked(document),)), PLAIN)
        assert items(row) == [
            ("query_id", "q1"), ("query", "why"), ("index", 4), ("score", 0.5), ("text", "t"), ("id", "d"),
            ("url", "u"), ("input", {"query_id": 1}), ("topic", "x"),
            ("query_input", {"url": "of the query", "pid": 5, "title": "T"}),
        ]  # fmt: skip


BLANK = rank(Document("b", 7), Document(".", 8), query=Query("?", "why"), scores=(2.5, -math.inf))
TWO = rank(
    Document("naïve, 文\n", "a", {"n": 1.5, "tags": ["x", None]}),
    Document('"b"\tc', "b", {"url": "u", "n": None}),
)
LINES = [
    '{"index": 0, "score": 0.0, "text": "naïve, 文\\n", "id": "a", "n": 1.5, "tags": ["x", null]}',
    '{"index": 1, "score": -1.0, "text": "\\"b\\"\\tc", "id": "b", "url": "u", "n": null}',
]


@pytest.mark.parametrize(
    ("format", "ranking", "expected"),
    [
        ("jsonl", TWO, "\n".join([*LINES, ""])),
        ("json", TWO, f"[\n{LINES[0]},\n{LINES[1]}\n]\n"),
        ("json", rank(), "[]\n"),
        (
            "csv", TWO,
            'index,score,text,id,n,tags,url\n0,0.0,"naïve, 文\n",a,1.5,"[""x"", null]",\n'
            '1,-1.0,"""b""\tc",b,,,u\n',
        ),
        ("csv", rank(), "index,score,text,id\n"),
        ("text", rank(Document(" one\r\ntwo\n"), Document("three")), " one two\nthree\n"),
        ("trec", rank(Document("a", 3)), "1 Q0 3 1 0.0 ce-rerank\n"),
        # A blank document has no score, and a query its own id.
        ("csv", BLANK, "index,score,text,id\n0,2.5,b,7\n1,,.,8\n"),
        ("trec", BLANK, "why Q0 7 1 2.5 ce-rerank\nwhy Q0 8 2 1.5 ce-rerank\n"),
    ],
)  # fmt: skip
def test_each_format_has_its_bytes(format: str, ranking: Ranking, expected: str) -> None:
    assert written(format, ranking) == expected


def test_tsv_has_a_space_for_a_tab_or_a_line_break_and_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    ranking = rank(Document('a\tb\r\nc "d"', "x\ty", {"n": ["\t"]}), Document("e", "z"))
    assert written("tsv", ranking) == (
        'index\tscore\ttext\tid\tn\n0\t0.0\ta b c "d"\tx y\t["\\t"]\n1\t-1.0\te\tz\t\n'
    )
    assert caplog.messages == ["Tabs and line breaks became spaces, as TSV needs, in 2 fields."]


def test_text_with_a_passage_is_what_grep_would_print() -> None:
    passage = Passage("\n wins\nhere ", 4, 16, 12)
    hits = (
        RankedDocument(Document("long", "docs/a.md"), 0, 1, 1.0, passage=passage),
        RankedDocument(Document("long"), 5, 2, 0.5, passage=passage),
    )
    assert written("text", Ranking(Query("q"), hits)) == "docs/a.md:12: wins here\n5:12: wins here\n"


@pytest.mark.parametrize(
    ("ranking", "start"),
    [
        (rank(Document("t", "a b", origin="h.jsonl:3")), 'h.jsonl:3: the id "a b" is not one word'),
        (rank(Document("t")), "document 0: no id, and TREC output"),
        (rank(query=Query("why", "q 1")), 'The query: the id "q 1" is not one word'),
    ],
)
def test_ids_that_trec_cannot_hold_are_refused(ranking: Ranking, start: str) -> None:
    with pytest.raises(InputError) as caught:
        written("trec", ranking)
    assert caught.value.message.startswith(start)


def test_what_cannot_be_written_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="must be one word"):
        require_format("trec", WriteOptions(run_name="my run"))
    with pytest.raises(UsageError, match="to text writes the texts, which no_text leaves out"):
        require_format("text", WriteOptions(with_text=False))


def test_a_batch_table_takes_its_columns_from_the_first_results() -> None:
    later = rank(Document("b", fields={"new": [1], "score": 3}), query=Query("how", "q2"))
    assert written("csv", rank(), rank(Document("a", "x", {"url": "u"})), later, many=True) == (
        "query_id,query,index,score,text,id,url,input\n"
        ",why,0,0.0,a,x,u,\n"
        'q2,how,0,0.0,b,,,"{""score"": 3, ""new"": [1]}"\n'
    )


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_tables_read_back_csv_exactly_and_tsv_with_spaces_for_breaks(texts: list[str]) -> None:
    ranking = rank(*(Document(text, text) for text in texts))

    def read(format: str) -> list[str]:
        source = Source.from_stream(io.BytesIO(written(format, ranking).encode()))
        return [document.text for document in read_documents(source, ReadOptions(format=format))]

    assert read("csv") == texts
    assert read("tsv") == [re.sub(r"\r\n|[\t\r\n]", " ", text) for text in texts]
    rows = csv.DictReader(io.StringIO(written("csv", ranking), newline=""))
    assert [row["text"] for row in rows] == texts
