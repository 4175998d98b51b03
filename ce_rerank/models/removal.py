"""Taking a model off this machine: what would go, said first, and then nothing but that.

A folder is only ever removed from right inside the hub's cache or ours, and only when it is a folder and no
link. Links inside it are removed as links; what they lead to stays.
"""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ..engines.openvino.cache import COMPILED_FOLDER
from ..errors import UnavailableError
from .hub_cache import hub_cache_folder, measure_folder
from .inventory import ModelEntry
from .store import cache_folder


@dataclass(frozen=True, slots=True)
class Removal:
    """A folder that would be removed, what it is, and what that frees."""

    what: str
    folder: Path
    size_bytes: int


def plan_removal(entry: ModelEntry) -> list[Removal]:
    """List what of a model lies here; raises UnavailableError when that is nothing."""
    planned = []
    if entry.cached is not None:
        planned.append(Removal("checkpoint", entry.cached.folder, entry.cached.size_bytes))
    planned += [Removal("compiled form", form.folder, form.size_bytes) for form in entry.compiled]
    if not planned:
        raise UnavailableError(
            f"Nothing of {entry.name} is on this machine.", hint="`ce-rerank models --cached` lists what is."
        )
    for removal in planned:
        _require_own_folder(removal.folder)
    return planned


def remove(removal: Removal) -> None:
    """Remove a folder that was planned to go; raises UnavailableError when some of it stays."""
    _require_own_folder(removal.folder)
    try:
        shutil.rmtree(removal.folder)
    except OSError as error:
        left = measure_folder(removal.folder)
        raise UnavailableError(
            f"{removal.folder} cannot be removed whole: {error.strerror or error}; "
            f"{left:,} bytes of {removal.size_bytes:,} are left.",
            hint="Mend the permissions, and run it again.",
        ) from error


def _require_own_folder(folder: Path) -> None:
    """Raise UnavailableError unless a folder lies where models lie, by itself and not by a link."""
    roots = (hub_cache_folder(), cache_folder() / "checkpoints", cache_folder() / COMPILED_FOLDER)
    if folder.parent not in roots or folder.name in ("", ".", ".."):
        raise UnavailableError(f"{folder} is in none of the caches, and is left alone.")
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise UnavailableError(
            f"{folder} is a link to {folder.resolve()}, which is outside the cache, and is left alone.",
            hint="Remove the link, or what it leads to, yourself.",
        )
