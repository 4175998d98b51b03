"""Which device to run on, without loading torch to learn that there is only a CPU."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from pathlib import Path

from ..errors import UnavailableError, UsageError
from .openvino.compilable import IMPORT_FAILURES

_CUDA_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def parse_device(device: str) -> str:
    """Check the form of a device's name; raises UsageError for one that is none of ours."""
    name = device.strip().lower()
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError(
            f"There is no kind of device called {device!r}.", hint="Give auto, cpu, cuda, cuda:N or mps."
        )
    return name


def find_device(device: str) -> str:
    """Give the device to run on: cpu, cuda, cuda:N or mps; `auto` picks cuda, then mps, then cpu.

    Raises UnavailableError, naming the devices that are there, for one that is not.
    """
    name = parse_device(device)
    if name == "cpu" or (name == "auto" and not _may_have_accelerator()):
        return "cpu"
    there = available_devices()
    if name == "auto":
        return there[0]
    if name == "cuda" and any(other.startswith("cuda") for other in there):
        return "cuda"
    if name not in there:
        raise UnavailableError(
            f"The device {name} is not to be had here.",
            hint=f"Give --device {' or '.join(there)}." + _missing_cuda_hint(name),
        )
    return name


def available_devices() -> list[str]:
    """List the devices that torch can use here, the best first; the last is always cpu.

    Loads torch; raises UnavailableError when it cannot be loaded.
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


def _may_have_accelerator() -> bool:
    """Ask the driver, not torch: False is certain, True is a reason to ask torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return _cuda_device_count() > 0 or Path("/dev/kfd").exists()


def _cuda_device_count() -> int:
    for driver in _CUDA_DRIVERS:
        try:
            cuda = ctypes.CDLL(driver)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _missing_cuda_hint(name: str) -> str:
    import torch

    if name.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
        return " The torch that is installed is a build without CUDA."
    return ""
