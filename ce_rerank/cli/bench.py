"""`ce-rerank bench`: the engines and precisions of this machine, side by side on the same documents."""

from __future__ import annotations

import json
import logging
import random
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InputError, UnavailableError, UsageError
from ..formats.documents import InputFormat, read_documents
from ..formats.source import Source
from .console import Activity, draw_plainly, make_console
from .doctor import call_apart
from .options import FROM, InputOptions, MessageOptions, ModelOptions, option

log = logging.getLogger("ce_rerank")

_QUERIES = 10
_SAMPLE_DOCUMENTS = 20  # a query
_START_DOCUMENTS = 4
_QUERY_WORDS = 8
_QUERY_CHARACTERS = 60  # where words are not separated by spaces
_REFERENCE = ("torch", "fp32")
_CHOICES = {
    "cpu": [_REFERENCE, ("openvino", "fp32"), ("openvino", "bf16")],
    "mps": [_REFERENCE, ("torch", "fp16")],
    "cuda": [_REFERENCE, ("torch", "bf16"), ("torch", "fp16")],
}
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
    to: Annotated[Literal["table", "json"], option("--to", help="The format.")] = "table",
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Measure every engine and precision of this machine, side by side.

    All score the same documents, in turns, each in a process of its own; figures are medians. Logits are
    compared with those of torch in fp32. --engine and --precision choose what else is measured.
    """
    from ..models.store import require_local

    require_local(model.model)
    with Activity(messages) as activity:
        reading = fields.read_options(source_format)
        if file is None:
            lists = sample_lists(_QUERIES, _SAMPLE_DOCUMENTS)
        else:
            texts = [document.text for document in read_documents(Source.from_name(file), reading)]
            if not texts:
                raise InputError(f"{file}: there is no document.", hint="Give a hundred or so.")
            lists = split_documents(texts)
        results = _measure(model, lists, rounds, activity)
    if to == "json":
        print(json.dumps(results, indent=2))
    else:
        _draw(results, lists)


def sample_lists(queries: int, documents: int) -> Lists:
    """Return made-up queries and documents of about 95 tokens, always the same."""
    chance = random.Random(20)

    def make_passage() -> str:
        return " ".join(chance.sample(_SENTENCES, chance.randint(3, 8)))

    return [
        (_begin(chance.choice(_SENTENCES).rstrip(".")), [make_passage() for _ in range(documents)])
        for _ in range(queries)
    ]


def split_documents(texts: Sequence[str]) -> Lists:
    """Return queries for a person's own documents: the beginnings of some, each with a part of them."""
    share = -(-len(texts) // _QUERIES)
    shares = [list(texts[start : start + share]) for start in range(0, len(texts), share)]
    return [(_begin(share[0]) or "?", share) for share in shares]


def _begin(text: str) -> str:
    return " ".join(text[: 10 * _QUERY_CHARACTERS].split()[:_QUERY_WORDS])[:_QUERY_CHARACTERS]


def choose(model: ModelOptions, device: str) -> list[tuple[str, str]]:
    """Return the engines and precisions to measure: the reference, and those of the others asked for."""
    from ..engines.hardware import has_int8, has_native_bf16

    kind = device.partition(":")[0]
    choices = list(_CHOICES[kind])
    if kind == "cpu":
        choices += [("openvino", "int8")] * has_int8() + [("torch", "bf16")] * has_native_bf16()
    asked = [
        (engine, precision)
        for engine, precision in choices
        if model.engine in ("auto", engine) and model.precision in ("auto", precision)
    ]
    if not asked:
        raise UsageError(
            f"{device} has no --engine {model.engine} --precision {model.precision}.",
            hint=f"There are {', '.join(' '.join(choice) for choice in choices)}.",
        )
    return [_REFERENCE, *(choice for choice in asked if choice != _REFERENCE)]


def _measure(model: ModelOptions, lists: Lists, rounds: int, activity: Activity) -> list[dict[str, Any]]:
    """Measure every choice that works here, the reference first; in turns, so that noise affects all."""
    from ..engines.hardware import find_device

    device = find_device(model.device)
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def measure(choice: tuple[str, str], lists: Lists) -> dict[str, Any]:
        keywords = {**asdict(model), "engine": choice[0], "precision": choice[1], "device": device}
        return call_apart(score_lists, keywords=keywords, lists=lists)

    for choice in choose(model, device):
        activity.stage(f"Loading {' '.join(choice)}")
        try:
            measure(choice, lists[:1])  # the first use compiles the model
            measured[choice] = []
        except UnavailableError as error:
            if choice == _REFERENCE:
                raise
            log.warning("%s %s is left out: %s", *choice, error.message)
    activity.start(total=rounds * len(measured))
    for _ in range(rounds):
        for choice, its_rounds in measured.items():
            its_rounds.append(measure(choice, lists))
            activity.advance()
    reference = measured[_REFERENCE][0]["scores"]
    return [
        {"engine": engine, "precision": precision, **summarise(its_rounds, reference)}
        for (engine, precision), its_rounds in measured.items()
    ]


def summarise(rounds: Sequence[dict[str, Any]], reference: Sequence[float]) -> dict[str, Any]:
    """Return the medians of the rounds, and how far the scores are from the reference's."""
    differences = [abs(our - their) for our, their in zip(rounds[0]["scores"], reference, strict=True)]
    elapsed_seconds = statistics.median(one["elapsed_seconds"] for one in rounds)
    return {
        "device": rounds[0]["device"],
        "packed": rounds[0]["packed"],
        "start_seconds": statistics.median(one["start_seconds"] for one in rounds),
        "documents_per_second": len(differences) / elapsed_seconds,
        "peak_memory_bytes": rounds[-1]["peak_memory_bytes"],
        "largest_difference": max(differences),
        "mean_difference": statistics.fmean(differences),
    }


def _draw(results: list[dict[str, Any]], lists: Lists) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("engine", no_wrap=True)
    for title in ("start s", "docs/s", "times", "MB", "largest diff", "mean diff"):
        table.add_column(title, justify="right")
    slowest = results[0]["documents_per_second"]
    for result in results:
        peak = result["peak_memory_bytes"]
        table.add_row(
            f"{result['engine']} {result['precision']}{' packed' * result['packed']}",
            f"{result['start_seconds']:.2f}",
            f"{result['documents_per_second']:.0f}",
            f"{result['documents_per_second'] / slowest:.1f}x",
            "?" if peak is None else f"{peak / 2**20:.0f}",
            f"{result['largest_difference']:.2g}",
            f"{result['mean_difference']:.2g}",
        )
    console = make_console()
    draw_plainly(console, table)
    documents = sum(len(texts) for _, texts in lists)
    told = (
        f"{documents} documents, {len(lists)} queries, on {results[0]['device']}. "
        f"start: to load the model and rank {_START_DOCUMENTS} documents. MB: peak memory. "
        "diff: of logits, from torch fp32."
    )
    draw_plainly(console, Text(told, style="dim"))


def score_lists(keywords: dict[str, Any], lists: Lists) -> dict[str, Any]:
    """Load a model and rank a few documents, then score all lists; return the seconds of both, and logits."""
    started = time.perf_counter()
    from ..reranker import Reranker

    reranker = Reranker(**keywords)
    query, texts = lists[0]
    reranker.rank(query, texts[:_START_DOCUMENTS])
    start_seconds = time.perf_counter() - started
    list(reranker.rank_many(lists[:3]))  # to warm up
    started = time.perf_counter()
    rankings = list(reranker.rank_many(lists, scores="logit"))
    elapsed_seconds = time.perf_counter() - started
    from ..engines.hardware import describe_device

    in_order = [hit for ranking in rankings for hit in sorted(ranking, key=lambda hit: hit.index)]
    return {
        "start_seconds": start_seconds,
        "elapsed_seconds": elapsed_seconds,
        "scores": [hit.score for hit in in_order],
        "peak_memory_bytes": peak_memory_bytes(),
        "device": describe_device(reranker.info.device),
        "packed": reranker.info.packed,
    }


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has held; None where that is unknown."""
    # On Linux `ru_maxrss` is at least what the parent process held.
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else None
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return None
