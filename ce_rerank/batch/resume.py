"""The files beside an incomplete output: its part, and the state from which another run continues.

A link at one of these names is not followed: another user of the folder could have put it there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError
from ..formats.output import OutputFile, real_path, require_other_file
from ..formats.source import is_pipe_or_device
from ..models.checkpoint import Checkpoint, select_files
from .ahead import START, Progress, Tally

PART, ERRORS = ".part", ".errors.jsonl"
"""The ends of the names of an unfinished output, and of the file with its bad rows."""
_DIGESTS = ("the input", "the model's content")  # among the settings of a job
_BUFFER_BYTES = 1 << 16
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Extent:
    """How many bytes of a file, from its start, are known to be on the disk, and their BLAKE2b digest."""

    bytes: int = 0
    digest: str = hashlib.blake2b(digest_size=16).hexdigest()


class PartFile(io.BufferedWriter):
    """A file that computes a digest of what is written to it; errors call it `name`.

    With an `extent`, an existing file is cut there and continued; without one, a new file is made. Raises
    OutputError if the file does not have what was written.
    """

    def __init__(self, path: Path, name: Path, extent: Extent | None = None) -> None:
        flags = os.O_RDWR | _NO_LINKS
        if extent is None:
            path.unlink(missing_ok=True)
            flags |= os.O_CREAT | os.O_EXCL
        try:
            file = OutputFile(name, os.open(path, flags, 0o666), "r+b")
        except OSError:
            if extent is None:
                raise
            raise _damaged(path) from None
        super().__init__(file, _BUFFER_BYTES)
        self._digest = hashlib.blake2b(digest_size=16)
        if extent is not None:
            left = extent.bytes
            while left and (block := file.read(min(left, 1 << 20))):
                self._digest.update(block)
                left -= len(block)
            if left or self._digest.hexdigest() != extent.digest:
                self.close()
                raise _damaged(path)
            file.truncate()

    def write(self, data: Any) -> int:
        """Write to the buffer."""
        self._digest.update(data)
        return super().write(data)

    def sync(self) -> Extent:
        """Write everything to the disk, and return how much that is."""
        self.flush()
        os.fsync(self.fileno())
        return Extent(self.tell(), self._digest.hexdigest())


@dataclass(frozen=True, slots=True)
class State:
    """How far an output is, and what it is made from.

    `settings` has what its bytes depend on besides the input, with the names that a user knows.
    """

    settings: Mapping[str, Any]
    progress: Progress = START
    part: Extent = Extent()
    errors: Extent = Extent()
    is_complete: bool = False

    def save(self, path: Path) -> None:
        """Write this to the disk in the place of an earlier state."""
        content = asdict(self)
        new = path.with_name(f"{path.name}.new")
        with PartFile(new, path) as file:
            file.write(json.dumps({**content, "digest": _digest_of(content)}, indent=1).encode())
            file.sync()
        new.replace(path)

    @classmethod
    def load(cls, path: Path, part: Path) -> State | None:
        """Read what was saved; None if nothing was. Raise OutputError if it was changed since."""
        try:
            with io.FileIO(os.open(path, os.O_RDONLY | _NO_LINKS)) as file:
                content = json.loads(file.read())
            if content.pop("digest") != _digest_of(content):
                raise ValueError
            progress = content["progress"]
            content |= {name: Extent(**content[name]) for name in ("part", "errors")}
            progress = Progress(**{**progress, "tally": Tally(**progress["tally"])})
            return cls(**{**content, "progress": progress})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise OutputError(
                f"{path} is damaged, and without it the unfinished output cannot be continued.",
                hint=f"Remove it and {part.name} to begin again.",
            ) from None


def require_same(name: str | Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError, with the differences, if a run is not like the one that `name` is from."""
    differences = [
        f"{setting} differs"
        if setting in _DIGESTS
        else f"{setting} was {_show(was.get(setting))}, and is {_show(now.get(setting))}"
        for setting in dict.fromkeys((*was, *now))
        if was.get(setting) != now.get(setting)
    ]
    if differences:
        raise UsageError(
            f"{name} is of another run: {'; '.join(differences)}.",
            hint="Run it as it was begun (--batch-tokens and --threads may differ), or remove that to begin "
            "again.",
        )


def require_other_files(path: Path, inputs: Iterable[str]) -> None:
    """Raise UsageError for an input that is the output, or one of the files beside it."""
    names = list(inputs)
    require_other_file(path, names)
    target = real_path(path)
    beside = (f"{target.name}{PART}.", f"{target.name}{ERRORS}.")
    for name in () if is_pipe_or_device(path) else names:
        input = real_path(Path(name))
        if name != "-" and input.parent == target.parent and f"{input.name}.".startswith(beside):
            raise UsageError(
                f"{name} is input, and writing {path} would overwrite it.", hint="Write to another file."
            )


def digest_folder(folder: Path) -> str | None:
    """Return a digest of a model's files, including those of its modules; None if it is no folder."""
    if not folder.is_dir():
        return None
    from ..engines.openvino.cache import digest_files

    needed = select_files(Checkpoint("", folder, "folder").files, with_code=True)
    names = sorted({*needed, *(path.name for path in folder.iterdir() if path.is_file())})
    digests = digest_files(folder / name for name in names)
    return hashlib.sha256(json.dumps([names, digests]).encode()).hexdigest()[:16]


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _damaged(path: Path) -> OutputError:
    return OutputError(
        f"{path} is missing or not as it was written, and the unfinished output cannot be continued.",
        hint="Remove the unfinished files to begin again.",
    )
