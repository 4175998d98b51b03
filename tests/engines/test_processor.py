from __future__ import annotations

import os
import platform
import sys

import pytest

from ce_rerank.engines import processor
from ce_rerank.engines.processor import (
    count_cpus,
    cpu_flags,
    cpu_identity,
    has_amx,
    has_native_bf16,
    vector_width,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the flags are read from Linux")


@on_linux
def test_the_flags_of_the_cpu_are_read() -> None:
    known = {"x86_64": "sse2", "aarch64": "fp"}
    if platform.machine() not in known:
        pytest.skip("no flag of this kind of CPU is known here")
    assert known[platform.machine()] in cpu_flags()


@pytest.mark.parametrize(
    ("flags", "native", "in_tiles"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, True, False),
        ({"avx512_bf16", "amx_bf16"}, True, True),
        ({"avx2", "avx512f"}, False, False),
        (set(), False, False),
    ],
)
def test_bf16_is_native_only_where_a_flag_says_so(
    flags: set[str], native: bool, in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpu_flags", lambda: frozenset(flags))
    assert (has_native_bf16(), has_amx()) == (native, in_tiles)


@pytest.mark.parametrize(
    ("flags", "width"),
    [({"sse2", "avx2", "fma"}, 8), ({"avx2", "avx512f"}, 16), ({"fp", "asimd", "sve"}, 16), (set(), 16)],
)
def test_vectors_are_as_wide_as_the_cpu_can_have_them(
    flags: set[str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpu_flags", lambda: frozenset(flags))
    assert vector_width() == width


def test_the_identity_tells_the_machine_and_what_it_can_do() -> None:
    assert cpu_identity().split()[:2] == [platform.system(), platform.machine()]
    assert set(cpu_identity().split()[2:]) == cpu_flags()


@on_linux
def test_a_process_counts_the_cpus_that_it_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert count_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert count_cpus() == len(allowed)
