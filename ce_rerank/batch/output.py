"""Where the results of a batch go: a stream, or a file that may be cut off at any moment and continued."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..formats.delimited import DELIMITERS
from ..formats.json import JsonDecoder, encode_json, encode_utf8
from ..formats.output import cannot_write
from ..formats.rows import WriteOptions, own_names
from ..formats.writers import ResultWriter, open_batch_writer
from .events import START, Checkpoint, RankedWindow
from .manifest import Settings
from .partial import PartialFile

log = logging.getLogger("ce_rerank")


class BatchOutput(Protocol):
    """Takes what a `BatchRun` gives."""

    def write(self, window: RankedWindow) -> None:
        """Write a window's results and bad rows; they are safe when this returns."""
        ...

    def complete(self) -> None:
        """Write what comes at the end; not to be called when the run did not get there."""
        ...


class StreamOutput:
    """Results to a stream, called `name`, that its caller opened and closes; bad rows are logged."""

    def __init__(self, stream: BinaryIO, name: str, format: str, options: WriteOptions) -> None:
        self._stream = stream
        self._name = Path(name)
        self._writer = open_batch_writer(format, stream, options)

    def write(self, window: RankedWindow) -> None:
        """Write a window's results, and pass them on at once."""
        for bad in window.bad_rows:
            log.warning("Left out: %s", bad.error)
        with self._told_as_output_errors():
            _write_rankings(self._writer, window)
            self._stream.flush()

    def complete(self) -> None:
        """Write what the format has at its end."""
        with self._told_as_output_errors():
            self._writer.close()
            self._stream.flush()

    @contextmanager
    def _told_as_output_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(self._name, error) from None


class FileOutput:
    """Results to a `PartialFile`, bad rows to its file of errors.

    Parquet has its table of contents at the end, and cannot be continued: it is made, at the end, from a part
    that has a row a line.
    """

    def __init__(self, file: PartialFile, format: str, options: WriteOptions) -> None:
        self._file = file
        self._format = format
        self._options = options
        self._writer: ResultWriter | None = None
        self._at = START

    def begin(self, settings: Settings, sizes: Sequence[int | None]) -> Checkpoint:
        """Open the file, see `PartialFile.begin`; gives where to go on from."""
        in_part = self._format
        if self._format == "parquet":
            # Whether it can be written at all is better known now than in the morning.
            open_batch_writer("parquet", io.BytesIO(), self._options)
            in_part = "rows"
        self._at = self._file.begin(settings, sizes)
        columns = None
        if in_part in DELIMITERS and self._at.items:
            columns = _read_header(self._file.part_path, DELIMITERS[in_part])
        self._writer = open_batch_writer(in_part, self._file.stream, self._options, columns=columns)
        return self._at

    def write(self, window: RankedWindow) -> None:
        """Write a window; what it holds is safe when this returns, but for one that was cut short."""
        _write_rankings(self._open_writer, window)
        for bad in window.bad_rows:
            line = encode_json({"reason": str(bad.error), "row": bad.text}) + "\n"
            self._file.add_error(encode_utf8(line))
        if window.checkpoint is not None:
            self._at = window.checkpoint
            self._file.commit(self._at)

    def complete(self) -> None:
        """Write what the format has at its end, and give the file its name."""
        self._open_writer.close()
        self._file.commit(self._at, is_complete=True)
        self._file.finish(self._make_parquet if self._format == "parquet" else None)

    def _make_parquet(self, stream: BinaryIO) -> None:
        from ..formats.parquet import ParquetWriter

        writer = ParquetWriter(stream, lambda ranking: (), own_names(self._options, with_query=True))
        writer.write_rows(_read_own_rows(self._file.part_path))
        writer.close()

    @property
    def _open_writer(self) -> ResultWriter:
        if self._writer is None:
            raise ValueError("the output was not begun")
        return self._writer


def _write_rankings(writer: ResultWriter, window: RankedWindow) -> None:
    for ranking in window.rankings:
        writer.write(ranking)


def _read_own_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows that were written to a part, where what the input had may lie some levels deeper."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            yield JsonDecoder().decode(line, f"{path}:{number}")


def _read_header(path: Path, delimiter: str) -> list[str] | None:
    with path.open(encoding="utf-8", newline="") as stream:
        return next(csv.reader(stream, delimiter=delimiter), None)
