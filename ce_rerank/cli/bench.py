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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import CeRerankError, InputError, UnavailableError, UsageError
from ..formats.documents import InputFormat, ReadOptions, read_documents
from ..formats.source import Source
from .bench_sample import lists_of, sample_lists
from .console import Activity, show_messages, stdout_console
from .options import InputOptions, MessageOptions, ModelOptions, as_keywords

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
_REFUSALS = {kind.__name__: kind for kind in (UsageError, InputError, UnavailableError)}

Lists = Sequence[tuple[str, list[str]]]


def bench(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Documents to measure with; - is stdin. Default: a sample.",
            show_default=False,
        ),
    ] = None,
    *,
    source_format: Annotated[
        InputFormat | None,
        typer.Option(
            "--from",
            show_default=False,
            help="The format of the documents. Default: by suffix, else by looking.",
        ),
    ] = None,
    fields: InputOptions,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="How often each is measured.")
    ] = 3,
    to: Annotated[Literal["table", "json"] | None, typer.Option("--to", show_default=False)] = None,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Measure every engine and precision of this machine, side by side.

    All score the same documents, taking turns, each in a process of its own; figures are medians. Score
    differences are from torch in fp32, on logits. --engine and --precision choose what is measured beside it.
    """
    with show_messages(messages) as activity:
        reading = fields.read_options(source_format)
        if file is None:
            lists: Lists = sample_lists(_QUERIES, _SAMPLE_DOCUMENTS)
        else:
            lists = _lists_of_file(file, reading)
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
            "rank_agreement": statistics.fmean(agreements) if agreements else None,
        }


def _measure(model: ModelOptions, lists: Lists, rounds: int, activity: Activity) -> list[_Measure]:
    """Measure every choice that works here, the reference first; in turns, so that all meet one noise."""
    from ..engines.hardware import find_device

    device = find_device(model.device)
    documents = sum(len(texts) for _, texts in lists)
    measures: list[_Measure] = []
    with ExitStack() as stack:
        workers = []
        for engine, precision in _choose(model, device):
            activity.stage(f"Loading {engine} {precision}")
            keywords = as_keywords(model) | {"engine": engine, "precision": precision, "device": device}
            # What is compiled at first use is compiled here, so that it counts for nothing below. Should it
            # fail, the worker will tell.
            _run_start(keywords, lists)
            worker = stack.enter_context(_worker(keywords, lists))
            try:
                worker.answer()  # a first round, to warm up
            except _RefusedError as refused:
                if (engine, precision) == _REFERENCE:
                    raise refused.error from None
                log.warning("%s %s is left out: %s", engine, precision, refused.error.message)
                continue
            workers.append((worker, keywords))
            measures.append(_Measure(engine, precision, documents))
        activity.start(total=rounds * len(workers))
        for _ in range(rounds):
            for measure, (worker, keywords) in zip(measures, workers, strict=True):
                try:
                    answer = worker.answer()
                except _RefusedError as refused:
                    raise refused.error from None
                measure.elapsed_seconds.append(answer["elapsed_seconds"])
                measure.peak_memory_bytes = answer["peak_memory_bytes"]
                measure.scores = answer["scores"]
                measure.start_seconds.append(_start_seconds(keywords, lists))
                activity.advance(1)
    for measure in measures:
        measure.reference = measures[0].scores
    return measures


def _choose(model: ModelOptions, device: str) -> list[tuple[str, str]]:
    """Give the engines and precisions to measure: the reference, and what was asked for of the others."""
    from ..engines.hardware import has_native_bf16

    kind = device.partition(":")[0]
    choices = list(_CHOICES[kind])
    if kind == "cpu" and has_native_bf16():
        choices.append(("torch", "bf16"))
    asked = [
        (engine, precision)
        for engine, precision in choices
        if model.engine in ("auto", engine) and model.precision in ("auto", precision)
    ]
    if not asked:
        there = ", ".join(" ".join(choice) for choice in choices)
        raise UsageError(
            f"Nothing on {device} goes by --engine {model.engine} --precision {model.precision}.",
            hint=f"There are {there}.",
        )
    return [_REFERENCE, *(choice for choice in asked if choice != _REFERENCE)]


class _RefusedError(Exception):
    """What a worker said instead of an answer."""

    def __init__(self, error: CeRerankError) -> None:
        super().__init__(error.message)
        self.error = error


class _Worker:
    """A process that scores the same lists whenever it is asked to; see `bench_worker.py`."""

    def __init__(self, process: subprocess.Popen[str], complaints: Path) -> None:
        self._process = process
        self._complaints = complaints

    def answer(self) -> dict[str, Any]:
        """Run a round and give what came of it; raises _RefusedError when the process has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            kind = _REFUSALS.get(answer.get("kind", ""), CeRerankError)
            raise _RefusedError(kind(answer["error"], hint=answer.get("hint", "")))
        return answer

    def _last_words(self) -> str:
        """Give the last line that the process left on stderr: what ended it."""
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
                with suppress(BrokenPipeError):
                    process.stdin.close()


