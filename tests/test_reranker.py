from __future__ import annotations

import copy
import errno
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from batch_fakes import make_counting_checkpoint
from fakes import CountingEngine

from ce_rerank import (
    Document,
    InputError,
    Reranker,
    UnavailableError,
    UsageError,
)
from ce_rerank.engines.base import EngineOptions
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.models.store import OFFLINE_NAME


class Foreign:
    """A document of another library."""


class Frame:
    """A table as pandas has it: iterating over it gives the names of its columns."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(rows[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


def test_documents_come_back_best_first_with_their_place_and_rank(counting_reranker: Reranker) -> None:
    ranking = counting_reranker.rank("red", ["two", "nine", "one"], top_k=2)
    assert [(hit.rank, hit.index, hit.score, hit.text) for hit in ranking] == [
        (1, 1, 4.5, "nine"), (2, 0, 1.0, "two")
    ]  # fmt: skip
    assert ranking.coverage.documents == 3
    assert counting_reranker.rank("red", ["eight"], scores="logit")[0].score == 8.0


def test_a_long_document_is_cut_marked_counted_and_said(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ce_rerank"):
        ranking = counting_reranker.rank("red", ["one", "two " * 40], scores="logit")
    # Of 32 tokens three are special and one is the query: 28 words are read, of four characters each.
    cut = ranking[0]
    assert (cut.index, cut.score, cut.tokens, cut.truncated, cut.characters_read) == (1, 56.0, 32, True, 111)
    assert not ranking[1].truncated
    assert ranking.coverage.truncated == 1
    assert caplog.messages == [
        "1 of 2 documents were cut at 32 tokens, and 31% of their text was not read. "
        'Give long="chunk" to score them whole.'
    ]
    caplog.clear()
    counting_reranker.score([("red", "one " * 100)])
    assert caplog.messages == ["1 of 1 documents were cut at 32 tokens, and 72% of their text was not read."]


def test_the_query_is_never_cut(counting_reranker: Reranker) -> None:
    query = "red " * 21
    assert counting_reranker.rank(query, ["one " * 30])[0].tokens == 32
    with pytest.raises(InputError, match="puts around it take 25 of its 32 tokens, and leave 7"):
        counting_reranker.rank("red " * 22, ["one"])


def test_long_error_refuses_before_anything_is_scored(
    counting_reranker: Reranker, counting_engine: CountingEngine
) -> None:
    documents = ["one", Document("two " * 40, id="b", origin="notes.jsonl:2"), "six " * 50]
    with pytest.raises(InputError, match=r"^notes.jsonl:2: document 1 \(id b\) is longer .*; 2 of 3 docum"):
        counting_reranker.rank("red", documents, long="error")
    assert counting_engine.batch_shapes == []


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_score_that_is_no_number_stops_the_run_and_names_the_document(
    counting_reranker: Reranker, word: str
) -> None:
    with pytest.raises(UnavailableError, match=f"gave {word} for hits.txt:2: document 1: no score"):
        counting_reranker.rank("red", [Document("one"), Document(word, origin="hits.txt:2")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": ""}, "the query is empty"),
        ({"query": None}, "the query is of type NoneType"),
        ({"query": "caf\udce9"}, r"^the query: \\udce9 is half of a character"),
        ({"documents": ["a", {"text": "\ud83d"}]}, r"^documents\[1\]: \\ud83d is half of a character"),
        ({"documents": "a string"}, "documents is of type str alone"),
        ({"documents": {"a", "b"}}, "documents is a set, which has no order"),
        ({"documents": ["one", 2]}, r"documents\[1\] is of type int"),
        ({"documents": [Foreign()]}, r"documents\[0\] is of type Foreign\. Give strings"),
        ({"on_progress": 3}, "on_progress is 3"),
        ({"text_field": 3}, "text_field is 3"),
        ({"documents": [{"headline": "one"}]}, r'documents\[0\]: no "text" field .* Name it with text_field'),
        ({"topk": 1}, "There is no argument topk. There are top_k, "),
        ({"scores": "softmax"}, "scores is 'softmax'"),
        ({"pool": "first"}, 'pool are about passages, and long is truncate. Give long="chunk", or leave'),
        ({"top_k": 2.0}, "top_k is 2.0. Give a whole number"),
        ({"min_score": "2"}, "min_score is '2'. Give a number"),
    ],
)
def test_bad_arguments_say_what_is_wrong(
    counting_reranker: Reranker, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        counting_reranker.rank(**{"query": "red", "documents": ["one"], **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": None}, "no kind of device called None"),
        ({"batch_tokens": -5}, "batch_tokens is -5"),
        ({"threads": 1.5}, "threads is 1.5. Give a whole number"),
        ({"precision": "float16"}, "precision is 'float16'. Give auto, fp32, bf16, fp16"),
    ],
)
def test_a_reranker_refuses_bad_arguments_before_it_loads_anything(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Reranker("no-such/model", **arguments)  # type: ignore[arg-type]


def test_a_disk_that_refuses_a_model_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/models/it")

    monkeypatch.setattr("ce_rerank.models.store.resolve_checkpoint", refuse)
    with pytest.raises(UnavailableError, match=r"^/models/it: Permission denied\. "):
        Reranker("it")


def test_many_queries_are_ranked_in_order(counting_reranker: Reranker) -> None:
    rankings = list(counting_reranker.rank_many([("red", ["one", "two"]), ("blue", []), ("cat", ["six"])]))
    assert [ranking.query.text for ranking in rankings] == ["red", "blue", "cat"]
    assert [[hit.index for hit in ranking] for ranking in rankings] == [[1, 0], [], [0]]


def test_many_queries_are_drawn_as_they_are_needed(counting_reranker: Reranker) -> None:
    rankings = counting_reranker.rank_many(repeat(("red", ["one"] * 300)))
    assert len(next(rankings)) == 300


def test_pairs_of_many_queries_share_batches(counting_engine: CountingEngine) -> None:
    reranker = Reranker.from_engine(counting_engine)
    list(reranker.rank_many([("red", ["one"]), ("blue", ["two"]), ("cat", ["six"])]))
    assert counting_engine.batch_shapes == [(3, 5)]


@pytest.mark.parametrize(
    "pairs",
    [
        [("red", "one"), ["blue", "nine"]],
        [{"query": "red", "text": "one"}, {"query": "blue", "document": "nine"}],
        pa.table({"query": ["red", "blue"], "text": ["one", "nine"]}),
        Frame([{"query": "red", "text": "one"}, {"query": "blue", "text": "nine"}]),
    ],
)
def test_a_pair_is_two_strings_or_a_mapping(counting_reranker: Reranker, pairs: Any) -> None:
    scores = counting_reranker.score(pairs, scores="logit")
    assert (scores.dtype, scores.tolist()) == (np.float32, [1.0, 9.0])


@pytest.mark.parametrize(
    "pairs",
    [
        ("AI", "ML"), ["北京"], "AI", None, 3, {("a", "b")}, {"query": "a", "text": "b"}, [("a", "b", "c")],
        [("a", None)], [{"a", "b"}], [{"query": "a", "headline": "b"}], [{"text": "a", "document": "b"}],
    ],
)  # fmt: skip
def test_what_is_no_pair_is_not_taken_apart(counting_reranker: Reranker, pairs: Any) -> None:
    with pytest.raises(UsageError):
        counting_reranker.score(pairs)


def test_the_rows_of_a_table_are_documents(counting_reranker: Reranker) -> None:
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "nine"}]
    tables: list[Any] = [Frame(rows), pa.Table.from_pylist(rows), pa.RecordBatch.from_pylist(rows)]
    for table in tables:
        hits = counting_reranker.rank("red", table, scores="logit")
        assert [(hit.id, hit.text, hit.score) for hit in hits] == [("b", "nine", 9.0), ("a", "one", 1.0)]
    texts: Any = pa.array(["one", "nine"])
    assert [hit.index for hit in counting_reranker.rank("red", texts)] == [1, 0]


def test_fields_are_named_by_arguments(counting_reranker: Reranker) -> None:
    rows: list[Any] = [{"key": 5, "head": "one", "tail": "two", "text": "nine"}]
    (hit,) = counting_reranker.rank("red", rows, text_field=["head", "tail"], id_field="key", scores="logit")
    assert (hit.id, hit.text, hit.score) == (5, "one two", 3.0)
    (ranking,) = counting_reranker.rank_many([("red", rows)], text_field="tail", id_field="key")
    assert (ranking[0].id, ranking[0].text) == (5, "two")


def test_many_queries_may_be_mappings_as_batch_reads_them(counting_reranker: Reranker) -> None:
    mappings: list[Any] = [
        {"query_id": "q1", "query": "red", "documents": ["one", {"id": 7, "text": "two"}], "lang": "en"},
        {"id": 2, "query": "blue", "passages": ["six"]},
        {"query": {"text": "cat"}, "hits": []},
        {"question": "dog", "passages": {"passage_text": ["one", "two"], "is_selected": [0, 1]}},
    ]
    rankings = list(counting_reranker.rank_many(mappings))
    queries = [ranking.query for ranking in rankings]
    assert [(query.text, query.id) for query in queries] == [
        ("red", "q1"), ("blue", 2), ("cat", None), ("dog", None)
    ]  # fmt: skip
    assert queries[0].fields == {"lang": "en"}
    assert [[hit.id for hit in ranking] for ranking in rankings] == [[7, None], [None], [], [None, None]]
    assert rankings[3][0].text == "two"


@pytest.mark.parametrize(
    "queries",
    ["red", None, ["red"], [("red",)], [("red", {"a", "b"})], [{"query": "red"}], {("red", ())}, [Foreign()]],
)
def test_what_is_no_query_with_documents_is_refused(counting_reranker: Reranker, queries: Any) -> None:
    with pytest.raises(UsageError):
        list(counting_reranker.rank_many(queries))


BLANK = ["", "-------", " .", "\u0301!?"]


def test_blank_documents_rank_last_in_input_order_unscored(
    counting_reranker: Reranker, counting_engine: CountingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    ranking = counting_reranker.rank("red", [BLANK[0], "one", *BLANK[1:], "nine"], scores="logit")
    assert [(hit.index, hit.score) for hit in ranking] == [
        (5, 9.0), (1, 1.0), (0, -math.inf), (2, -math.inf), (3, -math.inf), (4, -math.inf)
    ]  # fmt: skip
    assert [hit.rank for hit in ranking] == [1, 2, 3, 4, 5, 6]
    assert counting_engine.batch_shapes == [(2, 5)]
    assert ranking.coverage.blank == 4
    assert [message[:19] for message in caplog.messages] == ["4 of 6 documents ha"]


def test_score_gives_blank_documents_what_the_model_gives(counting_reranker: Reranker) -> None:
    assert counting_reranker.score([("red", "..."), ("red", "one")]).tolist() == [0.0, 0.5]


def test_a_query_that_sentence_transformers_would_cut_is_said_once(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    # 29 tokens beside the special ones; a query of 15 leaves less than it takes.
    for query in ("red " * 14, "red " * 15, "red " * 15):
        counting_reranker.rank(query, ["two", "one " * 14])
        counting_reranker.rank(query, ["two", "one " * 40])
    said = [message for message in caplog.messages if "sentence-transformers" in message]
    assert len(said) == 1
    assert caplog.messages.index(said[0]) == 1


def test_a_model_that_cannot_tell_documents_apart_is_said_once(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    for documents in (["five", "five", " five"], ["five"], ["five", "six", "one four"]):
        counting_reranker.rank("red", documents)
    assert caplog.messages == []
    counting_reranker.score([("red", "five"), ("red", "one four")])
    counting_reranker.rank("red", ["five", "one four"])
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "The model gave all of 2 different documents the same score"
    ]


def test_a_reranker_says_what_it_is(counting_reranker: Reranker) -> None:
    assert repr(counting_reranker) == "<Reranker counting, counting fp32 on cpu>"


def test_every_option_reaches_the_engine_and_a_copy_loads_the_model_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[EngineOptions] = []

    def load(checkpoint: Checkpoint, options: EngineOptions) -> CountingEngine:
        seen.append(options)
        return CountingEngine()

    monkeypatch.setattr("ce_rerank.engines.load_engine", load)
    options: dict[str, Any] = {
        "engine": "torch", "device": "cpu", "precision": "bf16", "max_length": 9, "threads": 3,
        "trust_remote_code": True, "offline": True, "instruction": "Find.",
    }  # fmt: skip
    reranker = Reranker(make_counting_checkpoint(tmp_path), batch_tokens=10, **options)
    for copied in (pickle.loads(pickle.dumps(reranker)), copy.deepcopy(reranker)):
        assert copied.rank("red", ["one", "nine"]) == reranker.rank("red", ["one", "nine"])
        assert (copied.model is reranker.model, copied.model.batch_tokens) == (False, 10)
    assert seen == [EngineOptions(**options)] * 3


FORKED = """
import os, sys
from ce_rerank import Reranker
reranker, unused = (Reranker(sys.argv[1], engine=sys.argv[2], precision="fp32") for _ in range(2))
before = reranker.score([("why do stars twinkle", "air moves"), ("why", "bread")]).tolist()
if os.fork() == 0:
    after = reranker.score([("why do stars twinkle", "air moves"), ("why", "bread")]).tolist()
    sys.exit(0 if after == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.offline_weights
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_forked_process_loads_the_model_again_and_ends_well(engine: str) -> None:
    command = [sys.executable, "-c", FORKED, OFFLINE_NAME, engine]
    done = subprocess.run(command, timeout=300, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("forked after the model was loaded") == (engine == "torch")


@pytest.mark.parametrize("long", ["truncate", "chunk"])
def test_progress_adds_up_to_the_number_of_documents(counting_reranker: Reranker, long: Any) -> None:
    done: list[int] = []
    texts = ["one two three", "one " * 500] * 15
    counting_reranker.rank("red", texts, long=long, on_progress=done.append)
    assert sum(done) == 30
    assert len(done) > 1


def test_batch_tokens_is_the_budget_of_a_batch(counting_engine: CountingEngine) -> None:
    Reranker.from_engine(counting_engine, batch_tokens=10).rank("red", ["one"] * 5)
    assert counting_engine.batch_shapes == [(2, 5), (2, 5), (1, 5)]


def test_beside_a_gpu_the_next_rows_are_tokenized_while_these_are_scored(
    counting_engine: CountingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting_engine.info = replace(counting_engine.info, device="cuda")
    monkeypatch.setattr("ce_rerank.pipeline._ROWS_AT_A_TIME", 2)
    tokenized, groups, scored = threading.Semaphore(0), count(), count()
    encode, score_rows = counting_engine.tokenizer.encode, counting_engine.score_rows

    def encode_and_tell(pairs: Any) -> Any:
        if next(groups) > 0:
            tokenized.release()
        return encode(pairs)

    def wait_for_next(*arguments: Any) -> Any:
        assert next(scored) == 2 or tokenized.acquire(timeout=5), "nothing was tokenized meanwhile"
        return score_rows(*arguments)

    monkeypatch.setattr(counting_engine.tokenizer, "encode", encode_and_tell)
    monkeypatch.setattr(counting_engine, "score_rows", wait_for_next)
    words = ["one", "two", "three", "four", "five", "six"]
    scores = Reranker.from_engine(counting_engine).score([("red", word) for word in words], scores="logit")
    assert scores.tolist() == [1, 2, 3, 4, 5, 6]


def test_one_reranker_serves_several_threads(counting_reranker: Reranker) -> None:
    def work(times: int) -> list[float]:
        documents = [f"{word} " * times for word in ("one", "five", "nine")]
        return [hit.score for hit in counting_reranker.rank("red", documents, scores="logit")]

    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(work, range(1, 9)))
    assert scores == [[9.0 * times, 5.0 * times, 1.0 * times] for times in range(1, 9)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(np.int64(3), 3), (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"), (None, None), ("a", "a")],
)
def test_ids_of_databases_become_what_json_has(
    counting_reranker: Reranker, given: object, expected: object
) -> None:
    (hit,) = counting_reranker.rank("red", [{"_id": given, "text": "one"}])
    assert (hit.id, hit.document.fields["_id"]) == (expected, given)
