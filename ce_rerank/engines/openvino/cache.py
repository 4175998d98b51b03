"""Compiled models in the cache: found, checked, made once however many processes want them, thrown away.

<cache>/compiled/<readable name>-<digest of source and revision>/
    manifest.json  model.xml  model.bin  tokenizer.json
    checked/       what the engine found out about it on this machine (`arrangements.py`)
    declined.json  stands alone, in place of all that: it was tried, and why it failed

A folder that was exported (`export.py`) is used where it lies and never written to; what is found out about
it goes to <cache>/checked/<digest of its manifest>/.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from ...errors import UnavailableError
from ...files import make_folder_whole, read_json_object, remove_folder, write_whole
from ...interrupts import raise_if_interrupted
from ...models.contents import list_files, select_files
from ...models.hub import measure_folder
from ...models.store import Checkpoint, find_cache_folder, make_cache_folder
from ..hardware import IMPORT_FAILURES
from . import compilable
from .compilable import BrokenLibraryError, CannotCompileError, MishapError, UnusableCacheError
from .manifest import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileFacts,
    Manifest,
    Origin,
    maker_versions,
    read_manifest,
)

log = logging.getLogger("ce_rerank")

COMPILED_FOLDER = "compiled"
_CHECKED_FOLDER = "checked"
DECLINED_NAME = "declined.json"
_LONGEST_WAIT_SECONDS = 1800  # for another process that compiles the same model


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A compiled model on disk, all of it known to be whole but the weights, which take a while to read."""

    folder: Path
    manifest: Manifest
    checked_folder: Path
    is_exported: bool = False

    def weights_are_whole(self) -> bool:
        """Read the weights and say whether they are those that were written.

        Raises UnavailableError when those of an exported model are not: it cannot be made anew here.
        """
        whole = _is_as_written(self.folder / WEIGHTS_NAME, self.manifest.files[WEIGHTS_NAME])
        if self.is_exported and not whole:
            raise _damaged_export(self.folder, WEIGHTS_NAME)
        return whole


class _Fault(Enum):
    ABSENT = "it was never compiled"
    OUTDATED = "the checkpoint, a library or ce-rerank has changed"
    DAMAGED = "it was damaged on disk"


def find_compiled(checkpoint: Checkpoint) -> CompiledModel | None:
    """Find what was compiled from a checkpoint as it is now, by the libraries that are here now.

    Reads no weights, loads nothing heavy, and takes a few milliseconds. Raises CannotCompileError when it was
    tried before, with the same files and libraries, and could not be done.
    """
    if checkpoint.source == "compiled":
        return _open_exported(checkpoint.folder)
    found = _examine(checkpoint)
    return found if isinstance(found, CompiledModel) else None


def find_obstacle(checkpoint: Checkpoint) -> str | None:
    """Return what keeps a checkpoint from being run compiled, as a clause; None when nothing is known to."""
    try:
        found = find_compiled(checkpoint)
    except CannotCompileError as error:
        return str(error)
    return None if found else compilable.find_obstacle(checkpoint)


def prepare_compiled(checkpoint: Checkpoint) -> CompiledModel:
    """Find what was compiled from a checkpoint, or compile it, once, however many processes ask.

    Raises CannotCompileError when it cannot be done.
    """
    found = find_compiled(checkpoint)
    if found is not None:
        return found
    obstacle = compilable.find_obstacle(checkpoint)
    if obstacle is not None:
        raise CannotCompileError(obstacle)
    with _locked(_folder_of(checkpoint)):
        examined = _examine(checkpoint)
        if isinstance(examined, CompiledModel):
            return examined
        if examined is _Fault.DAMAGED:
            log.warning("The compiled form of %s was damaged on disk; it is made anew.", checkpoint.name)
        log.info("%s is compiled for the CPU: %s.", checkpoint.name, examined.value)
        _compile(checkpoint, _folder_of(checkpoint))
        examined = _examine(checkpoint)
        if isinstance(examined, CompiledModel):
            return examined
    raise CannotCompileError("its files changed while it was compiled")


def discard_damaged(compiled: CompiledModel) -> None:
    """Remove a compiled model whose weights are not whole, unless another process has made it anew since."""
    with _locked(compiled.folder):
        manifest = read_manifest(compiled.folder)
        if manifest is None or not replace(compiled, manifest=manifest).weights_are_whole():
            remove_folder(compiled.folder)


