"""Waiting for a fact instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(happens: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
