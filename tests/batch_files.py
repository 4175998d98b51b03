"""Candidate lists in rows, and ranking them into files, in whole and in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batch_fakes import GivenLists, NeighbourEngine, made_lists

from ce_rerank import InputError, RankOptions, Reranker
from ce_rerank.batch.output import FileOutput
from ce_rerank.batch.run import Progress, rank_batch, rank_pools
from ce_rerank.formats.writers import WriteOptions
from ce_rerank.types import Candidates, Query

RERANKER = Reranker.from_engine(NeighbourEngine())
LISTS = [Candidates(Query("red", "none"), []), *made_lists(20, 64)]
SETTINGS = {"--top-k": None}


def write(
    path: Path,
    format: str = "jsonl",
    *,
    resume: bool = False,
    pools: int | None = None,
    settings: dict[str, Any] | None = None,
    items: list[Candidates | InputError] | None = None,
    skip_bad_rows: bool = False,
) -> Progress:
    """Rank into a file; with `pools`, no further than that. Return where that began."""
    reader = GivenLists(LISTS if items is None else items)
    with FileOutput(path, format, resume=resume) as output:
        output.begin(WriteOptions(), settings or SETTINGS)
        after = output.progress
        if pools is None:
            rank_batch(RERANKER, reader, output, RankOptions(), skip_bad_rows=skip_bad_rows)
        else:
            ranked = rank_pools(RERANKER, reader, RankOptions(), skip_bad_rows=skip_bad_rows, after=after)
            for _, pool in zip(range(pools), ranked, strict=False):
                output.write(pool)
            ranked.close()
        return after


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def shape(lists: list[Candidates]) -> list[tuple[object, str, list[tuple[object, str]]]]:
    return [
        (one.query.id, one.query.text, [(document.id, document.text) for document in one.documents])
        for one in lists
    ]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
