"""What this machine can compute with: devices, instructions of the CPU, and how many threads may run."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import UnavailableError, UsageError

IMPORT_FAILURES = (ImportError, OSError, RuntimeError, AttributeError, MemoryError)
"""The errors of importing a large library: a part is missing or does not fit, or memory is short."""

_CUDA_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_NATIVE_BF16 = {"amx_bf16", "avx512_bf16"}
_INT8 = {"avx_vnni", "avx512_vnni", "amx_int8"}


def parse_device(device: str) -> str:
    """Return a device's name in lower case; raise UsageError for an unknown one."""
    name = str(device).strip().lower()
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError(
            f"There is no kind of device called {device!r}.", hint="Give auto, cpu, cuda, cuda:N or mps."
        )
    return name


def find_device(device: str) -> str:
    """Return the device to run on: cpu, cuda, cuda:N or mps; `auto` picks cuda, then mps, then cpu.

    Loads torch only if there may be another device than the CPU. Raises UnavailableError, with the devices
    that are here, for one that is not.
    """
    name = parse_device(device)
    if name == "cpu" or (name == "auto" and not may_have_accelerator()):
        return "cpu"
    there = available_devices()
    if name == "auto":
        return there[0]
    if name in there or (name == "cuda" and there[0].startswith("cuda")):
        return name
    raise UnavailableError(
        f"The device {name} is not available here.",
        hint=f"Give --device {' or '.join(there)}. `ce-rerank doctor` says what is wrong here.",
    )


def available_devices() -> list[str]:
    """List the devices that torch can use here, the best first; the last is always cpu.

    Loads torch; raises UnavailableError if it cannot be loaded.
    """
    try:
        import torch
    except IMPORT_FAILURES as error:
        raise UnavailableError(
            f"torch, which finds the devices, cannot be loaded: {error}.",
            hint="Give --device cpu to do without. `ce-rerank doctor` says what is wrong here.",
        ) from error

    there = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        there.append("mps")
    return [*there, "cpu"]


def describe_device(device: str) -> str:
    """Return a device with the name of its GPU: `cuda:0 (NVIDIA H100)`. Loads torch for a GPU."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def may_have_accelerator() -> bool:
    """Ask the driver, not torch: False is certain, True is a reason to ask torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    for driver in _CUDA_DRIVERS:
        with suppress(OSError):
            cuda, count = ctypes.CDLL(driver), ctypes.c_int(0)
            if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
                return True
    return Path("/dev/kfd").exists()


@cache
def cpu_flags() -> frozenset[str]:
    """Return the names of the CPU's instruction sets, as Linux lists them; empty on other systems."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def has_native_bf16() -> bool:
    """Whether the CPU has instructions for bf16 products; False if that is unknown."""
    return bool(cpu_flags() & _NATIVE_BF16)


def has_int8() -> bool:
    """Whether the CPU has the instructions that OpenVINO needs for int8 layers."""
    return bool(cpu_flags() & _INT8)


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 in tiles, which is ten times as fast as in vectors."""
    return "amx_bf16" in cpu_flags()


def vector_width() -> int:
    """Return how many float32s a vector register holds; 16 if that is unknown."""
    return 8 if "avx2" in cpu_flags() and "avx512f" not in cpu_flags() else 16


def cpu_identity() -> str:
    """Return a text that differs between CPUs that may compute differently."""
    return " ".join([platform.system(), platform.machine(), *sorted(cpu_flags())])


def count_cpus() -> int:
    """Count the CPUs that this process may use, at least 1: those it may run on, within its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, round(quota)))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many CPUs a container grants this process (cgroup v2 or v1); None without a limit."""
    with suppress(OSError, ValueError):
        limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError):
        files = (root / f"cpu/cpu.cfs_{name}_us" for name in ("quota", "period"))
        quota, of = (int(file.read_text(encoding="ascii")) for file in files)
        return None if quota < 0 else quota / of
    return None
