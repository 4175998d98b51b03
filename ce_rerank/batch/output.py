"""Where the results of a batch go: a stream, or a file that another run can continue."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import OutputError, UsageError
from ..files import lock
from ..formats.json import encode_json
from ..formats.output import cannot_write, finish_output, real_path, require_writable, told_as_usage_errors
from ..formats.writers import (
    ResultWriter,
    WriteOptions,
    open_writer,
    own_names,
    read_header,
    require_format,
)
from .ahead import START, BadRow, Progress
from .resume import ERRORS, PART, Extent, PartFile, State, require_same
from .run import RankedPool

log = logging.getLogger("ce_rerank")


def encode_bad_row(reason: str, row: str) -> bytes:
    """Return the line of a bad row in a file of errors."""
    return f"{encode_json({'reason': reason, 'row': row})}\n".encode()


class StreamOutput:
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
        self._writer = open_writer(format, self._pending, options, many=True)
        self._bad_rows = bad_rows
        self.progress = START

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results at once."""
        if self._bad_rows is not None:
            self._bad_rows += pool.bad_rows
        for bad in pool.bad_rows if self._bad_rows is None else ():
            log.warning("Left out: %s", bad.error)
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


class FileOutput:
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

    def __init__(self, path: Path, format: str = "jsonl", *, resume: bool = False) -> None:
        self.path = path
        self.errors_path = _beside(path, ERRORS)
        self.part_path = _beside(path, PART)
        self.is_complete = False
        self._state_path = _beside(path, f"{PART}.json")
        self._format = format
        self._resume = resume
        self._state: State | None = None
        self._part: PartFile | None = None
        self._errors: PartFile | None = None

    @property
    def progress(self) -> Progress:
        """How far the file on the disk is."""
        return self._state.progress if self._state else START

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
            held.callback(_beside(self.path, f"{PART}.lock").unlink, missing_ok=True)
            self._find_previous()
            if not self.is_complete and self._state is None:
                self._part = PartFile(self.part_path, self.path)
            self._held = held.pop_all()
        return self

    def _find_previous(self) -> None:
        state = State.load(self._state_path, self.part_path)
        has_part = os.path.lexists(self.part_path)
        if not has_part and state and state.is_complete and self.path.exists():
            # The run was killed after the part became the output.
            self._state_path.unlink()
            state = None
        if has_part and state is None and self.part_path.lstat().st_size:
            raise UsageError(
                f"{self.part_path} is there without {self._state_path.name}, and cannot be continued.",
                hint="Remove it to begin again.",
            )
        self.is_complete = self._resume and self.path.exists() and state is None and not has_part
        if has_part and state and state.progress.items:
            if not self._resume:
                raise UsageError(
                    f"{self.part_path} is there, of a run that was cut off, with "
                    f"{state.progress.tally.queries:,} queries done.",
                    hint="Give --resume to go on with it, or remove it to begin again.",
                )
            self._state = state

    def begin(self, options: WriteOptions, settings: Mapping[str, Any]) -> None:
        """Prepare to write with these settings; `progress` is where to continue.

        Raises UsageError if the unfinished output is of a different run, and OutputError if a byte of it was
        changed.
        """
        require_format(self._format, options)
        with told_as_usage_errors(self.path):
            if self._state is not None:
                require_same(self.part_path, self._state.settings, settings)
                self._part = PartFile(self.part_path, self.path, self._state.part)
            self._state = replace(self._state or State(settings), is_complete=False)
            if self._state.errors.bytes:
                self._errors = PartFile(self.errors_path, self.errors_path, self._state.errors)
            else:
                self.errors_path.unlink(missing_ok=True)
            self._state.save(self._state_path)
        in_part = "rows" if self._format == "parquet" else self._format
        columns = None
        if in_part in ("csv", "tsv") and self.progress.items:
            columns = read_header(self.part_path, in_part)
        assert self._part is not None
        self._writer = open_writer(in_part, self._part, options, many=True, columns=columns)
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
            made_path = _beside(self.path, f"{PART}.made")
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
        assert self._state is not None
        try:
            for bad in bad_rows:
                self._errors = self._errors or PartFile(self.errors_path, self.errors_path)
                self._errors.write(encode_bad_row(str(bad.error), bad.text))
            part, errors = [file.sync() if file else Extent() for file in (self._part, self._errors)]
            state = State(self._state.settings, progress, part, errors, is_complete)
            state.save(self._state_path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self._state = state

    def __exit__(self, *error: object) -> None:
        with self._held:
            is_lost = self._part is not None and not self.progress.items  # nothing to go on with
            for file in (self._part, self._errors):
                if file is not None:
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


def _beside(path: Path, suffix: str) -> Path:
    target = real_path(path)
    return target.with_name(target.name + suffix)
