from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from batch_fakes import FEW_TOKENS, GivenLists, NeighbourEngine, made_lists
from fakes import CountingEngine

from ce_rerank import InputError, RankOptions, Reranker, UnavailableError, UsageError
from ce_rerank.batch.job import Job, parse_shard
from ce_rerank.batch.output import StreamOutput
from ce_rerank.batch.run import BatchOutput, RankedPool, rank_batch
from ce_rerank.formats.writers import WriteOptions
from ce_rerank.pipeline import HELD_CHARACTERS_A_TOKEN, PoolPlan
from ce_rerank.types import Candidates, Document, Query

JOB = Job(ranking=RankOptions(scores="logit"))
LONG_QUERY = Candidates(
    Query("red " * 30, "long", {"lang": "en"}, "hits.jsonl:2"),
    [Document("one", 1, {"id": 1, "text": "one"}), Document("two")],
)

PLAN = PoolPlan(tokens=8000)


class Pools(BatchOutput):
    """Keeps the pools."""

    def __init__(self) -> None:
        self.pools: list[RankedPool] = []

    def write(self, pool: RankedPool) -> None:
        self.pools.append(pool)
        super().write(pool)

    def ids(self) -> list[list[object]]:
        return [[ranking.query.id for ranking in pool.rankings] for pool in self.pools]


def ranked(reranker: Reranker, items: Iterable[Candidates | InputError], **more: Any) -> Pools:
    output = Pools()
    output.progress = more.pop("after", output.progress)
    rank_batch(reranker, GivenLists(items), output, replace(JOB, **more))
    return output


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
    lists = [Candidates(Query("red"), []), *made_lists(30, 40)]
    pools = ranked(touchy, lists).pools
    assert [ranking for pool in pools for ranking in pool.rankings] == list(
        touchy.rank_many(lists, scores="logit")
    )


def test_pools_double_until_they_are_full(counting_reranker: Reranker) -> None:
    assert list(map(len, ranked(counting_reranker, made_lists(64, 64)).ids())) == [2, 4, 8, 16, 16, 16, 2]


def test_a_run_that_goes_on_from_any_pool_gives_the_same_scores_and_counts(touchy: Reranker) -> None:
    lists = [*made_lists(60, 40), Candidates(Query("red"), [Document(" "), Document("two " * 40)])]
    whole = ranked(touchy, lists).pools
    assert len(whole) == 5
    for place, pool in enumerate(whole):
        rest = ranked(touchy, lists, after=pool.progress).pools
        assert results(whole[: place + 1] + rest) == results(whole)
        assert [one.progress for one in rest] == [one.progress for one in whole[place + 1 :]]
    tally = whole[-1].progress.tally
    assert (tally.queries, tally.blank, tally.documents, tally.truncated) == (61, 1, 2402, 1)


def test_a_run_does_not_go_on_with_other_input(counting_reranker: Reranker) -> None:
    lists = made_lists(12, 64)
    after = ranked(counting_reranker, lists).pools[1].progress
    assert after.items == 6
    (query, documents), rest = (lists[0].query, lists[0].documents), lists[1:]
    for changed in (
        [Candidates(query, [replace(documents[0], text="nine"), *documents[1:]]), *rest],
        [Candidates(replace(query, id="other"), documents), *rest],
        [Candidates(query, [replace(documents[0], fields={"year": 1}), *documents[1:]]), *rest],
        [lists[1], lists[0], *lists[2:]],
        lists[:5],
    ):
        with pytest.raises(UsageError, match="The input is not the one that the unfinished output was made"):
            ranked(counting_reranker, changed, after=after)
    # What was not ranked yet may be other input.
    assert ranked(counting_reranker, lists[:8], after=after).ids() == [["q6", "q7"]]


def test_shards_divide_the_queries_by_place(counting_reranker: Reranker) -> None:
    parts = [
        ranked(counting_reranker, made_lists(7, 3), shard=parse_shard(f"{number}/3")) for number in (1, 2, 3)
    ]
    assert [[query for pool in part.ids() for query in pool] for part in parts] == [
        ["q0", "q3", "q6"],
        ["q1", "q4"],
        ["q2", "q5"],
    ]


