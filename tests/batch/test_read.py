from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from batch_fakes import jsonl, shape

from ce_rerank import RankOptions
from ce_rerank.batch.job import Job
from ce_rerank.batch.read import CorpusCandidates, RowCandidates
from ce_rerank.errors import InputError
from ce_rerank.formats.documents import ReadOptions
from ce_rerank.formats.fields import LIST_FIELDS
from ce_rerank.formats.source import Source, raise_at_once
from ce_rerank.types import Candidates, Document, Query


def saved(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def read(folder: Path, text: str, name: str = "hits.jsonl", **job: Any) -> list[Candidates]:
    return list(RowCandidates(Job([saved(folder, name, text)], **job)).read(raise_at_once))


def read_skipping(reader: RowCandidates | CorpusCandidates) -> tuple[list[Candidates], list[tuple[str, str]]]:
    """Read without what cannot be ranked; return that too: why rows were rejected, and the rows."""
    rejected: list[tuple[str, str]] = []
    return list(reader.read(lambda error, row: rejected.append((error.message, row)))), rejected


class TestNestedRows:
    def test_hold_a_query_and_its_documents_and_keep_every_field(self, tmp_path: Path) -> None:
        row = {
            "query_id": "7",
            "lang": "en",
            "query": "red",
            "documents": ["one", {"_id": 3, "title": "T", "text": "two", "year": 1999}],
        }
        origin = f"{tmp_path}/hits.jsonl:1"
        assert read(tmp_path, jsonl(row)) == [
            Candidates(
                Query("red", "7", {"lang": "en"}, origin),
                [
                    Document("one", origin=f"{origin}: documents[0]"),
                    Document("T two", 3, row["documents"][1], ("title", "text"), f"{origin}: documents[1]"),
                ],
            )
        ]

    def test_call_their_list_by_any_of_its_names(self, tmp_path: Path) -> None:
        rows = [{"query": name, name: ["one"]} for name in LIST_FIELDS]
        found = shape(read(tmp_path, jsonl(*rows)))
        assert found == [(None, name, [(None, "one")]) for name in LIST_FIELDS]

    @pytest.mark.parametrize(
        ("row", "id", "fields"),
        [
            ({"query": "red", "query_id": 7}, 7, {}),
            ({"query": "red", "qid": "7"}, "7", {}),
            ({"query": "red", "id": "7"}, "7", {"id": "7"}),
            ({"query": "red", "_id": "7", "query_id": None}, "7", {"_id": "7", "query_id": None}),
            ({"query": {"qid": "7", "text": "red", "n": 1}}, "7", {"query": {"n": 1}}),
            ({"query": "red"}, None, {}),
            ({"question": "red", "id": 7}, 7, {"id": 7}),
        ],
    )
    def test_name_their_query_in_several_ways(
        self, tmp_path: Path, row: dict[str, Any], id: object, fields: dict[str, Any]
    ) -> None:
        (candidates,) = read(tmp_path, jsonl({**row, "documents": []}))
        query = candidates.query
        assert (query.text, query.id, query.fields, candidates.documents) == ("red", id, fields, [])

    def test_may_repeat_a_query_unless_it_is_for_trec(self, tmp_path: Path) -> None:
        text = jsonl(*({"query": "red", "query_id": 1, "documents": []} for _ in range(2)))
        assert len(read(tmp_path, text)) == 2
        with pytest.raises(InputError) as caught:
            read(tmp_path, text, format="trec")
        assert caught.value.for_shell == (
            f'{tmp_path}/hits.jsonl:2: the query "1" is here again, after other queries. '
            "Give each query an id of its own."
        )

    def test_are_not_the_lines_of_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Give a TREC run with run"):
            read(tmp_path, "1 Q0 a 1 1.0 x\n", "run.trec")

    def test_may_hold_a_list_for_each_field(self, tmp_path: Path) -> None:
        passages = {"is_selected": [0, 1], "passage_text": ["one", "two"], "url": ["a", "b"]}
        (candidates,) = read(tmp_path, jsonl({"query": "red", "query_id": 19699, "passages": passages}))
        assert shape([candidates]) == [(19699, "red", [(None, "one"), (None, "two")])]
        assert candidates.documents[1].fields == {"is_selected": 1, "passage_text": "two", "url": "b"}
        texts = {"id": [5, 6], "text": ["one", "two"]}
        assert shape(read(tmp_path, jsonl({"query": "red", "passages": texts}))) == [
            (None, "red", [(5, "one"), (6, "two")])
        ]

    def test_may_have_their_fields_named(self, tmp_path: Path) -> None:
        found = [{"key": "a", "_source": {"body": "one"}}]
        row = {"q": {"words": "red"}, "answer": {"found": found, "took": 5}, "hits": ["no"], "n": 1}
        named = {"query_field": "q.words", "documents_field": "answer.found"}
        options = ReadOptions(text_fields=("_source.body",), id_field="key")
        (candidates,) = read(tmp_path, jsonl(row), **named, reading=options)
        assert shape([candidates]) == [(None, "red", [("a", "one")])]
        assert candidates.query.fields == {"answer": {"took": 5}, "hits": ["no"], "n": 1}
        with pytest.raises(InputError, match=r'no list of "found"'):
            read(tmp_path, jsonl({"query": "red", "text": "one"}), documents_field="found")

    def test_flat_rows_that_cannot_be_read_are_places_in_their_querys_list(self, tmp_path: Path) -> None:
        lines = '{"query": "red", "text": "one"}\n{broken\n{"query": "red", "text": "three"}\n'
        path = saved(tmp_path, "flat.jsonl", lines + '{"query": "blue", "text": "one"}\n')
        (red, blue), _ = read_skipping(RowCandidates(Job([path])))
        assert (red.places, blue.places) == ([0, 2], [0])

    def test_may_be_read_without_the_documents_that_cannot_be(self, tmp_path: Path) -> None:
        row = {"query": "red", "documents": ["one", 2, {"id": 3}, "four"]}
        path = saved(tmp_path, "hits.jsonl", jsonl(row))
        (candidates,), rejected = read_skipping(RowCandidates(Job([path])))
        assert [document.text for document in candidates.documents] == ["one", "four"]
        assert candidates.places == [0, 3]
        assert [text for _, text in rejected] == ["2", '{"id": 3}']
        assert rejected[0][0].startswith(f"{tmp_path}/hits.jsonl:1: documents[1]: ")


class TestFlatRows:
    def test_that_stand_together_are_a_list(self, tmp_path: Path) -> None:
        text = jsonl(
            {"query_id": "1", "query": "red", "id": "a", "text": "one", "n": 5},
            {"query_id": "1", "query": "red", "id": "b", "text": "two"},
            {"query_id": "2", "query": "red", "id": "a", "text": "three"},
        )
        lists = read(tmp_path, text)
        assert shape(lists) == [("1", "red", [("a", "one"), ("b", "two")]), ("2", "red", [("a", "three")])]
        assert lists[0].documents[0].fields == {"id": "a", "text": "one", "n": 5}
        assert (lists[0].query.fields, lists[0].query.origin) == ({}, f"{tmp_path}/hits.jsonl:1")

    @pytest.mark.parametrize("name", ["hits.csv", "hits"])
    def test_come_from_tables(self, tmp_path: Path, name: str) -> None:
        text = "query_id,query,id,text\n1,red,a,one\n1,red,b,two\n2,blue,c,three\n"
        assert shape(read(tmp_path, text, name)) == [
            ("1", "red", [("a", "one"), ("b", "two")]),
            ("2", "blue", [("c", "three")]),
        ]

    def test_may_give_the_query_once_or_only_its_id(self, tmp_path: Path) -> None:
        queries = saved(tmp_path, "queries.jsonl", '{"_id": 1, "text": "red", "lang": "en"}\n')
        rows = "query_id,query,text\n2,blue,one\n2,,two\n1,,three\n1,,four\n"
        lists = read(tmp_path, rows, "hits.csv", queries=queries)
        assert shape(lists) == [
            ("2", "blue", [(None, "one"), (None, "two")]),
            ("1", "red", [(None, "three"), (None, "four")]),
        ]
        assert lists[1].query.fields == {"lang": "en"}

    def test_without_ids_are_told_apart_by_their_query_and_go_on_in_the_next_file(
        self, tmp_path: Path
    ) -> None:
        saved(tmp_path, "1.csv", "query,text\nred,one\n")
        saved(tmp_path, "2.csv", "query,text\nred,two\nblue,three\n")
        job = Job([f"{tmp_path}/1.csv", f"{tmp_path}/2.csv"])
        lists = list(RowCandidates(job).read(raise_at_once))
        assert shape(lists) == [
            (None, "red", [(None, "one"), (None, "two")]),
            (None, "blue", [(None, "three")]),
        ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"query": "red", "documents": ["one"]}\n{"query": \n', "hits.jsonl:2: broken JSON"),
        ('"red"\n', "hits.jsonl:1: the row is a string, which has no query. Give a row a query"),
        (jsonl({"documents": ["one"]}), 'hits.jsonl:1: no "query" field (has: documents).'),
        (jsonl({"query": 7, "documents": ["one"]}), 'hits.jsonl:1: "query" is a number, not a string.'),
        (jsonl({"query": " ", "documents": ["one"]}), "hits.jsonl:1: the query is empty."),
        (jsonl({"query_id": "1", "text": "a"}), "the query is empty. Give the queries with --queries FILE,"),
        (
            jsonl({"query": "red", "documents": "one"}),
            'no list of "documents" and no "text" (has: query, doc',
        ),
        (
            jsonl(*({"query": query, "text": "one"} for query in ("red", "blue", "red"))),
            "hits.jsonl:3: its query is here again, after other queries. Let the rows of a query stand",
        ),
        (
            jsonl(*({"query_id": 1, "query": query, "text": "one"} for query in ("red", "blue"))),
            'hits.jsonl:2: the query "1" has another text than in {}/hits.jsonl:1.',
        ),
    ],
)
def test_a_row_that_cannot_be_ranked_is_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, rows)
    assert message.format(tmp_path) in caught.value.for_shell


