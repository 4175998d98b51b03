"""The HTTP API: one warm model behind the request shapes that rerank clients already speak.

    POST /rerank, /v1/rerank, /v2/rerank   Jina, Cohere v2, vLLM; with `texts`: text-embeddings-inference
    POST /score, /v1/score                 vLLM
    GET  /health /info /v1/models /metrics

Waiting requests are scored together, in pools of about a second's work. Each puts a part of its documents
into the pool, and the next part when that is scored. So many small requests cost as much as a large one, and
no request waits for all documents of another.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass as request_body
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__
from .errors import CeRerankError, InputError, UsageError, told_from
from .inputs import as_candidates, as_field_rules
from .pipeline import POOL_BATCHES
from .ranking import Scored, shortest_float32, unscored
from .reranker import Reranker
from .types import Candidates, Ranking, RankOptions, ScoreScale

log = logging.getLogger("ce_rerank.server")

_PARTS_OF_A_POOL = 8
_OPEN_PATHS = ("/health", "/metrics")  # answered without a key and while the model loads

_ERROR_TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    413: "too_large",
    429: "overloaded",
    500: "server_error",
    503: "loading",
}


@request_body(frozen=True, kw_only=True)
class RerankRequest(RankOptions):
    """A query and documents, as in the APIs of Jina, Cohere and vLLM, with our ranking options.

    A document is a string or an object. `top_n` is these APIs' name for `top_k`.
    """

    query: str
    documents: list[str | dict[str, Any]]
    scores: ScoreScale = "sigmoid"
    raw_scores: bool = False
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    text_field: str | tuple[str, ...] = ()
    details: bool = False
    model: str | None = None


@request_body(frozen=True, kw_only=True)
class TextsRequest:
    """A query and texts, as in the API of text-embeddings-inference."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = True
    model: str | None = None


@request_body(frozen=True, kw_only=True)
class ScoreRequest:
    """Pairs of texts, as in vLLM's API: one text with each of several, or two lists of equal length."""

    text_1: str | list[str]
    text_2: str | list[str]
    scores: ScoreScale = "sigmoid"
    raw_scores: bool = False
    model: str | None = None


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("jina")] | Annotated[TextsRequest, Tag("tei")],
    Discriminator(lambda body: "tei" if isinstance(body, dict) and "texts" in body else "jina"),
]
_FIELDS = {one.name for kind in (RerankRequest, TextsRequest, ScoreRequest) for one in fields(kind)}


class _Part(NamedTuple):
    """Some documents of a request, and the options that matter when they are scored."""

    candidates: Candidates
    tokens: int
    options: RankOptions
    scored: asyncio.Future[Scored]


