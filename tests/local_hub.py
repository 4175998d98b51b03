"""A hub on loopback: as much of the hub's HTTP interface as fetching a model takes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

CROSS_ENCODER_FILES = {
    "config.json": json.dumps(
        {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "id2label": {"0": "LABEL_0"},
        }
    ).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "model.safetensors": b"weights " * 1000,
    "README.md": b"# A model\n",
}


@dataclass
class HubModel:
    """A model on the local hub; `large` are the files that it keeps in LFS.

    Of a `stalled` file only the first half is sent, and then nothing until the hub is told to `release`.
    """

    files: dict[str, bytes]
    commit: str
    revisions: tuple[str, ...] = ("main",)
    large: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    token: str | None = None
    is_gated: bool = False
    damaged: tuple[str, ...] = ()
    stalled: tuple[str, ...] = ()


@dataclass
class LocalHub:
    """What the hub holds and what it was asked for.

    `status` with `headers` is its answer to everything.
    """

    url: str = ""
    models: dict[str, HubModel] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: dict[str, bytes] | None = None, **settings: Any) -> HubModel:
        """Publish a model; its commit follows from its files."""
        files = CROSS_ENCODER_FILES if files is None else files
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.models[name] = HubModel(files, commit, **settings)
        return self.models[name]


@contextmanager
def serve_hub() -> Iterator[LocalHub]:
    """Serve a hub that holds nothing yet, on a free port, for as long as the context lasts."""
    state = LocalHub()

    class Handler(_HubHandler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _HubHandler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/agent-harnesses"):
            return self._send(404)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status is not None:
            return self._send(self.hub.status, headers=self.hub.headers)
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            what, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
            return self._answer_about(f"{owner}/{name}", revision, None, as_tree=what == "tree")
        model, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._answer_about(model, revision, file)

    def _answer_about(self, name: str, revision: str, file: str | None, *, as_tree: bool = False) -> None:
        model = self.hub.models.get(name)
        authorized = model is not None and self.headers.get("Authorization") == f"Bearer {model.token}"
        if model is None or (model.token and not model.is_gated and not authorized):
            return self._send(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Not found"})
        if model.is_gated and file is not None and not authorized:
            return self._send(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Gated"})
        if revision not in (*model.revisions, model.commit):
            return self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        if file is None:
            described = _list_tree(model) if as_tree else _describe(name, model)
            return self._send(200, json.dumps(described).encode())
        content = model.files[file]
        headers = {"X-Repo-Commit": model.commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if file in model.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self._send(200, content, headers, stall=file in model.stalled)

    def _send(
        self,
        status: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        stall: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if stall else content)
        if stall:
            self.wfile.flush()
            self.hub.release.wait(60)
            self.close_connection = True

    do_GET = do_HEAD = _answer  # noqa: N815


def _describe(name: str, model: HubModel) -> dict[str, Any]:
    siblings = []
    for file, content in model.files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        sibling: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": blob}
        if file in model.large:
            digest = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        siblings.append(sibling)
    return {"id": name, "sha": model.commit, "siblings": siblings}


def _list_tree(model: HubModel) -> list[dict[str, Any]]:
    """List the files as `list_repo_tree` gets them: the same facts as `_describe`, under other names."""
    entries = []
    for file in _describe("", model)["siblings"]:
        entry = {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
        if "lfs" in file:
            entry["lfs"] = {**file["lfs"], "oid": file["lfs"]["sha256"]}
        entries.append(entry)
    return entries


_RESOLVE = """
import json, logging, sys
from ce_rerank.errors import CeRerankError
from ce_rerank.models.store import resolve_checkpoint

stages, progress = [], []
arguments = json.loads(sys.argv[1])
if arguments.pop("report", False):
    arguments["on_progress"] = lambda count, total: progress.append((count, total))
class Stages(logging.Handler):
    def emit(self, record):
        if getattr(record, "stage", False):
            stages.append(record.getMessage())
logging.getLogger("ce_rerank").addHandler(Stages())
logging.getLogger("ce_rerank").setLevel(logging.INFO)
try:
    found = resolve_checkpoint(**arguments)
    answer = {"folder": str(found.folder), "source": found.source, "revision": found.revision}
except CeRerankError as error:
    answer = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
if progress:
    answer["progress"] = progress
print(json.dumps({**answer, "stages": stages}))
"""


@dataclass
class Resolver:
    """Resolves names in a process of its own: huggingface_hub reads its environment once, when imported."""

    environment: dict[str, str]

    def start(self, name: str | None, **arguments: object) -> subprocess.Popen[str]:
        """Start resolving a name."""
        command = [sys.executable, "-c", _RESOLVE, json.dumps({"name": name, **arguments})]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the checkpoint or the error, field by field, and the stages announced."""
        output, chatter = process.communicate(timeout=60)
        assert chatter == ""
        answer: dict[str, Any] = json.loads(output)
        return answer

    def __call__(self, name: str | None, **arguments: object) -> dict[str, Any]:
        """Resolve a name, with nothing on stderr meanwhile; `report` asks for the progress of a download."""
        return self.finish(self.start(name, **arguments))


def write_checkpoint(folder: Path) -> Path:
    """Write a cross-encoder into a new folder."""
    folder.mkdir(parents=True)
    for name, content in CROSS_ENCODER_FILES.items():
        (folder / name).write_bytes(content)
    return folder


def put_in_cache(cache: Path, name: str, files: dict[str, bytes] | None = None) -> str:
    """Write a model into a hub's cache as huggingface_hub does; return its commit."""
    files = CROSS_ENCODER_FILES if files is None else files
    commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    repository = cache / f"models--{name.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        place = repository / "snapshots" / commit / file
        place.parent.mkdir(exist_ok=True)
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        place.symlink_to(os.path.relpath(blob, place.parent))
    (repository / "refs" / "main").write_text(commit)
    return commit