def test_rows_that_cannot_be_ranked_can_be_left_out(tmp_path: Path) -> None:
    text = "query_id,query,text\n1,red,one\n1,red\n1,red,two\n2,blue,three\n1,red,four\n2,blue,five\n"
    path = saved(tmp_path, "hits.csv", text)
    lists, rejected = read_skipping(RowCandidates(Job([path])))
    assert shape(lists) == [
        ("1", "red", [(None, "one"), (None, "two")]),
        ("2", "blue", [(None, "three"), (None, "five")]),
    ]
    assert rejected == [
        (f"{path}:3: 2 fields, not 3 (query_id, query, text).", "1,red"),
        (
            f'{path}:6: the query "1" is here again, after other queries.',
            '{"query_id": "1", "query": "red", "text": "four"}',
        ),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"query": "red", "query_id": "a b", "documents": []},
        {"query": "red", "query_id": "a", "documents": [{"id": "b c", "text": "one"}]},
        {"query": "red", "query_id": "a", "id": "b c", "text": "one"},
        {"query": "red", "documents": [{"id": "a", "text": "one"}]},
        {"query": "red", "query_id": "a", "documents": [{"id": "a", "text": "one"}, "two"]},
        {"query": "red", "query_id": "a", "text": "one"},
    ],
)
def test_a_trec_run_needs_ids_of_one_word(tmp_path: Path, row: dict[str, Any]) -> None:
    assert len(read(tmp_path, jsonl(row))) == 1
    with pytest.raises(InputError, match=r"hits\.jsonl:1.*(no id|is not one word).*id_field"):
        read(tmp_path, jsonl(row), format="trec")


