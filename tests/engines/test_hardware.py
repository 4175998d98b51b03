from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ce_rerank import UnavailableError, UsageError
from ce_rerank.engines import hardware
from ce_rerank.engines.hardware import (
    count_cpus,
    cpu_quota,
    find_device,
    has_amx,
    has_native_bf16,
    parse_device,
    vector_width,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the flags are read from Linux")


@pytest.mark.parametrize(
    ("flags", "native", "in_tiles", "width"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, True, False, 16),
        ({"avx512f", "avx512_bf16", "amx_bf16"}, True, True, 16),
        ({"sse2", "avx2", "fma"}, False, False, 8),
        ({"fp", "asimd", "sve"}, False, False, 16),
        (set(), False, False, 16),
    ],
)
def test_what_a_cpu_can_do_follows_from_its_flags(
    flags: set[str], native: bool, in_tiles: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert (has_native_bf16(), has_amx(), vector_width()) == (native, in_tiles, width)


@on_linux
def test_a_process_counts_the_cpus_that_it_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert count_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert count_cpus() == len(allowed)
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 0.2)
    assert count_cpus() == 1


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read(files: dict[str, str], cpus: float | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cpu_quota(tmp_path) == cpus


def test_known_kinds_of_device_are_taken_and_others_are_a_usage_error() -> None:
    for name in ("auto", "cpu", "cuda", "cuda:3", "mps", " CUDA:0 "):
        assert parse_device(name) == name.strip().lower()
    for name in ("", "tpu", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(UsageError, match=r"Give auto, cpu, cuda, cuda:N or mps\."):
            parse_device(name)


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnavailableError, match=r"cuda:97 is not available here\. Give device.*cpu"):
        find_device("cuda:97")
