"""Stand-ins for batches: engines, and `python batch_fakes.py` to run one that is as touchy as a real one.

The command line is that of `ce-rerank`; CE_RERANK_TEST_SLEEP is how long each batch takes, in seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes import CountingEngine

from ce_rerank import Reranker
from ce_rerank.batch.read import CandidateReader
from ce_rerank.engines.base import EngineOptions
from ce_rerank.engines.batching import Float32s, TokenBatch
from ce_rerank.errors import InputError
from ce_rerank.formats.source import Reject
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.types import Candidates, Document, Query

FEW_TOKENS = 32_768
"""A window of 1,024 pairs of the model here, which reads 32 tokens of each; the first one has 128."""


class NeighbourEngine(CountingEngine):
    """Its scores depend, in their last digits, on what else is in the batch, as floating point's do."""

    def __init__(self, sleep_seconds: float = 0) -> None:
        super().__init__(max_length=32)
        self._sleep_seconds = sleep_seconds

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        for batch in batches:
            time.sleep(self._sleep_seconds)
            touch = zlib.crc32(batch["input_ids"].tobytes()) % 1000 / 1e5
            yield from (logits + np.float32(touch) for logits in super().infer([batch]))


class SlowEngine(CountingEngine):
    """Leaves the number of its process in a folder, and takes its time."""

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
    """Open the reranker of a worker of Ray, where no engine can be patched."""
    return Reranker.from_engine(SlowEngine(pids, sleep_seconds))


def open_deadly(**model: Any) -> Reranker:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class GivenLists(CandidateReader):
    """Candidates that are there already; an InputError among them is a row that cannot be read."""

    def __init__(self, items: Iterable[Candidates | InputError]) -> None:
        self._items = items
        self.drawn = 0

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        for item in self._items:
            self.drawn += 1
            if isinstance(item, InputError):
                reject(item, "its text")
            else:
                yield item


def made_lists(queries: int, documents: int) -> list[Candidates]:
    """Lists whose documents are all different, and of several lengths."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return [
        Candidates(
            Query(f"red {words[query % 9]}", f"q{query}"),
            [
                Document(
                    " ".join(words[(query * 7 + place * part) % 9] for part in range(1 + place % 11)), place
                )
                for place in range(documents)
            ],
        )
        for query in range(queries)
    ]


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_nested(path: Path, lists: Iterable[Candidates]) -> Path:
    """Write candidates as nested JSONL."""
    rows = [
        {
            "query_id": one.query.id,
            "query": one.query.text,
            "documents": [{"id": document.id, "text": document.text} for document in one.documents],
        }
        for one in lists
    ]
    path.write_text(jsonl(*rows), encoding="utf-8")
    return path


def shape(lists: Iterable[Candidates]) -> list[tuple[object, str, list[tuple[object, str]]]]:
    """Return the ids and texts of candidates."""
    return [
        (one.query.id, one.query.text, [(document.id, document.text) for document in one.documents])
        for one in lists
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_counting_checkpoint(folder: Path) -> Path:
    """Write what is taken for a checkpoint until it is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def main() -> None:
    import ce_rerank.engines
    import ce_rerank.reranker
    from ce_rerank.cli.app import main

    named = os.environ.get("CE_RERANK_MODEL", "counting")

    def load_engine(checkpoint: Checkpoint, options: EngineOptions) -> NeighbourEngine:
        engine = NeighbourEngine(float(os.environ.get("CE_RERANK_TEST_SLEEP", "0")))
        engine.info = replace(engine.info, model=named)
        return engine

    ce_rerank.engines.load_engine = load_engine
    ce_rerank.reranker.POOL_TOKENS = FEW_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CE_RERANK_MODEL", str(make_counting_checkpoint(Path(folder) / "counting")))
        main()


if __name__ == "__main__":
    sys.exit(main())
