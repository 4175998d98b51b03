"""A file that may be cut off at any moment, and continued.

`OUT` is written as `OUT.part`, its bad rows as `OUT.part.errors.jsonl`, and after each pool its state is
written to `OUT.part.json`: how far it is, what it is made from, and a digest of what is on disk. What lies
behind that is cut off when another run continues. An existing `OUT` is kept until the new one is complete;
a part beside it, even an empty one, says that it is not what the last run was to make.

No link that lies at one of these names is followed: whoever may write in the folder could have put it there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, get_type_hints

from ..errors import InputError, OutputError, UsageError
from ..files import digest_file, lock
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
from ..models.checkpoint import Checkpoint, select_files
from .run import START, Progress

Settings = Mapping[str, Any]
"""What the bytes of an output depend on, by the names that a user knows them by; values that JSON has."""
Sizes = tuple[int | None, ...]
"""The sizes of the input files in bytes, None for what is no file."""

_BUFFER_BYTES = 1 << 16
_PART = ".part"
_STATE = ".part.json"
_NEW_STATE = ".part.json.new"
_LOCK = ".part.lock"
_PART_ERRORS = ".part.errors.jsonl"
_MADE = ".part.made"
_ERRORS = ".errors.jsonl"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a file on disk counts: so many bytes from its start, and their BLAKE2b digest."""

    bytes: int = 0
    digest: str = hashlib.blake2b(digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class State:
    """How far an output is, and what it is made from.

    `has_bad_input` says that a row of the input ended the run, so that the input may have been mended since.
    """

    settings: Settings
    sizes: Sizes
    progress: Progress = START
    part: Extent = Extent()
    errors: Extent = Extent()
    has_bad_input: bool = False
    is_complete: bool = False


def _parse(kind: Any, value: Any) -> Any:
    """Make a value of JSON what a field of a state is; raise TypeError, KeyError for anything else."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if value.keys() != hints.keys():
            raise TypeError
        return kind(**{name: _parse(hint, value[name]) for name, hint in hints.items()})  # type: ignore[operator]
    if kind == Sizes:
        return tuple([None if size is None else _parse(int, size) for size in value])
    if type(value) is not (dict if kind == Settings else kind) or (isinstance(value, int) and value < 0):
        raise TypeError
    return value


class UnfinishedFile:
    """`OUT.part`, its state and its bad rows, and what becomes of them; a context manager.

    With `resume` it goes on from what an earlier run left, if that left something; `is_complete` says that
    nothing is left to do. Entering raises UsageError when `path` cannot be written, when an earlier run has
    left results that `resume` does not ask for, and when another run is writing there, and OutputError when
    what is there is damaged. Leaving keeps what was committed.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.part_path = _beside(path, _PART)
        self.errors_path = _beside(path, _ERRORS)
        self.is_complete = False
        self._part_errors_path = _beside(path, _PART_ERRORS)
        self._state_path = _beside(path, _STATE)
        self._state = State({}, ())
        self._previous: State | None = None
        self._resume = resume
        self._held = ExitStack()
        self._part: _PartFile | None = None
        self._errors: _PartFile | None = None

    @property
    def has_errors(self) -> bool:
        """Whether the output is complete except for rows that were left out; `errors_path` has them."""
        return self.is_complete and self.errors_path.exists()

    @property
    def progress(self) -> Progress:
        """How far the file is, as far as it is safe."""
        return self._state.progress

    @property
    def stream(self) -> BinaryIO:
        """Where the part is written; buffered until `commit`."""
        if self._part is None:
            raise ValueError("the file was not entered")
        return self._part

    def __enter__(self) -> UnfinishedFile:
        with ExitStack() as held:
            with told_as_usage_errors(self.path):
                if not self.part_path.parent.is_dir():
                    raise FileNotFoundError
                require_writable(real_path(self.path))
                try:
                    held.enter_context(lock(self.part_path, timeout_seconds=0))
                except TimeoutError:
                    raise UsageError(
                        f"{self.path}: another run is writing it.", hint="Let that end first."
                    ) from None
                held.callback(_beside(self.path, _LOCK).unlink, missing_ok=True)
                self._find_previous()
                if not self.is_complete and self._previous is None:
                    self._part = _PartFile.make(self.part_path, self.path)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if self._part is not None:
                self._leave(self._part, error)

    def begin(self, settings: Settings, sizes: Sequence[int | None]) -> Progress:
        """Open the part for a run with these settings on input of these sizes; return where to go on from.

        Raises UsageError when the run that is to be continued was another, OutputError when a byte of what
        it wrote was changed.
        """
        self._state = State(settings, tuple(sizes))
        with told_as_usage_errors(self.path):
            if self._previous is not None:
                _require_same(self.part_path, self._previous, self._state)
                self._state = replace(
                    self._previous, sizes=self._state.sizes, has_bad_input=False, is_complete=False
                )
                self._part = _PartFile.reopen(self.part_path, self.path, self._state.part)
            self._write_state(self._state)
            if self._state.errors.bytes:
                self._errors = _PartFile.reopen(self._part_errors_path, self.path, self._state.errors)
            else:
                self._part_errors_path.unlink(missing_ok=True)
        return self.progress

    def commit(self, progress: Progress, errors: Iterable[bytes] = (), *, is_complete: bool = False) -> None:
        """Make all that was written safe, up to here, with these further lines for the file of errors.

        Raises OutputError when that is not possible.
        """
        try:
            for line in errors:
                self._errors = self._errors or _PartFile.make(self._part_errors_path, self._part_errors_path)
                self._errors.write(line)
            part, of_errors = [Extent() if one is None else one.sync() for one in (self._part, self._errors)]
            state = replace(
                self._state, progress=progress, part=part, errors=of_errors, is_complete=is_complete
            )
            self._write_state(state)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._state = state

    def finish(self, convert: Callable[[BinaryIO], None] | None = None) -> None:
        """Give the complete part its name, or what `convert` makes of it, and then its errors theirs."""
        if convert is None:
            finish_output(self.stream, self.part_path, self.path)
        else:
            # Under a name that another try uses again, should this one be killed.
            made_path = _beside(self.path, _MADE)
            with _PartFile.make(made_path, self.path) as made:
                convert(made)
                finish_output(made, made_path, self.path)
        for stream in (self._part, self._errors):
            if stream is not None:
                stream.close()
        self._part = self._errors = None
        self._settle(self._state)

    def _settle(self, state: State) -> None:
        """Put the errors in their place, now that the output is in its own, and remove the rest."""
        # In this order: were the errors put there first, a run killed in between would have left its account
        # beside the output of an earlier one, whose own was lost. A complete state without a part says that
        # the output is there and the errors may not be, so it goes last: whoever comes next does this.
        try:
            self.part_path.unlink(missing_ok=True)
            if not state.errors.bytes:
                self.errors_path.unlink(missing_ok=True)
            elif self._part_errors_path.exists():
                self._part_errors_path.replace(self.errors_path)
            self._state_path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.errors_path, error) from None

    def _find_previous(self) -> None:
        state = self._read_state()
        part_bytes = self.part_path.lstat().st_size if os.path.lexists(self.part_path) else None
        if part_bytes is None and state is not None and state.is_complete and self.path.exists():
            self._settle(state)
            state = None
        is_begun = part_bytes is not None and state is not None and state.progress.items > 0
        if part_bytes and state is None:
            raise UsageError(
                f"{self.part_path} is there without {self._state_path.name}, and cannot be continued.",
                hint="Remove it to begin again.",
            )
        if self._resume and is_begun:
            self._previous = state
        elif self._resume:
            self.is_complete = self.path.exists() and state is None and part_bytes is None
        elif is_begun and state is not None:
            raise UsageError(
                f"{self.part_path} is there, of a run that was cut off, with "
                f"{state.progress.tally.queries:,} queries done.",
                hint="Give --resume to go on with it, or remove it to begin again.",
            )

    def _read_state(self) -> State | None:
        try:
            with io.FileIO(_open(self._state_path, os.O_RDONLY)) as stream:
                state: State = _parse(State, json.loads(stream.read()))
                return state
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise OutputError(
                f"{self._state_path} is damaged, and without it the unfinished output cannot be continued.",
                hint=f"Remove it and {self.part_path.name} to begin again.",
            ) from None

    def _write_state(self, state: State) -> None:
        new = _beside(self.path, _NEW_STATE)
        new.unlink(missing_ok=True)
        with io.FileIO(_open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as stream:
            stream.write(json.dumps(asdict(state), indent=1).encode())
            os.fsync(stream.fileno())
        new.replace(self._state_path)

    def _leave(self, part: _PartFile, error: BaseException | None) -> None:
        """Keep an unfinished part, unless it holds nothing and there is no earlier output to tell apart."""
        is_empty = not self.progress.items and not part.tell()
        # What is buffered behind the last commit may be what could not be written.
        for stream in (part, self._errors):
            if stream is not None:
                with suppress(OutputError, OSError):
                    stream.close()
        with suppress(OSError):
            if is_empty:
                self._part_errors_path.unlink(missing_ok=True)
                self._state_path.unlink(missing_ok=True)
                if not self.path.exists():
                    self.part_path.unlink(missing_ok=True)
            elif isinstance(error, InputError):
                self._write_state(replace(self._state, has_bad_input=True))


class _PartFile(io.BufferedWriter):
    """A file that keeps a digest of what was written to it."""

    def __init__(self, raw: _DigestedFile) -> None:
        super().__init__(raw, _BUFFER_BYTES)
        self._digested = raw

    @classmethod
    def make(cls, path: Path, name: Path) -> _PartFile:
        """Make a new file, in place of one that is there; errors call it `name`."""
        path.unlink(missing_ok=True)
        return cls(_DigestedFile(name, _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)))

    @classmethod
    def reopen(cls, path: Path, name: Path, extent: Extent) -> _PartFile:
        """Open a file to go on behind `extent`; raise OutputError when that is not what was written."""
        try:
            raw = _DigestedFile(name, _open(path, os.O_RDWR))
        except OSError:
            raise _damaged(path) from None
        left = extent.bytes
        while left and (block := raw.read(min(left, 1 << 20))):
            raw.digest.update(block)
            left -= len(block)
        if left or raw.digest.hexdigest() != extent.digest:
            raw.close()
            raise _damaged(path)
        raw.truncate()
        return cls(raw)

    def sync(self) -> Extent:
        """Make safe what was written, and return how much it is."""
        self.flush()
        os.fsync(self.fileno())
        return Extent(self.tell(), self._digested.digest.hexdigest())