def test_the_share_that_is_read_goes_from_0_to_1_over_all_files(tmp_path: Path) -> None:
    row = jsonl({"query": "red", "documents": ["one " * 1000]})
    candidates = RowCandidates(Job([saved(tmp_path, f"{number}.jsonl", row * 200) for number in (1, 2)]))
    shares = []
    for _ in candidates.read(raise_at_once):
        assert candidates.share_read is not None
        shares.append(candidates.share_read)
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert 0.5 <= shares[200] < 0.7
    assert shares[-1] == 1.0
    assert not candidates.may_pause
    stream = RowCandidates(Job(), [Source.from_stream(io.BytesIO(b""))])
    assert (stream.may_pause, stream.share_read) == (True, None)


RUN = "2 Q0 b 1 9.5 x\n1 Q0 a 1 3 x\n2 Q0 c 2 9 x\n1 Q0 b 2 2 x\n"
QUERIES = """\
{"_id": "1", "text": "red", "lang": "en"}
{"_id": "2", "text": "blue"}
{"_id": "3", "text": "cat"}
"""
CORPUS = """\
{"_id": "a", "text": "one"}
{"_id": "b", "title": "T", "text": "two", "n": 1.5}
{"_id": "c", "text": "three"}
{"_id": "d", "text": "four"}
"""


