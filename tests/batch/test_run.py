from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from batch_fakes import FEW_TOKENS, GivenLists, NeighbourEngine, made_lists
from fakes import CountingEngine

from ce_rerank import InputError, OutputError, RankOptions, Reranker, UnavailableError, UsageError
from ce_rerank.batch.job import parse_shard
from ce_rerank.batch.output import StreamOutput
from ce_rerank.batch.run import RankedPool, rank_batch, rank_pools
from ce_rerank.formats.writers import WriteOptions
from ce_rerank.types import Candidates, Document, Query

OPTIONS = RankOptions(scores="logit")
LONG_QUERY = Candidates(
    Query("red " * 30, "long", {"lang": "en"}, "hits.jsonl:2"),
    [Document("one", 1, {"id": 1, "text": "one"}), Document("two")],
)


def ranked(reranker: Reranker, items: Iterable[Candidates | InputError], **more: Any) -> list[RankedPool]:
    return list(rank_pools(reranker, GivenLists(items), more.pop("options", OPTIONS), **more))


def ids(pools: Iterable[RankedPool]) -> list[list[object]]:
    return [[ranking.query.id for ranking in pool.rankings] for pool in pools]


def results(pools: Iterable[RankedPool]) -> list[tuple[object, list[tuple[int, float]]]]:
    return [
        (ranking.query.id, [(hit.index, hit.score) for hit in ranking])
        for pool in pools
        for ranking in pool.rankings
    ]


@pytest.fixture
def touchy() -> Reranker:
    return Reranker.from_engine(NeighbourEngine())


def test_queries_are_ranked_in_order_exactly_as_rank_many_ranks_them(touchy: Reranker) -> None:
    lists = made_lists(30, 40)
    pools = ranked(touchy, lists)
    assert [ranking for pool in pools for ranking in pool.rankings] == list(
        touchy.rank_many(lists, scores="logit")
    )


def test_pools_double_until_they_are_full(counting_reranker: Reranker) -> None:
    assert list(map(len, ids(ranked(counting_reranker, made_lists(64, 64))))) == [2, 4, 8, 16, 16, 16, 2]


def test_queries_without_documents_come_through(counting_reranker: Reranker) -> None:
    lists = [Candidates(Query("red"), []), *made_lists(1, 2), Candidates(Query("blue"), [])]
    (pool,) = ranked(counting_reranker, lists)
    assert list(map(len, pool.rankings)) == [0, 2, 0]


def test_a_run_that_goes_on_from_any_pool_gives_the_same_scores(touchy: Reranker) -> None:
    lists = made_lists(60, 40)
    whole = ranked(touchy, lists)
    assert len(whole) == 5
    for place, pool in enumerate(whole):
        rest = ranked(touchy, lists, after=pool.progress)
        assert results(whole[: place + 1] + rest) == results(whole)
        assert [one.progress for one in rest] == [one.progress for one in whole[place + 1 :]]


def test_the_tally_counts_what_was_done_before_too(counting_reranker: Reranker) -> None:
    lists = [*made_lists(5, 40), Candidates(Query("red"), [Document(" "), Document("two " * 40)])]
    whole = ranked(counting_reranker, lists)
    rest = ranked(counting_reranker, lists, after=whole[0].progress)
    tally = whole[-1].progress.tally
    assert rest[-1].progress.tally == tally
    assert (tally.queries, tally.blank) == (6, 1)
    assert (tally.documents, tally.truncated) == (202, 1)


@pytest.mark.parametrize("change", ["text", "id", "field", "order", "fewer"])
def test_a_run_does_not_go_on_with_other_input(counting_reranker: Reranker, change: str) -> None:
    lists = made_lists(12, 64)
    after = ranked(counting_reranker, lists)[1].progress
    assert after.items == 6
    (query, documents), rest = (lists[0].query, lists[0].documents), lists[1:]
    changed = {
        "text": [Candidates(query, [replace(documents[0], text="nine"), *documents[1:]]), *rest],
        "id": [Candidates(replace(query, id="other"), documents), *rest],
        "field": [Candidates(query, [replace(documents[0], fields={"year": 1}), *documents[1:]]), *rest],
        "order": [lists[1], lists[0], *lists[2:]],
        "fewer": lists[:5],
    }[change]
    with pytest.raises(UsageError, match="The input is not the one that the unfinished output was made from"):
        ranked(counting_reranker, changed, after=after)


def test_what_was_not_ranked_yet_may_be_other_input(counting_reranker: Reranker) -> None:
    lists = made_lists(12, 64)
    after = ranked(counting_reranker, lists)[0].progress
    assert ids(ranked(counting_reranker, lists[:4], after=after)) == [["q2", "q3"]]


