"""What `ce-rerank batch --ray` promises, measured: the speed of workers, and the memory of the driver.

    python tests/benchmarks/ray_workers.py speed --queries 200
    python tests/benchmarks/ray_workers.py memory --rows 10000 100000

`speed` compares one process of one thread with 1 and 2 workers of one thread each, in turns, with the
default model; the start is left out: what is measured begins with the first part, or pool, that is done.
`memory` ranks files of so many rows with an engine that adds up, each in a process of its own, whose peak it
shows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))

from batch_fakes import open_counting  # noqa: E402

from ce_rerank import Reranker  # noqa: E402
from ce_rerank.batch import parts  # noqa: E402
from ce_rerank.batch.job import Job  # noqa: E402
from ce_rerank.batch.output import StreamOutput  # noqa: E402
from ce_rerank.batch.read import open_reader  # noqa: E402
from ce_rerank.batch.run import rank_batch  # noqa: E402
from ce_rerank.cli.bench import sample_lists  # noqa: E402
from ce_rerank.formats.writers import WriteOptions  # noqa: E402
from ce_rerank.ray import rank_files  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--queries", type=int, default=200)
    speed.add_argument("--rounds", type=int, default=3)
    memory = commands.add_parser("memory")
    memory.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    memory.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.command == "memory" and given.child:
        rank_files(Job([str(given.child)]), f"{given.child}.out", workers=1, open_reranker=open_counting)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "speed":
            measure_speed(Path(folder), given.queries, given.rounds)
        else:
            measure_memory(Path(folder), given.rows)


def measure_speed(folder: Path, queries: int, rounds: int) -> None:
    """Show the documents a second of one process, of one worker, and of two, in turns."""
    path = folder / "hits.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for query, texts in sample_lists(queries, 50):
            stream.write(json.dumps({"query": query, "documents": texts}) + "\n")
    parts._LEAST_BYTES = path.stat().st_size // 24
    job = Job([str(path)], model={"threads": 1})
    reranker = Reranker(threads=1)
    for number in range(rounds):
        alone: list[tuple[float, int]] = []
        output = StreamOutput(io.BytesIO(), "jsonl", WriteOptions())
        rank_batch(
            reranker, open_reader(job), output, job,
            on_pool=lambda pool, seen=alone: seen.append((time.monotonic(), pool.progress.tally.documents)),
        )  # fmt: skip
        shown = [f"one process of one thread: {rate(alone):.1f} documents/s"]
        for workers in (1, 2):
            seen: list[tuple[float, int]] = []
            rank_files(
                job, str(folder / f"out-{number}-{workers}"), workers=workers,
                on_report=lambda report, share, seen=seen: seen.append(
                    (time.monotonic(), report.tally.documents)
                ),
            )  # fmt: skip
            shown.append(f"--workers {workers}: {rate(seen):.1f}, {rate(seen) / rate(alone):.2f} times")
        print("; ".join(shown), flush=True)


def rate(seen: list[tuple[float, int]]) -> float:
    """Return how many a second there were between the first moment and the last."""
    (began, before), *_, (ended, after) = seen
    return (after - before) / (ended - began)


def measure_memory(folder: Path, rows: list[int]) -> None:
    """Show the peak of the driver for files of so many rows of one document each."""
    for count in rows:
        path = folder / f"{count}.jsonl"
        with path.open("w", encoding="utf-8") as stream:
            for number in range(count):
                stream.write(json.dumps({"query": f"red {number}", "documents": ["one two three"]}) + "\n")
        command = [sys.executable, __file__, "memory", "--child", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{count:,} rows, {path.stat().st_size:,} bytes: {done.stdout.split()[-1]} MB")


if __name__ == "__main__":
    main()