def opened(
    folder: Path, run: str | None = RUN, queries: str = QUERIES, corpus: str = CORPUS, **job: Any
) -> CorpusCandidates:
    return CorpusCandidates(
        Job(
            run=None if run is None else saved(folder, "run.trec", run),
            queries=saved(folder, "queries.jsonl", queries),
            corpus=[saved(folder, "corpus.jsonl", corpus)],
            **job,
        )
    )


def test_a_run_gives_its_queries_as_they_first_come_with_their_documents(tmp_path: Path) -> None:
    corpus = f"{tmp_path}/corpus.jsonl"
    a = Document("one", "a", {"_id": "a"}, ("text",), f"{corpus}:1")
    b = Document("T two", "b", {"_id": "b", "title": "T", "n": 1.5}, ("title", "text"), f"{corpus}:2")
    c = Document("three", "c", {"_id": "c"}, ("text",), f"{corpus}:3")
    assert list(opened(tmp_path).read(raise_at_once)) == [
        Candidates(Query("blue", "2", {}, f"{tmp_path}/queries.jsonl:2"), [b, c], [9.5, 9.0]),
        Candidates(Query("red", "1", {"lang": "en"}, f"{tmp_path}/queries.jsonl:1"), [a, b], [3.0, 2.0]),
    ]


def test_bm25_finds_the_candidates_of_each_query_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries, corpus = QUERIES.replace("red", "two four"), CORPUS + '{"_id": "a", "text": "red"}\n'
    reader = opened(tmp_path, None, queries, corpus, ranking=RankOptions(bm25=2))
    assert shape(list(reader.read(raise_at_once))) == [
        ("1", "two four", [("d", "four"), ("b", "T two")]),
        ("2", "blue", []),
        ("3", "cat", []),
    ]
    assert [message.split()[0] for message in caplog.messages[-2:]] == ["1", "2"]


def test_the_share_is_of_the_rows_of_the_run(tmp_path: Path) -> None:
    reader = opened(tmp_path, "1 Q0 a 1 1 x\n" + "".join(f"2 Q0 {id} 1 1 x\n" for id in "abc"))
    assert [reader.share_read for _ in reader.read(raise_at_once)] == [0.25, 1.0]


def test_what_is_missing_can_be_left_out_row_by_row(tmp_path: Path) -> None:
    run = "9 Q0 a 1 1 böö\n1 Q0 no 1 1e-7 böö\n1 Q0 b 2 1 böö\n2\tQ0  no 1 -6.25 böö\n4 Q0 a 1 2 böö\n"
    lists, rejected = read_skipping(opened(tmp_path, run, QUERIES + '{"_id": "4", "text": " "}\n'))
    assert shape(lists) == [("1", "red", [("b", "T two")]), ("2", "blue", [])]
    assert rejected == [
        (f'{tmp_path}/run.trec:1: the query "9" is not in {tmp_path}/queries.jsonl.', "9 Q0 a 1 1.0 -"),
        (f'{tmp_path}/run.trec:2: the document "no" is not in the corpus.', "1 Q0 no 1 1e-07 -"),
        (f'{tmp_path}/run.trec:4: the document "no" is not in the corpus.', "2 Q0 no 1 -6.25 -"),
        (f'{tmp_path}/run.trec:5: the query "4" is empty in {tmp_path}/queries.jsonl.', "4 Q0 a 1 2.0 -"),
    ]


def test_of_rows_or_documents_that_are_there_twice_the_first_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = CORPUS + '{"_id": "a", "text": "again"}\n{"_id": "a", "text": "and again"}\n'
    reader = opened(tmp_path, "1 Q0 b 1 3 x\n1 Q0 a 2 2 x\n1 Q0 b 3 1 x\n", QUERIES, corpus)
    assert shape(list(reader.read(raise_at_once))) == [("1", "red", [("b", "T two"), ("a", "one")])]
    assert [message.split()[0] for message in caplog.messages] == ["2", "1"]
    assert all("the first counts" in message for message in caplog.messages)
