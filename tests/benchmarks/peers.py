"""ce-rerank and its peers on the same weights and documents, side by side in one run.

    pip install -e '.[dev,peers]'
    python tests/benchmarks/peers.py

Each system scores in a process of its own, and they take turns, round after round; figures are medians.
A start is a whole process, from nothing to four ranked documents. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers_worker import SYSTEMS

from ce_rerank.cli.bench import sample_lists
from ce_rerank.engines.hardware import has_int8
from ce_rerank.models.catalog import OFFLINE_NAME
from ce_rerank.models.store import resolve_checkpoint

_NEEDS = {"pymilvus.model": "pymilvus", "FlashRank int8": "flashrank", "rerankers": "rerankers"}
_REFERENCE = "sentence-transformers"
_PROBABILITIES = ("FlashRank int8",)  # whose scores are not logits
_WORKER = Path(__file__).with_name("peers_worker.py")
_QUESTION = "What event in 1956 marked the official birth of artificial intelligence as a discipline?"
_ANSWERS = (
    "The workshop at Dartmouth College in the summer of 1956 gave the field its name.",
    "A program that proved theorems of logic was written in 1955.",
    "The first chess programs were written at the beginning of the 1950s.",
    "An imitation game was proposed in 1950 as a test for machines that think.",
)


class Worker:
    """One system at work."""

    def __init__(self, system: str, checkpoint: Path, lists: Sequence[tuple[str, list[str]]]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdin is not None
        setting = {"system": system, "checkpoint": str(checkpoint), "lists": lists}
        self.process.stdin.write(json.dumps(setting) + "\n")

    def round(self) -> dict[str, Any]:
        """Score everything once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            _, complaint = self.process.communicate()
            raise SystemExit(complaint)
        answer: dict[str, Any] = json.loads(line)
        return answer


def start_seconds(system: str, checkpoint: Path) -> float:
    """Time a process from nothing to four ranked documents."""
    started = time.perf_counter()
    if system.startswith("ce-rerank"):
        precision = system.partition(" ")[2] or "auto"
        command = [sys.executable, "-m", "ce_rerank", "-d", "cpu", "-m", str(checkpoint)]
        command += ["--precision", precision, _QUESTION, *_ANSWERS]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    else:
        worker = Worker(system, checkpoint, [(_QUESTION, list(_ANSWERS))])
        worker.round()
        worker.process.communicate()
    return time.perf_counter() - started


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--queries", type=int, default=10)
    arguments.add_argument("--documents", type=int, default=100, help="a query")
    given = arguments.parse_args()

    checkpoint = resolve_checkpoint(OFFLINE_NAME).folder
    lists = sample_lists(given.queries, given.documents)
    systems = [name for name in SYSTEMS if name not in _NEEDS or find_spec(_NEEDS[name])]
    if not has_int8():
        systems.remove("ce-rerank int8")
    for name in systems:
        start_seconds(name, checkpoint)  # what is compiled at first use is compiled here
    workers = {name: Worker(name, checkpoint, lists) for name in systems}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    starts: dict[str, list[float]] = {name: [] for name in systems}
    for name, worker in workers.items():
        print(f"warming up {name}", file=sys.stderr)
        worker.round()
    for number in range(given.rounds):
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
        for name, worker in workers.items():
            answers[name].append(worker.round())
            starts[name].append(start_seconds(name, checkpoint))
    for worker in workers.values():
        worker.process.communicate()

    documents = given.queries * given.documents
    medians = {name: statistics.median(one["elapsed_seconds"] for one in answers[name]) for name in systems}
    reference = _flatten(answers[_REFERENCE][0])
    print(f"{documents} documents, {given.queries} queries, medians of {given.rounds} rounds")
    titles = ("start s", "docs/s", "times", "memory MB", "largest diff", "same bytes")
    print(f"{'':22}" + "".join(f"{title:>14}" for title in titles))
    for name in systems:
        differences = [abs(a - b) for a, b in zip(_flatten(answers[name][-1]), reference, strict=True)]
        cells = (
            f"{statistics.median(starts[name]):.2f}",
            f"{documents / medians[name]:.1f}",
            f"{medians[_REFERENCE] / medians[name]:.2f}x",
            f"{answers[name][-1]['peak_memory_bytes'] / 2**20:.0f}",
            "" if name in _PROBABILITIES else f"{max(differences):.2g}",
            "yes" if len({json.dumps(answer["scores"]) for answer in answers[name]}) == 1 else "no",
        )
        print(f"{name:22}" + "".join(f"{cell:>14}" for cell in cells))


def _flatten(answer: dict[str, Any]) -> list[float]:
    return [score for scores in answer["scores"] for score in scores]


if __name__ == "__main__":
    main()