class RequestPools:
    """Ranks the requests of one event loop by a `Reranker`; waiting requests are scored together.

    Each request has one part of its documents in the queue at a time. At most `max_queue` requests are
    accepted and not answered. `run` scores them until it is cancelled.
    """

    def __init__(self, reranker: Reranker, *, max_queue: int) -> None:
        self._reranker = reranker
        self._max_queue = max_queue
        self._plan = reranker.plan_pools(RankOptions())
        # A model of another server does not say how large its batches are.
        self._pool_tokens = POOL_BATCHES * reranker.model.batch_tokens or self._plan.tokens
        self.queue: asyncio.Queue[_Part] = asyncio.Queue()
        self._accepted = 0

    async def rank(self, candidates: Candidates, options: RankOptions) -> Ranking:
        """Rank a query's documents. Raises as `Reranker.rank` does, and HTTPException if too many wait."""
        import numpy as np

        if self._accepted >= self._max_queue:
            raise HTTPException(429, "Too many requests are waiting.", {"Retry-After": "1"})
        self._accepted += 1
        try:
            await asyncio.to_thread(self._reranker.model.require_scorable, candidates, options)
            candidates = await asyncio.to_thread(self._reranker.take_first_stage, candidates, options)
            tables = [unscored([])]
            while (start := sum(map(len, tables))) < len(candidates.documents):
                part = self._cut_part(candidates, start, options)
                self.queue.put_nowait(part)
                tables.append(await part.scored)
            scored = np.concatenate(tables)
            return await asyncio.to_thread(self._reranker.make_ranking, candidates, scored, options)
        finally:
            self._accepted -= 1

    def _cut_part(self, candidates: Candidates, start: int, options: RankOptions) -> _Part:
        """Return the documents from `start` on that are a request's share of a pool."""
        share = self._pool_tokens // min(self._accepted, _PARTS_OF_A_POOL)
        query, documents = candidates.query, candidates.documents
        end, tokens = start, 0
        while end < len(documents) and tokens < share:
            tokens += self._plan.count_tokens(Candidates(query, [documents[end]]))
            end += 1
        scored = asyncio.get_running_loop().create_future()
        return _Part(Candidates(query, documents[start:end]), tokens, options.for_scoring(), scored)

    async def run(self) -> None:
        """Score what waits, pool after pool; parts with other options are scored by themselves."""
        while True:
            pool: dict[RankOptions, list[_Part]] = {}
            tokens = 0
            while not pool or (tokens < self._pool_tokens and not self.queue.empty()):
                part = await self.queue.get()
                if not part.scored.done():  # else its client has left
                    pool.setdefault(part.options, []).append(part)
                    tokens += part.tokens
            for options, parts in pool.items():
                await self._score(parts, options)
            await asyncio.sleep(0)  # let the requests put their next parts into the queue

    async def _score(self, parts: Sequence[_Part], options: RankOptions) -> None:
        """Score parts together; if that fails, score each by itself, so that only the bad one fails."""
        lists = [part.candidates for part in parts]
        try:
            tables = await asyncio.to_thread(self._reranker.model.score_lists, lists, options)
        except Exception as error:
            if len(parts) > 1:
                for part in parts:
                    await self._score([part], options)
            elif not parts[0].scored.done():
                parts[0].scored.set_exception(error)
            return
        for part, table in zip(parts, tables, strict=True):
            if not part.scored.done():
                part.scored.set_result(table)


def create_app(
    reranker: Reranker | Callable[[], Reranker],
    *,
    served_names: Sequence[str] = (),
    api_key: str | None = None,
    max_documents: int = 1000,
    max_body_bytes: int = 32 << 20,
    max_queue: int = 1024,
) -> FastAPI:
    """Return the ASGI application that ranks by `reranker`, for uvicorn or another server.

    If `reranker` is a function, it is called in a thread when the server starts, to load the model. Until it
    returns, and if it raises, answers are 503 and say why. `served_names` are other names of the model for
    clients. With an `api_key`, requests need `Authorization: Bearer KEY`. `max_documents` is the most
    documents of a request, `max_body_bytes` its largest body. Beyond `max_queue` requests at a time the
    answer is 429.
    """
    load = (lambda: reranker) if isinstance(reranker, Reranker) else reranker
    service = _Service(load, served_names, max_documents, max_queue)
    app = FastAPI(
        title="ce-rerank",
        version=__version__,
        lifespan=service.run,
        docs_url=None,
        redoc_url=None,
        responses={status: {"description": kind} for status, kind in _ERROR_TYPES.items()},
    )
    app.add_middleware(_Gate, service=service, api_key=api_key, max_body_bytes=max_body_bytes)
    for kind in (RequestValidationError, HTTPException, CeRerankError, Exception):
        app.add_exception_handler(kind, _answer_error)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        app.post(path)(service.rerank)
    for path in ("/score", "/v1/score"):
        app.post(path)(service.score)
    app.get("/health")(service.report_health)
    app.get("/info")(service.describe)
    app.get("/v1/models")(service.list_models)
    app.get("/metrics")(service.measure)
    return app


