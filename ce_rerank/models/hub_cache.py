"""The hub's cache on this machine: which models lie in it, and at which commits.

It is huggingface_hub's own, read by its documented layout: `models--OWNER--NAME/refs/REVISION` holds a
commit, and `snapshots/COMMIT` its files, as links to `blobs`. Reading it that way costs a few milliseconds,
where the library's functions import an HTTP client first.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one commit in the hub's cache; some may be missing."""

    folder: Path
    commit: str


def hub_cache_folder() -> Path:
    """Give the folder of the hub's cache: HF_HUB_CACHE, or below HF_HOME; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(name: str) -> Path:
    """Give the folder of the hub's cache that holds all of a model; it may not exist."""
    return hub_cache_folder() / f"{_PREFIX}{name.replace('/', '--')}"


def is_commit(revision: str) -> bool:
    """Say whether a revision is a whole commit, which never changes, and no branch or tag."""
    return bool(_COMMIT.fullmatch(revision))


def find_snapshot(name: str, revision: str | None) -> Snapshot | None:
    """Find a model's files in the cache, for the default revision or a branch, tag or whole commit."""
    repository = repository_folder(name)
    commit = revision or DEFAULT_REVISION
    if not is_commit(commit):
        try:
            commit = (repository / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = repository / "snapshots" / commit
    return Snapshot(folder, commit) if is_commit(commit) and folder.is_dir() else None


def list_snapshots(name: str) -> list[Snapshot]:
    """List what the cache has of a model: the default revision first, then other commits."""
    default = find_snapshot(name, None)
    try:
        folders = sorted((repository_folder(name) / "snapshots").iterdir())
    except OSError:
        folders = []
    others = [Snapshot(folder, folder.name) for folder in folders if is_commit(folder.name)]
    return [*([default] if default else []), *(other for other in others if other != default)]


def list_cached_names() -> list[str]:
    """List the models in the cache, whole or not, of whatever kind."""
    try:
        folders = sorted(path.name for path in hub_cache_folder().iterdir())
    except OSError:
        return []
    return [
        folder.removeprefix(_PREFIX).replace("--", "/") for folder in folders if folder.startswith(_PREFIX)
    ]


def measure_folder(folder: Path) -> int:
    """Add up the bytes of the files below a folder, each once: links are not followed, absence is 0."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
