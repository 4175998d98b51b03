"""The HTTP API: one warm model behind the request shapes that rerank clients already speak.

    POST /rerank, /v1/rerank, /v2/rerank   Jina, Cohere v2, vLLM; with `texts`: text-embeddings-inference
    POST /score, /v1/score                 vLLM
    GET  /health /info /v1/models /metrics

Requests that wait are scored together: a pool takes documents of each in turn, by arrival, until it holds as
many tokens as the engine works through in about a second. So many small requests cost what one large one
does, and none waits for another's thousand documents.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__
from .errors import CeRerankError, InputError, UsageError
from .formats.rows import shortest_float32
from .inputs import as_candidates, as_field_rules
from .ranking import Scored
from .reranker import Reranker
from .types import Candidates, LongPolicy, PoolName, RankedDocument, Ranking, RankOptions, ScoreScale

log = logging.getLogger("ce_rerank.server")

_POOL_BATCHES = 32  # of the engine's own size: as many fill batches nearly without padding
_OPEN_PATHS = ("/health", "/metrics")  # answered without a key and while the model loads

_STATUS_TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "not_found",
    413: "too_large",
    429: "overloaded",
    500: "server_error",
    503: "loading",
}


class _Options(BaseModel):
    """What every ranking request may ask for, by the names of the command line."""

    model: str | None = None
    scores: ScoreScale = "sigmoid"
    min_score: float | None = None
    long: LongPolicy = "truncate"
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    chunk_overlap: Annotated[int, Field(ge=0)] | None = None
    pool: PoolName = "max"
    bm25: Annotated[int, Field(ge=1)] | None = None
    bm25_language: str = "english"
    first_score_field: str | None = None
    blend: Annotated[float, Field(ge=0, le=1)] = 0.0
    details: bool = False

    def rank_options(self, top_k: int | None) -> RankOptions:
        """Return these as the library takes them."""
        names = (field.name for field in fields(RankOptions) if field.name != "top_k")
        return RankOptions(top_k=top_k, **{name: getattr(self, name) for name in names})


class RerankRequest(_Options):
    """A query and documents, as Jina, Cohere and vLLM take them; a document is a string or an object."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    text_field: list[str] = []


class TextsRequest(BaseModel):
    """A query and texts, as text-embeddings-inference takes them."""

    model_config = ConfigDict(json_schema_extra={"required": ["query", "texts"]})

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = True
    model: str | None = None


class ScoreRequest(BaseModel):
    """Pairs of texts, as vLLM takes them: one with each of the others, or each with its own."""

    text_1: str | list[str]
    text_2: str | list[str]
    scores: ScoreScale = "sigmoid"
    model: str | None = None


class QueueFullError(CeRerankError):
    """More requests wait than may."""


@dataclass(slots=True)
class _Waiting:
    """A request's documents on their way through the pools."""

    candidates: Candidates
    options: RankOptions
    answer: Future[Ranking] = field(default_factory=Future)
    scored: list[Scored] = field(default_factory=list)
    handed_on: int = 0

    @property
    def is_over(self) -> bool:
        return self.answer.done() or self.handed_on == len(self.candidates.documents)


