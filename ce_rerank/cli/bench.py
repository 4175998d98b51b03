"""`ce-rerank bench`: the engines and precisions of this machine, side by side on the same documents."""

from __future__ import annotations

import json
import logging
import random
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
from .commands import option
from .console import Activity, show_messages, stdout_console
from .options import FROM, InputOptions, MessageOptions, ModelOptions, as_keywords

log = logging.getLogger("ce_rerank")

_QUERIES = 10
_SAMPLE_DOCUMENTS = 20  # a query
_START_DOCUMENTS = 4
_QUERY_WORDS = 8
_QUERY_CHARACTERS = 60  # where words are not separated by spaces
_REFERENCE = ("torch", "fp32")
_CHOICES = {
    "cpu": (("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    "mps": (("torch", "fp32"), ("torch", "fp16")),
    "cuda": (("torch", "fp32"), ("torch", "bf16"), ("torch", "fp16")),
}
_ERRORS = {kind.__name__: kind for kind in (UsageError, InputError, UnavailableError)}
_SENTENCES = (
    "The harbour master writes the height of the tide into a ledger twice a day.",
    "Bees find their way home by the angle of the sun, and by memory when it is overcast.",
    "A loaf that is cut while it is hot goes stale sooner than one left to cool on a rack.",
    "The old bridge was closed in spring because two of its piers had begun to sink.",
    "Salt was once so dear that roads were named after it.",
    "When the night train was late, the station café stayed open and lent out blankets.",
    "Copper roofs turn green within a few decades, faster near the sea.",
    "The survey counted forty kinds of moss on a single wall of the abbey.",
    "A lens of ice focuses sunlight well enough to light dry grass.",
    "In a drought the oaks drop their smallest branches first.",
    "The translators agreed on a common list of terms before they began the second volume.",
    "Glaciers carry boulders far from where they broke loose and set them down in fields.",
    "Her grandfather repaired clocks and could name the town's church bells with his eyes shut.",
    "The library lends seeds in spring and takes them back in autumn.",
    "A kite flies steadier with a longer tail, but it climbs more slowly.",
    "Compressed air drives the drill, and the same hose blows the dust out of the hole.",
    "The ferry turns around in a basin that was dug for ships a quarter of its length.",
    "Cheese ripens in the cellar for a year, turned by hand every week.",
    "The first telephone line in the valley ran along the fence posts.",
    "Ravens remember a face that has wronged them for years.",
    "Concrete goes on hardening long after the formwork has been taken away.",
    "On clear nights the desert gives back its heat within an hour of sunset.",
    "The map showed a well where there was only a ring of stones.",
    "A cello is tuned an octave below a viola, string for string.",
    "Fog forms over the river when cold air slides down from the hills.",
    "The committee measured noise at the runway's end for three weeks in June.",
    "Woollen coats shed rain for a while because of the grease that is left in the fibre.",
    "Eels cross wet meadows at night to get from one pond to another.",
    "The archive keeps its photographs on glass in drawers lined with felt.",
    "Pressing the pedal halfway lets the note fade instead of ending it.",
    "A mill on this stream ground flour in winter and sawed planks in summer.",
    "Streetlights that point downwards use less power and leave the stars to be seen.",
)

Lists = Sequence[tuple[str, list[str]]]
"""Queries, each with the texts that are ranked for it."""


def bench(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="Documents to measure with, - for stdin. Default: a sample."),
    ] = None,
    *,
    source_format: Annotated[InputFormat | None, FROM] = None,
    fields: InputOptions,
    rounds: Annotated[int, option("--rounds", metavar="N", min=1, help="How often each is measured.")] = 3,
    to: Annotated[
        Literal["table", "json"] | None, option("--to", help="Default: a table on a terminal, else json.")
    ] = None,
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
            lists = sample_lists(_QUERIES, _SAMPLE_DOCUMENTS)
        else:
            lists = split_documents(_read_texts(Source.from_name(file), reading))
        results = [measure.summary() for measure in _measure(model, lists, rounds, activity)]
    if to == "json" or (to is None and not sys.stdout.isatty()):
        json.dump(results, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _draw(results, lists)


def sample_lists(queries: int, documents: int) -> Lists:
    """Make queries with documents each, of about 95 tokens; the same ones every time."""
    chance = random.Random(20)

    def make_passage() -> str:
        return " ".join(chance.sample(_SENTENCES, chance.randint(3, 8)))

    return [
        (_begin(chance.choice(_SENTENCES).rstrip(".")), [make_passage() for _ in range(documents)])
        for _ in range(queries)
    ]


def split_documents(texts: Sequence[str]) -> Lists:
    """Make queries of a person's own documents: the beginnings of some of them, each with its share."""
    share = -(-len(texts) // _QUERIES)
    shares = [list(texts[start : start + share]) for start in range(0, len(texts), share)]
    return [(_begin(share[0]) or "?", share) for share in shares]


def _begin(text: str) -> str:
    return " ".join(text[: 10 * _QUERY_CHARACTERS].split()[:_QUERY_WORDS])[:_QUERY_CHARACTERS]


def _read_texts(source: Source, reading: ReadOptions) -> list[str]:
    texts = [document.text for document in read_documents(source, reading)]
    if len(texts) < _START_DOCUMENTS:
        raise InputError(
            f"{source.name}: {len(texts)} documents are too few to measure with.",
            hint="Give a hundred or so.",
        )
    return texts


@dataclass
class _Measure:
    """What one engine at one precision gave, round after round."""

    engine: str
    precision: str
    start_seconds: list[float] = field(default_factory=list)
    elapsed_seconds: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    device: str = "cpu"
    packed: bool = False

    def summary(self) -> dict[str, Any]:
        """Return the medians, and how far the scores are from the reference's."""
        differences, agreements = compare_scores(self.scores, self.reference)
        return {
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "packed": self.packed,
            "start_seconds": statistics.median(self.start_seconds),
            "documents_per_second": len(differences) / statistics.median(self.elapsed_seconds),
            "peak_memory_bytes": self.peak_memory_bytes,
            "largest_difference": max(differences),
            "mean_difference": statistics.fmean(differences),
            "rank_agreement": statistics.fmean(agreements) if agreements else None,
        }


def _measure(model: ModelOptions, lists: Lists, rounds: int, activity: Activity) -> list[_Measure]:
    """Measure every choice that works here, the reference first; in turns, so that all meet one noise."""
    from ..engines.hardware import find_device

    device = find_device(model.device)
    measures: list[_Measure] = []
    workers: list[tuple[_Worker, list[str]]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = _write_inputs(folder, lists)
        for engine, precision in choose(model, device):
            activity.stage(f"Loading {engine} {precision}")
            keywords = as_keywords(model) | {"engine": engine, "precision": precision, "device": device}
            command = [*inputs, *_as_arguments(keywords)]
            try:
                with suppress(CeRerankError):  # which the worker raises again, in its own words
                    time_start(command)  # what is compiled at first use is compiled here, and not measured
                worker = stack.enter_context(_start_worker(keywords, lists, folder))
                worker.answer()  # a first round, to warm up
            except CeRerankError as error:
                if (engine, precision) == _REFERENCE:
                    raise
                log.warning("%s %s is left out: %s", engine, precision, error.message)
                continue
            workers.append((worker, command))
            measures.append(_Measure(engine, precision))
        activity.start(total=rounds * len(workers))
        for _ in range(rounds):
            for measure, (worker, command) in zip(measures, workers, strict=True):
                answer = worker.answer()
                measure.elapsed_seconds.append(answer["elapsed_seconds"])
                measure.peak_memory_bytes = answer["peak_memory_bytes"]
                measure.scores = answer["scores"]
                measure.device, measure.packed = answer["device"], answer["packed"]
                measure.start_seconds.append(time_start(command))
                activity.advance(1)
    for measure in measures:
        measure.reference = measures[0].scores
    return measures


def choose(model: ModelOptions, device: str) -> list[tuple[str, str]]:
    """Return the engines and precisions to measure: the reference, and those of the others asked for."""
    from ..engines.hardware import has_int8, has_native_bf16

    kind = device.partition(":")[0]
    choices = list(_CHOICES[kind])
    if kind == "cpu" and has_int8():
        choices.append(("openvino", "int8"))
    if kind == "cpu" and has_native_bf16():
        choices.append(("torch", "bf16"))
    if kind == "cpu" and has_int8():
        choices.append(("openvino", "int8"))
    asked = [
        (engine, precision)
        for engine, precision in choices
        if model.engine in ("auto", engine) and model.precision in ("auto", precision)
    ]
    if not asked:
        raise UsageError(
            f"Nothing on {device} goes by --engine {model.engine} --precision {model.precision}.",
            hint=f"There are {', '.join(' '.join(choice) for choice in choices)}.",
        )
    return [_REFERENCE, *(choice for choice in asked if choice != _REFERENCE)]


class _Worker:
    """A process that scores the same lists whenever it is asked to; see `bench_worker.py`."""

    def __init__(self, process: subprocess.Popen[str], complaints: Path) -> None:
        self._process = process
        self._complaints = complaints

    def answer(self) -> dict[str, Any]:
        """Run a round and return what it gave; raise the error that has ended the process instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            said = self._complaints.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise CeRerankError(said[-1] if said else "A process of the measurement ended without a word.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], CeRerankError)(answer["error"], hint=answer["hint"])
        return answer


@contextmanager
def _start_worker(keywords: dict[str, Any], lists: Lists, folder: Path) -> Iterator[_Worker]:
    complaints = folder / f"{keywords['engine']}-{keywords['precision']}"
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


def _write_inputs(folder: Path, lists: Lists) -> list[str]:
    """Write a query and a few documents; return the arguments that rank them."""
    documents = [text for _, texts in lists for text in texts][:_START_DOCUMENTS]
    query, file = folder / "query", folder / "documents.jsonl"  # an argument has no room for a long document
    query.write_text(lists[0][0], encoding="utf-8")
    file.write_text("".join(json.dumps(text) + "\n" for text in documents), encoding="utf-8")
    return ["--query-file", str(query), "-f", str(file)]


def time_start(arguments: Sequence[str]) -> float:
    """Return the seconds of a whole process that ranks a few documents, from its start to its end."""
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "ce_rerank", "rank", "-Q", *arguments],
        check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise CeRerankError("A process that ranks a few documents failed.", hint=ended.stderr.strip())
    return seconds


def _as_arguments(keywords: dict[str, Any]) -> list[str]:
    options = {f"--{name.replace('_', '-')}": value for name, value in keywords.items()}
    return [name for name, value in options.items() if value is True] + [
        f"{name}={value}"
        for name, value in options.items()
        if value is not None and not isinstance(value, bool)
    ]


def compare_scores(
    scores: list[list[float]], reference: list[list[float]]
) -> tuple[list[float], list[float]]:
    """Return the absolute difference of every score, and Kendall's tau of every query's order.

    A query with one document has no order. Where all scores of a query are equal on one side, tau has no
    value: it is 1 if they are equal on the other side, too, and 0 if not.
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
            f"{result['engine']} {result['precision']}{' packed' * result['packed']}",
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
        f"{documents} documents, {len(lists)} queries, on {results[0]['device']}. "
        f"start: a process that ranks {_START_DOCUMENTS}. MB: peak memory. "
        "diff: of logits, from torch fp32. tau: Kendall's, of the order.",
        style="dim",
    )
