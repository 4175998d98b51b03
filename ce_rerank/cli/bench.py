"""`ce-rerank bench`: the engines and precisions of this machine, side by side on the same documents."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InputError, UnavailableError
from ..formats.base import read_documents
from .bench_sample import lists_of, sample_lists
from .console import Activity, messages, stdout_console
from .options import MannerOptions, ModelOptions, as_keywords

log = logging.getLogger("ce_rerank")

_QUERIES = 10
_SAMPLE_DOCUMENTS = 20  # a query
_START_DOCUMENTS = 4
_REFERENCE = ("torch", "fp32")
_CHOICES = {
    "cpu": (("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    "mps": (("torch", "fp32"), ("torch", "fp16")),
    "cuda": (("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")),
}

Lists = Sequence[tuple[str, list[str]]]


def bench(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Documents to measure with. Default: a sample.", show_default=False
        ),
    ] = None,
    *,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="How often each is measured.")
    ] = 3,
    to: Annotated[Literal["table", "json"] | None, typer.Option("--to", show_default=False)] = None,
    model: ModelOptions,
    manners: MannerOptions,
) -> None:
    """Measure every engine and precision of this machine, side by side.

    All score the same documents, taking turns, each in a process of its own; figures are medians. Score
    differences are from torch in fp32, on logits.
    """
    with messages(quiet=manners.quiet, verbose=manners.verbose) as activity:
        lists = sample_lists(_QUERIES, _SAMPLE_DOCUMENTS) if file is None else _lists_of_file(file)
        results = [measure.summary() for measure in _measure(model, lists, rounds, activity)]
    if to == "json" or (to is None and not sys.stdout.isatty()):
        json.dump(results, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _draw(results, lists)


@dataclass
class _Measure:
    """What one engine at one precision gave, round after round."""

    engine: str
    precision: str
    documents: int
    start_seconds: list[float] = field(default_factory=list)
    elapsed_seconds: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    peak_memory_bytes: int | None = None

    def summary(self) -> dict[str, Any]:
        """Give the medians, and how far the scores are from the reference's."""
        differences, agreements = _compare(self.scores, self.reference)
        return {
            "engine": self.engine,
            "precision": self.precision,
            "start_seconds": statistics.median(self.start_seconds),
            "documents_per_second": self.documents / statistics.median(self.elapsed_seconds),
            "peak_memory_bytes": self.peak_memory_bytes,
            "largest_difference": max(differences),
            "mean_difference": statistics.fmean(differences),
            "rank_agreement": statistics.fmean(agreements),
        }


def _measure(model: ModelOptions, lists: Lists, rounds: int, activity: Activity) -> list[_Measure]:
    """Measure every choice that works here, the reference first; in turns, so that all meet one noise."""
    from ..engines.devices import find_device

    device = find_device(model.device)
    choices = _CHOICES[device.partition(":")[0]]
    documents = sum(len(texts) for _, texts in lists)
    measures: list[_Measure] = []
    with ExitStack() as stack:
        workers = []
        for engine, precision in choices:
            activity.stage(f"Loading {engine} {precision}")
            keywords = as_keywords(model) | {"engine": engine, "precision": precision, "device": device}
            # What is compiled at first use is compiled here, so that it counts for nothing below.
            _run_start(keywords, lists)
            worker = stack.enter_context(_worker(keywords, lists))
            if worker.answer() is None:  # a first round, to warm up
                if (engine, precision) == _REFERENCE:
                    raise UnavailableError("torch cannot run this model.", hint=worker.complaint())
                log.warning("%s %s cannot run this model here: %s", engine, precision, worker.complaint())
                continue
            workers.append((worker, keywords))
            measures.append(_Measure(engine, precision, documents))
        activity.start(total=rounds * len(workers))
        for _ in range(rounds):
            for measure, (worker, keywords) in zip(measures, workers, strict=True):
                answer = worker.answer()
                assert answer is not None
                measure.elapsed_seconds.append(answer["elapsed_seconds"])
                measure.peak_memory_bytes = answer["peak_memory_bytes"]
                measure.scores = answer["scores"]
                measure.start_seconds.append(_start_seconds(keywords, lists))
                activity.advance(1)
    for measure in measures:
        measure.reference = measures[0].scores
    return measures