class TestBadRows:
    def items(self) -> list[Candidates | InputError]:
        lists = made_lists(5, 64)
        return [*lists[:3], InputError("hits.jsonl:4: broken."), *lists[3:]]

    def test_end_the_run_after_what_came_before(self, counting_reranker: Reranker) -> None:
        output = Pools()
        with pytest.raises(InputError, match=r"hits\.jsonl:4: broken\."):
            rank_batch(counting_reranker, GivenLists(self.items()), output, JOB)
        assert output.ids() == [["q0", "q1"], ["q2"]]
        # The third query's pool would have been longer: another run must rank it again to the same scores.
        assert [pool.is_whole for pool in output.pools] == [True, False]

    def test_are_reported_by_one_shard_alone(self, counting_reranker: Reranker) -> None:
        items = [*self.items(), InputError("hits.jsonl:7: broken, too.")]
        shards = [
            ranked(counting_reranker, items, skip_bad_rows=True, shard=parse_shard(f"{number}/3"))
            for number in (1, 2, 3)
        ]
        reported = [bad.reason for shard in shards for pool in shard.pools for bad in pool.bad_rows]
        assert sorted(reported) == ["hits.jsonl:4: broken.", "hits.jsonl:7: broken, too."]

    def test_are_queries_too_long_for_the_model(self, counting_reranker: Reranker) -> None:
        # Of a corpus, the fields that the text was made from are not kept.
        document = Document("T two", "d", {"_id": "d", "title": "T", "n": 1}, ("title", "text"))
        long_query = replace(LONG_QUERY, documents=[*LONG_QUERY.documents, document])
        lists = [*made_lists(1, 2), long_query, *made_lists(1, 2)]
        (pool,) = ranked(counting_reranker, lists, skip_bad_rows=True).pools
        (bad,) = pool.bad_rows
        assert bad.reason.startswith("hits.jsonl:2: the query and what the model puts around it take 33")
        assert bad.row == (
            '{"lang": "en", "query_id": "long", "query": "' + "red " * 30 + '", '
            '"documents": [{"id": 1, "text": "one"}, "two", {"_id": "d", "n": 1, "text": "T two"}]}'
        )
        assert len(pool.rankings) == 2

    def test_are_single_documents_that_may_not_be_cut(self, counting_reranker: Reranker) -> None:
        documents = [Document("one"), Document("one " * 40, origin="h:2"), Document("two")]
        lists = [Candidates(Query("red"), documents), LONG_QUERY]
        options = RankOptions(long="error")
        (pool,) = ranked(counting_reranker, lists, ranking=options, skip_bad_rows=True).pools
        assert [[(hit.text, hit.index) for hit in ranking] for ranking in pool.rankings] == [
            [("two", 2), ("one", 0)]
        ]
        assert [bad.reason[:21] for bad in pool.bad_rows] == [
            "h:2: document 0 is lo",
            "hits.jsonl:2: the que",
        ]

    def test_are_queries_that_cannot_be_ranked_for_another_reason(self, counting_reranker: Reranker) -> None:
        first = Candidates(Query("red", "q"), [Document("one", fields={"n": 1})])
        options = RankOptions(first_score_field="n")
        output = ranked(counting_reranker, [first, LONG_QUERY], ranking=options, skip_bad_rows=True)
        assert (output.ids(), output.progress.tally.bad_rows) == ([["q"]], 1)


