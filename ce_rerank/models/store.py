"""Names to checkpoints on disk: the hub's cache, a folder, the offline weights."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import UnavailableError, UsageError
from ..files import lock, make_folder_whole
from .catalog import DEFAULT_NAME as DEFAULT_NAME
from .catalog import OFFLINE_NAME as OFFLINE_NAME
from .catalog import resolve_alias, suggest_names
from .contents import Fault, find_fault, is_cross_encoder, list_code, list_files

if TYPE_CHECKING:
    from .hub import DownloadProgress

log = logging.getLogger("ce_rerank")

CACHE_VARIABLE = "CE_RERANK_CACHE"

_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_PATH_START = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights as published, lying in an ordinary folder on this machine.

    `name` is what the user called it. `revision` is the commit of the hub, None for a folder. `notes` are
    facts that its user should know, as short phrases. The source `compiled` is a folder that was exported:
    there are no weights as published in it, but a compiled model.
    """

    name: str
    folder: Path
    source: Literal["hub", "folder", "offline", "compiled"]
    revision: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Trust:
    """What of a model may run code here: pickled weights, and Python files."""

    pickle: bool = False
    code: bool = False


def default_model() -> str:
    """Name the model that is used when none is named; without a look at the network.

    The offline weights where they are installed or were made ready before, else the hub's default.
    """
    from .offline import offline_weights_installed

    if offline_weights_installed() or _is_whole(offline_folder()):
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
    on_progress: DownloadProgress | None = None,
) -> Checkpoint:
    """Find the checkpoint that a name stands for; make it ready or fetch it where that is needed.

    A name is a folder, `offline/ms-marco-MiniLM-L-12-v2`, a model on the hub, or the catalog's alias for one;
    None is the default model. A model that lies whole in the hub's cache is taken from there without asking
    the network, `offline` or not; with `refresh` the hub is asked for what it has now. `revision` is a
    branch, tag or commit of a hub model. Python files of a model are fetched only with `trust_remote_code`,
    and what they are is then logged as a warning; pickled weights are taken only with `allow_pickle`.
    `on_progress` is told how far a download is, in bytes.

    Raises UsageError for a revision of something that has none, and UnavailableError, with what would work,
    for all that is not to be had.
    """
    chosen = default_model() if name is None else resolve_alias(name)
    if name is None:
        log.info("No model is named: taking %s.", chosen)
    elif chosen != name:
        log.info("%s stands for %s.", name, chosen)
    is_folder = chosen == name and name != OFFLINE_NAME and _is_path(name)
    if revision is not None and (is_folder or chosen == OFFLINE_NAME):
        raise UsageError(
            f"{chosen} has no revisions: it is {'a folder' if is_folder else 'made on this machine'}.",
            hint="Leave --revision out, or name a model on the hub.",
        )
    if chosen == OFFLINE_NAME:
        return _resolve_offline()
    trust = _Trust(pickle=allow_pickle, code=trust_remote_code)
    if is_folder:
        found = _resolve_folder(chosen, trust)
    else:
        _check_hub_name(chosen)
        cached = _find_cached(chosen, revision, trust)
        found = (
            cached
            if isinstance(cached, Checkpoint) and not refresh
            else _ask_hub(chosen, revision, trust, cached, offline=offline, on_progress=on_progress)
        )
    if trust_remote_code and (code := list_code(found.folder)):
        log.warning("%s brings Python code, which will run here: %s.", chosen, ", ".join(code))
    return found


