"""Where the results of a batch go: a stream, or a file that may be cut off at any moment and continued."""

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
from ..formats.rows import WriteOptions, own_names
from ..formats.writers import ResultWriter, open_writer, read_header, require_format
from .ahead import START, BadRow, Progress
from .resume import ERRORS, PART, Extent, PartFile, State, require_same
from .run import RankedPool

log = logging.getLogger("ce_rerank")


def encode_bad_row(reason: str, row: str) -> bytes:
    """Return the line of a bad row in a file of errors."""
    return f"{encode_json({'reason': reason, 'row': row})}\n".encode()


class StreamOutput:
    """Results to a stream, called `name`, that its caller opened and closes; bad rows are logged.

    Given a list for bad rows, they go there, and the stream is taken for a file: without input it gets what
    the format has at its end, where nothing is written otherwise.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        format: str,
        options: WriteOptions,
        bad_rows: list[BadRow] | None = None,
    ) -> None:
        # Not buffered: a buffer has a lock, which the end of the program would wait for if a write hangs.
        self._stream = getattr(stream, "raw", stream)
        self._name = Path(name)
        self._pending = io.BytesIO()
        self._writer = open_writer(format, self._pending, options, many=True)
        self._bad_rows = bad_rows
        self.progress = START

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results, and pass them on at once."""
        if self._bad_rows is not None:
            self._bad_rows += pool.bad_rows
        for bad in pool.bad_rows if self._bad_rows is None else ():
            log.warning("Left out: %s", bad.error)
        for ranking in pool.rankings:
            self._writer.write(ranking)
        self.progress = pool.progress
        self._pass_on()

    def complete(self) -> None:
        """Write what the format has at its end."""
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
    """Results to `OUT`, and bad rows to `OUT.errors.jsonl`; a context manager.

    `OUT` is written as `OUT.part`, and after each pool `OUT.part.json` says how far both files are. What lies
    behind that is cut off when another run continues, with `resume`; `is_complete` then says that nothing is
    left to do. An existing `OUT` is kept until the new one is complete; a part beside it, even an empty one,
    says that it is not what the last run was to make.

    Parquet has its table of contents at its end, and cannot be continued: it is made, last, from a part of
    one row a line.

    Entering raises UsageError when `path` cannot be written, when another run is writing there or has left
    results that `resume` does not ask for, and OutputError when what is there is damaged. Leaving keeps what
    is safe.
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
        """How far the file is, as far as it is safe."""
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
            # Killed when the output had its name already.
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
        """Get ready to write, for a run with these settings; `progress` is where to go on from.

        Raises UsageError when the run that is to be continued was another, OutputError when a byte of what
        it wrote was changed.
        """
        require_format(self._format, options, many=True)
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
        """Write a pool; what it holds is safe when this returns, except one that is not whole."""
        for ranking in pool.rankings:
            self._writer.write(ranking)
        if pool.is_whole:
            self._commit(pool.progress, pool.bad_rows)

    def complete(self) -> None:
        """Write what the format has at its end, and give the file its name."""
        self._writer.close()
        self._commit(self.progress, is_complete=True)
        assert self._part is not None
        if self._format == "parquet":
            # Under a name that another try uses again, should this one be killed.
            made_path = _beside(self.path, f"{PART}.made")
            with PartFile(made_path, self.path) as made:
                self._write_parquet(made)
                finish_output(made, made_path, self.path)
            self._part.close()
            self.part_path.unlink()
        else:
            finish_output(self._part, self.part_path, self.path)
        self._part = None
        # Without a part, a state that is complete says that the output is: so it goes last.
        self._state_path.unlink()

    def _commit(
        self, progress: Progress, bad_rows: Sequence[BadRow] = (), *, is_complete: bool = False
    ) -> None:
        """Make safe all that was written, up to here."""
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

    def _write_parquet(self, stream: BinaryIO) -> None:
        from ..formats.parquet import ParquetWriter

        writer = ParquetWriter(stream, lambda ranking: (), self._names)
        with self.part_path.open(encoding="utf-8", newline="\n") as lines:
            writer.write_rows(map(json.loads, lines))
        writer.close()

    def __exit__(self, *error: object) -> None:
        with self._held:
            is_empty = self._part is not None and not self.progress.items and not self._part.tell()
            for file in (self._part, self._errors):
                if file is not None:
                    # What is buffered behind the last commit may be what could not be written.
                    with suppress(OutputError, OSError):
                        file.close()
            if is_empty:
                with suppress(OSError):
                    self._state_path.unlink(missing_ok=True)
                    if not self.path.exists():  # else the part says that it is an earlier run's
                        self.part_path.unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    target = real_path(path)
    return target.with_name(target.name + suffix)
