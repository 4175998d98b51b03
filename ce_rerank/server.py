"""The HTTP API: one warm model behind the request shapes that rerank clients already speak.

    POST /rerank, /v1/rerank, /v2/rerank   Jina, Cohere v2, vLLM; with `texts`: text-embeddings-inference
    POST /score, /v1/score                 vLLM
    GET  /health /info /v1/models /metrics

Requests that wait are scored together, in pools of about a second's work. A large request is cut into parts,
and waiting requests take turns, a part each: many small requests cost what one large one does, and none waits
for another's thousand documents.
"""

from __future__ import annotations

import asyncio
import heapq
import hmac
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import Discriminator, Tag
from pydantic.dataclasses import dataclass as request_body
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__
from .errors import CeRerankError, InputError, UsageError, as_python
from .formats.rows import shortest_float32
from .inputs import as_candidates, as_field_rules
from .ranking import Scored
from .reranker import Reranker
from .types import Candidates, RankedDocument, Ranking, RankOptions, ScoreScale

log = logging.getLogger("ce_rerank.server")

_POOL_BATCHES = 32  # of the engine's own size: as many fill batches nearly without padding
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
    """A query and documents, as Jina, Cohere and vLLM take them, with the ranking options by their names.

    A document is a string or an object. `top_n` is these APIs' name for `top_k`.
    """

    query: str
    documents: list[str | dict[str, Any]]
    scores: ScoreScale = "sigmoid"
    top_n: int | None = None
    return_documents: bool = False
    text_field: tuple[str, ...] = ()
    details: bool = False
    model: str | None = None


@request_body(frozen=True, kw_only=True)
class TextsRequest:
    """A query and texts, as text-embeddings-inference takes them."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = True
    model: str | None = None


@request_body(frozen=True, kw_only=True)
class ScoreRequest:
    """Pairs of texts, as vLLM takes them: one with each of the others, or each with its own."""

    text_1: str | list[str]
    text_2: str | list[str]
    scores: ScoreScale = "sigmoid"
    model: str | None = None


def _name_shape(body: Any) -> str:
    return "texts" if isinstance(body, dict) and "texts" in body else "documents"


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("documents")] | Annotated[TextsRequest, Tag("texts")],
    Discriminator(_name_shape),
]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request on its way through the pools, and what came of its first parts."""

    candidates: Candidates
    options: RankOptions
    answer: Future[Ranking] = field(default_factory=Future)
    scored: list[Scored] = field(default_factory=list)


class _Part(NamedTuple):
    request: _Waiting
    candidates: Candidates
    tokens: int
    is_last: bool


