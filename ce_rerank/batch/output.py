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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import OutputError, UsageError
from ..files import digest_json, lock, name_errors, read_json_object
from ..formats.output import finish_output, require_writable
from ..formats.writers import ResultWriter, WriteOptions, own_names, read_header, require_format
from .job import require_same
from .run import BadRow, BatchOutput, Progress, RankedPool, Tally

log = logging.getLogger("ce_rerank")

_PART, _ERRORS = ".part", ".errors.jsonl"
SUFFIXES = (_PART, f"{_PART}.json", _ERRORS)
"""What is added to the name of an output for the files beside it."""

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class StreamOutput(BatchOutput):
    """Writes results to a stream that its caller opens and closes.

    Bad rows are logged. With a list for `bad_rows` they go there instead, and the stream counts as a file:
    then the end of the format is written even if there was no input.
    """

    def __init__(
        self, stream: BinaryIO, format: str, options: WriteOptions, bad_rows: list[BadRow] | None = None
    ) -> None:
        # Not buffered: if a write hangs, the end of the program would wait for the buffer's lock.
        self._stream = getattr(stream, "raw", stream)
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
        rest = self._pending.getvalue()
        while rest:  # the operating system may take it in parts
            rest = rest[self._stream.write(rest) :]
        self._stream.flush()
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

    Entering raises UsageError if another run is writing there or has left results and `resume` is False, or
    as `require_writable` does, and OutputError if the state is damaged. Leaving keeps what is on the disk;
    a warning says how to go on.
    """

    _writer: ResultWriter
    _settings: Mapping[str, Any]

    def __init__(self, path: Path, format: str = "jsonl", *, resume: bool = False) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path))
        self.part_path = Path(f"{self._target}{_PART}")
        self.errors_path = Path(f"{self._target}{_ERRORS}")
        self.is_complete = False
        self._state_path = Path(f"{self.part_path}.json")
        self._format = format
        self._resume = resume
        self._previous: dict[str, Any] = {}
        self._part: PartFile | None = None
        self._errors: PartFile | None = None

    def __enter__(self) -> FileOutput:
        require_writable(self.path)
        with ExitStack() as held:
            try:
                held.enter_context(lock(self.part_path, timeout_seconds=0))
            except TimeoutError:
                raise UsageError(
                    f"{self.path}: another run is writing it.", hint="Let that end first."
                ) from None
            held.callback(Path(f"{self.part_path}.lock").unlink, missing_ok=True)
            self._find_previous()
            if not self.is_complete and not self._previous:
                PartFile(self.part_path).close()
            self._held = held.pop_all()
        return self

    def _find_previous(self) -> None:
        state = read_json_object(self._state_path)
        if self._state_path.exists() and state.pop("digest", "") != digest_json(state):
            raise OutputError(
                f"{self._state_path} is damaged, and without it the unfinished output cannot be continued.",
                hint=f"Remove it and {self.part_path.name} to begin again.",
            )
        if not self.part_path.exists():
            if state.get("is_complete") and self.path.exists():
                # The run was killed after the part became the output.
                self._state_path.unlink()
                state = {}
            self.is_complete = self._resume and self.path.exists() and not state
        elif not state:
            if self.part_path.stat().st_size:
                raise UsageError(
                    f"{self.part_path} is there without {self._state_path.name}, and cannot be continued.",
                    hint="Remove it to begin again.",
                )
        elif state["progress"]["items"]:
            tally = Tally(**state["progress"].pop("tally"))
            if not self._resume:
                raise UsageError(
                    f"{self.part_path} is there, of a run that was cut off after {tally.queries:,} queries.",
                    hint="Give --resume to go on with it, or remove it to begin again.",
                )
            self._previous = state
            self.progress = Progress(**state["progress"], tally=tally)

    def begin(self, options: WriteOptions, settings: Mapping[str, Any]) -> None:
        """Prepare to write with these settings; `progress` is where to continue.

        Raises UsageError if the unfinished output is of a different run, and OutputError if a byte of it was
        changed.
        """
        require_format(self._format, options)
        previous = self._previous
        if previous:
            require_same(self.part_path, previous["settings"], settings)
        if previous and previous["errors"]:
            self._errors = PartFile(self.errors_path, *previous["errors"])
        else:
            self.errors_path.unlink(missing_ok=True)
        self._part = PartFile(self.part_path, *previous.get("part", ()))
        self._settings = settings
        self._commit(self.progress)
        in_part = "rows" if self._format == "parquet" else self._format
        columns = None
        if in_part in ("csv", "tsv") and previous:
            columns = read_header(self.part_path, in_part)
        self._writer = ResultWriter(in_part, self._part, options, many=True, columns=columns)
        self._names = own_names(options, with_query=True)

    def write(self, pool: RankedPool) -> None:
        """Write a pool. It is on the disk when this returns, unless the pool is not whole."""
        with name_errors(self.path):
            for ranking in pool.rankings:
                self._writer.write(ranking)
            if pool.is_whole:
                self._commit(pool.progress, pool.bad_rows)

    def complete(self) -> None:
        """Write the end of the format, and rename the part to the output."""
        assert self._part is not None
        with name_errors(self.path):
            self._writer.close()
            self._commit(self.progress, is_complete=True)
            if self._format == "parquet":
                from ..formats.parquet import ParquetTable

                # Its name is always the same: if this run is killed, the next one overwrites it.
                made_path = Path(f"{self.part_path}.made")
                with PartFile(made_path) as made:
                    table = ParquetTable(made, self._names)
                    with self.part_path.open(encoding="utf-8", newline="\n") as lines:
                        table.write(map(json.loads, lines))
                    table.close()
                    finish_output(made, made_path, self._target)
                self._part.close()
                self.part_path.unlink()
            else:
                finish_output(self._part, self.part_path, self._target)
        self.is_complete = True
        # Last: a complete state without a part says that the output is complete.
        self._state_path.unlink()

    def _commit(
        self, progress: Progress, bad_rows: Sequence[BadRow] = (), *, is_complete: bool = False
    ) -> None:
        """Bring everything written so far to the disk, and save the state."""
        for bad in bad_rows:
            self._errors = self._errors or PartFile(self.errors_path)
            self._errors.write(bad.encode())
        state = {
            "settings": self._settings,
            "progress": asdict(progress),
            "part": self._part and self._part.sync(),
            "errors": self._errors and self._errors.sync(),
            "is_complete": is_complete,
        }
        new_path = Path(f"{self._state_path}.new")
        with PartFile(new_path) as new:
            new.write(json.dumps({**state, "digest": digest_json(state)}, indent=1).encode())
            new.sync()
        new_path.replace(self._state_path)
        self.progress = progress

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        queries = self.progress.tally.queries
        # Not if the unfinished output turned out to be damaged, or of other input.
        if kind is not None and not issubclass(kind, UsageError) and queries and self._part is not None:
            hint = "To go on, give the same command with --resume."
            log.warning("Queries finished: %s, in %s. %s", f"{queries:,}", self.part_path, hint)
        with self._held:
            for file in filter(None, (self._part, self._errors)):
                with suppress(OSError):  # it may be impossible to write what is still buffered
                    file.close()
            if not self.is_complete and not self.progress.items:  # nothing to go on with
                self._state_path.unlink(missing_ok=True)
                if self.path.exists():
                    PartFile(self.part_path).close()  # it says that the output is of an earlier run
                else:
                    self.part_path.unlink(missing_ok=True)


class PartFile(io.BufferedWriter):
    """A file that is made, or continued after its first `size` bytes; it digests what is written to it.

    Raises OutputError if the digest of these bytes is not the given one.
    """

    def __init__(self, path: Path, size: int = 0, digest: str = "") -> None:
        if not size:
            path.unlink(missing_ok=True)
        flags = _NO_LINKS if size else _NO_LINKS | os.O_CREAT | os.O_EXCL
        file = io.FileIO(os.open(path, os.O_RDWR | flags, 0o666), "r+b")
        super().__init__(file)
        file.truncate(size)
        self._digest = hashlib.file_digest(file, "sha256")
        if size and self._digest.hexdigest() != digest:
            self.close()
            raise OutputError(
                f"{path} is not as it was written, and the unfinished output cannot be continued.",
                hint="Remove the unfinished files to begin again.",
            )

    def write(self, data: Any) -> int:
        """Write to the buffer."""
        self._digest.update(data)
        return super().write(data)

    def sync(self) -> tuple[int, str]:
        """Write everything to the disk; return its size and digest."""
        self.flush()
        os.fsync(self.fileno())
        return self.tell(), self._digest.hexdigest()
