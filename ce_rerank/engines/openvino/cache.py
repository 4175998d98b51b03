"""Compiled models on disk: each is in a folder named by all that it depends on, and is made once.

<cache>/compiled/<name>-<digest>/   the digest is of the checkpoint's content, the libraries and the recipe
    manifest.json  model.xml  model.bin  tokenizer.json
    declined.json  instead of these files: why the model could not be compiled
    machine/       what is found out on each machine that uses this cache (`engine.py`)
<cache>/exported/<digest>/          like `machine`, for an exported folder, which is never changed
<cache>/digests.json                digests of files, valid while their sizes, times and inodes are the same
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import UnavailableError, UsageError, raise_if_interrupted
from ...files import (
    digest_file,
    digest_json,
    lock,
    make_folder_whole,
    read_json_object,
    remove_folder,
    write_json,
)
from ...models.checkpoint import LEGAL_NAMES, Checkpoint, select_files
from ...models.store import find_cache_folder, make_cache_folder
from ...ranking import ACTIVATIONS
from ..hardware import IMPORT_FAILURES
from .graph import write_int8_graph
from .manifest import (
    GRAPH_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Form,
    Manifest,
    Origin,
    maker_versions,
    read_manifest,
)
from .runtime import CannotCompileError

log = logging.getLogger("ce_rerank")

COMPILED_FOLDER = "compiled"
DECLINED_NAME = "declined.json"
_LONGEST_WAIT_SECONDS = 1800  # for another process that compiles the same model

# As transformers names them in `model_type`; the tests convert and compare each, at several shapes.
FAMILIES = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "gemma", "llama", "modernbert",
    "mpnet", "qwen2", "qwen3", "roberta", "xlm-roberta",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A compiled model on disk, of which every file was checked.

    `machine_folder` is for what is found out about it on this machine; it may not exist yet.
    """

    folder: Path
    manifest: Manifest
    machine_folder: Path


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """A compiled form of a model or, if it could not be compiled, the reason (`declined`)."""

    folder: Path
    origin: Origin
    declined: str | None


def find_compiled(checkpoint: Checkpoint, form: Form = "full") -> CompiledModel | None:
    """Return the compiled model of a checkpoint, made from the same files by the same libraries; else None.

    Loads nothing heavy, and reads only the files that are new or have changed. Raises UnavailableError for a
    damaged exported folder, which cannot be compiled again.
    """
    is_exported = checkpoint.source == "compiled" and form == "full"
    folder = checkpoint.folder if is_exported else _folder_of(checkpoint, form)
    manifest = read_manifest(folder)
    files = manifest.files if manifest else {}
    digests: list[str] = []
    with suppress(OSError):  # a file is gone
        digests = digest_files(folder / name for name in files)
    if manifest is None or digests != [*files.values()]:
        if is_exported:
            raise UnavailableError(
                f"The compiled model in {folder} is damaged: it is not as it was exported.",
                hint="Copy it here again, or export it again: `ce-rerank models export`.",
            )
        return None
    machine_folder = folder / "machine"
    if is_exported:
        (digest,) = digest_files([folder / MANIFEST_NAME])
        machine_folder = find_cache_folder("exported") / digest[:16]
    return CompiledModel(folder, manifest, machine_folder)


def find_obstacle(checkpoint: Checkpoint) -> str | None:
    """Return why a checkpoint cannot be compiled, as a clause; None if no reason is known."""
    if checkpoint.source == "compiled":
        return None
    if checkpoint.code:
        return "it brings Python code of its own"
    if checkpoint.family not in FAMILIES:
        return f"models of the type {checkpoint.family!r} have not been tried"
    if checkpoint.activation not in ACTIVATIONS:
        return f"its activation is {checkpoint.activation}"
    declined: str | None = read_json_object(_folder_of(checkpoint, "full") / DECLINED_NAME).get("reason")
    return declined


def prepare_compiled(checkpoint: Checkpoint, form: Form = "full") -> CompiledModel:
    """Return the compiled model of a checkpoint; compile it if need be, once, however many processes ask.

    Raises CannotCompileError if it cannot be compiled, UnavailableError if no engine can use it, and OSError
    or UnavailableError if the cache cannot be written.
    """
    found = find_compiled(checkpoint, form)
    if found is not None:
        return found
    obstacle = find_obstacle(checkpoint)
    if obstacle is not None:
        raise CannotCompileError(obstacle)
    full = prepare_compiled(checkpoint) if form == "int8" else None
    folder = _folder_of(checkpoint, form)
    make_cache_folder(COMPILED_FOLDER)
    with lock(folder, timeout_seconds=_LONGEST_WAIT_SECONDS):
        found = find_compiled(checkpoint, form)
        if found is None:
            name, revision, place = checkpoint.name, checkpoint.revision, digest_place(checkpoint)
            origin = Origin(checkpoint.source, name, revision, place, maker_versions(), form)
            _compile(checkpoint, full, origin, folder)
            for other in list_compiled():
                # It was made of other files at the same place, or by other libraries.
                if other.folder != folder and (other.origin.place, other.origin.form) == (place, form):
                    remove_folder(other.folder)
            found = find_compiled(checkpoint, form)
    if found is None:
        raise CannotCompileError("its files changed while it was compiled", passing=True)
    return found


