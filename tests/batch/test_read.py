from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from batch_files import jsonl, shape

from ce_rerank.batch.read import RowCandidates
from ce_rerank.errors import InputError
from ce_rerank.formats.documents import ReadOptions
from ce_rerank.formats.source import Source, raise_at_once
from ce_rerank.types import Candidates, Document, Query


def saved(folder: Path, name: str, text: str) -> Source:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return Source.from_path(path)


def read(folder: Path, text: str, name: str = "hits.jsonl", **more: Any) -> list[Candidates]:
    options = more.pop("options", ReadOptions())
    return list(RowCandidates([saved(folder, name, text)], options, **more).read(raise_at_once))


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

    @pytest.mark.parametrize(
        "name", ["documents", "passages", "candidates", "hits", "texts", "results", "contexts", "ctxs"]
    )
    def test_call_their_list_by_any_of_its_names(self, tmp_path: Path, name: str) -> None:
        assert shape(read(tmp_path, jsonl({"query": "red", name: ["one"]}))) == [
            (None, "red", [(None, "one")])
        ]

    @pytest.mark.parametrize(
        ("row", "id", "fields"),
        [
            ({"query": "red", "query_id": 7}, 7, {}),
            ({"query": "red", "qid": "7"}, "7", {}),
            ({"query": "red", "id": "7"}, "7", {"id": "7"}),
            ({"query": "red", "_id": "7", "query_id": None}, "7", {"_id": "7", "query_id": None}),
            ({"query": {"id": "7", "text": "red"}}, "7", {"query": {"id": "7", "text": "red"}}),
            ({"query": {"text": "red"}, "query_id": "7"}, "7", {"query": {"text": "red"}}),
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

    def test_follow_the_options_for_fields(self, tmp_path: Path) -> None:
        row = {"query": "red", "hits": [{"key": "a", "_source": {"body": "one"}}]}
        options = ReadOptions(text_fields=("_source.body",), id_field="key")
        assert shape(read(tmp_path, jsonl(row), options=options)) == [(None, "red", [("a", "one")])]

    def test_may_repeat_a_query_unless_it_is_for_trec(self, tmp_path: Path) -> None:
        text = jsonl(*({"query": "red", "query_id": 1, "documents": []} for _ in range(2)))
        assert len(read(tmp_path, text)) == 2
        with pytest.raises(InputError) as caught:
            read(tmp_path, text, for_trec=True)
        assert str(caught.value) == (
            f'{tmp_path}/hits.jsonl:2: the query "1" is here again, after other queries. '
            "Give each query an id of its own."
        )

    def test_are_not_the_lines_of_a_run(self, tmp_path: Path) -> None:
        path = tmp_path / "run.trec"
        path.write_text("1 Q0 a 1 1.0 x\n")
        with pytest.raises(InputError, match="Give a TREC run with --run"):
            list(RowCandidates([Source.from_path(path)], ReadOptions()).read(raise_at_once))

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
        row = {"q": {"words": "red"}, "answer": {"found": ["one"], "took": 5}, "hits": ["no"], "n": 1}
        (candidates,) = read(tmp_path, jsonl(row), query_field="q.words", documents_field="answer.found")
        assert shape([candidates]) == [(None, "red", [(None, "one")])]
        assert candidates.query.fields == {"answer": {"took": 5}, "hits": ["no"], "n": 1}
        with pytest.raises(InputError, match=r'no list of "found"'):
            read(tmp_path, jsonl({"query": "red", "text": "one"}), documents_field="found")

    def test_may_be_read_without_the_documents_that_cannot_be(self, tmp_path: Path) -> None:
        row = {"query": "red", "documents": ["one", 2, {"id": 3}, "four"]}
        rejected: list[tuple[str, str]] = []
        reader = RowCandidates([saved(tmp_path, "hits.jsonl", jsonl(row))], ReadOptions())
        (candidates,) = reader.read(lambda error, text: rejected.append((error.message, text)))
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

    @pytest.mark.parametrize(
        ("name", "comma"), [("hits.csv", ","), ("hits.tsv", "\t"), ("hits", "\t"), ("hits", ",")]
    )
    def test_come_from_tables(self, tmp_path: Path, name: str, comma: str) -> None:
        text = "query_id,query,id,text\n1,red,a,one\n1,red,b,two\n2,blue,c,three\n".replace(",", comma)
        assert shape(read(tmp_path, text, name)) == [
            ("1", "red", [("a", "one"), ("b", "two")]),
            ("2", "blue", [("c", "three")]),
        ]

    def test_are_told_apart_by_their_query_where_there_are_no_ids(self, tmp_path: Path) -> None:
        text = "query,text\nred,one\nred,two\nblue,three\n"
        assert shape(read(tmp_path, text, "hits.csv")) == [
            (None, "red", [(None, "one"), (None, "two")]),
            (None, "blue", [(None, "three")]),
        ]

    def test_may_give_the_query_once(self, tmp_path: Path) -> None:
        text = "query_id,query,text\n1,red,one\n1,,two\n"
        assert shape(read(tmp_path, text, "hits.csv")) == [("1", "red", [(None, "one"), (None, "two")])]

    def test_may_give_no_more_of_a_query_than_its_id(self, tmp_path: Path) -> None:
        queries = saved(tmp_path, "queries.jsonl", '{"_id": 1, "text": "red", "lang": "en"}\n')
        (candidates,) = read(tmp_path, jsonl({"query_id": "1", "text": "one"}), queries=queries)
        assert (candidates.query.text, candidates.query.fields) == ("red", {"lang": "en"})

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("hits.csv", "query_id,query,text\n1,,one\n1,,two\n2,blue,three\n"),
            ("hits.tsv", "query_id\tquery\ttext\n1\t\tone\n1\tred\ttwo\n2\tblue\tthree\n"),
        ],
    )
    def test_may_leave_the_cell_of_the_query_empty(self, tmp_path: Path, name: str, text: str) -> None:
        queries = saved(tmp_path, "queries.tsv", "1\tred\n2\tnot blue\n")
        assert shape(read(tmp_path, text, name, queries=queries)) == [
            ("1", "red", [(None, "one"), (None, "two")]),
            ("2", "blue", [(None, "three")]),
        ]

    def test_go_on_from_one_file_to_the_next(self, tmp_path: Path) -> None:
        sources = [
            saved(tmp_path, "1.csv", "query,text\nred,one\n"),
            saved(tmp_path, "2.csv", "query,text\nred,two\nblue,three\n"),
        ]
        lists = list(RowCandidates(sources, ReadOptions()).read(raise_at_once))
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
        (
            jsonl({"query": "red", "qid": 1.5, "text": "a"}),
            "the query's id is a number, not a string or an int",
        ),
        (jsonl({"query_id": "1", "text": "a"}), "the query is empty. Give the queries with --queries FILE,"),
        (
            jsonl({"query": "red", "documents": "one"}),
            'no list of "documents" and no "text" (has: query, doc',
        ),
        (
            jsonl({"query": "red", "documents": ["one", 2]}),
            "documents[1]: the row is a number, not an object",
        ),
        (jsonl({"query": "red", "hits": [{"id": 1}]}), 'hits.jsonl:1: hits[0]: no "text" field (has: id).'),
        (
            jsonl({"query": "red", "hits": [{"text": {"en": "one"}}]}),
            'hits[0]: "text" is an object, not text (has: text.en).',
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
def test_a_row_that_is_none_is_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, rows)
    assert message.format(tmp_path) in str(caught.value)


