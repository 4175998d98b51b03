"""What reading documents whole costs, beside reading what fits.

    python tests/benchmarks/long_documents.py
    python tests/benchmarks/long_documents.py --documents 20 --rounds 3

`fits`: documents that fit in a passage, with `long="chunk"` and with `long="truncate"`, in turns; figures
are medians. `long`: documents of many passages, chunked, all in one call, and in `--rounds` calls before and
after it a part of the same passages as documents of their own. Costs are of CPU time, which other work on the
machine lengthens less than the time on a clock.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ce_rerank import Reranker
from ce_rerank.cli.bench import sample_lists
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import Engine, EngineOptions
from ce_rerank.models.store import resolve_checkpoint
from ce_rerank.types import LongPolicy, RankOptions

_SHORT_QUERIES, _SHORT_DOCUMENTS = 10, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model")
    parser.add_argument("--documents", type=int, default=200, help="that are long")
    parser.add_argument("--words", type=int, default=10_000, help="of each of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", type=int, default=20, help="every how manyth passage is ranked by itself")
    given = parser.parse_args()
    engine = load_engine(resolve_checkpoint(given.model), EngineOptions())
    print(engine.info.description)
    measure_fitting(engine, given.rounds)
    measure_long(engine, given.documents, given.words, given.rounds, given.part)


def measure_fitting(engine: Engine, rounds: int) -> None:
    """Rank short documents both ways."""
    reranker = Reranker.from_engine(engine)
    lists = sample_lists(_SHORT_QUERIES, _SHORT_DOCUMENTS)

    def rank(long: LongPolicy) -> list[float]:
        return [hit.score for ranking in reranker.rank_many(lists, long=long) for hit in ranking]

    if rank("truncate") != rank("chunk"):
        raise SystemExit("documents that fit have other scores when they are chunked")
    truncate, chunk = take_turns(rounds, lambda: rank("truncate"), lambda: rank("chunk"))
    documents = _SHORT_QUERIES * _SHORT_DOCUMENTS
    print(
        f"fits: {documents} documents of one passage: {documents / truncate.seconds:.1f} a second truncated, "
        f"{documents / chunk.seconds:.1f} chunked: {chunk.cpu_seconds / truncate.cpu_seconds - 1:+.1%} cost"
    )


def measure_long(engine: Engine, documents: int, words: int, rounds: int, part: int) -> None:
    """Rank long documents, and every `part`-th of their passages as a document of its own."""
    reranker = Reranker.from_engine(engine)
    query, texts = make_documents(documents, words)
    pairs = [(query, text) for text in texts]
    reads = list(reranker._read(pairs, RankOptions(long="chunk")))
    passages = [read.passage.text for read in reads if read.passage is not None][::part]
    tokens = sum(len(read.row) for read in reads)
    alone = reranker._read([(query, passage) for passage in passages], RankOptions())
    passage_tokens = sum(len(read.row) for read in alone)

    def rank_passages() -> object:
        return reranker.rank(query, passages)

    apart = [measure(rank_passages) for _ in range(rounds)]
    whole = measure(lambda: reranker.rank(query, texts, long="chunk"))
    apart += [measure(rank_passages) for _ in range(rounds)]
    short = median_cost(apart)
    cost = (whole.cpu_seconds / tokens) / (short.cpu_seconds / passage_tokens) - 1
    print(
        f"long: {documents} documents of {words:,} words, {len(reads):,} passages, {tokens:,} tokens: "
        f"{tokens / whole.seconds:,.0f} tokens a second; {len(passages):,} passages as documents: "
        f"{passage_tokens / short.seconds:,.0f}: {cost:+.1%} cost"
    )


def make_documents(documents: int, words: int) -> tuple[str, list[str]]:
    """Make a query and texts of so many words, of the sentences of the sample."""
    chance = random.Random(3)
    [(query, passages)] = sample_lists(1, 200)
    texts = []
    for _ in range(documents):
        chosen: list[str] = []
        while len(chosen) < words:
            chosen += chance.choice(passages).split()
        texts.append(" ".join(chosen[:words]))
    return query, texts


@dataclass
class Cost:
    """What a task took: medians, on a clock and of all CPUs together."""

    seconds: float
    cpu_seconds: float


def take_turns(rounds: int, *tasks: Callable[[], object]) -> list[Cost]:
    """Run tasks in turns, once before it counts."""
    turns = [[measure(task) for task in tasks] for _ in range(rounds + 1)][1:]
    return [median_cost(costs) for costs in zip(*turns, strict=True)]


def measure(task: Callable[[], object]) -> Cost:
    """Run a task once."""
    started, cpu_started = time.perf_counter(), time.process_time()
    task()
    return Cost(time.perf_counter() - started, time.process_time() - cpu_started)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the medians of what the runs of a task took."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
    )


if __name__ == "__main__":
    main()