def find_cached_fault(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Fault | None:
    """Say what keeps a hub model from being used as it lies in the cache.

    None when nothing does, and when nothing of that revision is there.
    """
    trust = _Trust(pickle=allow_pickle, code=trust_remote_code)
    cached = _find_cached(resolve_alias(name), revision, trust)
    return cached if isinstance(cached, Fault) else None


def cached_models() -> list[str]:
    """List the cross-encoders that lie whole in the hub's cache; opens nothing but their configurations."""
    from .hub_cache import find_snapshot, list_cached_names

    names = []
    for name in list_cached_names():
        snapshot = find_snapshot(name, None)
        if snapshot is not None and _is_whole(snapshot.folder) and is_cross_encoder(snapshot.folder):
            names.append(name)
    return names


def cache_folder() -> Path:
    """Give the folder for what is made here: CE_RERANK_CACHE, else the platform's cache folder for users.

    It may not exist yet; `make_cache_folder` makes folders in it.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111
    from platformdirs import user_cache_path

    return user_cache_path("ce-rerank", appauthor=False)


def make_cache_folder(name: str) -> Path:
    """Make a folder in the cache, unless it is there; raises UnavailableError where that cannot be done."""
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable_cache(error) from error
    return folder


def _unwritable_cache(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"The cache folder {cache_folder()} cannot be written: {error.strerror or error}.",
        hint=f"Make room or mend its permissions, or name another folder with {CACHE_VARIABLE}.",
    )


def _is_whole(folder: Path) -> bool:
    return _find_fault(folder, _Trust(pickle=True)) is None


def _find_fault(folder: Path, trust: _Trust) -> Fault | None:
    return find_fault(list_files(folder), folder, allow_pickle=trust.pickle, with_code=trust.code)


def _is_path(name: str) -> bool:
    """Say whether a name is a path: it is there, or it cannot be anything else."""
    return (
        bool(_PATH_START.match(name))
        or name.count("/") > 1
        or os.sep in name.replace("/", "")
        or _exists(name)
    )


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):
        return False


def _check_hub_name(name: str) -> None:
    if _HUB_NAME.fullmatch(name):
        return
    suggested = suggest_names(name, cached_models())
    hint = f"Models on the hub are called OWNER/NAME ({DEFAULT_NAME}); a folder must exist."
    if suggested:
        hint = f"Did you mean {' or '.join(suggested)}? `ce-rerank models` lists what is known."
    raise UnavailableError(f"{name!r} is neither a folder nor a known model.", hint=hint)


def _resolve_folder(name: str, trust: _Trust) -> Checkpoint:
    path = Path(os.path.expanduser(name)).absolute()  # noqa: PTH111  (Path's fails where there is no such user)
    try:
        if path.is_file():
            raise UnavailableError(f"{name} is a file.", hint=f"Give its folder: -m {path.parent}")
        if not path.is_dir():
            raise UnavailableError(
                f"There is no folder {name}.",
                hint=f"A model on the hub is called OWNER/NAME ({DEFAULT_NAME}).",
            )
        if _is_compiled(path):
            return _describe_compiled(name, path)
        fault = _find_fault(path, trust)
    except OSError as error:
        raise UnavailableError(f"The folder {name} cannot be read: {error.strerror}.") from error
    if fault is not None:
        raise UnavailableError(f"The folder {name} {fault.cause}.", hint=fault.hint)
    return Checkpoint(name=name, folder=path, source="folder")


def _is_compiled(path: Path) -> bool:
    from ..engines.openvino.manifest import GRAPH_NAME, MANIFEST_NAME

    return (path / MANIFEST_NAME).is_file() and (path / GRAPH_NAME).is_file()


def _describe_compiled(name: str, path: Path) -> Checkpoint:
    """Take a folder that was exported; whether it is whole is found out when it is opened."""
    from ..engines.openvino.manifest import read_manifest
    from .offline import NOTE

    manifest = read_manifest(path)
    if manifest is None:
        return Checkpoint(name=name, folder=path, source="compiled")
    notes = (
        f"compiled from {manifest.origin.name}",
        *((NOTE,) if manifest.origin.source == "offline" else ()),
    )
    return Checkpoint(name, path, "compiled", manifest.origin.revision, notes)


def offline_folder() -> Path:
    """Give the folder in which the offline weights are made ready; it may not exist yet."""
    from .offline import WEIGHTS_SHA256

    # Other weights, from another release of the package, would be another checkpoint.
    return cache_folder() / "checkpoints" / f"ms-marco-MiniLM-L-12-v2-{WEIGHTS_SHA256[:12]}"


def _resolve_offline() -> Checkpoint:
    from .offline import NOTE

    folder = offline_folder()
    if not _is_whole(folder):
        _make_offline_checkpoint(folder)
    return Checkpoint(name=OFFLINE_NAME, folder=folder, source="offline", notes=(NOTE,))


def _make_offline_checkpoint(folder: Path) -> None:
    """Make the offline weights ready once, however many processes want them: all there, or not there.

    One process works at a time, on a folder of another name; what a killed one left is removed by the next.
    """
    from .offline import prepare_offline_checkpoint

    parent = make_cache_folder(folder.parent.name)
    try:
        with lock(parent / folder.name, timeout_seconds=300):
            if _is_whole(folder):
                return
            log.info("Making the offline weights ready, once", extra={"stage": True})
            with make_folder_whole(folder) as unfinished:
                prepare_offline_checkpoint(unfinished)
    except OSError as error:
        raise _unwritable_cache(error) from error


def _find_cached(name: str, revision: str | None, trust: _Trust) -> Checkpoint | Fault | None:
    """Find a model of the hub in the cache, or say what is wrong with what lies there; None for nothing."""
    from .hub_cache import find_snapshot

    snapshot = find_snapshot(name, revision)
    if snapshot is None:
        return None
    fault = _find_fault(snapshot.folder, trust)
    if fault is not None:
        return fault
    log.info("%s is in the hub's cache, at commit %s.", name, snapshot.commit)
    return Checkpoint(name=name, folder=snapshot.folder, source="hub", revision=snapshot.commit)


def _ask_hub(
    name: str,
    revision: str | None,
    trust: _Trust,
    cached: Checkpoint | Fault | None,
    *,
    offline: bool,
    on_progress: DownloadProgress | None,
) -> Checkpoint:
    """Fetch a model, or what is not there yet of it; without the hub, what is cached has to do."""
    from . import hub

    def without_hub(reason: str) -> Checkpoint:
        if isinstance(cached, Checkpoint):
            log.warning(
                "%s; keeping %s as it lies in the cache, at commit %s.", reason, name, cached.revision
            )
            return cached
        lacking = f"{name} is not in the cache" + (f" at revision {revision!r}" if revision else "")
        hint = _name_ways_out(name)
        if cached is not None:
            lacking, hint = f"{name}, as it lies in the cache, {cached.cause}", f"{cached.hint} {hint}"
        raise UnavailableError(f"{lacking}, and {reason}.", hint=hint)

    if offline or hub.is_hub_offline():
        return without_hub(f"{'--offline' if offline else 'HF_HUB_OFFLINE'} forbids fetching it")
    try:
        snapshot = hub.fetch_snapshot(
            name, revision, allow_pickle=trust.pickle, with_code=trust.code, on_progress=on_progress
        )
    except hub.HubUnreachableError as error:
        return without_hub(f"{hub.hub_endpoint()} cannot be reached ({error})")
    fault = _find_fault(snapshot.folder, trust)
    if fault is not None:
        raise UnavailableError(f"{name} {fault.cause}.", hint=fault.hint)
    return Checkpoint(name=name, folder=snapshot.folder, source="hub", revision=snapshot.commit)


def _name_ways_out(name: str) -> str:
    """Name what works without the network, in place of a model that is not here."""
    from .offline import INSTALL_HINT, offline_weights_installed

    ways = []
    cached = [f"-m {other}" for other in cached_models() if other != name]
    if cached:
        ways.append(f"a cached model ({' or '.join(cached[:3])})")
    ways.append("a folder (-m PATH)")
    if offline_weights_installed():
        ways.append(f"the offline weights (-m {OFFLINE_NAME})")
    else:
        ways.append(f"the offline weights: {INSTALL_HINT}")
    return f"What works here: {', '.join(ways[:-1])}, or {ways[-1]}"
