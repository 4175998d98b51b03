"""One part of a checkup in a process of its own: a library that is broken may take its process along.

`python -m ce_rerank.cli.checkup_worker PART KEYWORDS` prints what it found as JSON, or fails as it fails; the
keywords, JSON too, are those of `Reranker`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..reranker import Reranker

QUERY = "When should bread dough be shaped?"
DOCUMENTS = (
    "Shape the loaf once the dough has doubled in size, after about two hours in a warm kitchen.",
    "The library opens at nine and closes at six, except on Sundays.",
    "Flour, water, salt and yeast are all that a plain loaf needs.",
)


def main() -> None:
    """Print what one part finds."""
    parts = {"torch": find_torch, "openvino": find_openvino, "rank": rank}
    print(json.dumps(parts[sys.argv[1]](json.loads(sys.argv[2]))))


def find_torch(keywords: dict[str, Any]) -> dict[str, Any]:
    """Load torch and say which devices it can use, and for what it was built."""
    import torch

    from ..engines.hardware import available_devices

    devices = available_devices()
    names = {name: torch.cuda.get_device_name(name) for name in devices if name.startswith("cuda")}
    return {"devices": devices, "names": names, "built_for": torch.version.cuda or torch.version.hip}


def find_openvino(keywords: dict[str, Any]) -> dict[str, Any]:
    """Load OpenVINO and say what it makes of this CPU."""
    from ..engines.openvino.runtime import load_runtime

    core = load_runtime().Core()
    return {
        "cpu": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    }


def rank(keywords: dict[str, Any]) -> dict[str, Any]:
    """Rank three documents and score the golden pairs of the compiled model, as logits.

    Whole, whatever `max_length` is: the scores that they are compared with are those of whole documents.
    """
    from ..reranker import Reranker

    started = time.perf_counter()
    reranker = Reranker(**{**keywords, "max_length": None})
    ranking = reranker.rank(QUERY, DOCUMENTS, scores="logit")
    elapsed_seconds = time.perf_counter() - started
    return {
        "model": reranker.info.model,
        "description": reranker.info.description,
        "precision": reranker.info.precision,
        "elapsed_seconds": elapsed_seconds,
        "order": [hit.index for hit in ranking],
        "scores": [hit.score for hit in sorted(ranking, key=lambda hit: hit.index)],
        "golden": _score_golden_pairs(reranker, keywords) if reranker.info.engine == "openvino" else [],
    }


def _score_golden_pairs(reranker: Reranker, keywords: dict[str, Any]) -> list[tuple[float, float]]:
    """Give, for each golden pair, the logit that torch gave when the model was compiled, and the one now."""
    from ..engines.openvino.cache import find_compiled
    from ..models.store import resolve_checkpoint

    named = {name: keywords[name] for name in ("revision", "offline", "trust_remote_code", "allow_pickle")}
    compiled = find_compiled(resolve_checkpoint(keywords["model"], **named))
    golden = compiled.manifest.golden if compiled else ()
    scores = reranker.score([(pair.query, pair.document) for pair in golden], scores="logit")
    return [(pair.logit, float(score)) for pair, score in zip(golden, scores, strict=True)]


if __name__ == "__main__":
    main()
