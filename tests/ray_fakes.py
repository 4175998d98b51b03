"""A stand-in for the model of Ray's workers.

A worker is a process of its own, where nothing can be put in the place of an engine: the job is given what
opens the reranker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fakes import CountingEngine

from ce_rerank import Reranker
from ce_rerank.engines.batching import Float32s, TokenBatch


class SlowEngine(CountingEngine):
    """It leaves the number of its process in a folder, and takes its time."""

    batch_tokens = 4096

    def __init__(self, pids: str, sleep_seconds: float) -> None:
        super().__init__(max_length=32)
        self._sleep_seconds = sleep_seconds
        if pids:
            Path(pids, str(os.getpid())).touch()

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        for logits in super().infer(batches):
            time.sleep(self._sleep_seconds)
            yield logits


def open_counting(*, pids: str = "", sleep_seconds: float = 0, **model: Any) -> Reranker:
    return Reranker.from_engine(SlowEngine(pids, sleep_seconds))


def open_deadly(**model: Any) -> Reranker:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