def _open_exported(folder: Path) -> CompiledModel:
    """Open a folder that was exported; raises UnavailableError when it is not as it was written."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise _damaged_export(folder, MANIFEST_NAME)
    for name, facts in manifest.files.items():
        path = folder / name
        if not (_has_size(path, facts) if name == WEIGHTS_NAME else _is_as_written(path, facts)):
            raise _damaged_export(folder, name)
    digest = FileFacts.of(folder / MANIFEST_NAME).sha256
    checked_folder = find_cache_folder(_CHECKED_FOLDER) / digest[:12]
    return CompiledModel(folder, manifest, checked_folder, is_exported=True)


def _damaged_export(folder: Path, name: str) -> UnavailableError:
    return UnavailableError(
        f"The compiled model in {folder} is damaged: {name} is not as it was exported.",
        hint="Copy it here again, or export it anew: `ce-rerank models export`.",
    )


def _examine(checkpoint: Checkpoint) -> CompiledModel | _Fault:
    """Look at all but the weights of what lies in the cache for a checkpoint."""
    folder = _folder_of(checkpoint)
    manifest = read_manifest(folder)
    if manifest is None:
        _raise_if_declined(checkpoint, folder)
        return _Fault.DAMAGED if (folder / MANIFEST_NAME).exists() else _Fault.ABSENT
    if dict(manifest.origin.versions) != maker_versions():
        return _Fault.OUTDATED
    fingerprint = _fingerprint(checkpoint)
    if manifest.origin.fingerprint != fingerprint:
        if manifest.origin.content_sha256 != _content_sha256(checkpoint):
            return _Fault.OUTDATED
        manifest = manifest.with_fingerprint(fingerprint)
        _write_if_allowed(manifest, folder)
    for name, facts in manifest.files.items():
        path = folder / name
        if not (_has_size(path, facts) if name == WEIGHTS_NAME else _is_as_written(path, facts)):
            return _Fault.DAMAGED
    return CompiledModel(folder, manifest, folder / _CHECKED_FOLDER)


def _compile(checkpoint: Checkpoint, folder: Path) -> None:
    log.info("Compiling %s for the CPU, once", checkpoint.name, extra={"stage": True})
    try:
        from .convert import compile_checkpoint
    except IMPORT_FAILURES as error:
        raise_if_interrupted()
        raise BrokenLibraryError(f"torch cannot be loaded ({error})") from error

    origin = Origin(
        source=checkpoint.source,
        name=checkpoint.name,
        revision=checkpoint.revision,
        fingerprint=_fingerprint(checkpoint),
        content_sha256=_content_sha256(checkpoint),
        versions=maker_versions(),
    )
    try:
        with make_folder_whole(folder) as unfinished:
            try:
                compile_checkpoint(checkpoint, origin, unfinished)
            except MishapError:
                raise
            except CannotCompileError as error:
                raise_if_interrupted()  # the model is then not to blame
                shutil.rmtree(unfinished)
                unfinished.mkdir()
                declined = {"reason": str(error), **asdict(origin)}
                write_whole(unfinished / DECLINED_NAME, json.dumps(declined, indent=1))
    except OSError as error:
        raise UnusableCacheError(f"the cache cannot hold it ({error.strerror or error})") from error


def _raise_if_declined(checkpoint: Checkpoint, folder: Path) -> None:
    declined = read_json_object(folder / DECLINED_NAME)
    if not declined or declined.get("versions") != maker_versions():
        return
    if declined.get("fingerprint") == _fingerprint(checkpoint):
        raise CannotCompileError(declined["reason"])


def _folder_of(checkpoint: Checkpoint) -> Path:
    place = checkpoint.name if checkpoint.source == "hub" else str(checkpoint.folder.resolve())
    identity = json.dumps([checkpoint.source, place, checkpoint.revision])
    last = checkpoint.name.rstrip("/").rpartition("/")[2]
    readable = re.sub(r"[^\w.-]+", "-", last, flags=re.ASCII).strip("-.")[:60] or "model"
    return find_cache_folder(COMPILED_FOLDER) / f"{readable}-{_digest(identity)[:12]}"


def _fingerprint(checkpoint: Checkpoint) -> str:
    if checkpoint.revision is not None:
        return f"commit {checkpoint.revision}"
    stats = [(name, (checkpoint.folder / name).stat()) for name in _select_own_files(checkpoint)]
    return f"files {_digest(json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))}"


def _content_sha256(checkpoint: Checkpoint) -> str:
    files = [(name, FileFacts.of(checkpoint.folder / name)) for name in _select_own_files(checkpoint)]
    return _digest(json.dumps([(name, facts.size, facts.sha256) for name, facts in files]))


def _select_own_files(checkpoint: Checkpoint) -> list[str]:
    return select_files(list_files(checkpoint.folder), with_code=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _has_size(path: Path, facts: FileFacts) -> bool:
    try:
        return path.stat().st_size == facts.size
    except OSError:
        return False


def _is_as_written(path: Path, facts: FileFacts) -> bool:
    try:
        return _has_size(path, facts) and FileFacts.of(path) == facts
    except OSError:
        return False


def _write_if_allowed(manifest: Manifest, folder: Path) -> None:
    try:
        manifest.write(folder)
    except OSError as error:
        log.info("%s cannot be brought up to date: %s.", folder, error)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        make_cache_folder(COMPILED_FOLDER)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.info("Waiting for another process that compiles the model", extra={"stage": True})
            lock.acquire(timeout=_LONGEST_WAIT_SECONDS)
    except Timeout as error:
        raise UnusableCacheError(f"another process holds {lock.lock_file}") from error
    except UnavailableError as error:
        raise UnusableCacheError(error.message) from error
    except OSError as error:
        raise UnusableCacheError(f"the cache cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """What was compiled of a model, or what is left of trying: then `declined` is why it could not be."""

    folder: Path
    size_bytes: int
    name: str
    revision: str | None
    declined: str | None


def list_compiled() -> list[CompiledForm]:
    """List what was compiled on this machine, of whatever model."""
    forms = []
    for folder in sorted(path for path in find_cache_folder(COMPILED_FOLDER).glob("*") if path.is_dir()):
        manifest = read_manifest(folder)
        origin = asdict(manifest.origin) if manifest else read_json_object(folder / DECLINED_NAME)
        if name := origin.get("name"):
            size = measure_folder(folder)
            forms.append(CompiledForm(folder, size, name, origin.get("revision"), origin.get("reason")))
    return forms
