"""One engine in a process of its own, so that its memory and its start are its own.

Speaks JSON lines with `bench.py`: the first line in is the setting (`reranker`: the keywords of `Reranker`,
`lists`: queries with their documents); every further line asks for one round, and each is answered with its
seconds, its scores on the logit scale, and the peak of the process's memory in bytes. A model that cannot be
run is answered with the error instead, its hint and its kind, and the process ends.
"""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve rounds until stdin ends."""
    from ..errors import CeRerankError

    try:
        _serve(json.loads(sys.stdin.readline()))
    except CeRerankError as error:
        refusal = {"error": error.message, "hint": error.hint, "kind": type(error).__name__}
        print(json.dumps(refusal), flush=True)


def _serve(setting: dict[str, Any]) -> None:
    from ..engines.hardware import describe_device
    from ..reranker import Reranker
    from ..types import Candidates, Document, Query, RankOptions

    reranker = Reranker(**setting["reranker"])
    lists = [
        Candidates(Query(query), [Document(text) for text in documents])
        for query, documents in setting["lists"]
    ]
    for _ in sys.stdin:
        started = time.perf_counter()
        rankings = reranker.rank_lists(lists, RankOptions(scores="logit"))
        elapsed_seconds = time.perf_counter() - started
        in_order = [sorted(ranking, key=lambda hit: hit.index) for ranking in rankings]
        answer = {
            "elapsed_seconds": elapsed_seconds,
            "scores": [[hit.score for hit in hits] for hits in in_order],
            "peak_memory_bytes": peak_memory_bytes(),
            "precision": reranker.info.precision,
            "engine": reranker.info.engine,
            "packed": reranker.info.packed,
            "device": describe_device(reranker.info.device),
        }
        print(json.dumps(answer), flush=True)


def peak_memory_bytes() -> int | None:
    """Give the most memory that this process has held; None where the system does not tell."""
    # Of Linux's other figure, `ru_maxrss`, the least is what the process held that started this one.
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
