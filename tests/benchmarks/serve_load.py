"""What a server makes of many clients, beside `Reranker.rank_many` on the same pairs.

    python tests/benchmarks/serve_load.py

Starts a server of its own on loopback, and sends `--requests` requests of `--documents` documents over
`--connections` connections. Every score is compared with that of `rank_many`. Prints documents a second of
both, their ratio, the latency of requests, and the server's peak memory. Client and server share the cores.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx

from ce_rerank import Reranker
from ce_rerank.cli.bench import sample_lists


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--port", type=int, default=8790)
    given = parser.parse_args()
    wanted = sample_lists(given.requests, given.documents)

    reranker = Reranker()
    next(iter(reranker.rank_many(wanted[:1])))
    started = time.perf_counter()
    rankings = list(reranker.rank_many(wanted, scores="logit"))
    alone = time.perf_counter() - started
    expected = [{hit.index: hit.score for hit in ranking} for ranking in rankings]
    documents = given.requests * given.documents
    print(f"rank_many: {documents / alone:.1f} documents/s")

    command = [sys.executable, "-m", "ce_rerank", "serve", "--port", str(given.port), "--max-queue", "4096"]
    server = subprocess.Popen(command)
    try:
        limits = httpx.Limits(max_connections=given.connections)
        url = f"http://127.0.0.1:{given.port}"
        with httpx.Client(base_url=url, timeout=600, limits=limits) as client:
            wait_for(client)
            seconds: list[float] = []
            worst = 0.0

            def ask(number: int) -> dict[int, float]:
                query, asked = wanted[number]
                begun = time.perf_counter()
                body = {"query": query, "documents": asked, "scores": "logit"}
                answer = client.post("/rerank", json=body).raise_for_status()
                seconds.append(time.perf_counter() - begun)
                return {hit["index"]: hit["relevance_score"] for hit in answer.json()["results"]}

            started = time.perf_counter()
            with ThreadPoolExecutor(given.connections) as threads:
                for number, found in enumerate(threads.map(ask, range(given.requests))):
                    assert found.keys() == expected[number].keys()
                    worst = max([worst, *(abs(found[place] - expected[number][place]) for place in found)])
            served = time.perf_counter() - started
    finally:
        server.terminate()
        code = server.wait()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    seconds.sort()
    print(f"server: {documents / served:.1f} documents/s, {alone / served:.0%} of rank_many")
    print(
        f"latency: median {statistics.median(seconds):.2f} s, p99 {seconds[int(len(seconds) * 0.99)]:.2f} s"
    )
    print(f"largest difference of a score: {worst:.2g}; peak memory {peak:.0f} MB; exit code {code}")


def wait_for(client: httpx.Client) -> None:
    """Wait until the server has loaded its model."""
    for _ in range(600):
        with suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit("The server did not start.")


if __name__ == "__main__":
    main()
