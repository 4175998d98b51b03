"""Queries and corpora, in the forms that people have them in."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ce_rerank.errors import InputError
from ce_rerank.formats.beir import read_corpus, read_queries
from ce_rerank.formats.documents import ReadOptions
from ce_rerank.formats.source import Source
from ce_rerank.types import Document


def saved(folder: Path, name: str, data: str) -> Source:
    path = folder / name
    path.write_bytes(gzip.compress(data.encode()) if name.endswith(".gz") else data.encode())
    return Source.from_path(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("queries.jsonl", '{"_id": "1", "text": "why", "metadata": {}}\n{"_id": "2", "text": "\\"how\\""}\n'),
        ("queries.jsonl.gz", '{"query_id": 1, "query": "why"}\n{"qid": "2", "query": "\\"how\\""}\n'),
        ("queries", '1\twhy\n2\t"how"\n'),
        ("topics.tsv", 'qid\tquery\n1\twhy\n2\t"how"\n'),
        ("queries.csv", 'id,text\n1,why\n2,"""how"""\n'),
    ],
)
def test_queries_are_read_in_every_form(tmp_path: Path, name: str, data: str) -> None:
    queries = read_queries(saved(tmp_path, name, data))
    assert {query_id: query.text for query_id, query in queries.items()} == {"1": "why", "2": '"how"'}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.jsonl", '{"id": "1", "text": "a"}\n{"id": 1, "text": "b"}', ':2: the query "1" is there twice.'),
        ("q.jsonl", '{"text": "a"}\n', ":1: the query has no id."),
        ("q.jsonl", '{"_id": "1"}\n', ':1: no "text" field (has: _id).'),
        ("q", "how, why\n", ":1: 1 fields, not 2 (id, text)."),
        ("q.tsv", "qid\tquery\n", ": no queries in it."),
    ],
)  # fmt: skip
def test_a_broken_query_is_named(tmp_path: Path, name: str, data: str, message: str) -> None:
    source = saved(tmp_path, name, data)
    with pytest.raises(InputError) as caught:
        read_queries(source)
    assert caught.value.message == f"{source.name}{message}"


def test_only_wanted_documents_are_held_without_holding_a_text_twice(tmp_path: Path) -> None:
    source = saved(
        tmp_path,
        "corpus.jsonl",
        '{"_id": "1", "title": "T", "text": "one", "metadata": {"url": "u"}}\n'
        '{"_id": "2", "title": "", "text": "two"}\n'
        '{"_id": "3", "title": "T", "text": "three"}\n',
    )
    fields = {"_id": "1", "title": "T", "metadata": {"url": "u"}}
    assert list(read_corpus([source], {"1", "2", "9"})) == [
        Document("T one", "1", fields, ("title", "text"), f"{source.name}:1"),
        Document("two", "2", {"_id": "2", "title": ""}, ("title", "text"), f"{source.name}:2"),
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.jsonl", '{"id": "a", "text": "x"}\n{"_id":"b","contents":"y"}\n{"docid": 7, "text": "z"}\n'),
        ("c.jsonl", '{"_id": 0, "id": "a", "text": "x"}\n{"text": "y", "pid": "b"}\n{"id": 7, "text": "z"}'),
        ("c.tsv", "a\tx\nb\ty\n7\tz\n8\tw\n"),
        ("c.tsv.gz", "docid\turl\ttext\na\tu\tx\nb\tu\ty\n7\tu\tz\n"),
        ("c.json", '[{"id": "a", "text": "x"}, {"id": "b", "text": "y"}, {"id": 7, "text": "z"}]'),
    ],
)  # fmt: skip
def test_a_corpus_is_read_in_every_form(tmp_path: Path, name: str, data: str) -> None:
    documents = read_corpus([saved(tmp_path, name, data)], {"a", "b", "7"})
    assert {str(document.id): document.text for document in documents} == {"a": "x", "b": "y", "7": "z"}


@pytest.mark.parametrize(
    ("name", "data"),
    [("c.jsonl", '{"_id": "b", "key": "a", "abstract": "x"}\n'), ("c.tsv", "key\tabstract\na\tx\n")],
)
def test_a_corpus_may_lie_in_several_files_and_name_its_fields(tmp_path: Path, name: str, data: str) -> None:
    options = ReadOptions(id_field="key", text_fields=("abstract",))
    second = saved(tmp_path, "2.jsonl", '{"_id": "a", "key": "b", "abstract": "y"}\n')
    documents = read_corpus([saved(tmp_path, name, data), second], {"a", "b"}, options)
    assert {document.id: document.text for document in documents} == {"a": "x", "b": "y"}


def test_broken_rows_of_a_corpus_can_be_rejected_and_the_rest_read(tmp_path: Path) -> None:
    broken = ['{"_id": "b", "te', '{"text": "y"}', '{"_id": "d"}']
    data = "\n".join(['{"_id": "a", "text": "x"}', *broken, '{"_id": "e", "text": "z"}'])
    rows: list[str] = []
    source = saved(tmp_path, "c.jsonl", data)
    documents = read_corpus([source], set("abcde"), reject=lambda error, row: rows.append(row))
    assert [document.text for document in documents] == ["x", "z"]
    assert rows == broken