def test_rows_that_are_none_can_be_left_out(tmp_path: Path) -> None:
    text = "query_id,query,text\n1,red,one\n1,red\n1,red,two\n2,blue,three\n1,red,four\n2,blue,five\n"
    rejected: list[tuple[str, str]] = []
    source = saved(tmp_path, "hits.csv", text)
    lists = list(
        RowCandidates([source], ReadOptions()).read(lambda error, row: rejected.append((error.message, row)))
    )
    assert shape(lists) == [
        ("1", "red", [(None, "one"), (None, "two")]),
        ("2", "blue", [(None, "three"), (None, "five")]),
    ]
    assert rejected == [
        (f"{source.name}:3: 2 fields, not 3 (query_id, query, text).", "1,red"),
        (
            f'{source.name}:6: the query "1" is here again, after other queries.',
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
    with pytest.raises(InputError, match=r"hits\.jsonl:1.*(no id|is not one word).*--id-field"):
        read(tmp_path, jsonl(row), for_trec=True)


def test_the_share_that_is_read_goes_from_0_to_1_over_all_files(tmp_path: Path) -> None:
    row = jsonl({"query": "red", "documents": ["one " * 1000]})
    sources = [saved(tmp_path, "1.jsonl", row * 200), saved(tmp_path, "2.jsonl", row * 200)]
    candidates = RowCandidates(sources, ReadOptions())
    shares = []
    for _ in candidates.read(raise_at_once):
        assert candidates.share_read is not None
        shares.append(candidates.share_read)
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert 0.5 <= shares[200] < 0.7
    assert shares[-1] == 1.0
    assert not candidates.may_pause


def test_a_stream_may_pause_and_has_no_known_size(tmp_path: Path) -> None:
    streams = [
        saved(tmp_path, "1.jsonl", jsonl({"query": "a", "documents": []})),
        Source.from_stream(io.BytesIO(b"")),
    ]
    candidates = RowCandidates(streams, ReadOptions())
    assert len(list(candidates.read(raise_at_once))) == 1
    assert (candidates.may_pause, candidates.share_read) == (True, None)