class RequestPools:
    """Ranks requests from many threads by one `Reranker`, in pools of about `pool_tokens` tokens.

    At most `max_queue` requests wait. `close` it in the end.
    """

    def __init__(self, reranker: Reranker, *, max_queue: int, pool_tokens: int | None = None) -> None:
        self._reranker = reranker
        self._max_queue = max_queue
        self._pool_tokens = pool_tokens or _POOL_BATCHES * reranker.model.batch_tokens
        self._plan = reranker.plan_pools(RankOptions())
        # By turn, then by arrival: a heap. A request's first part has the turn that is under way.
        self._parts: list[tuple[int, int, _Part]] = []
        self._turn = 0
        self._arrivals = count()
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
        with self._changed:
            requests = [part.request for _, _, part in self._parts]
        return len({id(request) for request in requests if not request.answer.done()})

    def submit(self, candidates: Candidates, options: RankOptions) -> Future[Ranking]:
        """Queue a request; its ranking, or what went wrong, is the future's. Cancel it to withdraw.

        Raises UsageError or InputError for what cannot be ranked, and HTTPException when too many wait.
        """
        self._reranker.require_scorable(candidates, options)
        request = _Waiting(self._reranker.take_first_stage(candidates, options), options)
        parts = list(self._cut(request))
        with self._changed:
            if self.waiting >= self._max_queue:
                raise HTTPException(429, "Too many requests are waiting.", {"Retry-After": "1"})
            for turn, part in enumerate(parts, start=self._turn):
                heapq.heappush(self._parts, (turn, next(self._arrivals), part))
            self._changed.notify()
        return request.answer

    def _cut(self, request: _Waiting) -> Iterator[_Part]:
        """Cut a request into parts, so many to a pool; one without documents is a part, too."""
        query, documents = request.candidates.query, request.candidates.documents
        start = tokens = 0
        for stop, document in enumerate(documents, start=1):
            tokens += self._plan.count_tokens(Candidates(query, [document]))
            if tokens * _PARTS_OF_A_POOL >= self._pool_tokens or stop == len(documents):
                part = Candidates(query, documents[start:stop])
                yield _Part(request, part, tokens, stop == len(documents))
                start, tokens = stop, 0
        if not documents:
            yield _Part(request, request.candidates, 0, True)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._parts or self._is_closing)
                if not self._parts:
                    return
                pool = self._take()
            for options, parts in pool.items():
                self._score(parts, options)

    def _take(self) -> dict[RankOptions, list[_Part]]:
        """Take a pool of parts, by the options that they are scored with."""
        pool: dict[RankOptions, list[_Part]] = {}
        room = self._pool_tokens
        while self._parts and room > 0:
            self._turn, _, part = heapq.heappop(self._parts)
            if part.request.answer.done():  # it failed, or its client has left
                continue
            room -= part.tokens
            asked = part.request.options
            # The other options are for the end, when all of a request is scored.
            options = RankOptions(
                long=asked.long,
                chunk_tokens=asked.chunk_tokens,
                chunk_overlap=asked.chunk_overlap,
                pool=asked.pool,
            )
            pool.setdefault(options, []).append(part)
        return pool

    def _score(self, parts: Sequence[_Part], options: RankOptions) -> None:
        """Score parts together; where that fails, each by itself, so that only the one at fault fails."""
        try:
            scored = self._reranker.model.score_lists([part.candidates for part in parts], options)
        except Exception as error:
            if len(parts) == 1:
                with suppress(InvalidStateError):
                    parts[0].request.answer.set_exception(error)
            else:
                for part in parts:
                    self._score([part], options)
            return
        for part, of_part in zip(parts, scored, strict=True):
            part.request.scored.append(of_part)
            if part.is_last:
                self._finish(part.request)

    def _finish(self, request: _Waiting) -> None:
        import numpy as np

        with suppress(InvalidStateError):  # the client has left meanwhile
            try:
                joined = np.concatenate(request.scored)
                ranking = self._reranker.make_ranking(request.candidates, joined, request.options)
            except Exception as error:
                request.answer.set_exception(error)
            else:
                request.answer.set_result(ranking)


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


