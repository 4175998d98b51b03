"""A file that may be cut off at any moment, and continued.

`OUT` is written as `OUT.part`, its bad rows as `OUT.part.errors.jsonl`, and whenever it is worth keeping
what is there, `OUT.part.json`, the manifest, says how far that is and what it is made from. Whatever lies
behind is taken off when another run continues. What an earlier run has left as `OUT` and `OUT.errors.jsonl`
stays until there is something to take its place; a manifest beside it says, even without a part, that it is
not what the last run was to make.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from filelock import FileLock, Timeout

from ..errors import InputError, OutputError, UsageError
from ..formats.output import (
    OutputFile,
    cannot_write,
    finish_output,
    is_written_directly,
    real_path,
    require_other_file,
    require_writable,
    told_as_usage_errors,
)
from .events import Checkpoint
from .manifest import Manifest, Settings, describe_differences, read_manifest

_BUFFER_BYTES = 1 << 16
_PART = ".part"
_MANIFEST = ".part.json"
_LOCK = ".part.lock"
_PART_ERRORS = ".part.errors.jsonl"
_MADE = ".part.made"
_ERRORS = ".errors.jsonl"


class PartialFile:
    """`OUT.part`, its manifest and its bad rows, and what becomes of them; a context manager.

    With `resume` it goes on from what an earlier run left, if that left something; `is_complete` says that
    there is nothing left to do. Entering raises UsageError when `path` cannot be written, when an earlier run
    has left results that `resume` does not ask for, and when another run is writing there. Leaving keeps what
    was committed.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.part_path = _beside(path, _PART)
        self.errors_path = _beside(path, _ERRORS)
        self.is_complete = False
        self._part_errors_path = _beside(path, _PART_ERRORS)
        self._manifest_path = _beside(path, _MANIFEST)
        self._manifest = Manifest({}, ())
        self._previous: Manifest | None = None
        self._resume = resume
        self._lock = FileLock(_beside(path, _LOCK))
        self._part: io.BufferedRandom | None = None
        self._errors: io.BufferedRandom | None = None

    @property
    def side_paths(self) -> Sequence[Path]:
        """All that may be written or removed beside the output, links followed: no place for an input."""
        suffixes = (_PART, _MANIFEST, f"{_MANIFEST}.new", _LOCK, _PART_ERRORS, _MADE, _ERRORS)
        return [_beside(self.path, suffix) for suffix in suffixes]

    @property
    def has_errors(self) -> bool:
        """Whether the output is complete but for rows that were left out, of which `errors_path` tells."""
        return self.is_complete and self.errors_path.exists()

    @property
    def finished(self) -> Checkpoint:
        """How far the file is, as far as it is safe."""
        return self._manifest.finished

    @property
    def stream(self) -> BinaryIO:
        """Where the part is written; buffered until `commit`."""
        if self._part is None:
            raise ValueError("the file was not begun")
        return self._part

    def __enter__(self) -> PartialFile:
        with told_as_usage_errors(self.path):
            if not self.part_path.parent.is_dir():
                raise FileNotFoundError
            require_writable(real_path(self.path))
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"{self.path}: another run is writing it.", hint="Let that end first."
                ) from None
        try:
            self._find_previous()
            self._mark_begun()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part is not None:
            self._leave(error)
        self._release()

    def begin(self, settings: Settings, sizes: Sequence[int | None]) -> Checkpoint:
        """Open the part for a run with these settings on input of these sizes; gives where to go on from.

        Raises UsageError when the run that is to be continued was another.
        """
        self._manifest = Manifest(settings, tuple(sizes))
        previous = self._previous
        with told_as_usage_errors(self.path):
            if previous is None:
                self._manifest.write(self._manifest_path)
                self._part = _open(self.part_path, self.path, 0)
            else:
                if differences := describe_differences(previous, self._manifest):
                    raise UsageError(
                        f"{self.part_path} is of another run: {differences}.",
                        hint="Run it as it was begun, or remove that file to begin anew.",
                    )
                self._manifest = replace(previous, sizes=tuple(sizes), has_bad_input=False, is_complete=False)
                self._part = _open(self.part_path, self.path, previous.part_bytes)
            if self._manifest.errors_bytes:
                self._errors = self._open_errors(self._manifest.errors_bytes)
            else:
                self._part_errors_path.unlink(missing_ok=True)
        return self.finished

    def add_error(self, line: bytes) -> None:
        """Write a line to the file of errors; it is made with the first."""
        if self._errors is None:
            with self._told_as_output_errors():
                self._errors = self._open_errors(0)
        self._errors.write(line)

    def commit(self, finished: Checkpoint, *, is_complete: bool = False) -> None:
        """Make all that was written safe, up to here; raises OutputError when that cannot be."""
        with self._told_as_output_errors():
            for stream in (self._part, self._errors):
                if stream is not None:
                    stream.flush()
                    os.fsync(stream.fileno())
            if os.fstat(self.stream.fileno()).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it was removed")
            manifest = replace(
                self._manifest,
                finished=finished,
                part_bytes=self.stream.tell(),
                errors_bytes=self._errors.tell() if self._errors is not None else 0,
                is_complete=is_complete,
            )
            manifest.write(self._manifest_path)
            self._manifest = manifest

    def finish(self, convert: Callable[[BinaryIO], None] | None = None) -> None:
        """Give the complete part its name, or what `convert` makes of it, and then its errors theirs."""
        if convert is None:
            finish_output(self.stream, self.part_path, self.path)
        else:
            # Under a name that another try uses again, should this one be killed.
            made_path = _beside(self.path, _MADE)
            with _open(made_path, self.path, 0) as made:
                convert(made)
                finish_output(made, made_path, self.path)
        for stream in (self._part, self._errors):
            if stream is not None:
                stream.close()
        self._part = self._errors = None
        self._settle(self._manifest)

    def _settle(self, manifest: Manifest) -> None:
        """Put the errors in their place, now that the output is in its own, and remove the rest."""
        # In this order: were the errors put there first, a run killed in between would have left its account
        # beside the output of an earlier one, whose own was lost. A complete manifest without a part says
        # that the output is there and the errors may not be, so it goes last: whoever comes next does this.
        try:
            self.part_path.unlink(missing_ok=True)
            if not manifest.errors_bytes:
                self.errors_path.unlink(missing_ok=True)
            elif self._part_errors_path.exists():
                with self._part_errors_path.open("r+b") as errors:
                    finish_output(errors, self._part_errors_path, self.errors_path)
            self._manifest_path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.errors_path, error) from None

    def _find_previous(self) -> None:
        manifest = read_manifest(self._manifest_path)
        has_part = self.part_path.exists()
        if not has_part and manifest is not None and manifest.is_complete and self.path.exists():
            self._settle(manifest)
            manifest = None
        if self._resume and has_part:
            if manifest is None:
                raise UsageError(
                    f"{self.part_path} cannot be continued without {self._manifest_path.name}.",
                    hint="Remove it to begin anew.",
                )
            self._previous = manifest
        elif self._resume:
            self.is_complete = self.path.exists() and manifest is None
        elif has_part and (manifest is None or manifest.finished.items):
            done = f", with {manifest.finished.tally.queries:,} queries done" if manifest is not None else ""
            raise UsageError(
                f"{self.part_path} is there, of a run that was cut off{done}.",
                hint="Give --resume to go on with it, or remove it to begin anew.",
            )

    def _mark_begun(self) -> None:
        """Leave word that the output which is there is not what is to be made, until that is."""
        if not self._resume and self.path.exists():
            with told_as_usage_errors(self.path):
                self.part_path.unlink(missing_ok=True)  # which has nothing in it
                self._manifest.write(self._manifest_path)

    def _leave(self, error: BaseException | None) -> None:
        """Keep an unfinished part, unless there is nothing in it but word that it was begun."""
        is_empty = not self.finished.items and not self.stream.tell()
        # What is buffered behind the last commit may be what could not be written.
        for stream in (self._part, self._errors):
            if stream is not None:
                with suppress(OutputError, OSError):
                    stream.close()
        with suppress(OSError):
            if is_empty:
                self.part_path.unlink(missing_ok=True)
                self._part_errors_path.unlink(missing_ok=True)
                if not self.path.exists():
                    self._manifest_path.unlink(missing_ok=True)
            elif isinstance(error, InputError):
                replace(self._manifest, has_bad_input=True).write(self._manifest_path)

    def _release(self) -> None:
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    @contextmanager
    def _told_as_output_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if os.fstat(self.stream.fileno()).st_nlink:
                raise cannot_write(self.path, error) from None
            self._rescue()
            raise OutputError(
                f"{self.path}: {self.part_path.name} was removed while it was written.",
                hint=f"What was finished is now {self.part_path}; move it and all beside it back to go on.",
            ) from None

    def _rescue(self) -> None:
        """Save a part whose folder was removed: as long as it is open, the system keeps what is in it."""
        folder = Path(tempfile.mkdtemp(prefix="ce-rerank-"))
        self.part_path = folder / self.part_path.name
        self._part_errors_path = folder / self._part_errors_path.name
        self._manifest_path = folder / self._manifest_path.name
        for stream, path in ((self._part, self.part_path), (self._errors, self._part_errors_path)):
            if stream is not None:
                stream.seek(0)
                with path.open("wb") as rescued:
                    shutil.copyfileobj(stream, rescued)
        self._manifest.write(self._manifest_path)

    def _open_errors(self, size: int) -> io.BufferedRandom:
        return _open(self._part_errors_path, self._part_errors_path, size)


def require_other_files(path: Path, inputs: Iterable[str]) -> None:
    """Raise UsageError for an input that is the output at `path`, or would be written over beside it."""
    names = list(inputs)
    require_other_file(path, names)
    beside = () if is_written_directly(path) else PartialFile(path).side_paths
    for name in names:
        if name != "-" and real_path(Path(name)) in beside:
            raise UsageError(
                f"{name} is input, and would be written over beside {path}.", hint="Write to another file."
            )


def _open(place: Path, name: Path, size: int) -> io.BufferedRandom:
    """Open a file for writing after its first `size` bytes, which stay; errors call it `name`."""
    if size and (not place.exists() or place.stat().st_size < size):
        problem = "shorter than its manifest says" if place.exists() else "not there"
        raise UsageError(
            f"{place} is {problem}, and the unfinished output cannot be continued.",
            hint="Remove what there is of it to begin anew.",
        )
    raw = OutputFile(name, place, "r+b" if size else "w+b")
    raw.truncate(size)
    raw.seek(size)
    return io.BufferedRandom(raw, _BUFFER_BYTES)


def _beside(path: Path, suffix: str) -> Path:
    target = real_path(path)
    return target.with_name(target.name + suffix)