def test_documents_that_may_not_be_cut_are_tokenized_once(
    counting_engine: CountingEngine, counting_reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = counting_engine.tokenizer.encode
    seen: list[Any] = []

    def count(pairs: Any) -> Any:
        seen.extend(pairs)
        return encode(pairs)

    monkeypatch.setattr(counting_engine.tokenizer, "encode", count)
    ranked(counting_reranker, made_lists(3, 4), ranking=RankOptions(long="error"))
    assert len(seen) == 12


def test_a_fault_of_the_model_ends_the_run_after_what_came_before(counting_reranker: Reranker) -> None:
    lists = [*made_lists(2, 64), Candidates(Query("red"), [Document("nan", origin="hits.jsonl:3")])]
    output = Pools()
    with pytest.raises(UnavailableError, match=r"gave nan for hits\.jsonl:3"):
        rank_batch(counting_reranker, GivenLists(lists), output, JOB)
    assert len(output.pools) == 1


def test_a_pipe_that_pauses_is_ranked_as_it_comes(counting_reranker: Reranker) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[Candidates]:
        for candidates in made_lists(3, 2):
            yield candidates
            assert go_on.wait(5)
            go_on.clear()

    reader = GivenLists(slowly())
    reader.may_pause = True
    output = Pools()
    rank_batch(counting_reranker, reader, output, JOB, on_pool=lambda pool: go_on.set())
    assert output.ids() == [["q0"], ["q1"], ["q2"]]


def test_input_is_read_only_so_far_ahead_and_leaving_ends_the_reader(counting_reranker: Reranker) -> None:
    reader = GivenLists(made_lists(4000, 10))

    def leave(pool: RankedPool) -> None:
        time.sleep(0.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank_batch(counting_reranker, reader, Pools(), JOB, on_pool=leave)
    # Lists count as 320 tokens. A pool was taken, and one waits.
    assert reader.drawn <= FEW_TOKENS * (1 / 8 + 1) / 320 + 3
    assert "ce-rerank reader" not in [thread.name for thread in threading.enumerate()]


def test_the_documents_of_the_whole_input_are_estimated_by_what_was_read(counting_reranker: Reranker) -> None:
    class Counted(GivenLists):
        @property
        def share_read(self) -> float | None:
            return self.drawn / 400

    output = Pools()
    rank_batch(counting_reranker, Counted(made_lists(400, 10)), output, JOB)
    assert {round((pool.expected_documents or 0) / 1000) for pool in output.pools} == {4}


class TestWriting:
    """Ranking into an output, as a command line does, or one task of many."""

    def output(self, stream: io.RawIOBase | io.BytesIO) -> StreamOutput:
        return StreamOutput(stream, "trec", WriteOptions())  # type: ignore[arg-type]

    def test_goes_on_while_the_next_pool_is_ranked(self) -> None:
        """The second pool is ranked before the first is written."""
        second_is_ranked = threading.Event()

        class Engine(CountingEngine):
            def infer(self, batches: Any) -> Any:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls == 2:
                    second_is_ranked.set()
                return super().infer(batches)

        class Slow(io.BytesIO):
            def write(self, data: Any) -> int:
                assert second_is_ranked.wait(10)
                return super().write(data)

        stream = Slow()
        reranker = Reranker.from_engine(Engine())
        rank_batch(reranker, GivenLists(made_lists(6, 64)), self.output(stream), JOB)
        assert len(stream.getvalue().splitlines()) == 384

    def test_that_fails_ends_the_run_at_once(self, counting_reranker: Reranker) -> None:
        class Full(io.BytesIO):
            def write(self, data: Any) -> int:
                raise OSError(28, "No space left on device")

        reader = GivenLists(made_lists(4000, 64))
        with pytest.raises(OSError, match="No space left on device"):
            rank_batch(counting_reranker, reader, self.output(Full()), JOB)
        assert reader.drawn < 100


def lists_of(*sizes: int, characters: int = 388) -> list[Candidates]:
    """Lists whose pairs count as 100 tokens each: 97 for 388 characters, and three special ones."""
    return [Candidates(Query("red"), [Document("a" * characters)] * size) for size in sizes]


def test_no_list_is_parted_and_none_is_lost() -> None:
    lists = lists_of(1000, 0, 19, 1, 5)
    pools = list(PLAN.cut(lists))
    assert [len(pool) for pool in pools] == [1, 3, 1]
    assert [candidates for pool in pools for candidates in pool] == lists


def test_short_pairs_and_queries_without_documents_fill_a_pool_too() -> None:
    assert [len(pool) for pool in PLAN.cut(lists_of(*[0] * 100))] == [16, 32, 52]
    assert [PLAN.count_tokens(candidates) for candidates in lists_of(0, 3, characters=4)] == [64, 192]


def test_what_is_not_read_of_a_pair_counts_only_for_its_memory() -> None:
    plan = PoolPlan(tokens=8000, most_of_a_pair=150)
    held = 500 * HELD_CHARACTERS_A_TOKEN
    for characters, tokens in ((388, 100), (4000, 150), (held, 500)):
        assert [plan.count_tokens(one) for one in lists_of(1, characters=characters)] == [tokens]
    assert [PLAN.count_tokens(one) for one in lists_of(3, characters=4000)] == [3009]
