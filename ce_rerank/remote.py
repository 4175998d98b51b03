"""The model of a running `ce-rerank serve`, which scores for a `Reranker`.

Queries and options are sent there, and logits come back. Scales, ties, thresholds and the order of results
are decided here, as for a model on this machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from http.client import HTTPException
from itertools import accumulate, pairwise
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from .engines.base import EngineInfo
from .errors import InputError, UnavailableError, UsageError, told_from
from .ranking import ACTIVATIONS, Scored, unscored
from .types import Candidates, OnProgress, RankOptions

KEY_VARIABLE = "CE_RERANK_API_KEY"

_CONNECTIONS = 8  # requests at a time: enough for the server to fill its batches
_WAITS_SECONDS = (0.2, 0.5, 1, 2, 4, 8, 15, 30)  # between tries, while the server is busy or starting
_ANSWER_SECONDS = 600
_HINT = "Give http://HOST:PORT, where ce-rerank serve runs."
_TOLD = ("tokens", "truncated", "characters_read", "start", "end", "line")


class RemoteModel:
    """Scores for a `Reranker` by the model of a server. Threads may share it.

    `url` is the part of the address before `/info` and `/rerank`. The key is in the environment variable
    CE_RERANK_API_KEY. Raises UnavailableError when the server does not answer, refuses the key, or is not a
    ce-rerank server.
    """

    def __init__(self, url: str) -> None:
        if not urlsplit(url).hostname:
            raise UsageError(f"{url} is not the URL of a server.", hint=_HINT)
        if urlsplit(url).username is not None:
            raise UsageError(
                "A server's URL has no name and password.", hint=f"Set {KEY_VARIABLE} to its key."
            )
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Bearer {key}"
        self._open = build_opener(ProxyHandler({})).open
        self._threads = ThreadPoolExecutor(_CONNECTIONS)
        facts = self._call("/info")
        if "max_input_length" not in facts:
            raise UnavailableError(f"{self.url} is not a ce-rerank server.", hint=_HINT)
        self._max_documents = int(facts["max_documents"])
        facts |= {"device": f"{facts['device']} of {self.url}", "notes": tuple(facts["notes"] or ())}
        self.info = EngineInfo(**{name: facts.get(name) for name in EngineInfo.__dataclass_fields__})
        if self.info.activation not in ACTIVATIONS:
            raise UnavailableError(f"{self.url} serves a model with an unknown activation.", hint=_HINT)
        self.activate = ACTIVATIONS[self.info.activation]
        self.batch_tokens = 0  # that is the server's to decide

    def require_scorable(self, candidates: Candidates, options: RankOptions) -> None:
        """Do nothing: the server refuses what it cannot score when it is asked to."""

    def score_lists(
        self,
        lists: Sequence[Candidates],
        options: RankOptions,
        on_progress: OnProgress | None = None,
        *,
        with_blanks: bool = False,
    ) -> list[Scored]:
        """Let the server score the documents of several queries; return a table for each query.

        It scores no blank document, not even `with_blanks`. `on_progress` is called with the number of
        documents just scored.
        """
        parts = [
            replace(one, documents=one.documents[start : start + self._max_documents])
            for one in lists
            for start in range(0, len(one.documents), self._max_documents)
        ]
        body = {**asdict(options.for_scoring()), "scores": "logit", "details": True}

        def ask(part: Candidates) -> list[dict[str, Any]]:
            texts = [document.text for document in part.documents]
            try:
                answer = self._call("/v1/rerank", {**body, "query": part.query.text, "documents": texts})
            except InputError as error:
                raise InputError(told_from(part.query.origin, error.message)) from None
            return sorted(answer["results"], key=lambda result: int(result["index"]))

        scored = unscored([document.text for one in lists for document in one.documents])
        rows = iter(scored)
        for results in self._threads.map(ask, parts):
            for result, row in zip(results, rows, strict=False):
                if result["relevance_score"] is not None:  # not blank
                    row["logit"] = result["relevance_score"]
                    for name in _TOLD:
                        row[name] = result.get(name, row[name])
            if on_progress is not None:
                on_progress(len(results))
        ends = accumulate([len(one.documents) for one in lists], initial=0)
        return [scored[start:end] for start, end in pairwise(ends)]

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the server's answer; ask again, after a while, if it is busy or starting."""
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        request = Request(self.url + path, content, self._headers)
        for wait_seconds in (*_WAITS_SECONDS, None):
            try:
                with self._open(request, timeout=_ANSWER_SECONDS) as answer:
                    return json.load(answer)
            except HTTPError as error:
                message = _read_message(error)
                if error.code in (400, 413):
                    raise InputError(f"{self.url}: {message}") from None
                if error.code == 401:
                    hint = f"Set {KEY_VARIABLE}."
                    raise UnavailableError(f"{self.url} refuses the key.", hint=hint) from None
                reason, may_wait = f"answered {error.code}: {message}", error.code in (429, 503)
            except (OSError, HTTPException, ValueError) as error:
                cause = getattr(error, "reason", error)
                told = getattr(cause, "strerror", None) or cause or type(cause).__name__
                reason = f"gave no answer ({told})"
                may_wait = body is not None  # at the start there is no work that waiting could save
            if not may_wait or wait_seconds is None:
                break
            time.sleep(wait_seconds)
        raise UnavailableError(f"The server {self.url} {reason}.", hint=_HINT)


def _read_message(answer: HTTPError) -> str:
    with answer:
        try:
            return str(json.load(answer)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return "an answer that is not JSON"
