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
from ce_rerank.formats.writers import WriteOptions, open_writer, require_format
from ce_rerank.types import Document, Passage, Query, RankedDocument, Ranking

WHY = Query("why")
PLAIN = WriteOptions()


def rank(*documents: Document, query: Query = WHY, scores: tuple[float, ...] = ()) -> Ranking:
    scores = scores or tuple(float(-place) for place in range(len(documents)))
    results = (
        RankedDocument(document, index=place, rank=place + 1, score=score)
        for place, (document, score) in enumerate(zip(documents, scores, strict=True))
    )
    return Ranking(query, tuple(results))


def written(format: str, ranking: Ranking, options: WriteOptions = PLAIN) -> str:
    stream = io.BytesIO()
    writer = open_writer(format, stream, options)
    writer.write(ranking)
    writer.close()
    return stream.getvalue().decode()


def batch_written(format: str, *rankings: Ranking, options: WriteOptions = PLAIN, **more: Any) -> str:
    stream = io.BytesIO()
    writer = open_writer(format, stream, options, many=True, **more)
    for ranking in rankings:
        writer.write(ranking)
    writer.close()
    return stream.getvalue().decode()


TWO = rank(
    Document("naïve, 文\n", "a", {"n": 1.5, "tags": ["x", None]}),
    Document('"b"\tc', "b", {"url": "u", "n": None}),
)


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (
            "jsonl",
            '{"index": 0, "score": 2.5, "text": "b", "id": 7}\n'
            '{"index": 1, "score": null, "text": ".", "id": 8}\n',
        ),
        ("csv", "index,score,text,id\n0,2.5,b,7\n1,,.,8\n"),
        ("trec", "why Q0 7 1 2.5 ce-rerank\nwhy Q0 8 2 1.5 ce-rerank\n"),
    ],
)
def test_a_blank_document_has_no_score(format: str, expected: str) -> None:
    ranking = rank(Document("b", 7), Document(".", 8), query=Query("?", "why"), scores=(2.5, -math.inf))
    assert written(format, ranking) == expected


def test_jsonl_is_an_object_a_line() -> None:
    assert written("jsonl", TWO) == (
        '{"index": 0, "score": 0.0, "text": "naïve, 文\\n", "id": "a", "n": 1.5, "tags": ["x", null]}\n'
        '{"index": 1, "score": -1.0, "text": "\\"b\\"\\tc", "id": "b", "url": "u", "n": null}\n'
    )


def test_json_is_an_array_of_the_same_objects() -> None:
    lines = written("jsonl", TWO).splitlines()
    assert written("json", TWO) == f"[\n{lines[0]},\n{lines[1]}\n]\n"
    assert written("json", rank()) == "[]\n"


def test_csv_has_the_columns_of_all_rows_and_nested_values_as_json() -> None:
    assert written("csv", TWO) == (
        "index,score,text,id,n,tags,url\n"
        '0,0.0,"naïve, 文\n",a,1.5,"[""x"", null]",\n'
        '1,-1.0,"""b""\tc",b,,,u\n'
    )


def test_tsv_has_a_space_for_a_tab_or_a_line_break_and_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    ranking = rank(Document('a\tb\r\nc "d"', "x\ty", {"n": ["\t"]}), Document("e", "z"))
    assert written("tsv", ranking) == (
        'index\tscore\ttext\tid\tn\n0\t0.0\ta b c "d"\tx y\t["\\t"]\n1\t-1.0\te\tz\t\n'
    )
    assert caplog.messages == ["Tabs and line breaks became spaces, as TSV needs, in 2 fields."]


def test_a_table_without_results_is_its_header() -> None:
    assert written("csv", rank()) == "index,score,text,id\n"
    assert written("csv", rank(), WriteOptions(with_text=False)) == "index,score,id\n"


def test_text_is_a_text_a_line() -> None:
    assert written("text", rank(Document(" one\r\ntwo\n"), Document("three"))) == " one two\nthree\n"


