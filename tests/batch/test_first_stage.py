from __future__ import annotations

import random
from pathlib import Path

import pytest

from ce_rerank.batch.first_stage import PackedDocuments, RunCandidates
from ce_rerank.errors import InputError
from ce_rerank.formats.base import ReadOptions
from ce_rerank.formats.source import Source, raise_at_once
from ce_rerank.formats.strict_json import ExactFloat
from ce_rerank.types import CandidateList, Document, Query

RUN = "2 Q0 b 1 9.5 x\n1 Q0 a 1 3 x\n2 Q0 c 2 9 x\n1 Q0 b 2 2 x\n"
QUERIES = """\
{"_id": "1", "text": "red", "lang": "en"}
{"_id": "2", "text": "blue"}
{"_id": "3", "text": "cat"}
"""
CORPUS = """\
{"_id": "a", "text": "one"}
{"_id": "b", "title": "T", "text": "two", "n": 1.10}
{"_id": "c", "text": "three"}
{"_id": "d", "text": "four"}
"""


def loaded(folder: Path, run: str = RUN, queries: str = QUERIES, corpus: str = CORPUS) -> RunCandidates:
    sources = []
    for name, text in (("run.trec", run), ("queries.jsonl", queries), ("corpus.jsonl", corpus)):
        (folder / name).write_text(text, encoding="utf-8")
        sources.append(Source.from_path(folder / name))
    return RunCandidates(sources[0], sources[1], [sources[2]], ReadOptions())


def test_a_run_gives_its_queries_as_they_first_come_with_their_documents(tmp_path: Path) -> None:
    corpus = f"{tmp_path}/corpus.jsonl"
    a = Document("one", "a", {"_id": "a"}, ("text",), f"{corpus}:1")
    b = Document("T two", "b", {"_id": "b", "title": "T", "n": 1.1}, ("title", "text"), f"{corpus}:2")
    c = Document("three", "c", {"_id": "c"}, ("text",), f"{corpus}:3")
    candidates = loaded(tmp_path)
    candidates.require_whole()
    assert list(candidates.read(raise_at_once)) == [
        CandidateList(Query("blue", "2", {}, f"{tmp_path}/queries.jsonl:2"), [b, c]),
        CandidateList(Query("red", "1", {"lang": "en"}, f"{tmp_path}/queries.jsonl:1"), [a, b]),
    ]
    assert not candidates.may_pause


def test_the_share_is_of_the_rows_of_the_run(tmp_path: Path) -> None:
    candidates = loaded(tmp_path, "1 Q0 a 1 1 x\n" + "".join(f"2 Q0 {id} 1 1 x\n" for id in "abc"))
    assert [candidates.share_read for _ in candidates.read(raise_at_once)] == [0.25, 1.0]


def test_what_is_missing_is_said_with_its_ids_and_count_before_anything_is_ranked(tmp_path: Path) -> None:
    missing = "".join(f"1 Q0 no{number} 1 1 x\n" for number in range(12))
    candidates = loaded(tmp_path, RUN + missing + "8 Q0 a 1 1 x\n9 Q0 a 1 1 x\n")
    with pytest.raises(InputError) as caught:
        candidates.require_whole()
    assert str(caught.value) == (
        f"2 of the queries that {tmp_path}/run.trec names are not in {tmp_path}/queries.jsonl: 8, 9. "
        f"12 of the documents that {tmp_path}/run.trec names are not in the corpus: "
        "no0, no1, no2, no3, no4, no5, no6, no7, no8, no9 and 2 more. "
        "Give --on-error skip to go on without them."
    )


def test_what_is_missing_can_be_left_out_row_by_row(tmp_path: Path) -> None:
    candidates = loaded(tmp_path, "9 Q0 a 1 1 x\n1 Q0 no 1 1 x\n1 Q0 b 2 1 x\n2 Q0 no 1 1 x\n")
    rejected: list[tuple[str, str]] = []
    lists = list(candidates.read(lambda error, row: rejected.append((error.message, row))))
    assert [(one.query.id, [document.id for document in one.documents]) for one in lists] == [
        ("1", ["b"]),
        ("2", []),
    ]
    assert rejected == [
        (f'{tmp_path}/run.trec:1: the query "9" is not in {tmp_path}/queries.jsonl.', "9 Q0 a"),
        (f'{tmp_path}/run.trec:2: the document "no" is not in the corpus.', "1 Q0 no"),
        (f'{tmp_path}/run.trec:4: the document "no" is not in the corpus.', "2 Q0 no"),
    ]


@pytest.mark.parametrize(
    ("run", "queries", "corpus", "message"),
    [
        ("1 Q0 a 1 1\n", QUERIES, CORPUS, "run.trec:1:"),
        (
            "1 Q0 a 1 1 x\n1 Q0 b 1 1 x\n1 Q0 a 2 1 x\n",
            QUERIES,
            CORPUS,
            "run.trec:3: the document is in the query's list already, from line 1.",
        ),
        ("1 Q0 a 1 1 x\n", '{"_id": "1", "text": " "}\n', CORPUS, 'run.trec:1: the query "1" is empty in'),
        (RUN, '{"_id": "1", "tex', CORPUS, "queries.jsonl:1: broken JSON"),
        (
            RUN,
            QUERIES,
            CORPUS + '{"_id": "b", "text": "again"}\n',
            'corpus.jsonl:5: the document "b" is here twice (first: {}/corpus.jsonl:2).',
        ),
        (RUN, QUERIES, CORPUS.partition("three")[0], "corpus.jsonl:3: broken JSON"),
        (
            RUN,
            QUERIES,
            CORPUS.partition('{"_id": "c"')[0],
            "1 of the documents that {}/run.trec names are not in the corpus: c.",
        ),
    ],
)
def test_what_cannot_be_ranked_is_named(
    tmp_path: Path, run: str, queries: str, corpus: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, run, queries, corpus).require_whole()
    assert message.format(tmp_path) in str(caught.value)


def test_packed_documents_come_back_as_they_were() -> None:
    documents = [
        Document("", None),
        Document(
            "word " * 5000, 7, {"a": [1, None, True], "b": {"c": ExactFloat("1.10")}}, ("text",), "c.jsonl:1"
        ),
        *(
            Document(f"text {number} é 月", f"d{number}", {"n": number}, ("text",), f"c:{number}")
            for number in range(50)
        ),
    ]
    packed = PackedDocuments(len(documents) + 1)
    slots = list(range(1, len(documents) + 1))
    random.Random(0).shuffle(slots)
    for slot, document in zip(slots, documents, strict=True):
        packed.put(slot, document)
    assert [packed[slot] for slot in slots] == documents
    assert repr(packed[slots[1]].fields["b"]["c"]) == "1.10"
    assert [0 in packed, slots[0] in packed] == [False, True]