class _Worker:
    """A process that scores the same lists whenever it is asked to; see `bench_worker.py`."""

    def __init__(self, process: subprocess.Popen[str], complaints: Path) -> None:
        self._process = process
        self._complaints = complaints

    def answer(self) -> dict[str, Any] | None:
        """Run a round and give what came of it; None when the process has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def complaint(self) -> str:
        """Give the last line that the process left on stderr: the error that ended it."""
        lines = self._complaints.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


@contextmanager
def _worker(keywords: dict[str, Any], lists: Lists) -> Iterator[_Worker]:
    with tempfile.TemporaryDirectory() as folder:
        complaints = Path(folder, "stderr")
        with (
            complaints.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "ce_rerank.cli.bench_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8",
            ) as process,
        ):  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(json.dumps({"reranker": keywords, "lists": lists}) + "\n")
            try:
                yield _Worker(process, complaints)
            finally:
                process.kill()


def _start_seconds(keywords: dict[str, Any], lists: Lists) -> float:
    """Time a whole process that ranks a handful of documents, from its start to its end."""
    started = time.perf_counter()
    _run_start(keywords, lists)
    return time.perf_counter() - started


def _run_start(keywords: dict[str, Any], lists: Lists) -> None:
    """Rank a handful of documents in a process of its own; what it cannot, a worker will complain of."""
    query, documents = lists[0]
    command = [sys.executable, "-m", "ce_rerank", "rank", "-Q", "-q", query, *_as_arguments(keywords)]
    nowhere = subprocess.DEVNULL
    subprocess.run(
        [*command, "--", *documents[:_START_DOCUMENTS]], check=False, stdout=nowhere, stderr=nowhere
    )


def _as_arguments(keywords: dict[str, Any]) -> list[str]:
    options = {f"--{name.replace('_', '-')}": value for name, value in keywords.items()}
    flags = [option for option, value in options.items() if value is True]
    return flags + [
        f"{option}={value}"
        for option, value in options.items()
        if value is not None and not isinstance(value, bool)
    ]


def _compare(scores: list[list[float]], reference: list[list[float]]) -> tuple[list[float], list[float]]:
    """Give the absolute difference of every score, and Kendall's tau of every query's order."""
    from scipy.stats import kendalltau

    differences, agreements = [], []
    for ours, theirs in zip(scores, reference, strict=True):
        differences += [abs(our - their) for our, their in zip(ours, theirs, strict=True)]
        agreements.append(float(kendalltau(ours, theirs).statistic) if len(set(ours)) > 1 else 1.0)
    return differences, agreements


def _lists_of_file(file: Path) -> Lists:
    texts = [document.text for document in read_documents(file)]
    if len(texts) < _START_DOCUMENTS:
        raise InputError(
            f"{file}: {len(texts)} documents are too few to measure with.", hint="Give a hundred or so."
        )
    return lists_of(texts, _QUERIES)


def _draw(results: list[dict[str, Any]], lists: Lists) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("engine", no_wrap=True)
    for title in ("start s", "docs/s", "times", "MB", "largest diff", "mean diff", "tau"):
        table.add_column(title, justify="right")
    slowest = results[0]["documents_per_second"]
    for result in results:
        peak = result["peak_memory_bytes"]
        table.add_row(
            f"{result['engine']} {result['precision']}",
            f"{result['start_seconds']:.2f}",
            f"{result['documents_per_second']:.0f}",
            f"{result['documents_per_second'] / slowest:.1f}x",
            "?" if peak is None else f"{peak / 2**20:.0f}",
            f"{result['largest_difference']:.2g}",
            f"{result['mean_difference']:.2g}",
            f"{result['rank_agreement']:.3f}",
        )
    console = stdout_console()
    console.print(table)
    documents = sum(len(texts) for _, texts in lists)
    console.print(
        f"{documents} documents, {len(lists)} queries. start: a process that ranks {_START_DOCUMENTS}. "
        "MB: peak memory. diff: of logits, from torch fp32. tau: Kendall's, of the order.",
        style="dim",
    )
