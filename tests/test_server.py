"""The server answers the clients that people have, with the scores of `rank`, whatever arrives beside it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fakes import CountingEngine
from waiting import wait_until

from ce_rerank import Reranker
from ce_rerank.engines.batching import Float32s
from ce_rerank.errors import UnavailableError, UsageError
from ce_rerank.server import create_app
from ce_rerank.types import Ranking, RankOptions

DOCUMENTS = ["one", "nine", "---", "two three"]


class SlowEngine(CountingEngine):
    """One that counts what it is given at a time, and waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.sizes: list[int] = []

    def score_rows(self, rows: Any, *rest: Any) -> Float32s:
        self.sizes.append(len(rows))
        assert self.free.wait(30)
        return super().score_rows(rows, *rest)


@contextmanager
def serving(reranker: Any, *, loaded: bool = True, **options: Any) -> Iterator[httpx.Client]:
    """A server on loopback, and a client of it; once the model is `loaded`, or before."""
    server = uvicorn.Server(uvicorn.Config(create_app(reranker, **options), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            if loaded:
                wait_until(lambda: client.get("/health").status_code == 200)
            yield client
    finally:
        server.should_exit = True
        thread.join()


class Busy:
    """A server whose engine is held up by a first request; requests of one word wait behind it."""

    def __init__(self, client: httpx.Client, engine: SlowEngine, threads: ThreadPoolExecutor) -> None:
        self.client = client
        self.engine = engine
        self._threads = threads
        self.first = self.post("one")
        wait_until(lambda: engine.sizes)

    def post(self, *documents: str, **options: Any) -> Future[httpx.Response]:
        body = {"query": "cat", "documents": documents, **options}
        return self._threads.submit(self.client.post, "/rerank", json=body)

    def wait_for_queue(self, length: int) -> None:
        wait_until(lambda: f"ce_rerank_queue {length}.0" in self.client.get("/metrics").text)


@contextmanager
def busy(**options: Any) -> Iterator[Busy]:
    engine = SlowEngine()
    with serving(Reranker.from_engine(engine), **options) as client, ThreadPoolExecutor(6) as threads:
        try:
            yield Busy(client, engine, threads)
        finally:
            engine.free.set()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(Reranker.from_engine(CountingEngine()), served_names=["rerank"]) as client:
        yield client


def expected_of_rank() -> Ranking:
    return Reranker.from_engine(CountingEngine()).rank("cat", DOCUMENTS, scores="sigmoid", top_k=2)


def ask(client: httpx.Client, path: str = "/v1/rerank", **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_answered_as_jina_cohere_and_vllm_do(client: httpx.Client, path: str) -> None:
    answer = ask(
        client, path, query="cat", documents=DOCUMENTS, top_n=2, return_documents=True, model="rerank"
    )
    found = [(hit["index"], hit["document"]["text"], hit["relevance_score"]) for hit in answer["results"]]
    assert found == [(hit.index, hit.text, pytest.approx(hit.score)) for hit in expected_of_rank()]
    assert answer["model"] == "rerank"
    assert ask(client, path, query="cat", documents=[])["results"] == []
    assert answer["usage"]["total_tokens"] == 16
    assert answer["meta"]["blank"] == 1


def test_a_blank_document_stands_last_with_zero_or_null(client: httpx.Client) -> None:
    last = ask(client, query="cat", documents=DOCUMENTS)["results"][-1]
    assert last == {"index": 2, "relevance_score": 0.0}
    logits = ask(client, query="cat", documents=DOCUMENTS, scores="logit")["results"]
    assert [hit["relevance_score"] for hit in logits] == [9.0, 5.0, 1.0, None]
    assert ask(client, query="cat", documents=DOCUMENTS, raw_scores=True)["results"] == logits


def test_texts_are_answered_as_text_embeddings_inference_does(client: httpx.Client) -> None:
    answer = ask(client, "/rerank", query="cat", texts=["one", "two"], raw_scores=True, return_text=True)
    assert answer == [{"index": 1, "score": 2.0, "text": "two"}, {"index": 0, "score": 1.0, "text": "one"}]
    too_long = client.post("/rerank", json={"query": "cat", "texts": ["one " * 99], "truncate": False})
    assert too_long.status_code == 400


@pytest.mark.parametrize(
    ("queries", "texts", "scores"),
    [
        ("cat", "two", [2.0]),
        ("cat", ["two", "one"], [2.0, 1.0]),
        (["cat", "dog"], ["two", "one"], [2.0, 1.0]),
    ],
)
def test_pairs_are_scored_in_their_order(client: httpx.Client, queries: Any, texts: Any, scores: Any) -> None:
    answer = ask(client, "/score", text_1=queries, text_2=texts, raw_scores=True)
    assert [one["score"] for one in answer["data"]] == scores
    assert [one["index"] for one in answer["data"]] == list(range(len(scores)))


def test_ranking_options_and_objects_are_taken_by_name(client: httpx.Client) -> None:
    documents = [{"body": "one two three four five six seven eight nine " * 4}, {"body": "nine"}]
    options = {"long": "chunk", "chunk_tokens": 8, "scores": "logit", "details": True, "text_field": "body"}
    answer = ask(client, query="cat", documents=documents, **options)
    best = answer["results"][0]
    assert best["index"] == 0
    assert (best["relevance_score"], best["truncated"], best["line"]) == (42.0, False, 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/rerank", {"documents": ["one"]}, 400, "query: Field required"),
        ("/rerank", {"query": "cat", "documents": [1]}, 400, "documents.0: Input should be a valid string"),
        ("/rerank", 3, 400, "Input should be a dictionary"),
        ("/rerank", {"query": " ", "documents": ["one"]}, 400, "query"),
        ("/rerank", {"query": "cat", "documents": [{"title": 1}]}, 400, "documents[0]: no"),
        ("/rerank", {"query": "cat", "documents": ["one"], "top_n": 0}, 400, "top_n: "),
        ("/rerank", {"query": "cat", "documents": ["one"], "chunk_tokens": 5}, 400, "chunk_tokens, "),
        ("/rerank", {"query": "cat", "documents": ["one"], "blend": 0.5}, 400, "blend"),
        ("/rerank", {"query": "cat", "documents": ["one"], "model": "another"}, 404, "There is no model"),
        ("/rerank", {"query": "cat", "documents": ["one"] * 1001}, 413, "1001 documents are more than"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a"]}, 400, "text_1 has 2 texts and text_2 has 1."),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_say_what_is_wrong_as_the_client_knows_it(
    client: httpx.Client, path: str, body: Any, status: int, message: str
) -> None:
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, set(error)) == (status, {"message", "type"})
    assert message in error["message"]


def test_a_body_that_is_not_read_as_json_is_refused(client: httpx.Client) -> None:
    plain = client.post("/rerank", content=b"{}", headers={"Content-Type": "text/plain"})
    broken = client.post("/rerank", content=b'{"query": ', headers={"Content-Type": "application/json"})
    assert [plain.status_code, broken.status_code] == [400, 400]
    assert plain.json()["error"]["message"] == "Send the header Content-Type: application/json."
    assert broken.json()["error"]["message"] == "The body is not JSON: Expecting value."


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length() -> None:
    body = json.dumps({"query": "cat", "documents": ["one " * 1000]}).encode()
    with serving(Reranker.from_engine(CountingEngine()), max_body_bytes=1000) as client:
        assert client.post("/rerank", content=body).status_code == 413
        assert client.post("/rerank", content=iter([body])).status_code == 413
        assert client.get("/health").status_code == 200


def test_a_key_is_asked_of_every_client() -> None:
    with serving(Reranker.from_engine(CountingEngine()), api_key="secret") as client:
        assert client.get("/info").status_code == 401
        assert client.get("/info", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/info", headers={"Authorization": "Bearer secret"}).json()["engine"] == "counting"


def test_requests_are_refused_until_the_model_is_loaded_and_hear_why_it_cannot() -> None:
    loading = threading.Event()

    def load() -> Reranker:
        assert loading.wait(30)
        raise UnavailableError("The weights are gone.")

    with serving(load, loaded=False) as client:
        answers = client.get("/health"), client.post("/rerank", json={"query": "cat", "documents": ["one"]})
        assert [answer.status_code for answer in answers] == [503, 503]
        loading.set()
        wait_until(lambda: "The weights are gone." in client.get("/health").text)


def test_requests_that_wait_are_scored_together_and_a_full_queue_is_429() -> None:
    with busy(max_queue=4) as server:
        waiting = [server.post("one", "two") for _ in range(3)]
        server.wait_for_queue(3)
        refused = server.post("one").result()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        server.engine.free.set()
        assert [one.result().status_code for one in (server.first, *waiting)] == [200] * 4
        assert server.engine.sizes == [1, 6]


def test_a_small_request_does_not_wait_for_all_of_a_large_one() -> None:
    with busy(max_documents=5000) as server:
        large = server.post(*["one"] * 3000)
        server.wait_for_queue(1)
        small = server.post("one", "two")
        server.wait_for_queue(2)
        done: list[str] = []
        large.add_done_callback(lambda _: done.append("large"))
        small.add_done_callback(lambda _: done.append("small"))
        server.engine.free.set()
        assert [small.result().status_code, large.result().status_code] == [200, 200]
        assert done == ["small", "large"]


def test_a_client_that_leaves_is_dropped() -> None:
    with busy() as server:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/rerank", json={"query": "cat", "documents": ["two"] * 7}, timeout=0.2)
        time.sleep(0.1)
        server.engine.free.set()
        assert server.first.result().status_code == 200
        assert server.post("one").result().status_code == 200
        assert 7 not in server.engine.sizes


def test_one_bad_request_does_not_spoil_those_that_are_scored_with_it() -> None:
    with busy() as server:
        others = [server.post(text) for text in ("two", "nan")]
        server.wait_for_queue(2)
        server.engine.free.set()
        assert [one.result().status_code for one in (server.first, *others)] == [200, 200, 500]


def test_cohere_gets_the_order_and_scores_of_rank(client: httpx.Client) -> None:
    cohere = pytest.importorskip("cohere")
    with httpx.Client() as inner:
        asked = cohere.ClientV2(api_key="none", base_url=str(client.base_url).rstrip("/"), httpx_client=inner)
        found = asked.rerank(model="rerank", query="cat", documents=DOCUMENTS, top_n=2)
    assert [(hit.index, hit.relevance_score) for hit in found.results] == [
        (hit.index, pytest.approx(hit.score)) for hit in expected_of_rank()
    ]


@pytest.mark.filterwarnings("ignore")
def test_llama_index_gets_the_order_and_scores_of_rank(client: httpx.Client) -> None:
    tei = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    schema = pytest.importorskip("llama_index.core.schema")
    asked = tei.TextEmbeddingInference(base_url=str(client.base_url).rstrip("/"), top_n=2)
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in DOCUMENTS]
    found = asked.postprocess_nodes(nodes, query_str="cat")
    assert [(node.node.text, node.score) for node in found] == [
        (hit.text, pytest.approx(hit.score)) for hit in expected_of_rank()
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_that_the_schema_allows_is_a_fault_of_ours() -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    with serving(Reranker.from_engine(CountingEngine()), max_documents=20) as client:
        schema = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
        for found in schema.get_all_operations():

            @quick
            @given(case=found.ok().as_strategy())
            def try_one(case: Any) -> None:
                answer = case.call(session=None)
                # The engine gives no number for the words nan and inf, which hypothesis finds in its source.
                assert answer.status_code < 500 or "no score" in answer.text, answer.text

            try_one()


class TestRemote:
    def test_a_server_ranks_as_its_model_does(self, client: httpx.Client) -> None:
        local, remote = Reranker.from_engine(CountingEngine()), Reranker(str(client.base_url))
        documents = [*DOCUMENTS, "one two three four " * 20]
        for options in (RankOptions(), RankOptions(long="chunk", chunk_tokens=8, scores="sigmoid", top_k=3)):
            keywords = {name: getattr(options, name) for name in ("long", "chunk_tokens", "scores", "top_k")}
            ours, theirs = (one.rank("cat", documents, **keywords) for one in (local, remote))
            assert [(hit.index, hit.tokens, hit.truncated, hit.passage) for hit in theirs] == [
                (hit.index, hit.tokens, hit.truncated, hit.passage) for hit in ours
            ]
            assert theirs.coverage == ours.coverage
            if options.scores != "model":
                assert [hit.score for hit in theirs] == [hit.score for hit in ours]

    def test_many_queries_are_sent_in_parts_that_the_server_takes(self, client: httpx.Client) -> None:
        lists = [("cat", ["one", "two"]), ("dog", []), ("fish", ["nine"] * 1500)]
        rankings = list(Reranker(str(client.base_url)).rank_many(lists, scores="logit"))
        assert [len(ranking) for ranking in rankings] == [2, 0, 1500]
        assert rankings[0][0].score == 2.0

    def test_no_server_another_and_options_that_it_has_chosen_are_refused(self, client: httpx.Client) -> None:
        with pytest.raises(UsageError):
            Reranker(str(client.base_url), precision="fp32")
        with pytest.raises(UnavailableError):
            Reranker("http://127.0.0.1:9")
        with pytest.raises(UnavailableError, match="answered 404"):
            Reranker(f"{client.base_url}/nowhere")
        with pytest.raises(UnavailableError, match="SSL"):
            Reranker(str(client.base_url).replace("http:", "https:"))
