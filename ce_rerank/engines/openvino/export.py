"""Export a compiled model as a folder that `-m FOLDER` runs on a machine without a hub.

The folder has the graph, the weights and the tokenizer, and also the configuration, the model's card and its
licence. The manifest has the digest of each file.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ...errors import OutputError, UnavailableError, UsageError
from ...files import digest_file, make_folder_whole
from ...models.checkpoint import LEGAL_NAMES, Checkpoint
from .cache import prepare_compiled
from .manifest import OWN_NAMES
from .runtime import CannotCompileError

_CARRIED = ("config.json", "README.md")


def export_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the compiled model of a checkpoint, complete or not at all, into a new or empty folder.

    Compiles it first if need be. Raises UsageError for a folder with files in it, UnavailableError for a
    model that cannot be compiled, and OutputError if the folder cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not empty.", hint="Name a new folder.")
        compiled = prepare_compiled(checkpoint)
        with make_folder_whole(folder.absolute()) as unfinished:
            for name in OWN_NAMES:
                shutil.copyfile(compiled.folder / name, unfinished / name)
            _carry_papers(checkpoint, unfinished)
            files = {path.name: digest_file(path) for path in sorted(unfinished.iterdir())}
            origin = replace(compiled.manifest.origin, place="")
            replace(compiled.manifest, origin=origin, files=files).write(unfinished)
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
    """Copy the configuration, the card and the licence; without a licence, write where to find it."""
    names = [name for name in checkpoint.files if name in _CARRIED or name.startswith(LEGAL_NAMES)]
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
