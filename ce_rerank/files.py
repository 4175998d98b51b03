"""Files and folders that are complete or not there, locks between processes, and JSON files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_json(path: Path, value: object) -> None:
    """Write a JSON file under another name and rename it, so that nobody sees half of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def name_errors(name: Path | str) -> Iterator[None]:
    """Let an OSError that is raised in this block, and names no file, name this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(name)
        raise


@contextmanager
def make_folder_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, and rename it to `folder` when the block ends without an error.

    An existing `folder` is replaced, and what a killed process left is removed. Only one process at a time
    may do this for a folder: use `lock`. An OSError of writing names the folder.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with name_errors(folder):
            yield unfinished
        remove_folder(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Rename a folder and then delete it, so that nobody finds a part of it."""
    gone = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def measure_folder(folder: Path) -> int:
    """Return the total bytes of the files below a folder, linked files included, each counted once."""
    files = {path.resolve() for path in folder.rglob("*") if path.is_file()}
    return sum(path.stat().st_size for path in files)


@contextmanager
def lock(path: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Hold `PATH.lock` against other processes.

    Raises TimeoutError when another process holds it for longer than `timeout_seconds`.
    """
    from filelock import FileLock

    with FileLock(path.with_name(f"{path.name}.lock"), timeout=timeout_seconds):
        yield


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one for a file that is missing or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest_json(value: object) -> str:
    """Return the SHA-256 of a value as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises OSError for a file that cannot be read, and for a device, which has no end.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
