"""Does chunking find what is buried: abstracts in the middle of long documents of unrelated ones.

    python tests/benchmarks/buried.py ../shared/data/scifact

Takes a BEIR folder with a first-stage run.trec. Every candidate is put between unrelated documents of the
same collection, and reranked as it was, buried and truncated, and buried and chunked.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

from ce_rerank.formats.packed import PackedLists

from ce_rerank import Candidates, Document, Query, Reranker
from ce_rerank.evaluation import Run, evaluate, load_judgements
from ce_rerank.formats.beir import read_corpus, read_queries
from ce_rerank.formats.trec import read_run

_MEASURE = "nDCG@10"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=20, help="a query, the first stage's best")
    parser.add_argument("--around", type=int, default=2, help="unrelated documents before it, and after it")
    given = parser.parse_args()

    candidates: dict[str, list[str]] = {}
    for line in read_run(given.folder / "run.trec"):
        candidates.setdefault(line.query_id, []).append(line.doc_id)
    chosen = sorted(random.Random(5).sample(sorted(candidates), min(given.queries, len(candidates))))
    queries = read_queries(given.folder / "queries.jsonl")
    everything = {doc_id for doc_ids in candidates.values() for doc_id in doc_ids}
    corpus = {
        str(document.id): document for document in read_corpus([given.folder / "corpus.jsonl"], everything)
    }

    def lists(*, buried: bool) -> Iterator[Candidates]:
        for query_id in chosen:
            wanted = candidates[query_id][: given.candidates]
            others = sorted(everything - set(candidates[query_id]))
            documents = []
            for doc_id in wanted:
                texts = [corpus[doc_id].text]
                if buried:
                    chance = random.Random(f"{query_id} {doc_id}")  # the same around it every time
                    unrelated = [corpus[other].text for other in chance.sample(others, 2 * given.around)]
                    texts = [*unrelated[: given.around], *texts, *unrelated[given.around :]]
                documents.append(Document("\n\n".join(texts), id=doc_id))
            yield Candidates(Query(queries[query_id], id=query_id), documents)

    judgements = load_judgements(given.folder / "qrels.tsv")
    reranker = Reranker()
    print(reranker.info.description)
    runs = []
    for name, buried, long in (
        ("as it was", False, "truncate"),
        ("truncate", True, "truncate"),
        ("chunk", True, "chunk"),
    ):
        run = PackedLists("d")
        started = time.perf_counter()
        for ranking in reranker.rank_many(list(lists(buried=buried)), long=long):  # type: ignore[arg-type]
            for hit in ranking:
                run.add(str(ranking.query.id), str(hit.id), hit.score, 0)
        seconds = time.perf_counter() - started
        runs.append(Run(name, run))
        print(f"{name}: {seconds:.0f} s")
    evaluation = evaluate(runs, judgements, [_MEASURE])
    places = [place for place, query_id in enumerate(evaluation.query_ids) if query_id in chosen]
    for measured in evaluation.runs:
        print(f"{measured.name:12}{_MEASURE} {measured.by_query[_MEASURE][places].mean():.4f}")


if __name__ == "__main__":
    main()
