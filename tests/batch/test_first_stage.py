from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from ce_rerank import RankOptions, Reranker
from ce_rerank.batch.events import RankedWindow, Shard
from ce_rerank.batch.first_stage import PackedDocuments, RunCandidates
from ce_rerank.batch.run import BatchRun
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
{"_id": "b", "title": "T", "text": "two", "n": 1.10}
{"_id": "c", "text": "three"}
{"_id": "d", "text": "four"}
"""


def loaded(
    folder: Path, run: str = RUN, queries: str = QUERIES, corpus: str = CORPUS, *, skip_bad_rows: bool = False
) -> RunCandidates:
    sources = []
    for name, text in (("run.trec", run), ("queries.jsonl", queries), ("corpus.jsonl", corpus)):
        (folder / name).write_text(text, encoding="utf-8")
        sources.append(Source.from_path(folder / name))
    return RunCandidates(sources[0], sources[1], [sources[2]], ReadOptions(), skip_bad_rows=skip_bad_rows)


def rejected_by(candidates: RunCandidates) -> list[tuple[str, str]]:
    """Read everything; gives why rows were rejected, and the rows."""
    rejected: list[tuple[str, str]] = []
    for _ in candidates.read(lambda error, row: rejected.append((str(error), row))):
        pass
    return rejected


def test_a_run_gives_its_queries_as_they_first_come_with_their_documents(tmp_path: Path) -> None:
    corpus = f"{tmp_path}/corpus.jsonl"
    a = Document("one", "a", {"_id": "a"}, ("text",), f"{corpus}:1")
    b = Document("T two", "b", {"_id": "b", "title": "T", "n": 1.1}, ("title", "text"), f"{corpus}:2")
    c = Document("three", "c", {"_id": "c"}, ("text",), f"{corpus}:3")
    candidates = loaded(tmp_path)
    candidates.require_whole()
    assert list(candidates.read(raise_at_once)) == [
        Candidates(Query("blue", "2", {}, f"{tmp_path}/queries.jsonl:2"), [b, c]),
        Candidates(Query("red", "1", {"lang": "en"}, f"{tmp_path}/queries.jsonl:1"), [a, b]),
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
    run = "9 Q0 a 1 1 x\n1 Q0 no 1 1e-7 x\n1 Q0 b 2 1 x\n2\tQ0  no 10 -6.25 böö\n"
    candidates = loaded(tmp_path, run, skip_bad_rows=True)
    rejected: list[tuple[str, str]] = []
    lists = list(candidates.read(lambda error, row: rejected.append((error.message, row))))
    assert [(one.query.id, [document.id for document in one.documents]) for one in lists] == [
        ("1", ["b"]),
        ("2", []),
    ]
    assert rejected == [
        (f'{tmp_path}/run.trec:1: the query "9" is not in {tmp_path}/queries.jsonl.', "9 Q0 a 1 1.0 x"),
        (f'{tmp_path}/run.trec:2: the document "no" is not in the corpus.', "1 Q0 no 1 1e-07 x"),
        (f'{tmp_path}/run.trec:4: the document "no" is not in the corpus.', "2 Q0 no 1 -6.25 böö"),
    ]


def test_rows_that_were_left_out_can_be_given_again(tmp_path: Path) -> None:
    missing = ["8 Q0 a 1 0.1 x", "9 Q0 b 1 12345678.9 y", "1 Q0 no 3 -3e+40 x"]
    rows = rejected_by(loaded(tmp_path, "\n".join([*RUN.splitlines(), *missing]), skip_bad_rows=True))
    again = "".join(f"{row}\n" for _, row in rows)
    assert sorted(again.splitlines()) == sorted(missing)
    mended = loaded(
        tmp_path,
        again,
        '{"_id": "1", "text": "red"}\n{"_id": "8", "text": "cat"}\n{"_id": "9", "text": "blue"}\n',
        CORPUS + '{"_id": "no", "text": "here"}\n',
    )
    assert rejected_by(mended) == []


BROKEN_RUN = "garbage\n1 Q0 a 1 x x\n1 Q0 a 1 1 x\n1 Q0 b 2 1 x\n2 Q0 c 1 1 x\n"
BROKEN_CORPUS = """\
{"_id": "a", "title": "T", "text": "one"}
{"_id": "b", "text":
{"title": "no id"}
{"_id": "a", "title": "T", "text": "two", "n": 1.10}
{"_id": "c", "text": true}
{"_id": "c", "text": "three"}
"""


def test_rows_of_the_run_and_of_the_corpus_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    candidates = loaded(tmp_path, BROKEN_RUN, QUERIES, BROKEN_CORPUS, skip_bad_rows=True)
    run, corpus = f"{tmp_path}/run.trec", f"{tmp_path}/corpus.jsonl"
    rejected = rejected_by(candidates)
    assert [(reason.partition(" (")[0].partition(" is not:")[0], row) for reason, row in rejected] == [
        (f"{run}:1: 1 columns, not 6", "garbage"),
        (f'{run}:2: column 5, the score, is "x", not a number.', "1 Q0 a 1 x x"),
        (f"{corpus}:2: broken JSON", '{"_id": "b", "text":'),
        (f"{corpus}:3: the document has no id. Name its field with --id-field.", '{"title": "no id"}'),
        (
            f'{corpus}:4: the document "a" is here twice',
            '{"_id": "a", "title": "", "n": 1.1, "text": "T two"}',
        ),
        (
            f'{corpus}:5: "text" is true, not text. Name the field that holds the text with --text-field.',
            '{"_id": "c", "text": true}',
        ),
        (f'{run}:4: the document "b" is not in the corpus.', "1 Q0 b 2 1.0 x"),
    ]
    assert rejected_by(candidates) == rejected
    lists = list(candidates.read(lambda error, row: None))
    assert [[document.text for document in one.documents] for one in lists] == [["T one"], ["three"]]


def test_rows_of_the_queries_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    broken = (
        '{"_id": "1", "text": "red"}\n{"_id": "2", "text": "bl\n{"_id": "1", "text": "blue"}\n{"text": "x"}\n'
    )
    candidates = loaded(tmp_path, queries=broken, skip_bad_rows=True)
    queries = f"{tmp_path}/queries.jsonl"
    rejected = rejected_by(candidates)
    assert [(reason.partition(" (")[0], row) for reason, row in rejected] == [
        (f"{queries}:2: broken JSON", '{"_id": "2", "text": "bl'),
        (f'{queries}:3: the query "1" is there twice.', '{"_id": "1", "text": "blue"}'),
        (f'{queries}:4: the query has no id. Give it one in a field "_id".', '{"text": "x"}'),
        (f'{tmp_path}/run.trec:1: the query "2" is not in {queries}.', "2 Q0 b 1 9.5 x"),
        (f'{tmp_path}/run.trec:3: the query "2" is not in {queries}.', "2 Q0 c 2 9.0 x"),
    ]
    (one,) = candidates.read(lambda error, row: None)
    assert (one.query.text, len(one.documents)) == ("red", 2)


@pytest.mark.parametrize(
    ("run", "corpus", "message"),
    [
        (BROKEN_RUN, CORPUS, "run.trec:1: 1 columns, not 6 (query_id Q0 doc_id"),
        (RUN, BROKEN_CORPUS, "corpus.jsonl:2: broken JSON"),
        (RUN, CORPUS + '{"_id": "a", "text": "again"}\n', 'corpus.jsonl:5: the document "a" is here twice'),
    ],
)
def test_rows_that_are_not_to_be_left_out_end_the_reading_at_once(
    tmp_path: Path, run: str, corpus: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, run, QUERIES, corpus)
    assert message in str(caught.value)


def test_a_run_of_nothing_but_bad_rows_can_be_left_out_and_one_of_nothing_cannot(tmp_path: Path) -> None:
    rejected = rejected_by(loaded(tmp_path, "a\n\nb\n", skip_bad_rows=True))
    assert [row for _, row in rejected] == ["a", "b"]
    with pytest.raises(InputError, match="no queries in it"):
        loaded(tmp_path, "\n", skip_bad_rows=True)


@pytest.mark.parametrize("broken", ["run.trec", "corpus.jsonl"])
def test_a_stream_that_is_cut_short_is_an_error_whatever_is_left_out(tmp_path: Path, broken: str) -> None:
    loaded(tmp_path)
    sources = {}
    for name in ("run.trec", "queries.jsonl", "corpus.jsonl"):
        path = tmp_path / f"{name}.gz"
        data = gzip.compress((tmp_path / name).read_bytes())
        path.write_bytes(data[:-9] if name == broken else data)
        sources[name] = Source.from_path(path)
    run, queries, corpus = sources.values()
    with pytest.raises(InputError, match=rf"{broken}\.gz: the compressed data is cut off"):
        RunCandidates(run, queries, [corpus], ReadOptions(), skip_bad_rows=True)


def test_rows_that_are_left_out_continue_and_are_shared_out_like_others(
    tmp_path: Path, counting_reranker: Reranker
) -> None:
    def windows(**more: Any) -> list[RankedWindow]:
        candidates = loaded(tmp_path, BROKEN_RUN, QUERIES, BROKEN_CORPUS, skip_bad_rows=True)
        with BatchRun(counting_reranker, candidates, RankOptions(), skip_bad_rows=True, **more) as run:
            return list(run)

    def reasons(windows: list[RankedWindow]) -> list[str]:
        return [str(bad.error) for window in windows for bad in window.bad_rows]

    (whole,) = windows()
    assert len(whole.bad_rows) == whole.tally.bad_rows == 7
    assert windows(after=whole.checkpoint) == []
    parts = [reasons(windows(shard=Shard(number, 3))) for number in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(reason for part in parts for reason in part) == sorted(reasons([whole]))


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
        Document("word " * 5000, 7, {"a": [1, None, True], "b": {"c": 1.5}}, ("text",), "c.jsonl:1"),
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
    assert repr(packed[slots[1]].fields["b"]["c"]) == "1.5"
    assert [0 in packed, slots[0] in packed] == [False, True]
