from __future__ import annotations

from fakes import CountingEngine

from ce_rerank import Reranker
from ce_rerank.pipeline import HELD_CHARACTERS_A_TOKEN, POOL_TOKENS, PoolPlan
from ce_rerank.types import Candidates, Document, Query, RankOptions

PLAN = PoolPlan(tokens=8000)


def lists_of(*sizes: int, characters: int = 388) -> list[Candidates]:
    """Lists whose pairs count as 100 tokens each: 97 for 388 characters, and three special ones."""
    return [Candidates(Query("red"), [Document("a" * characters)] * size) for size in sizes]


def test_pools_double_until_they_are_as_large_as_planned() -> None:
    pools = PLAN.cut(lists_of(*[5] * 60))
    assert [len(pool) for pool in pools] == [2, 4, 8, 16, 16, 14]


def test_no_list_is_parted_and_none_is_lost() -> None:
    lists = lists_of(1000, 0, 19, 1, 5)
    pools = list(PLAN.cut(lists))
    assert [len(pool) for pool in pools] == [1, 3, 1]
    assert [candidates for pool in pools for candidates in pool] == lists


def test_short_pairs_and_queries_without_documents_fill_a_pool_too() -> None:
    assert [len(pool) for pool in PLAN.cut(lists_of(*[0] * 100))] == [16, 32, 52]
    assert [PLAN.count_tokens(candidates) for candidates in lists_of(0, 3, characters=4)] == [64, 192]


def test_what_is_not_read_of_a_pair_does_not_count() -> None:
    plan = PoolPlan(tokens=8000, most_of_a_pair=150)
    assert [plan.count_tokens(candidates) for candidates in lists_of(3)] == [300]
    assert [plan.count_tokens(candidates) for candidates in lists_of(3, characters=4000)] == [450]
    assert [PLAN.count_tokens(candidates) for candidates in lists_of(3, characters=4000)] == [3009]


def test_very_long_documents_make_small_pools_all_the_same() -> None:
    plan = PoolPlan(tokens=8000, most_of_a_pair=50)
    pools = plan.cut(lists_of(1, 1, 1, characters=500 * HELD_CHARACTERS_A_TOKEN))
    assert [len(pool) for pool in pools] == [2, 1]


def test_lists_are_drawn_only_for_the_pool_that_is_asked_for() -> None:
    lists = iter(lists_of(*[10] * 4))
    next(PLAN.cut(lists))
    assert len(list(lists)) == 3


def test_a_plan_fits_the_batches_and_how_long_documents_are_read(
    counting_reranker: Reranker, counting_engine: CountingEngine
) -> None:
    assert counting_reranker.plan_pools(RankOptions()) == PoolPlan(POOL_TOKENS, 32)
    assert counting_reranker.plan_pools(RankOptions(long="chunk")) == PoolPlan(POOL_TOKENS, None)
    large = Reranker.from_engine(counting_engine, batch_tokens=32_768)
    assert large.plan_pools(RankOptions()) == PoolPlan(1_048_576, 32)