def list_compiled() -> list[CompiledForm]:
    """List the compiled forms of all models on this machine, outdated ones, too."""
    found = []
    for folder in sorted(find_cache_folder(COMPILED_FOLDER).glob("*/")):
        facts = read_json_object(folder / DECLINED_NAME)
        declined = facts.pop("reason", None)
        origin: Any = facts or read_json_object(folder / MANIFEST_NAME).get("origin")
        with suppress(TypeError):  # it is damaged, or of another format
            found.append(CompiledForm(folder, Origin(**origin), declined))
    return found


def digest_place(checkpoint: Checkpoint) -> str:
    """Return a digest of where a checkpoint is: on the hub, or in a folder by its real path."""
    name, revision = checkpoint.name, checkpoint.revision
    return digest_json([name, revision] if checkpoint.source == "hub" else str(checkpoint.folder.resolve()))


def digest_files(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of files, in hexadecimal; files that did not change are not read again.

    A file with the same size, times and inode counts as unchanged. Raises OSError for a file that cannot be
    read.
    """
    book_path = find_cache_folder(COMPILED_FOLDER).with_name("digests.json")
    book = read_json_object(book_path)
    digests: list[str] = []
    read: dict[str, dict[str, Any]] = {}
    for path in paths:
        stat = path.stat()
        signature = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = book.get(str(path), {})
        if known.get("signature") != signature:
            known = read[str(path)] = {"signature": signature, "sha256": digest_file(path)}
        digests.append(known["sha256"])
    if read:
        kept = {path: known for path, known in book.items() if Path(path).exists()}
        with suppress(UnavailableError, OSError):
            make_cache_folder(COMPILED_FOLDER)
            write_json(book_path, {**kept, **read})
    return digests


def export_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a compiled model, with its card and licence, into a new or empty folder that `-m FOLDER` runs.

    Compiles it first if need be. Raises UsageError for a folder with files in it, UnavailableError for a
    model that cannot be compiled, and OSError if the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty.", hint="Name a new folder.")
    try:
        compiled = prepare_compiled(checkpoint)
    except CannotCompileError as error:
        raise UnavailableError(
            f"{checkpoint.name} cannot be exported: it is run by torch, since {error}.",
            hint=f"Copy its checkpoint instead, and give -m the copy: {checkpoint.folder}",
        ) from error
    licences = [name for name in checkpoint.files if name.startswith(LEGAL_NAMES)]
    with make_folder_whole(folder.absolute()) as unfinished:
        for name in compiled.manifest.files:
            shutil.copyfile(compiled.folder / name, unfinished / name)
        for name in checkpoint.files.keys() & {"config.json", "README.md", *licences}:
            shutil.copyfile(checkpoint.folder / name, unfinished / name)
        if not licences:
            licence = checkpoint.licence or "not named in its card"
            notice = f"The licence of {checkpoint.name} is {licence}. Its owner's terms are in README.md.\n"
            (unfinished / "LICENSE").write_text(notice, encoding="utf-8")
        origin = replace(compiled.manifest.origin, place="")
        replace(compiled.manifest, origin=origin).write(unfinished)


def _compile(checkpoint: Checkpoint, full: CompiledModel | None, origin: Origin, folder: Path) -> None:
    """Write the compiled model, or write why it cannot be compiled and raise CannotCompileError."""
    log.info("Compiling %s for the CPU, once", checkpoint.name, extra={"stage": True})
    try:
        with make_folder_whole(folder) as unfinished:
            if full is not None:
                # The golden pairs stay the same.
                write_int8_graph(full.folder / GRAPH_NAME, unfinished / GRAPH_NAME)
                shutil.copyfile(full.folder / TOKENIZER_NAME, unfinished / TOKENIZER_NAME)
                replace(full.manifest, origin=origin).write(unfinished)
            else:
                try:
                    from .convert import compile_checkpoint
                except IMPORT_FAILURES as error:
                    raise CannotCompileError(f"torch cannot be loaded ({error})", passing=True) from error
                compile_checkpoint(checkpoint, origin, unfinished)
    except CannotCompileError as error:
        raise_if_interrupted()  # the model is then not to blame
        if not error.passing:
            with make_folder_whole(folder) as unfinished:
                write_json(unfinished / DECLINED_NAME, {"reason": str(error), **asdict(origin)})
        raise


def _folder_of(checkpoint: Checkpoint, form: Form) -> Path:
    if checkpoint.source == "compiled":
        names = [MANIFEST_NAME]  # which holds the digests of the others
    else:
        names = select_files(checkpoint.files, with_code=False)
    paths = [checkpoint.folder / name for name in names]
    if checkpoint.source == "hub" and all(path.is_symlink() for path in paths):
        # The hub's cache names files by their content.
        digests = [path.readlink().name for path in paths]
    else:
        digests = digest_files(paths)
    identity = digest_json([digest_json([names, digests]), maker_versions(), form])
    last = checkpoint.name.rstrip("/").rpartition("/")[2]
    readable = re.sub(r"[^\w.-]+", "-", last, flags=re.ASCII).strip("-.")[:60] or "model"
    return find_cache_folder(COMPILED_FOLDER) / f"{readable}-{identity[:16]}"
