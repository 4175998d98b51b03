"""A compiled model as a folder that stands for itself: on a machine without a hub, `-m FOLDER` runs it.

Beside the graph, the weights and the tokenizer lie the configuration, the model's card and its licence, and
the manifest lists the digest of every one of them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ...errors import OutputError, UnavailableError, UsageError
from ...models.contents import LEGAL_NAMES, list_files
from ...models.store import Checkpoint
from .cache import prepare_compiled
from .compilable import CannotCompileError
from .manifest import FileFacts

_CARRIED = ("config.json", "README.md")


def export_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the compiled model of a checkpoint, whole or not at all, into a folder that is new or empty.

    Compiles it first if need be. Raises UsageError for a folder that holds something, UnavailableError for a
    model that cannot be compiled, and OutputError when the folder cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} is there already, and not empty.", hint="Name a new folder.")
        compiled = prepare_compiled(checkpoint)
        if not compiled.weights_are_whole():
            raise UnavailableError(
                f"The compiled form of {checkpoint.name} was damaged on disk.",
                hint=f"`ce-rerank models pull {checkpoint.name}` mends it.",
            )
        unfinished = folder.absolute().with_name(f".{folder.absolute().name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for name in compiled.manifest.files:
                shutil.copyfile(compiled.folder / name, unfinished / name)
            _carry_papers(checkpoint, unfinished)
            files = {name: FileFacts.of(unfinished / name) for name in list_files(unfinished)}
            replace(compiled.manifest, files=files).write(unfinished)
            if folder.exists():
                folder.rmdir()
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except CannotCompileError as error:
        raise UnavailableError(
            f"{checkpoint.name} cannot be exported: it is run by torch, since {error}.",
            hint=f"Copy its checkpoint instead, and give -m the copy: {checkpoint.folder}",
        ) from error
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}.",
            hint="Make room, or name another folder.",
        ) from error


def _carry_papers(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the configuration, the card and the licence; where there is no licence, say where it is told."""
    names = [
        name for name in list_files(checkpoint.folder) if name in _CARRIED or name.startswith(LEGAL_NAMES)
    ]
    for name in names:
        shutil.copyfile(checkpoint.folder / name, folder / name)
    if not any(name.startswith(LEGAL_NAMES) for name in names):
        licence = checkpoint.licence or "not named in its card"
        origin = (
            f"https://huggingface.co/{checkpoint.name}" if checkpoint.source == "hub" else checkpoint.name
        )
        (folder / "LICENSE").write_text(
            f"The licence of this model is {licence}. Its owner's terms: README.md, and {origin}\n",
            encoding="utf-8",
        )