class _DigestedFile(OutputFile):
    def __init__(self, name: Path, descriptor: int) -> None:
        super().__init__(name, descriptor, "r+b")
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        size = super().write(data)
        self.digest.update(data)
        return size


def require_other_files(path: Path, inputs: Iterable[str]) -> None:
    """Raise UsageError for an input that is the output at `path`, or would be written over beside it."""
    names = list(inputs)
    require_other_file(path, names)
    target = real_path(path)
    beside = (f"{target.name}{_PART}.", f"{target.name}{_ERRORS}.")
    for name in () if is_written_directly(path) else names:
        input = real_path(Path(name))
        if name != "-" and input.parent == target.parent and f"{input.name}.".startswith(beside):
            raise UsageError(
                f"{name} is input, and would be written over beside {path}.", hint="Write to another file."
            )


def _require_same(part: Path, was: State, now: State) -> None:
    """Raise UsageError that says in what a run differs from the one that is to be continued."""
    names = dict.fromkeys((*was.settings, *now.settings))
    differences = [
        f"{name} was {_show(was.settings.get(name))}, and is {_show(now.settings.get(name))}"
        for name in names
        if was.settings.get(name) != now.settings.get(name)
    ]
    if was.sizes != now.sizes and not was.has_bad_input:
        differences.append(f"the input was {_show_sizes(was.sizes)}, and is {_show_sizes(now.sizes)}")
    if differences:
        raise UsageError(
            f"{part} is of another run: {'; '.join(differences)}.",
            hint="Run it as it was begun (--batch-tokens and --threads may differ), or remove that file to "
            "begin again.",
        )


def digest_folder(folder: Path) -> str | None:
    """Return a digest of the files of a model, those of its modules among them; None if it is no folder."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for name in sorted(names.union(select_files(Checkpoint("", folder, "folder").files, with_code=True))):
        digest.update(f"{name} {digest_file(folder / name)}\n".encode())
    return digest.hexdigest()[:16]


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _show_sizes(sizes: Sizes) -> str:
    return " + ".join("a stream" if size is None else f"{size:,} bytes" for size in sizes)


def _open(path: Path, flags: int) -> int:
    """Open a file that is no link, or raise OSError."""
    return os.open(path, flags | _NO_LINKS, 0o666)


def _damaged(path: Path) -> OutputError:
    return OutputError(
        f"{path} is missing or not as it was written, and the unfinished output cannot be continued.",
        hint="Remove what there is of it to begin again.",
    )


def _beside(path: Path, suffix: str) -> Path:
    target = real_path(path)
    return target.with_name(target.name + suffix)
