"""Where the results of a batch go: a stream, or a file that another run can continue.

Beside an incomplete file are its part, and the state from which another run continues. A link at one of
these names is not followed: another user of the folder could have put it there.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import OutputError, UsageError
from ..files import lock
from ..formats.output import (
    OutputFile,
    cannot_write,
    finish_output,
    real_path,
    require_other_file,
    require_writable,
    told_as_usage_errors,
)
from ..formats.source import is_pipe_or_device
from ..formats.writers import (
    ResultWriter,
    WriteOptions,
    own_names,
    read_header,
    require_format,
)
from .job import require_same
from .run import BadRow, BatchOutput, Progress, RankedPool, Tally

log = logging.getLogger("ce_rerank")

_PART, _ERRORS = ".part", ".errors.jsonl"
_BUFFER_BYTES = 1 << 16
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

Extent = tuple[int, str]
"""How many bytes of a file, from its start, are known to be on the disk, and their BLAKE2b digest."""


class StreamOutput(BatchOutput):
    """Writes results to a stream that its caller opens and closes; errors call it `name`.

    Bad rows are logged. With a list for `bad_rows` they go there instead, and the stream counts as a file:
    then the end of the format is written even if there was no input.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        format: str,
        options: WriteOptions,
        bad_rows: list[BadRow] | None = None,
    ) -> None:
        # Not buffered: if a write hangs, the end of the program would wait for the buffer's lock.
        self._stream = getattr(stream, "raw", stream)
        self._name = Path(name)
        self._pending = io.BytesIO()
        self._writer = ResultWriter(format, self._pending, options, many=True)
        self._bad_rows = bad_rows

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results at once."""
        if self._bad_rows is not None:
            self._bad_rows += pool.bad_rows
        else:
            for bad in pool.bad_rows:
                log.warning("Left out: %s", bad.reason)
        for ranking in pool.rankings:
            self._writer.write(ranking)
        self.progress = pool.progress
        self._pass_on()

    def complete(self) -> None:
        """Write the end of the format."""
        if self.progress.items or self._bad_rows is not None:
            self._writer.close()
            self._pass_on()

    def _pass_on(self) -> None:
        try:
            self._stream.write(self._pending.getvalue())
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(self._name, error) from None
        self._pending.seek(0)
        self._pending.truncate()


class FileOutput(BatchOutput):
    """Writes results to `OUT` and bad rows to `OUT.errors.jsonl`; a context manager.

    Results are written to `OUT.part`, and after each pool `OUT.part.json` says how long both files are. With
    `resume` another run continues: it cuts off what was written after that. `is_complete` is whether nothing
    is left to do. An existing `OUT` is kept until the new one is complete. As long as there is a part beside
    it, even an empty one, `OUT` is of an earlier run.

    Parquet has its table of contents at its end, and cannot be continued: it is made at the end, from a part
    with a row on each line.

    Entering raises UsageError if `path` cannot be written, or another run is writing there or has left
    results and `resume` is False; it raises OutputError if those are damaged. Leaving keeps what is on the
    disk.
    """

    _writer: ResultWriter
    _settings: Mapping[str, Any]

    def __init__(self, path: Path, format: str = "jsonl", *, resume: bool = False) -> None:
        self.path = path
        self.part_path = _beside(path, _PART)
        self.errors_path = _beside(path, _ERRORS)
        self.is_complete = False
        self._state_path = _beside(path, f"{_PART}.json")
        self._format = format
        self._resume = resume
        self._previous: State | None = None
        self._part: PartFile | None = None
        self._errors: PartFile | None = None

    def __enter__(self) -> FileOutput:
        with ExitStack() as held, told_as_usage_errors(self.path):
            if not self.part_path.parent.is_dir():
                raise FileNotFoundError
            require_writable(real_path(self.path))
            try:
                held.enter_context(lock(self.part_path, timeout_seconds=0))
            except TimeoutError:
                raise UsageError(
                    f"{self.path}: another run is writing it.", hint="Let that end first."
                ) from None
            held.callback(_beside(self.path, f"{_PART}.lock").unlink, missing_ok=True)
            self._find_previous()
            if not self.is_complete and self._previous is None:
                self._part = PartFile(self.part_path, self.path)
            self._held = held.pop_all()
        return self

    def _find_previous(self) -> None:
        state = State.load(self._state_path, self.part_path)
        if not os.path.lexists(self.part_path):
            if state and state.is_complete and self.path.exists():
                # The run was killed after the part became the output.
                self._state_path.unlink()
                state = None
            self.is_complete = self._resume and self.path.exists() and state is None
        elif state is None:
            if self.part_path.lstat().st_size:
                raise UsageError(
                    f"{self.part_path} is there without {self._state_path.name}, and cannot be continued.",
                    hint="Remove it to begin again.",
                )
        elif state.progress.items:
            if not self._resume:
                raise UsageError(
                    f"{self.part_path} is there, of a run that was cut off, with "
                    f"{state.progress.tally.queries:,} queries done.",
                    hint="Give --resume to go on with it, or remove it to begin again.",
                )
            self._previous = state
            self.progress = state.progress

    def begin(self, options: WriteOptions, settings: Mapping[str, Any]) -> None:
        """Prepare to write with these settings; `progress` is where to continue.

        Raises UsageError if the unfinished output is of a different run, and OutputError if a byte of it was
        changed.
        """
        require_format(self._format, options)
        previous = self._previous
        with told_as_usage_errors(self.path):
            if previous is not None:
                require_same(self.part_path, previous.settings, settings)
                self._part = PartFile(self.part_path, self.path, previous.part)
            if previous is not None and previous.errors[0]:
                self._errors = PartFile(self.errors_path, self.errors_path, previous.errors)
            else:
                self.errors_path.unlink(missing_ok=True)
        self._settings = settings
        self._commit(self.progress)
        assert self._part is not None
        in_part = "rows" if self._format == "parquet" else self._format
        columns = None
        if in_part in ("csv", "tsv") and previous is not None:
            columns = read_header(self.part_path, in_part)
        self._writer = ResultWriter(in_part, self._part, options, many=True, columns=columns)
        self._names = own_names(options, with_query=True)

    def write(self, pool: RankedPool) -> None:
        """Write a pool. It is on the disk when this returns, unless the pool is not whole."""
        for ranking in pool.rankings:
            self._writer.write(ranking)
        if pool.is_whole:
            self._commit(pool.progress, pool.bad_rows)

    def complete(self) -> None:
        """Write the end of the format, and rename the part to the output."""
        self._writer.close()
        self._commit(self.progress, is_complete=True)
        assert self._part is not None
        if self._format == "parquet":
            from ..formats.parquet import ParquetTable

            # Its name is always the same: if this run is killed, the next one overwrites it.
            made_path = _beside(self.path, f"{_PART}.made")
            with PartFile(made_path, self.path) as made:
                table = ParquetTable(made, self._names)
                with self.part_path.open(encoding="utf-8", newline="\n") as lines:
                    table.write(map(json.loads, lines))
                table.close()
                finish_output(made, made_path, self.path)
            self._part.close()
            self.part_path.unlink()
        else:
            finish_output(self._part, self.part_path, self.path)
        self._part = None
        # Last: a complete state without a part says that the output is complete.
        self._state_path.unlink()

    def _commit(
        self, progress: Progress, bad_rows: Sequence[BadRow] = (), *, is_complete: bool = False
    ) -> None:
        """Bring everything written so far to the disk, and save the state."""
        try:
            for bad in bad_rows:
                self._errors = self._errors or PartFile(self.errors_path, self.errors_path)
                self._errors.write(bad.encode())
            part, errors = [file.sync() if file else (0, "") for file in (self._part, self._errors)]
            State(self._settings, progress, part, errors, is_complete).save(self._state_path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.progress = progress

    def __exit__(self, *error: object) -> None:
        with self._held:
            is_lost = self._part is not None and not self.progress.items  # nothing to go on with
            for file in filter(None, (self._part, self._errors)):
                # It may be impossible to write what is still buffered.
                with suppress(OutputError, OSError):
                    file.close()
            if is_lost:
                with suppress(OSError):
                    self._state_path.unlink(missing_ok=True)
                    if self.path.exists():
                        os.truncate(self.part_path, 0)  # it says that the output is of an earlier run
                    else:
                        self.part_path.unlink(missing_ok=True)


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
        damaged = OutputError(
            f"{path} is missing or not as it was written, and the unfinished output cannot be continued.",
            hint="Remove the unfinished files to begin again.",
        )
        try:
            file = OutputFile(name, os.open(path, flags, 0o666), "r+b")
        except OSError:
            if extent is None:
                raise
            raise damaged from None
        super().__init__(file, _BUFFER_BYTES)
        self._digest = hashlib.blake2b(digest_size=16)
        if extent is not None:
            left, digest = extent
            while left and (block := file.read(min(left, 1 << 20))):
                self._digest.update(block)
                left -= len(block)
            if left or self._digest.hexdigest() != digest:
                self.close()
                raise damaged
            file.truncate()

    def write(self, data: Any) -> int:
        """Write to the buffer."""
        self._digest.update(data)
        return super().write(data)

    def sync(self) -> Extent:
        """Write everything to the disk, and return how much that is."""
        self.flush()
        os.fsync(self.fileno())
        return self.tell(), self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class State:
    """How far an output is, and what it is made from.

    `settings` has what its bytes depend on besides the input, with the names that a user knows.
    """

    settings: Mapping[str, Any]
    progress: Progress
    part: Extent
    errors: Extent
    is_complete: bool

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
            tally = Tally(**content["progress"].pop("tally"))
            content["progress"] = Progress(**content["progress"], tally=tally)
            return cls(**content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise OutputError(
                f"{path} is damaged, and without it the unfinished output cannot be continued.",
                hint=f"Remove it and {part.name} to begin again.",
            ) from None


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def require_other_files(path: Path, inputs: Iterable[str]) -> None:
    """Raise UsageError for an input that is the output, or one of the files beside it."""
    names = [] if is_pipe_or_device(path) else list(inputs)
    require_other_file(path, names)
    target = real_path(path)
    beside = (f"{target.name}{_PART}.", f"{target.name}{_ERRORS}.")
    for name in names:
        input = real_path(Path(name))
        if name != "-" and input.parent == target.parent and f"{input.name}.".startswith(beside):
            raise UsageError(
                f"{name} is input, and writing {path} would overwrite it.", hint="Write to another file."
            )


def _beside(path: Path, suffix: str) -> Path:
    target = real_path(path)
    return target.with_name(target.name + suffix)
