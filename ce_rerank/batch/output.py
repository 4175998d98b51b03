"""Where the results of a batch go: a stream, or a file that may be cut off at any moment and continued."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ..formats.json import encode_json
from ..formats.output import cannot_write
from ..formats.rows import WriteOptions, own_names
from ..formats.writers import open_writer, read_header, require_format
from .resume import Settings, UnfinishedFile
from .run import START, RankedPool

log = logging.getLogger("ce_rerank")


class StreamOutput:
    """Results to a stream, called `name`, that its caller opened and closes; bad rows are logged."""

    patience_seconds: float | None = 1
    """How long a run that ends early waits for the last write: whoever reads the stream may have stopped."""

    def __init__(self, stream: BinaryIO, name: str, format: str, options: WriteOptions) -> None:
        # Not buffered: a buffer has a lock, which the end of the program would wait for if a write hangs.
        self._stream = getattr(stream, "raw", stream)
        self._name = Path(name)
        self._pending = io.BytesIO()
        self._writer = open_writer(format, self._pending, options, many=True)
        self.progress = START

    def write(self, pool: RankedPool) -> None:
        """Write a pool's results, and pass them on at once."""
        for bad in pool.bad_rows:
            log.warning("Left out: %s", bad.error)
        for ranking in pool.rankings:
            self._writer.write(ranking)
        self.progress = pool.progress
        self._pass_on()

    def complete(self) -> None:
        """Write what the format has at its end; nothing where there was no input."""
        if self.progress.items:
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
    """Results to an `UnfinishedFile`, bad rows to its file of errors.

    `settings` and `sizes` say what the results depend on; see `UnfinishedFile.begin`. Parquet has its table
    of contents at the end, and cannot be continued: it is made, at the end, from a part of one row a line.
    """

    patience_seconds: float | None = None

    def __init__(
        self,
        file: UnfinishedFile,
        format: str,
        options: WriteOptions,
        settings: Settings,
        sizes: Sequence[int | None],
    ) -> None:
        self._file = file
        self._format = format
        self._options = options
        in_part = format
        if format == "parquet":
            require_format(format, options, many=True)
            in_part = "rows"
        self.progress = file.begin(settings, sizes)
        columns = None
        if in_part in ("csv", "tsv") and self.progress.items:
            columns = read_header(file.part_path, in_part)
        self._writer = open_writer(in_part, file.stream, options, many=True, columns=columns)

    def write(self, pool: RankedPool) -> None:
        """Write a pool; what it holds is safe when this returns, except one that is not whole."""
        for ranking in pool.rankings:
            self._writer.write(ranking)
        if pool.is_whole:
            self.progress = pool.progress
            rows = [{"reason": str(bad.error), "row": bad.text} for bad in pool.bad_rows]
            self._file.commit(pool.progress, [f"{encode_json(row)}\n".encode() for row in rows])

    def complete(self) -> None:
        """Write what the format has at its end, and give the file its name."""
        self._writer.close()
        self._file.commit(self.progress, is_complete=True)
        self._file.finish(self._make_parquet if self._format == "parquet" else None)

    def _make_parquet(self, stream: BinaryIO) -> None:
        from ..formats.parquet import ParquetWriter

        writer = ParquetWriter(stream, lambda ranking: (), own_names(self._options, with_query=True))
        with self._file.part_path.open(encoding="utf-8", newline="\n") as lines:
            writer.write_rows(map(json.loads, lines))
        writer.close()
