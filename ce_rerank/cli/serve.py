"""`ce-rerank serve`: the model kept warm behind an HTTP API."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

from ..errors import UnavailableError, UsageError
from .commands import option
from .console import show_messages
from .options import MessageOptions, ModelOptions, as_keywords

_SERVER = "Server"
_KEY_VARIABLE = "CE_RERANK_API_KEY"
_SHUTDOWN_SECONDS = 30

log = logging.getLogger("ce_rerank")


def serve(
    host: Annotated[
        str, option("--host", panel=_SERVER, metavar="ADDRESS", help="Listen on this address.")
    ] = "127.0.0.1",
    port: Annotated[
        int, option("--port", panel=_SERVER, metavar="N", min=0, help="0: any that is free.")
    ] = 8787,
    served_name: Annotated[
        list[str] | None,
        option(
            "--served-name", panel=_SERVER, metavar="NAME",
            help="What clients may call the model, besides its own name. Repeat it for several.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        option(
            "--api-key-file", panel=_SERVER, metavar="PATH",
            help=f"Require the key in this file of every client (or the one in {_KEY_VARIABLE}).",
        ),
    ] = None,
    max_documents: Annotated[
        int, option("--max-documents", panel=_SERVER, metavar="N", min=1, help="In a request.")
    ] = 1000,
    max_body_bytes: Annotated[
        int, option("--max-body-bytes", panel=_SERVER, metavar="N", min=1, help="Of a request.")
    ] = 32 << 20,
    max_queue: Annotated[
        int,
        option("--max-queue", panel=_SERVER, metavar="N", min=1, help="Requests that wait; more get 429."),
    ] = 1024,
    *,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:  # fmt: skip
    """Answer rerank requests over HTTP from one warm model.

    It speaks the APIs of Jina, Cohere, vLLM and text-embeddings-inference. `-m http://HOST:PORT` makes the
    other commands its clients.
    """
    try:
        import uvicorn

        from ..server import create_app
    except ImportError as error:
        raise UnavailableError(
            f"The server needs {error.name}.", hint="Install it: pip install 'ce-rerank[serve]'"
        ) from None
    from ..reranker import Reranker

    with show_messages(messages):
        failures: list[Exception] = []

        def load() -> Reranker:
            try:
                return Reranker(**as_keywords(model))
            except Exception as error:
                failures.append(error)
                server.should_exit = True
                raise

        app = create_app(
            load,
            served_names=[*(served_name or ()), *filter(None, [model.model])],
            api_key=_read_key(api_key_file) if api_key_file else os.environ.get(_KEY_VARIABLE) or None,
            max_documents=max_documents,
            max_body_bytes=max_body_bytes,
            max_queue=max_queue,
        )
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, port), family=family, backlog=2048)
        except (OSError, OverflowError) as error:
            raise UnavailableError(
                f"{host}:{port} cannot be listened on ({getattr(error, 'strerror', None) or error}).",
                hint="Give another --port or --host.",
            ) from None
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_SHUTDOWN_SECONDS
        )
        server = uvicorn.Server(config)
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what goes wrong, the server says itself
        log.warning("Listening on http://%s:%d", host, listening.getsockname()[1])
        # uvicorn raises the signal that ended it again; what was accepted is then finished, and all is well.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listening])
        if failures:
            raise failures[0]


def _read_key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: no key can be read there ({error}).") from None
    if not key:
        raise UsageError(f"{path}: no key in it.")
    return key
