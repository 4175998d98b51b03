"""What `ce-rerank batch` promises of long jobs, and what a pair costs in our own Python, measured.

    python tests/benchmarks/batches.py kills --documents 20000
    python tests/benchmarks/batches.py memory
    python tests/benchmarks/batches.py python

`kills` ends a job by SIGKILL at random moments, continues it each time, and compares its bytes with those of
a job that ran through. `memory` compares the peaks of jobs over 10,000 and 1,000,000 documents, with an
engine that does nothing but add up. `python` ranks with an engine that computes nothing, and measures the
tokenizers library apart: its answers are kept and given again.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ce_rerank import Candidates, Document, Query, RankOptions, Reranker
from ce_rerank.cli.bench import sample_lists
from ce_rerank.engines.base import Engine
from ce_rerank.pipeline import LocalModel

_COMMAND = [sys.executable, "-m", "ce_rerank", "batch"]
_COUNTING_COMMAND = [sys.executable, str(Path(__file__).parents[1] / "batch_fakes.py"), "batch"]
_OPTIONS = RankOptions()
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "red", "green", "blue", "cat", "dog", "fish")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills")
    kills.add_argument("--documents", type=int, default=20_000)
    kills.add_argument("--kills", type=int, default=20)
    kills.add_argument("--to", default="jsonl")
    kills.add_argument("--counting", action="store_true", help="with an engine that adds up, and sleeps")
    commands.add_parser("memory")
    commands.add_parser("python")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "kills":
            command = _COUNTING_COMMAND if given.counting else _COMMAND
            measure_kills(command, Path(folder), given.documents, given.kills, given.to)
        elif given.command == "memory":
            measure_memory(Path(folder))
        else:
            measure_python()


def measure_kills(command: list[str], folder: Path, documents: int, kills: int, format: str) -> None:
    """Kill a job at random moments until it has been killed often enough, and then let it end."""
    hits, whole, cut = folder / "hits.jsonl", folder / "whole", folder / "cut"
    with hits.open("w", encoding="utf-8") as stream:
        for number, (query, texts) in enumerate(sample_lists(documents // 100, 100)):
            documents_with_ids = [{"id": place, "text": text} for place, text in enumerate(texts)]
            row = {"query_id": number, "query": query, "documents": documents_with_ids}
            stream.write(json.dumps(row) + "\n")
    job = [*command, str(hits), "--to", format, "-Q", "-o"]
    started = time.monotonic()
    subprocess.run([*job, str(whole)], check=True)
    seconds = time.monotonic() - started
    print(f"{documents:,} documents, to {format}: {seconds:.0f} s without a kill")
    chance = random.Random(time.time_ns())
    done = 0
    started = time.monotonic()
    while not cut.exists():
        process = subprocess.Popen([*job, str(cut), "--resume"])
        if done < kills:
            try:
                process.wait(chance.uniform(0.1, 1.5 * seconds / kills))
            except subprocess.TimeoutExpired:
                process.kill()
                done += 1
        if process.wait() > 0:
            sys.exit(f"the job failed with {process.returncode} after {done} kills")
    more = time.monotonic() - started - seconds
    same = filecmp.cmp(whole, cut, shallow=False)
    verdict = "the same" if same else "NOT THE SAME"
    print(f"{done} kills: {verdict} {cut.stat().st_size:,} bytes, {more:+.0f} s")
    if not same or done < kills:
        sys.exit("that was not what was promised")


def measure_memory(folder: Path) -> None:
    """Compare the peaks of a small job and a large one, of rows and of a run with its corpus."""
    for kind in ("rows", "a run"):
        peaks = []
        for queries in (100, 10_000):
            arguments = _write_rows(folder, queries) if kind == "rows" else _write_run(folder, queries)
            started = time.monotonic()
            peak = _peak_megabytes([*_COUNTING_COMMAND, *arguments, "-o", str(folder / "out")])
            seconds = time.monotonic() - started
            peaks.append(peak)
            print(
                f"{kind}: {100 * queries:,} documents in {queries:,} queries: {peak:,.0f} MB, {seconds:.0f} s"
            )
        print(f"{kind}: {peaks[1] - peaks[0]:+,.0f} MB")


class _IdleEngine:
    """A real engine's tokenizer, and logits without a model: numbers, since warnings follow equal ones."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self.tokenizer = engine.tokenizer
        self.batch_tokens = engine.batch_tokens

    def score_rows(self, rows: Sequence[Any], *others: Any) -> NDArray[np.float32]:
        return np.arange(len(rows), dtype=np.float32)

    def activate(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return logits


class _Replayed:
    """A tokenizer of the tokenizers library that gives its answers of the first round again."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.answers: list[Any] = []
        self.given: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.tokenizer, name)

        def replay(*arguments: Any, **options: Any) -> Any:
            if self.given is None:
                self.answers.append(method(*arguments, **options))
                return self.answers[-1]
            return next(self.given)

        return replay if name.startswith("encode_batch") else method


def measure_python(rounds: int = 7) -> None:
    """Rank 10,000 pairs of 100 tokens without a model, and print the CPU time of a pair, the best of some."""
    model = Reranker().model
    assert isinstance(model, LocalModel)
    replayed = _Replayed(model.engine.tokenizer._tokenizer)
    model.engine.tokenizer._tokenizer = replayed  # type: ignore[assignment]
    reranker = Reranker.from_engine(_IdleEngine(model.engine))
    lists = [
        Candidates(Query(query), [Document(f"{text} {place}") for place, text in enumerate(texts)])
        for query, texts in sample_lists(100, 100)
    ]
    pairs = [(one.query.text, document.text) for one in lists for document in one.documents]
    texts = [text for _, text in pairs]
    reranker.rank_lists(lists, _OPTIONS)

    def measure(name: str, work: Callable[[], object], rounds: int) -> None:
        seconds = []
        for _ in range(rounds):
            replayed.given = iter(replayed.answers)
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        pair = min(seconds) / len(pairs)
        print(f"{name}: {1e6 * pair:.1f} microseconds a pair, {1 / pair:,.0f} pairs a second and core")

    measure("the tokenizers library", lambda: replayed.tokenizer.encode_batch_fast(texts), 2)
    measure("our own Python", lambda: reranker.rank_lists(lists, _OPTIONS), rounds)


def _write_rows(folder: Path, queries: int) -> list[str]:
    chance = random.Random(1)
    path = folder / "hits.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for query in range(queries):
            documents = [{"id": f"{query}-{place}", "text": _text(chance)} for place in range(100)]
            stream.write(
                json.dumps({"query_id": str(query), "query": "red cat", "documents": documents}) + "\n"
            )
    return [str(path)]


def _write_run(folder: Path, queries: int) -> list[str]:
    chance = random.Random(1)
    ids = list(range(100 * queries))
    chance.shuffle(ids)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for doc_id in range(100 * queries):
            stream.write(json.dumps({"_id": f"doc{doc_id}", "title": "", "text": _text(chance)}) + "\n")
    with (folder / "queries.tsv").open("w") as texts, (folder / "run.trec").open("w") as run:
        for query in range(queries):
            texts.write(f"{query}\tred cat\n")
            for place in range(100):
                run.write(f"{query} Q0 doc{ids[100 * query + place]} {place + 1} {100 - place} first\n")
    names = (("--run", "run.trec"), ("--queries", "queries.tsv"), ("--corpus", "corpus.jsonl"))
    return [argument for option, name in names for argument in (option, str(folder / name))]


def _text(chance: random.Random) -> str:
    return " ".join(chance.choices(_WORDS, k=12))


def _peak_megabytes(command: list[str]) -> float:
    process = subprocess.Popen([*command, "-Q", "--batch-tokens", "8192"])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the job failed with {os.waitstatus_to_exitcode(status)}")
    return used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