def test_shards_divide_the_queries_by_place(counting_reranker: Reranker) -> None:
    lists = made_lists(7, 3)
    parts = [ranked(counting_reranker, lists, shard=parse_shard(f"{number}/3")) for number in (1, 2, 3)]
    assert [[query for pool in ids(part) for query in pool] for part in parts] == [
        ["q0", "q3", "q6"],
        ["q1", "q4"],
        ["q2", "q5"],
    ]
    whole = results(ranked(counting_reranker, lists))
    assert sorted(row for part in parts for row in results(part)) == sorted(whole)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/3/5", "1/1" + "0" * 5000])
def test_anything_but_a_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Give I/N with I from 1 to N"):
        parse_shard(text)


class TestBadRows:
    def items(self) -> list[Candidates | InputError]:
        lists = made_lists(5, 64)
        return [*lists[:3], InputError("hits.jsonl:4: broken."), *lists[3:]]

    def test_end_the_run_after_what_came_before(self, counting_reranker: Reranker) -> None:
        seen: list[RankedPool] = []
        with pytest.raises(InputError, match=r"hits\.jsonl:4: broken\."):
            seen.extend(rank_pools(counting_reranker, GivenLists(self.items()), OPTIONS))
        assert ids(seen) == [["q0", "q1"], ["q2"]]
        # The third query's pool would have been longer: another run must rank it again to the same scores.
        assert [pool.is_whole for pool in seen] == [True, False]

    def test_are_left_out_and_counted(self, counting_reranker: Reranker) -> None:
        pools = ranked(counting_reranker, self.items(), skip_bad_rows=True)
        assert list(map(len, ids(pools))) == [2, 3]
        assert [(bad.reason, bad.row) for pool in pools for bad in pool.bad_rows] == [
            ("hits.jsonl:4: broken.", "its text")
        ]
        assert pools[-1].progress.tally.bad_rows == 1

    def test_are_reported_by_one_shard_alone(self, counting_reranker: Reranker) -> None:
        items = [*self.items(), InputError("hits.jsonl:7: broken, too.")]
        reported = [
            bad.reason
            for number in (1, 2, 3)
            for pool in ranked(counting_reranker, items, skip_bad_rows=True, shard=parse_shard(f"{number}/3"))
            for bad in pool.bad_rows
        ]
        assert sorted(reported) == ["hits.jsonl:4: broken.", "hits.jsonl:7: broken, too."]

    def test_are_queries_too_long_for_the_model(self, counting_reranker: Reranker) -> None:
        lists = [*made_lists(1, 2), LONG_QUERY, *made_lists(1, 2)]
        (pool,) = ranked(counting_reranker, lists, skip_bad_rows=True)
        (bad,) = pool.bad_rows
        assert bad.reason.startswith("hits.jsonl:2: the query takes 33 of the model's 32 tokens")
        assert bad.row == (
            '{"lang": "en", "query_id": "long", "query": "' + "red " * 30 + '", '
            '"documents": [{"id": 1, "text": "one"}, "two"]}'
        )
        assert len(pool.rankings) == 2

    def test_hold_the_text_that_a_corpus_does_not_keep_among_the_fields(
        self, counting_reranker: Reranker
    ) -> None:
        fields = {"_id": "d", "title": "T", "n": 1}
        documents = [Document("T two", "d", fields, ("title", "text"))]
        (pool,) = ranked(counting_reranker, [Candidates(LONG_QUERY.query, documents)], skip_bad_rows=True)
        (item,) = json.loads(pool.bad_rows[0].row)["documents"]
        assert item == {"_id": "d", "n": 1, "text": "T two"}

    def test_are_single_documents_that_may_not_be_cut(self, counting_reranker: Reranker) -> None:
        documents = [Document("one"), Document("one " * 40, origin="h:2"), Document("two")]
        (pool,) = ranked(
            counting_reranker, [Candidates(Query("red"), documents), LONG_QUERY],
            options=RankOptions(long="error"), skip_bad_rows=True,
        )  # fmt: skip
        assert [[(hit.text, hit.index) for hit in ranking] for ranking in pool.rankings] == [
            [("two", 2), ("one", 0)]
        ]
        assert [bad.reason[:21] for bad in pool.bad_rows] == [
            "h:2: document 0 is lo",
            "hits.jsonl:2: the que",
        ]

    def test_are_queries_that_a_server_refuses(
        self, counting_reranker: Reranker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rank_lists = counting_reranker.rank_lists

        def refuse(lists: list[Candidates], *more: Any, **options: Any) -> Any:
            if any(candidates.query.id == "q1" for candidates in lists):
                raise InputError("refused")
            return rank_lists(lists, *more, **options)

        monkeypatch.setattr(counting_reranker, "rank_lists", refuse)
        (pool,) = ranked(counting_reranker, made_lists(3, 2), skip_bad_rows=True)
        assert ids([pool]) == [["q0", "q2"]]
        assert [bad.reason for bad in pool.bad_rows] == ["refused"]


def test_documents_that_may_not_be_cut_are_tokenized_once(
    counting_engine: CountingEngine, counting_reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = counting_engine.tokenizer.encode
    seen: list[Any] = []

    def count(pairs: Any) -> Any:
        seen.extend(pairs)
        return encode(pairs)

    monkeypatch.setattr(counting_engine.tokenizer, "encode", count)
    ranked(counting_reranker, made_lists(3, 4), options=RankOptions(long="error"))
    assert len(seen) == 12


def test_a_fault_of_the_model_ends_the_run_after_what_came_before(counting_reranker: Reranker) -> None:
    lists = [*made_lists(2, 64), Candidates(Query("red"), [Document("nan", origin="hits.jsonl:3")])]
    seen: list[RankedPool] = []
    with pytest.raises(UnavailableError, match=r"gave nan for hits\.jsonl:3"):
        seen.extend(rank_pools(counting_reranker, GivenLists(lists), OPTIONS))
    assert len(seen) == 1


def test_a_pipe_that_pauses_is_ranked_as_it_comes(counting_reranker: Reranker) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[Candidates]:
        for candidates in made_lists(3, 2):
            yield candidates
            assert go_on.wait(5)
            go_on.clear()

    seen = []
    for pool in rank_pools(counting_reranker, GivenLists(slowly(), may_pause=True), OPTIONS):
        seen += ids([pool])
        go_on.set()
    assert seen == [["q0"], ["q1"], ["q2"]]


def test_input_is_read_only_so_far_ahead(counting_reranker: Reranker) -> None:
    reader = GivenLists(made_lists(4000, 10))
    pools = rank_pools(counting_reranker, reader, OPTIONS)
    next(pools)
    time.sleep(0.5)
    # Lists count as 320 tokens. A pool was taken, and one waits.
    assert reader.drawn <= FEW_TOKENS * (1 / 8 + 1) / 320 + 3
    pools.close()


def test_leaving_early_ends_the_reader(counting_reranker: Reranker) -> None:
    pools = rank_pools(counting_reranker, GivenLists(made_lists(4000, 10)), OPTIONS)
    next(pools)
    pools.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ce-rerank")] == []


def test_the_documents_of_the_whole_input_are_foreseen_by_what_was_read(counting_reranker: Reranker) -> None:
    class Counted(GivenLists):
        @property
        def share_read(self) -> float | None:
            return self.drawn / 400

    pools = rank_pools(counting_reranker, Counted(made_lists(400, 10)), OPTIONS)
    assert {round((pool.expected_documents or 0) / 1000) for pool in pools} == {4}


def test_progress_adds_up_to_the_number_of_documents(counting_reranker: Reranker) -> None:
    done: list[int] = []
    ranked(counting_reranker, made_lists(10, 30), on_progress=done.append)
    assert sum(done) == 300


class TestWriting:
    """Ranking into an output, as a command line does, or one task of many."""

    def output(self, stream: io.RawIOBase | io.BytesIO) -> StreamOutput:
        return StreamOutput(stream, "out", "trec", WriteOptions())  # type: ignore[arg-type]

    def test_gives_what_is_ranked_and_what_was_done(self, counting_reranker: Reranker) -> None:
        stream = io.BytesIO()
        lists = made_lists(20, 64)
        tally = rank_batch(counting_reranker, GivenLists(lists), self.output(stream), OPTIONS)
        lines = stream.getvalue().decode().splitlines()
        assert (tally.queries, tally.documents, len(lines)) == (20, 1280, 1280)
        assert list(dict.fromkeys(line.split()[0] for line in lines)) == [one.query.id for one in lists]

    def test_goes_on_while_the_next_pool_is_ranked(self) -> None:
        """The second pool is ranked before the first is written."""
        first_is_written = threading.Event()

        class Engine(CountingEngine):
            def infer(self, batches: Any) -> Any:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls == 2:
                    first_is_written.set()
                return super().infer(batches)

        class Slow(io.BytesIO):
            def write(self, data: Any) -> int:
                assert first_is_written.wait(10)
                return super().write(data)

        stream = Slow()
        reranker = Reranker.from_engine(Engine())
        rank_batch(reranker, GivenLists(made_lists(6, 64)), self.output(stream), OPTIONS)
        assert len(stream.getvalue().splitlines()) == 384

    def test_that_fails_ends_the_run_at_once(self, counting_reranker: Reranker) -> None:
        class Full(io.BytesIO):
            def write(self, data: Any) -> int:
                raise OSError(28, "No space left on device")

        reader = GivenLists(made_lists(4000, 64))
        with pytest.raises(OutputError, match=r"out: cannot be written \(No space left on device\)"):
            rank_batch(counting_reranker, reader, self.output(Full()), OPTIONS)
        assert reader.drawn < 100

    def test_ends_with_the_pool_before_an_interruption(self, counting_reranker: Reranker) -> None:
        stream = io.BytesIO()
        seen: list[RankedPool] = []

        def interrupt(documents: int) -> None:
            if seen:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rank_batch(
                counting_reranker, GivenLists(made_lists(4000, 64)), self.output(stream), OPTIONS,
                on_documents=interrupt, on_pool=seen.append,
            )  # fmt: skip
        assert len(stream.getvalue().splitlines()) == 128
