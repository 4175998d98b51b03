from __future__ import annotations

import pytest

from ce_rerank import UnavailableError, UsageError
from ce_rerank.engines.devices import find_device, parse_device


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:3", "mps", " CUDA:0 "])
def test_known_kinds_of_device_are_taken(name: str) -> None:
    assert parse_device(name) == name.strip().lower()


@pytest.mark.parametrize("name", ["", "tpu", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda 0"])
def test_an_unknown_kind_of_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"Give auto, cpu, cuda, cuda:N or mps\."):
        parse_device(name)


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == "cpu"


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnavailableError, match=r"cuda:97 is not to be had here\. Give --device .*cpu"):
        find_device("cuda:97")
