"""What an unfinished output says of itself, so that a run that continues it is sure to be the same run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import digest_file
from ..models.contents import list_files, select_files
from ..types import Coverage
from .events import Checkpoint, Tally

Settings = Mapping[str, Any]
"""What the bytes of an output depend on, by the names that a user knows them by; values that JSON has."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """How far an output is, and what it is made from.

    Up to `part_bytes` and `errors_bytes` the files are what `finished` says; what lies beyond was cut off.
    `sizes` are the input files' in bytes, None for what is no file. `has_bad_input` says that a row of the
    input ended the run, so that the input may have been mended since.
    """

    settings: Settings
    sizes: tuple[int | None, ...]
    finished: Checkpoint = field(default_factory=Checkpoint)
    part_bytes: int = 0
    errors_bytes: int = 0
    has_bad_input: bool = False
    is_complete: bool = False

    def write(self, path: Path) -> None:
        """Replace the file at `path`, whole or not at all; raises OSError."""
        new = path.with_name(f"{path.name}.new")
        with new.open("w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)


def read_manifest(path: Path) -> Manifest | None:
    """Read what `Manifest.write` wrote; None when it is not there. Raises UsageError for what is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        finished = fields.pop("finished")
        tally = finished.pop("tally")
        coverage = Coverage(**tally.pop("coverage"))
        checkpoint = Checkpoint(**finished, tally=Tally(**tally, coverage=coverage))
        return Manifest(**{**fields, "sizes": tuple(fields["sizes"])}, finished=checkpoint)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            f"{path} cannot be read, and without it the unfinished output cannot be continued.",
            hint="Remove both to begin anew.",
        ) from None


def describe_differences(was: Manifest, now: Manifest) -> str:
    """Say in what a run differs from the one that an unfinished output is of; empty when in nothing."""
    names = dict.fromkeys((*was.settings, *now.settings))
    differences = [
        f"{name} was {_show(was.settings.get(name))}, and is {_show(now.settings.get(name))}"
        for name in names
        if was.settings.get(name) != now.settings.get(name)
    ]
    if was.sizes != now.sizes and not was.has_bad_input:
        differences.append(f"the input was {_show_sizes(was.sizes)}, and is {_show_sizes(now.sizes)}")
    return "; ".join(differences)


def digest_folder(folder: Path) -> str | None:
    """Tell the files of a model, those of its modules among them, from others; None when it is no folder."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for name in sorted(names.union(select_files(list_files(folder), with_code=True))):
        digest.update(f"{name} {digest_file(folder / name)}\n".encode())
    return digest.hexdigest()[:16]


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _show_sizes(sizes: tuple[int | None, ...]) -> str:
    return " + ".join("a stream" if size is None else f"{size:,} bytes" for size in sizes)
