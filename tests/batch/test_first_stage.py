from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from batch_files import shape

from ce_rerank import RankOptions
from ce_rerank.batch.read import CorpusCandidates
from ce_rerank.errors import InputError
from ce_rerank.formats.documents import ReadOptions
from ce_rerank.formats.source import Source, raise_at_once
from ce_rerank.types import Candidates, Document, Query

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
    folder: Path, run: str = RUN, queries: str = QUERIES, corpus: str = CORPUS, columns: tuple[str, ...] = ()
) -> CorpusCandidates:
    sources = []
    for name, text in (("run.trec", run), ("queries.jsonl", queries), ("corpus.jsonl", corpus)):
        (folder / name).write_text(text, encoding="utf-8")
        sources.append(Source.from_path(folder / name))
    return CorpusCandidates(sources[0], sources[1], [sources[2]], ReadOptions(columns=columns), RankOptions())


def read_skipping(*arguments: Any) -> tuple[list[Candidates], list[tuple[str, str]]]:
    """Read without what cannot be ranked; return that too: why rows were rejected, and the rows."""
    rejected: list[tuple[str, str]] = []
    reader = opened(*arguments)
    return list(reader.read(lambda error, row: rejected.append((str(error), row)))), rejected


def test_a_run_gives_its_queries_as_they_first_come_with_their_documents(tmp_path: Path) -> None:
    corpus = f"{tmp_path}/corpus.jsonl"
    a = Document("one", "a", {"_id": "a"}, ("text",), f"{corpus}:1")
    b = Document("T two", "b", {"_id": "b", "title": "T", "n": 1.5}, ("title", "text"), f"{corpus}:2")
    c = Document("three", "c", {"_id": "c"}, ("text",), f"{corpus}:3")
    assert list(opened(tmp_path).read(raise_at_once)) == [
        Candidates(Query("blue", "2", {}, f"{tmp_path}/queries.jsonl:2"), [b, c], [9.5, 9.0]),
        Candidates(Query("red", "1", {"lang": "en"}, f"{tmp_path}/queries.jsonl:1"), [a, b], [3.0, 2.0]),
    ]


def test_columns_that_are_named_are_those_of_the_run(tmp_path: Path) -> None:
    reader = opened(tmp_path, "2\tb\t1\n2\tc\t2\n1\ta\t1\n", columns=("qid", "pid", "rank"))
    found = shape(list(reader.read(raise_at_once)))
    assert [(query, [id for id, _ in documents]) for query, _, documents in found] == [
        ("2", ["b", "c"]), ("1", ["a"])
    ]  # fmt: skip


def test_bm25_finds_the_candidates_of_each_query_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(
        tmp_path, queries=QUERIES.replace("red", "two four"), corpus=CORPUS + '{"_id": "a", "text": "red"}\n'
    )
    queries, corpus = (Source.from_path(tmp_path / f"{name}.jsonl") for name in ("queries", "corpus"))
    reader = CorpusCandidates(None, queries, [corpus], ReadOptions(), RankOptions(bm25=2))
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
    run = "9 Q0 a 1 1 böö\n1 Q0 no 1 1e-7 böö\n1 Q0 b 2 1 böö\n2\tQ0  no 1 -6.25 böö\n"
    lists, rejected = read_skipping(tmp_path, run)
    assert shape(lists) == [("1", "red", [("b", "T two")]), ("2", "blue", [])]
    assert rejected == [
        (f'{tmp_path}/run.trec:1: the query "9" is not in {tmp_path}/queries.jsonl.', "9 Q0 a 1 1.0 böö"),
        (f'{tmp_path}/run.trec:2: the document "no" is not in the corpus.', "1 Q0 no 1 1e-07 böö"),
        (f'{tmp_path}/run.trec:4: the document "no" is not in the corpus.', "2 Q0 no 1 -6.25 böö"),
    ]


def test_what_is_there_twice_counts_where_it_comes_first_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = CORPUS + '{"_id": "a", "text": "again"}\n{"_id": "a", "text": "and again"}\n'
    reader = opened(tmp_path, "1 Q0 b 1 3 x\n1 Q0 a 2 2 x\n1 Q0 b 3 1 x\n", QUERIES, corpus)
    assert shape(list(reader.read(raise_at_once))) == [("1", "red", [("b", "T two"), ("a", "one")])]
    assert [message.split()[0] for message in caplog.messages] == ["2", "1"]
    assert all("the first counts" in message for message in caplog.messages)


BROKEN_RUN = "garbage\n1 Q0 a 1 x x\n1 Q0 a 1 1 x\n1 Q0 b 2 1 x\n2 Q0 c 1 1 x\n"
BROKEN_CORPUS = """\
{"_id": "a", "title": "T", "text": "one"}
{"_id": "b", "text":
{"title": "no id"}
{"_id": "c", "text": [{}]}
{"_id": "c", "text": "three"}
"""


def test_rows_of_the_run_and_of_the_corpus_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    lists, rejected = read_skipping(tmp_path, BROKEN_RUN, QUERIES, BROKEN_CORPUS)
    assert shape(lists) == [("1", "red", [("a", "T one")]), ("2", "blue", [("c", "three")])]
    places = [reason.removeprefix(f"{tmp_path}/").split(": ")[0] for reason, _ in rejected]
    assert list(zip(places, (row for _, row in rejected), strict=True)) == [
        ("run.trec:1", "garbage"),
        ("run.trec:2", "1 Q0 a 1 x x"),
        ("corpus.jsonl:2", '{"_id": "b", "text":'),
        ("corpus.jsonl:3", '{"title": "no id"}'),
        ("corpus.jsonl:4", '{"_id": "c", "text": [{}]}'),
        ("run.trec:4", "1 Q0 b 2 1.0 x"),
    ]


def test_rows_of_the_queries_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    broken = '{"_id": "1", "text": "red"}\n{"_id": "2", "text": "bl\n{"text": "x"}\n'
    lists, rejected = read_skipping(tmp_path, RUN, broken)
    assert shape(lists) == [("1", "red", [("a", "one"), ("b", "T two")])]
    assert [row for _, row in rejected] == [
        '{"_id": "2", "text": "bl', '{"text": "x"}', "2 Q0 b 1 9.5 x", "2 Q0 c 2 9.0 x"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "queries", "corpus", "message"),
    [
        ("1 Q0 a 1 1\n", QUERIES, CORPUS, "run.trec:1:"),
        ("1 Q0 a 1 1 x\n", '{"_id": "1", "text": " "}\n', CORPUS, 'run.trec:1: the query "1" is empty in'),
        (RUN, '{"_id": "1", "tex', CORPUS, "queries.jsonl:1: broken JSON"),
        (RUN, QUERIES, CORPUS.partition("three")[0], "corpus.jsonl:3: broken JSON"),
        (
            RUN,
            QUERIES,
            CORPUS.partition('{"_id": "c"')[0],
            'run.trec:3: the document "c" is not in the corpus.',
        ),
    ],
)
def test_what_cannot_be_ranked_is_named(
    tmp_path: Path, run: str, queries: str, corpus: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        list(opened(tmp_path, run, queries, corpus).read(raise_at_once))
    assert message in str(caught.value)
