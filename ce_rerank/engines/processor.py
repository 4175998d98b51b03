"""What this machine's CPU can do, asked of the operating system."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_NATIVE_BF16 = {"amx_bf16", "avx512_bf16"}
_FLAG_LINES = ("flags", "Features")


@cache
def cpu_flags() -> frozenset[str]:
    """Give the names of the instruction sets of the first CPU, as Linux lists them; elsewhere none."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in _FLAG_LINES:
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()


def has_native_bf16() -> bool:
    """Say whether bf16 products are instructions here; where that cannot be told, they count as emulated."""
    return bool(cpu_flags() & _NATIVE_BF16)


def has_amx() -> bool:
    """Say whether the CPU multiplies bf16 in tiles, an order of magnitude faster than in vectors."""
    return "amx_bf16" in cpu_flags()


def vector_width() -> int:
    """Give how many float32s the widest registers that are used hold; where that cannot be told, 16."""
    return 8 if "avx2" in cpu_flags() and "avx512f" not in cpu_flags() else 16


def cpu_identity() -> str:
    """Give what tells apart CPUs that may compute differently."""
    return " ".join([platform.system(), platform.machine(), *sorted(cpu_flags())])


def count_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