class RequestPools:
    """Ranks requests from many threads by one `Reranker`, in pools of about `pool_tokens` tokens.

    At most `max_queue` requests wait. `close` it in the end.
    """

    def __init__(self, reranker: Reranker, *, max_queue: int, pool_tokens: int | None = None) -> None:
        self._reranker = reranker
        self._max_queue = max_queue
        self._pool_tokens = pool_tokens or _POOL_BATCHES * reranker.model.batch_tokens
        self._plan = reranker.plan_pools(RankOptions())
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="ce-rerank pools", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what was accepted, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def submit(self, candidates: Candidates, options: RankOptions) -> Future[Ranking]:
        """Queue a request; its ranking, or what went wrong, is the future's. Cancel it to withdraw.

        Raises QueueFullError, and UsageError or InputError for what cannot be ranked.
        """
        self._reranker.require_scorable(candidates, options)
        request = _Waiting(self._reranker.take_first_stage(candidates, options), options)
        with self._changed:
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError("Too many requests are waiting.", hint="Try again in a moment.")
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                pool = self._take()
            self._score(pool)

    def _take(self) -> list[tuple[_Waiting, int, int]]:
        """Take a pool: an equal share of each request, then what still fits, by arrival."""
        self._waiting = [one for one in self._waiting if not one.answer.cancelled()]
        taken: dict[int, list[int]] = {}
        share = self._pool_tokens // max(1, len(self._waiting))
        room = self._pool_tokens
        for most in (share, self._pool_tokens):
            for number, one in enumerate(self._waiting):
                start, stop = taken.setdefault(number, [one.handed_on, one.handed_on])
                used = 0
                while stop < len(one.candidates.documents) and room > 0 and used < most:
                    document = one.candidates.documents[stop]
                    cost = self._plan.count_tokens(Candidates(one.candidates.query, [document]))
                    room, used, stop = room - cost, used + cost, stop + 1
                taken[number] = [start, stop]
        pool = []
        for number, (start, stop) in taken.items():
            one = self._waiting[number]
            if stop > start or not one.candidates.documents:
                one.handed_on = stop
                pool.append((one, start, stop))
        self._waiting = [one for one in self._waiting if not one.is_over]
        return pool

    def _score(self, pool: Sequence[tuple[_Waiting, int, int]]) -> None:
        """Score a pool; where that fails, each request by itself, so that only the one at fault fails."""
        try:
            self._score_together(pool)
        except Exception as error:
            if len(pool) == 1:
                request = pool[0][0]
                with suppress(InvalidStateError):
                    request.answer.set_exception(error)
                with self._changed:
                    self._waiting = [one for one in self._waiting if one is not request]
                return
            for part in pool:
                self._score([part])

    def _score_together(self, pool: Sequence[tuple[_Waiting, int, int]]) -> None:
        import numpy as np

        by_options: dict[RankOptions, list[tuple[_Waiting, int, int]]] = {}
        for part in pool:
            # The other options are for the end, when all of a request is scored.
            asked = part[0].options
            asked = RankOptions(
                long=asked.long,
                chunk_tokens=asked.chunk_tokens,
                chunk_overlap=asked.chunk_overlap,
                pool=asked.pool,
            )
            by_options.setdefault(asked, []).append(part)
        results: list[tuple[tuple[_Waiting, int, int], Scored]] = []
        for options, parts in by_options.items():
            lists = [
                Candidates(one.candidates.query, one.candidates.documents[start:stop])
                for one, start, stop in parts
            ]
            results += zip(parts, self._reranker.model.score_lists(lists, options), strict=True)
        for (one, _, stop), scored in results:
            one.scored.append(scored)
            if stop < len(one.candidates.documents):
                continue
            with suppress(InvalidStateError):  # the client has left meanwhile
                try:
                    joined = np.concatenate(one.scored)
                    one.answer.set_result(self._reranker.make_ranking(one.candidates, joined, one.options))
                except CeRerankError as error:  # its own: nothing of the pool is to be scored again
                    one.answer.set_exception(error)


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

    A function in place of a `Reranker` is called in a thread when the server starts; until it returns,
    requests are answered 503. `served_names` are what clients may call the model besides its own name. With
    an `api_key`, requests need `Authorization: Bearer KEY`. `max_documents` bounds a request's documents,
    `max_body_bytes` its body, and `max_queue` how many requests wait before the next is answered 429.
    """
    service = _Service(reranker, served_names, max_documents, max_queue)
    app = FastAPI(title="ce-rerank", version=__version__, lifespan=service.run, docs_url=None, redoc_url=None)
    app.add_middleware(_Gate, service=service, api_key=api_key, max_body_bytes=max_body_bytes)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(CeRerankError, _answer_ours)
    app.add_exception_handler(Exception, _answer_fault)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": kind} for status, kind in _STATUS_TYPES.items() if status != 405
    }

    async def rerank(request: Request, body: TextsRequest | RerankRequest) -> Any:
        if isinstance(body, TextsRequest):
            return await service.rank_texts(request, body)
        return await service.rank_documents(request, body)

    async def score(request: Request, body: ScoreRequest) -> Any:
        return await service.score_pairs(request, body)

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        app.post(path, responses=errors, response_model=None)(rerank)
    for path in ("/score", "/v1/score"):
        app.post(path, responses=errors, response_model=None)(score)

    @app.get("/health", responses={503: errors[503]})
    async def health() -> Response:
        if service.failure is not None:
            return _error(503, f"The model cannot be loaded: {service.failure}")
        return (
            JSONResponse({"status": "ok"})
            if service.pools is not None
            else _error(503, "The model is loading.")
        )

    @app.get("/info", responses=errors)
    async def info() -> dict[str, Any]:
        return service.describe()

    @app.get("/v1/models", responses=errors)
    async def models() -> dict[str, Any]:
        entries = [{"id": name, "object": "model", "owned_by": "ce-rerank"} for name in service.names]
        return {"object": "list", "data": entries}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    return app


class _Service:
    """The model, its pools and its counters: what all requests share."""

    def __init__(
        self,
        reranker: Reranker | Callable[[], Reranker],
        served_names: Sequence[str],
        max_documents: int,
        max_queue: int,
    ) -> None:
        self._load: Callable[[], Reranker] = (
            (lambda: reranker) if isinstance(reranker, Reranker) else reranker
        )
        self._served_names = served_names
        self._max_documents = max_documents
        self._max_queue = max_queue
        self.pools: RequestPools | None = None
        self.failure: Exception | None = None
        self.registry = CollectorRegistry()
        counted: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("ce_rerank_requests", "Requests answered.", ["path", "status"], **counted)
        self.pairs = Counter("ce_rerank_pairs", "Pairs scored.", **counted)
        self.tokens = Counter("ce_rerank_tokens", "Tokens scored.", **counted)
        self.seconds = Histogram("ce_rerank_seconds", "Seconds to an answer.", ["path"], **counted)
        Gauge("ce_rerank_queue", "Requests that wait.", **counted).set_function(
            lambda: 0 if self.pools is None else self.pools.waiting
        )

    @asynccontextmanager
    async def run(self, app: FastAPI) -> AsyncIterator[None]:
        """Load the model beside the running server, and close the pools at the end."""
        loading = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            yield
        finally:
            await loading
            if self.pools is not None:
                self.pools.close()

    def _start(self) -> None:
        try:
            self.reranker = self._load()
            self.pools = RequestPools(self.reranker, max_queue=self._max_queue)
        except Exception as error:
            self.failure = error
            log.error("The model cannot be loaded: %s", error)

    @property
    def names(self) -> list[str]:
        """What the model is called: the names to serve it by, then its own."""
        return list(dict.fromkeys([*self._served_names, self.reranker.info.model]))

    def describe(self) -> dict[str, Any]:
        """Return the model, what runs it, and the limits."""
        info = self.reranker.info
        return {
            "model_id": self.names[0],
            "model": info.model,
            "revision": info.revision,
            "engine": info.engine,
            "device": info.device,
            "precision": info.precision,
            "packed": info.packed,
            "activation": info.activation,
            "instruction": info.instruction,
            "notes": info.notes,
            "max_length": info.max_length,
            "max_input_length": info.max_length,
            "max_documents": self._max_documents,
            "version": __version__,
        }

    async def rank_documents(self, request: Request, body: RerankRequest) -> dict[str, Any]:
        """Answer in the shape of Jina, Cohere and vLLM."""
        options = body.rank_options(body.top_n)
        candidates = as_candidates(body.query, body.documents, rules=as_field_rules(body.text_field, None))
        ranking = await self._rank(request, candidates, options, body.model)
        results = [
            {
                "index": hit.index,
                "relevance_score": self._written(hit.score, options.scores),
                **({"document": {"text": hit.text}} if body.return_documents else {}),
                **(_details(hit) if body.details else {}),
            }
            for hit in ranking
        ]
        usage = {"total_tokens": ranking.coverage.tokens, "prompt_tokens": ranking.coverage.tokens}
        return {
            "id": uuid.uuid4().hex,
            "model": self.names[0],
            "results": results,
            "usage": usage,
            "meta": {
                "api_version": {"version": "2"},
                "scores": options.scores,
                "documents": ranking.coverage.documents,
                "truncated": ranking.coverage.truncated,
                "blank": ranking.coverage.blank,
            },
        }

    async def rank_texts(self, request: Request, body: TextsRequest) -> Response:
        """Answer in the shape of text-embeddings-inference."""
        scale: ScoreScale = "logit" if body.raw_scores else "sigmoid"
        options = RankOptions(scores=scale, long="truncate" if body.truncate else "error")
        candidates = as_candidates(body.query, body.texts)
        ranking = await self._rank(request, candidates, options, body.model)
        results = [
            {
                "index": hit.index,
                "score": self._written(hit.score, scale),
                **({"text": hit.text} if body.return_text else {}),
            }
            for hit in ranking
        ]
        return JSONResponse(results, headers={"x-truncated-documents": str(ranking.coverage.truncated)})

    async def score_pairs(self, request: Request, body: ScoreRequest) -> dict[str, Any]:
        """Answer in the shape of vLLM's score API, in the order of the pairs."""
        queries = [body.text_1] if isinstance(body.text_1, str) else body.text_1
        texts = [body.text_2] if isinstance(body.text_2, str) else body.text_2
        if len(queries) == 1:
            groups = [(queries[0], texts)]
        elif len(queries) == len(texts):
            groups = [(query, [text]) for query, text in zip(queries, texts, strict=True)]
        else:
            raise UsageError(
                f"text_1 has {len(queries)} texts and text_2 has {len(texts)}.",
                hint="Give one text_1, or as many as text_2.",
            )
        options = RankOptions(scores=body.scores)
        rankings = await asyncio.gather(
            *(
                self._rank(request, as_candidates(query, documents), options, body.model)
                for query, documents in groups
            )
        )
        scores = [hit.score for ranking in rankings for hit in sorted(ranking, key=lambda hit: hit.index)]
        data = [
            {"index": place, "object": "score", "score": self._written(score, body.scores)}
            for place, score in enumerate(scores)
        ]
        tokens = sum(ranking.coverage.tokens for ranking in rankings)
        return {
            "id": uuid.uuid4().hex,
            "object": "list",
            "model": self.names[0],
            "data": data,
            "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        }

    def _written(self, score: float, scale: ScoreScale) -> float | None:
        """Return a score as JSON has it: that of a blank document is 0 from 0 to 1, null elsewhere."""
        if math.isfinite(score):
            return shortest_float32(score)
        is_probability = scale == "sigmoid" or (
            scale == "model" and self.reranker.info.activation == "sigmoid"
        )
        return 0.0 if is_probability else None

    async def _rank(
        self, request: Request, candidates: Candidates, options: RankOptions, model: str | None
    ) -> Ranking:
        assert self.pools is not None  # the gate lets nobody pass before
        if model is not None and model not in self.names:
            raise HTTPException(404, f"There is no model {model!r} here, but {self.names[0]!r}.")
        if len(candidates.documents) > self._max_documents:
            raise HTTPException(
                413, f"{len(candidates.documents)} documents are more than the {self._max_documents} allowed."
            )
        answer = asyncio.wrap_future(await asyncio.to_thread(self.pools.submit, candidates, options))
        leaving: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait([answer, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                raise HTTPException(499, "The client has left.")
            ranking = await answer
        finally:
            leaving.cancel()
        self.pairs.inc(ranking.coverage.documents)
        self.tokens.inc(ranking.coverage.tokens)
        return ranking


class _Gate:
    """Checks the key, the size and that the model is loaded; counts, times and logs each request."""

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
        started, status = time.monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, note_status)
        else:
            await self._app(scope, self._bounded(receive), note_status)
        seconds = time.monotonic() - started
        route = scope.get("route")
        path = route.path if route is not None else "other"
        self._service.requests.labels(path, status).inc()
        self._service.seconds.labels(path).observe(seconds)
        fields = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
        log.info("%s", json.dumps(fields))

    def _refuse(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if scope["path"] in _OPEN_PATHS:
            return None
        if self._authorization is not None and not hmac.compare_digest(
            headers.get(b"authorization", b""), self._authorization
        ):
            return _error(401, "The key is missing or wrong: Authorization: Bearer KEY.")
        if self._service.pools is None:
            failure = self._service.failure
            reason = f"The model cannot be loaded: {failure}" if failure else "The model is loading."
            return _error(503, reason, {"Retry-After": "5"})
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._max_body_bytes:
            return _error(413, self._too_large())
        return None

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"The body is larger than the {self._max_body_bytes:,} bytes allowed."


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _details(hit: RankedDocument) -> dict[str, Any]:
    details: dict[str, Any] = {"tokens": hit.tokens, "truncated": hit.truncated}
    details["characters_read"] = hit.characters_read
    if hit.passage is not None:
        details |= {"start": hit.passage.start, "end": hit.passage.end, "line": hit.passage.line}
    return details


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = _STATUS_TYPES.get(status, "invalid_request")
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).endswith("Request"))
    return _error(400, f"{place}: {first['msg']}")


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail))


async def _answer_ours(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, QueueFullError):
        return _error(429, str(error), {"Retry-After": "1"})
    if isinstance(error, UsageError | InputError):
        return _error(400, str(error))
    log.error("%s", error)
    return _error(500, str(error))


async def _answer_fault(request: Request, error: Exception) -> JSONResponse:
    log.error("A fault of ours: %s: %s", type(error).__name__, error)
    return _error(500, f"A fault of the server's: {type(error).__name__}.")