def _start_seconds(keywords: dict[str, Any], lists: Lists) -> float:
    """Time a whole process that ranks a handful of documents, from its start to its end."""
    started = time.perf_counter()
    ended = _run_start(keywords, lists)
    seconds = time.perf_counter() - started
    if ended.returncode:
        choice = f"{keywords['engine']} {keywords['precision']}"
        raise CeRerankError(f"A process that was to rank by {choice} failed.", hint=ended.stderr.strip())
    return seconds


def _run_start(keywords: dict[str, Any], lists: Lists) -> subprocess.CompletedProcess[str]:
    """Rank a handful of documents in a process of its own."""
    documents = [text for _, texts in lists for text in texts][:_START_DOCUMENTS]
    with tempfile.TemporaryDirectory() as folder:
        # Not as arguments, which have no room for a long document.
        query, file = Path(folder, "query"), Path(folder, "documents.jsonl")
        query.write_text(lists[0][0], encoding="utf-8")
        file.write_text("".join(json.dumps(text) + "\n" for text in documents), encoding="utf-8")
        command = [sys.executable, "-m", "ce_rerank", "rank", "-Q", *_as_arguments(keywords)]
        return subprocess.run(
            [*command, "--query-file", str(query), "-f", str(file)],
            check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace",
        )  # fmt: skip


def _as_arguments(keywords: dict[str, Any]) -> list[str]:
    options = {f"--{name.replace('_', '-')}": value for name, value in keywords.items()}
    flags = [option for option, value in options.items() if value is True]
    return flags + [
        f"{option}={value}"
        for option, value in options.items()
        if value is not None and not isinstance(value, bool)
    ]


def _compare(scores: list[list[float]], reference: list[list[float]]) -> tuple[list[float], list[float]]:
    """Give the absolute difference of every score, and Kendall's tau of every query's order.

    A query with one document has no order. Where all are equal for one of the two, tau has no value: that
    agrees with the other where it is so, too, and with nothing else.
    """
    from scipy.stats import kendalltau

    differences, agreements = [], []
    for ours, theirs in zip(scores, reference, strict=True):
        differences += [abs(our - their) for our, their in zip(ours, theirs, strict=True)]
        values = len(set(ours)), len(set(theirs))
        if min(values) > 1:
            agreements.append(float(kendalltau(ours, theirs).statistic))
        elif len(ours) > 1:
            agreements.append(float(values[0] == values[1]))
    return differences, agreements


def _lists_of_file(file: str, reading: ReadOptions) -> Lists:
    source = Source.from_name(file)
    texts = [document.text for document in read_documents(source, reading)]
    if len(texts) < _START_DOCUMENTS:
        raise InputError(
            f"{source.name}: {len(texts)} documents are too few to measure with.",
            hint="Give a hundred or so.",
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
        peak, agreement = result["peak_memory_bytes"], result["rank_agreement"]
        table.add_row(
            f"{result['engine']} {result['precision']}",
            f"{result['start_seconds']:.2f}",
            f"{result['documents_per_second']:.0f}",
            f"{result['documents_per_second'] / slowest:.1f}x",
            "?" if peak is None else f"{peak / 2**20:.0f}",
            f"{result['largest_difference']:.2g}",
            f"{result['mean_difference']:.2g}",
            "?" if agreement is None else f"{agreement:.3f}",
        )
    console = stdout_console()
    console.print(table)
    documents = sum(len(texts) for _, texts in lists)
    console.print(
        f"{documents} documents, {len(lists)} queries. start: a process that ranks {_START_DOCUMENTS}. "
        "MB: peak memory. diff: of logits, from torch fp32. tau: Kendall's, of the order.",
        style="dim",
    )
