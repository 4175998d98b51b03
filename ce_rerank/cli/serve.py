"""`ce-rerank serve`: a warm model behind an HTTP API."""

from __future__ import annotations

import logging
import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import UnavailableError, UsageError, missing_package
from ..remote import KEY_VARIABLE
from .console import Activity, draw_message
from .options import MessageOptions, ModelOptions, option_field

_SHUTDOWN_SECONDS = 30


@dataclass(frozen=True)
class ServerOptions:
    """Where to listen, and which requests to accept."""

    panel: ClassVar = "Server"
    host: str = option_field("127.0.0.1", metavar="ADDRESS", help="Listen on this address.")
    port: int = option_field(8787, metavar="N", min=0, max=65535, help="Listen on this port; 0: a free one.")
    served_name: list[str] | None = option_field(
        None, metavar="NAME", help="Another name of the model, for clients. Repeatable."
    )
    api_key_file: Path | None = option_field(
        None, metavar="PATH", help=f"Require the key in this file, or in {KEY_VARIABLE}, from clients."
    )
    max_documents: int = option_field(1000, metavar="N", min=1, help="The most documents of a request.")
    max_body_bytes: int = option_field(32 << 20, metavar="N", min=1, help="The largest request.")
    max_queue: int = option_field(1024, metavar="N", min=1, help="The most requests at a time; else 429.")


def serve(*, server: ServerOptions, model: ModelOptions, messages: MessageOptions) -> None:
    """Answer rerank requests over HTTP from one warm model.

    It has the APIs of Jina, Cohere, vLLM and text-embeddings-inference. Other commands use it with
    `-m http://HOST:PORT`.
    """
    try:
        import uvicorn

        from ..server import create_app
    except ImportError as error:
        raise missing_package(f"The server needs {error.name}.", "serve") from None
    from ..reranker import Reranker

    with Activity(messages) as activity:
        api_key = os.environ.get(KEY_VARIABLE) or None
        if server.api_key_file is not None:
            api_key = server.api_key_file.read_text(encoding="utf-8").strip()
            if not api_key:
                raise UsageError(f"{server.api_key_file}: no key in it.")
        failures: list[Exception] = []

        def load() -> Reranker:
            try:
                return Reranker(**asdict(model))
            except Exception as error:
                failures.append(error)
                running.should_exit = True
                raise

        app = create_app(
            load,
            served_names=[*(server.served_name or ()), *filter(None, [model.model])],
            api_key=api_key,
            max_documents=server.max_documents,
            max_body_bytes=server.max_body_bytes,
            max_queue=server.max_queue,
        )
        listening = _listen(server.host, server.port)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_SHUTDOWN_SECONDS
        )
        running = uvicorn.Server(config)
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # our server logs its errors itself
        if not messages.quiet:
            draw_message(activity.console, f"Listening on http://{server.host}:{listening.getsockname()[1]}")
        # When it has finished all requests, uvicorn raises the signal again; that is no error.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        running.run(sockets=[listening])
        if failures:
            raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        problem = f"Cannot listen on {host}:{port} ({error.strerror or error})."
        raise UnavailableError(problem, hint="Give another --port or --host.") from None