def test_text_with_a_passage_is_what_grep_would_print() -> None:
    passage = Passage("\n wins\nhere ", 4, 16, 12)
    hits = (
        RankedDocument(Document("long", "docs/a.md"), 0, 1, 1.0, passage=passage),
        RankedDocument(Document("long"), 5, 2, 0.5, passage=passage),
    )
    assert written("text", Ranking(Query("q"), hits)) == "docs/a.md:12: wins here\n5:12: wins here\n"


def test_trec_lines_have_six_columns() -> None:
    ranking = rank(
        Document("a", "d1"), Document("b", 2), query=Query("why", "q7"), scores=(6.688289642333984, 1.0)
    )
    assert written("trec", ranking, WriteOptions(run_name="mine")) == (
        "q7 Q0 d1 1 6.6882896 mine\nq7 Q0 2 2 1.0 mine\n"
    )
    assert written("trec", rank(Document("a", 3))) == "1 Q0 3 1 0.0 ce-rerank\n"


@pytest.mark.parametrize(
    ("ranking", "start"),
    [
        (rank(Document("t", "a b", origin="h.jsonl:3")), 'h.jsonl:3: the id "a b" is not one word'),
        (rank(Document("t", "")), 'document 0: the id "" is not one word'),
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
    with pytest.raises(UsageError, match="--to text writes the texts, which --no-text leaves out"):
        require_format("text", WriteOptions(with_text=False))


def test_a_batch_is_a_line_a_query_or_a_line_a_document() -> None:
    one = rank(Document("a", "x"), query=Query("why", "q1", {"topic": 1}))
    assert batch_written("jsonl", one, rank(query=Query("how"))) == (
        '{"query_id": "q1", "query": "why", "results": [{"index": 0, "score": 0.0, "text": "a", "id": "x"}], '
        '"topic": 1}\n{"query": "how", "results": []}\n'
    )
    assert batch_written("rows", one) == (
        '{"query_id": "q1", "query": "why", "index": 0, "score": 0.0, "text": "a", "id": "x", "topic": 1}\n'
    )


def test_a_batch_table_takes_its_columns_from_the_first_results() -> None:
    later = rank(Document("b", fields={"new": [1], "score": 3}), query=Query("how", "q2"))
    assert batch_written("csv", rank(), rank(Document("a", "x", {"url": "u"})), later) == (
        "query_id,query,index,score,text,id,url,input\n"
        ",why,0,0.0,a,x,u,\n"
        'q2,how,0,0.0,b,,,"{""score"": 3, ""new"": [1]}"\n'
    )


def test_a_batch_table_can_be_continued_under_its_header() -> None:
    first, second = rank(Document("a", "x", {"url": "u"})), rank(Document("b", "y", {"k": 1}))
    whole = batch_written("tsv", first, second)
    head = batch_written("tsv", first)
    columns = head.splitlines()[0].split("\t")
    assert head + batch_written("tsv", second, columns=columns) == whole


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_csv_reads_back_exactly_by_our_reader_and_pythons(texts: list[str]) -> None:
    output = written("csv", rank(*(Document(text, text) for text in texts)))
    source = Source.from_stream(io.BytesIO(output.encode()))
    read = [(row.text, row.id) for row in read_documents(source, ReadOptions(format="csv"))]
    assert [text for text, _ in read] == texts
    rows = csv.DictReader(io.StringIO(output, newline=""))
    assert [row["text"] for row in rows] == texts


@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_tsv_reads_back_with_spaces_for_breaks(texts: list[str]) -> None:
    source = Source.from_stream(io.BytesIO(written("tsv", rank(*map(Document, texts))).encode()))
    read = [document.text for document in read_documents(source, ReadOptions(format="tsv"))]
    assert read == [re.sub(r"\r\n|[\t\r\n]", " ", text) for text in texts]