class _Service:
    """The model, its pools and its counters, which all requests share, and the answers."""

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
        self._pools: RequestPools | None = None
        self._failure: Exception | None = None
        self._registry = CollectorRegistry()
        counted: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("ce_rerank_requests", "Requests answered.", ["path", "status"], **counted)
        self.seconds = Histogram("ce_rerank_seconds", "Seconds to an answer.", ["path"], **counted)
        self._pairs = Counter("ce_rerank_pairs", "Pairs scored.", **counted)
        self._tokens = Counter("ce_rerank_tokens", "Tokens scored.", **counted)
        waiting = Gauge("ce_rerank_queue", "Requests that wait.", **counted)
        waiting.set_function(lambda: self._pools.waiting if self._pools else 0)

    @asynccontextmanager
    async def run(self, app: FastAPI) -> AsyncIterator[None]:
        """Load the model beside the running server, and close the pools at the end."""
        loading = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            yield
        finally:
            await loading
            if self._pools is not None:
                self._pools.close()

    def _start(self) -> None:
        try:
            self._reranker = self._load()
            self._pools = RequestPools(self._reranker, max_queue=self._max_queue)
        except Exception as error:
            self._failure = error
            log.error("The model cannot be loaded: %s", error)

    def refuse(self) -> Response | None:
        """Return the answer while there is no model; None once it is loaded."""
        if self._failure is not None:
            return _error(503, f"The model cannot be loaded: {self._failure}")
        return None if self._pools else _error(503, "The model is loading.", {"Retry-After": "5"})

    async def report_health(self) -> Response:
        """Answer whether the model is loaded."""
        return self.refuse() or JSONResponse({"status": "ok"})

    async def measure(self) -> Response:
        """Answer with the counters, as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")

    async def list_models(self) -> dict[str, Any]:
        """Answer with the names of the model, in the shape of OpenAI's list."""
        entries = [{"id": name, "object": "model", "owned_by": "ce-rerank"} for name in self._names]
        return {"object": "list", "data": entries}

    async def describe(self) -> dict[str, Any]:
        """Answer with the model, what runs it, and the limits."""
        info = self._reranker.info
        return {
            **asdict(info),
            "model_id": self._names[0],
            "max_input_length": info.max_length,
            "max_documents": self._max_documents,
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
        read = ranking.coverage
        meta = {"documents": read.documents, "truncated": read.truncated, "blank": read.blank}
        return JSONResponse(
            {
                "id": uuid.uuid4().hex,
                "model": self._names[0],
                "results": results,
                "usage": {"total_tokens": read.tokens, "prompt_tokens": read.tokens},
                "meta": {"api_version": {"version": "2"}, "scores": options.scores, **meta},
            }
        )

    async def _rank_texts(self, request: Request, body: TextsRequest) -> Response:
        scale: ScoreScale = "logit" if body.raw_scores else "sigmoid"
        options = RankOptions(scores=scale, long="truncate" if body.truncate else "error")
        ranking = await self._rank(request, as_candidates(body.query, body.texts), options, body.model)
        results = [
            {
                "index": hit.index,
                "score": self._written(hit.score, scale),
                **({"text": hit.text} if body.return_text else {}),
            }
            for hit in ranking
        ]
        return JSONResponse(results, headers={"x-truncated-documents": str(ranking.coverage.truncated)})

    async def score(self, request: Request, body: ScoreRequest) -> Response:
        """Score pairs of texts, in their order."""
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
        self._require_few(texts)
        options = RankOptions(scores=body.scores)
        lists = [as_candidates(query, documents) for query, documents in groups]
        ranked = (self._rank(request, candidates, options, body.model) for candidates in lists)
        rankings = await asyncio.gather(*ranked)
        scores = [hit.score for ranking in rankings for hit in sorted(ranking, key=lambda hit: hit.index)]
        data = [
            {"index": place, "object": "score", "score": self._written(score, body.scores)}
            for place, score in enumerate(scores)
        ]
        tokens = sum(ranking.coverage.tokens for ranking in rankings)
        usage = {"total_tokens": tokens, "prompt_tokens": tokens}
        answer = {"id": uuid.uuid4().hex, "object": "list", "model": self._names[0], "data": data}
        return JSONResponse({**answer, "usage": usage})

    async def _rank(
        self, request: Request, candidates: Candidates, options: RankOptions, model: str | None
    ) -> Ranking:
        assert self._pools is not None  # the gate lets nobody pass before
        if model is not None and model not in self._names:
            raise HTTPException(404, f"There is no model {model!r} here, but {self._names[0]!r}.")
        self._require_few(candidates.documents)
        answer = asyncio.wrap_future(await asyncio.to_thread(self._pools.submit, candidates, options))
        leaving: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait([answer, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                raise HTTPException(499, "The client has left.")
            ranking = await answer
        finally:
            leaving.cancel()
        self._pairs.inc(ranking.coverage.documents)
        self._tokens.inc(ranking.coverage.tokens)
        return ranking

    def _require_few(self, documents: Sequence[Any]) -> None:
        if len(documents) > self._max_documents:
            raise HTTPException(
                413, f"{len(documents)} documents are more than the {self._max_documents} allowed."
            )

    @property
    def _names(self) -> list[str]:
        """What the model is called: the names to serve it by, then its own."""
        return list(dict.fromkeys([*self._served_names, self._reranker.info.model]))

    def _written(self, score: float, scale: ScoreScale) -> float | None:
        """Return a score as JSON has it: that of a blank document is 0 from 0 to 1, null elsewhere."""
        if math.isfinite(score):
            return shortest_float32(score)
        return 0.0 if "sigmoid" in (scale, scale == "model" and self._reranker.info.activation) else None


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

        try:
            app = self._refuse(scope) or self._app
            await app(scope, self._bounded(receive), note_status)
        finally:
            seconds = time.monotonic() - started
            path = getattr(scope.get("route"), "path", "other")
            self._service.requests.labels(path, status).inc()
            self._service.seconds.labels(path).observe(seconds)
            told = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
            log.info("%s", json.dumps(told))

    def _refuse(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if scope["path"] in _OPEN_PATHS:
            return None
        if self._authorization is not None and not hmac.compare_digest(
            headers.get(b"authorization", b""), self._authorization
        ):
            return _error(401, "The key is missing or wrong: Authorization: Bearer KEY.")
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._max_body_bytes:
            return _error(413, self._too_large())
        return self._service.refuse()

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


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _error(400, f"{place}: {first['msg']}")
    if isinstance(error, UsageError | InputError):
        return _error(400, str(error))
    is_ours = not isinstance(error, CeRerankError)
    log.error("%s%s", f"A fault of ours: {type(error).__name__}: " * is_ours, error)
    return _error(500, f"A fault of the server's: {type(error).__name__}." if is_ours else str(error))


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    kind = _ERROR_TYPES.get(status, "invalid_request")
    return JSONResponse({"error": {"message": as_python(message), "type": kind}}, status, headers)