@dataclass
class _Service:
    """The endpoints, with the model, the pools and the counters that all requests share."""

    load: Callable[[], Reranker]
    served_names: Sequence[str]
    max_documents: int
    max_queue: int

    def __post_init__(self) -> None:
        self._pools: RequestPools | None = None
        self._failure: Exception | None = None
        self._registry = CollectorRegistry()
        counted: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("ce_rerank_requests", "Requests answered.", ["path", "status"], **counted)
        self.seconds = Histogram("ce_rerank_seconds", "Seconds to an answer.", ["path"], **counted)
        self._pairs = Counter("ce_rerank_pairs", "Pairs scored.", **counted)
        self._tokens = Counter("ce_rerank_tokens", "Tokens scored.", **counted)
        waiting = Gauge("ce_rerank_queue", "Requests that wait.", **counted)
        waiting.set_function(lambda: self._pools.queue.qsize() if self._pools else 0)

    @asynccontextmanager
    async def run(self, app: FastAPI) -> AsyncIterator[None]:
        """Load the model while the server runs, and then rank until it ends."""
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            working.cancel()

    async def _work(self) -> None:
        try:
            self._reranker = await asyncio.to_thread(self.load)
        except Exception as error:
            self._failure = error
            return
        self._pools = RequestPools(self._reranker, max_queue=self.max_queue)
        await self._pools.run()

    def refuse(self) -> Response | None:
        """Return the answer to give as long as there is no model; None when it is loaded."""
        if self._failure is not None:
            return _error(503, f"The model cannot be loaded: {self._failure}")
        return None if self._pools else _error(503, "The model is loading.", {"Retry-After": "5"})

    async def report_health(self) -> Response:
        """Answer whether the model is loaded."""
        return self.refuse() or JSONResponse({"status": "ok"})

    async def measure(self) -> Response:
        """Answer with the counters in the format of Prometheus."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")

    async def list_models(self) -> dict[str, Any]:
        """Answer with the names of the model, in the format of OpenAI's list."""
        entries = [{"id": name, "object": "model", "owned_by": "ce-rerank"} for name in self._names]
        return {"object": "list", "data": entries}

    async def describe(self) -> dict[str, Any]:
        """Answer with the model, what runs it, and the limits."""
        info = self._reranker.info
        return {
            **asdict(info),
            "model_id": self._names[0],
            "max_input_length": info.max_length,
            "max_documents": self.max_documents,
            "version": __version__,
        }

    async def rerank(self, request: Request, body: EitherRequest) -> Response:
        """Rank documents or texts for a query."""
        if isinstance(body, TextsRequest):
            return await self._rank_texts(request, body)
        return await self._rank_documents(request, body)

    async def _rank_documents(self, request: Request, body: RerankRequest) -> Response:
        options = RankOptions(**{one.name: getattr(body, one.name) for one in fields(RankOptions)})
        if body.top_n is not None:
            options = replace(options, top_k=body.top_n)
        if body.raw_scores:
            options = replace(options, scores="logit")
        candidates = as_candidates(body.query, body.documents, rules=as_field_rules(body.text_field, None))
        ranking = await self._rank(request, candidates, options, body.model)
        results = []
        for hit in ranking:
            score = self._written(hit.score, options.scores)
            result: dict[str, Any] = {"index": hit.index, "relevance_score": score}
            if body.return_documents:
                result["document"] = {"text": hit.text}
            if body.details:
                result |= {name: getattr(hit, name) for name in ("tokens", "truncated", "characters_read")}
                if hit.passage is not None:
                    result |= {name: getattr(hit.passage, name) for name in ("start", "end", "line")}
            results.append(result)
        read = ranking.coverage
        counts = {name: getattr(read, name) for name in ("documents", "left_out", "truncated", "blank")}
        meta = {"api_version": {"version": "2"}, "scores": options.scores, **counts}
        return self._answer(read.tokens, results=results, meta=meta)

    async def _rank_texts(self, request: Request, body: TextsRequest) -> Response:
        scale: ScoreScale = "logit" if body.raw_scores else "sigmoid"
        options = RankOptions(scores=scale, long="truncate" if body.truncate else "error")
        ranking = await self._rank(request, as_candidates(body.query, body.texts), options, body.model)
        results = [
            {"index": hit.index, "score": self._written(hit.score, scale)}
            | ({"text": hit.text} if body.return_text else {})
            for hit in ranking
        ]
        return JSONResponse(results, headers={"x-truncated-documents": str(ranking.coverage.truncated)})

    async def score(self, request: Request, body: ScoreRequest) -> Response:
        """Score pairs of texts, in their order."""
        queries = [body.text_1] if isinstance(body.text_1, str) else body.text_1
        texts = [body.text_2] if isinstance(body.text_2, str) else body.text_2
        if len(queries) not in (1, len(texts)):
            raise UsageError(
                f"text_1 has {len(queries)} texts and text_2 has {len(texts)}.",
                hint="Give one text_1, or as many as text_2.",
            )
        self._require_few(texts)
        scale: ScoreScale = "logit" if body.raw_scores else body.scores
        options = RankOptions(scores=scale)
        documents = [texts] if len(queries) == 1 else [[text] for text in texts]
        lists = [as_candidates(*asked) for asked in zip(queries, documents, strict=True)]
        ranked = (self._rank(request, candidates, options, body.model) for candidates in lists)
        rankings = await asyncio.gather(*ranked)
        scores = [hit.score for ranking in rankings for hit in sorted(ranking, key=lambda hit: hit.index)]
        data = [
            {"index": place, "object": "score", "score": self._written(score, scale)}
            for place, score in enumerate(scores)
        ]
        tokens = sum(ranking.coverage.tokens for ranking in rankings)
        return self._answer(tokens, object="list", data=data)

    def _answer(self, tokens: int, **content: Any) -> Response:
        usage = {"total_tokens": tokens, "prompt_tokens": tokens}
        return JSONResponse({"id": uuid.uuid4().hex, "model": self._names[0], **content, "usage": usage})

    async def _rank(
        self, request: Request, candidates: Candidates, options: RankOptions, model: str | None
    ) -> Ranking:
        assert self._pools is not None  # else `_Gate` has answered
        if model is not None and model not in self._names:
            raise HTTPException(404, f"There is no model {model!r} here, but {self._names[0]!r}.")
        self._require_few(candidates.documents)
        answer = asyncio.ensure_future(self._pools.rank(candidates, options))
        # The body has been read: the next message is that the client has left.
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait([answer, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise HTTPException(499, "The client has left.")
            ranking = await answer
        finally:
            answer.cancel()
            leaving.cancel()
        self._pairs.inc(ranking.coverage.documents)
        self._tokens.inc(ranking.coverage.tokens)
        return ranking

    def _require_few(self, documents: Sequence[Any]) -> None:
        if len(documents) > self.max_documents:
            message = f"{len(documents)} documents are more than the {self.max_documents} allowed."
            raise HTTPException(413, message)

    @property
    def _names(self) -> list[str]:
        """The names of the model: the served names, then its own."""
        return list(dict.fromkeys([*self.served_names, self._reranker.info.model]))

    def _written(self, score: float, scale: ScoreScale) -> float | None:
        """Return a score for JSON. A blank document has 0 on a scale from 0 to 1, and null on others."""
        if math.isfinite(score):
            return shortest_float32(score)
        return 0.0 if "sigmoid" in (scale, scale == "model" and self._reranker.info.activation) else None


class _Gate:
    """Middleware that checks the key and the size of requests; it counts, times and logs them.

    While there is no model, it refuses them.
    """

    def __init__(self, app: ASGIApp, service: _Service, api_key: str | None, max_body_bytes: int) -> None:
        self._app = app
        self._service = service
        self._authorization = None if api_key is None else f"Bearer {api_key}".encode()
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, received = time.monotonic(), 500, 0

        async def count_bytes() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                allowed = f"{self._max_body_bytes:,} bytes allowed"
                raise HTTPException(413, f"The body is larger than the {allowed}.")
            return message

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            app = self._refuse(scope) or self._app
            await app(scope, count_bytes, note_status)
        finally:
            seconds = time.monotonic() - started
            path = getattr(scope.get("route"), "path", "other")
            self._service.requests.labels(path, status).inc()
            self._service.seconds.labels(path).observe(seconds)
            told = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
            log.info("%s", json.dumps(told))

    def _refuse(self, scope: Scope) -> Response | None:
        if scope["path"] in _OPEN_PATHS:
            return None
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self._authorization is not None and not hmac.compare_digest(given, self._authorization):
            return _error(401, "The key is missing or wrong: Authorization: Bearer KEY.")
        return self._service.refuse()


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        if isinstance(error.body, bytes):  # FastAPI has not read it as JSON
            return _error(400, "Send the header Content-Type: application/json.")
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _error(400, f"The body is not JSON: {first['ctx']['error']}.")
        message = first["msg"].removeprefix("Value error, ").partition(" or an instance of ")[0]
        # The other parts name the kinds of a union.
        place = ".".join(str(part) for part in first["loc"] if part in _FIELDS or isinstance(part, int))
        return _error(400, told_from(place, message))
    if isinstance(error, UsageError | InputError):
        return _error(400, str(error))
    message = str(error)
    if not isinstance(error, CeRerankError):
        message = f"A fault of the server's: {type(error).__name__}."
    log.error("%s: %s", type(error).__name__, error)
    return _error(500, message)


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    kind = _ERROR_TYPES.get(status, "invalid_request")
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)
