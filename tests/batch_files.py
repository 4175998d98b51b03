"""Candidate lists in rows, and ranking them into files, in whole and in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batch_fakes import GivenLists, NeighbourEngine, made_lists

from ce_rerank import InputError, RankOptions, Reranker
from ce_rerank.batch.events import Checkpoint
from ce_rerank.batch.output import FileOutput
from ce_rerank.batch.partial import PartialFile
from ce_rerank.batch.run import BatchRun
from ce_rerank.formats.rows import WriteOptions
from ce_rerank.types import Candidates, Query

RERANKER = Reranker.from_engine(NeighbourEngine())
LISTS = [Candidates(Query("red", "none"), []), *made_lists(20, 64)]
SETTINGS = {"--top-k": None}
SIZES = (1000,)


def write(
    path: Path,
    format: str = "jsonl",
    *,
    resume: bool = False,
    windows: int | None = None,
    settings: dict[str, Any] | None = None,
    sizes: tuple[int | None, ...] = SIZES,
    items: list[Candidates | InputError] | None = None,
    skip_bad_rows: bool = False,
) -> Checkpoint:
    """Rank into a file; with `windows`, no further than that."""
    with PartialFile(path, resume=resume) as file:
        output = FileOutput(file, format, WriteOptions())
        after = output.begin(settings or SETTINGS, sizes)
        candidates = GivenLists(LISTS if items is None else items)
        with BatchRun(RERANKER, candidates, RankOptions(), skip_bad_rows=skip_bad_rows, after=after) as run:
            for number, window in enumerate(run):
                if number == windows:
                    run.stop()
                    return after
                output.write(window)
        output.complete()
        return after


def begun(
    file: PartialFile,
    between: Callable[[], object] = lambda: None,
    *,
    items: list[Candidates | InputError] | None = None,
) -> None:
    """Write a window, do something, and write another."""
    output = FileOutput(file, "jsonl", WriteOptions())
    output.begin(SETTINGS, SIZES)
    candidates = GivenLists(LISTS if items is None else items)
    with BatchRun(RERANKER, candidates, RankOptions(), skip_bad_rows=items is not None) as run:
        windows = iter(run)
        output.write(next(windows))
        between()
        output.write(next(windows))


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def shape(lists: list[Candidates]) -> list[tuple[object, str, list[tuple[object, str]]]]:
    return [
        (one.query.id, one.query.text, [(document.id, document.text) for document in one.documents])
        for one in lists
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
