"""Cut files into units of work, each ranked by itself.

A unit ends where a query ends. Files are local, or on a file system that pyarrow knows (extra `parquet`).
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ..errors import InputError, UsageError
from ..formats.documents import FORMAT_OF_SUFFIX
from ..formats.source import Source, suffix_without_compression
from .read import RowCandidates
from .run import Job

log = logging.getLogger("ce_rerank")

_UNITS_OF_A_JOB = 64
_LEAST_BYTES, _MOST_BYTES = 1 << 18, 1 << 25  # of a unit
_PIECE_BYTES = 1 << 17
_URL = re.compile(r"\w\w+:/")  # no drive of Windows


@dataclass(frozen=True)
class Unit:
    """A part of a file that is ranked by itself: rows of a Parquet file, bytes of any other.

    `name` is what messages call the file, and `place` is in the name of the part that is written. A unit that
    `has_candidates` is a file that `PartFolder.write_candidates` has written.
    """

    place: str
    name: str
    file_system: Any
    path: str
    begin: int
    end: int
    has_candidates: bool = False

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file where the unit begins; errors of reading are InputErrors."""
        import pyarrow as pa

        try:
            with self.file_system.open_input_file(self.path) as raw:
                stream = io.BufferedReader(raw, _PIECE_BYTES)
                stream.seek(self.begin)
                yield stream
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{self.name}: cannot be read ({reason}).") from None

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from `begin` to `end`."""
        with self.open() as stream:
            left = self.end - self.begin
            while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                yield piece

    def parquet_bytes(self) -> bytes:
        """Return the rows from `begin` to `end` as a Parquet file of their own."""
        import pyarrow.parquet as pq

        with self.open() as stream, pq.ParquetFile(stream.raw) as parquet:
            starts = group_starts(parquet)
            stretches = enumerate(pairwise(starts))
            groups = [i for i, (start, end) in stretches if start < self.end and self.begin < end]
            table = parquet.read_row_groups(groups)
            first = starts[groups[0]] if groups else 0
        copy = io.BytesIO()
        pq.write_table(table.slice(self.begin - first, self.end - self.begin), copy, compression="none")
        return copy.getvalue()

    def format_in(self, job: Job) -> str | None:
        """Return the format of the file, by option or by suffix; None to look at its first bytes."""
        named = FORMAT_OF_SUFFIX.get(suffix_without_compression(Path(self.path)))
        return job.reading.format or (None if named == "text" else named)

    def open_rows(self, job: Job, stream: io.BufferedReader | None = None) -> RowCandidates:
        """Return a reader of the candidates, from `stream` if it is given."""
        format = self.format_in(job)
        pieces = stream or (io.BytesIO(self.parquet_bytes()) if format == "parquet" else self.pieces())
        return _UnitCandidates(
            [Source.from_stream(cast(BinaryIO, pieces), self.name)],
            replace(job.reading, format=format),
            query_field=job.query_field,
            documents_field=job.documents_field,
            for_trec=job.format == "trec",
        )

    def with_places(self, text: str) -> str:
        """Correct the line and row numbers in a message of the reader, which counts from `begin`."""
        return re.sub(
            rf"({re.escape(self.name)}:( row )?)(\d+)",
            lambda found: f"{found[1]}{int(found[3]) + (self.begin if found[2] else self._lines_before)}",
            text,
        )

    @cached_property
    def _lines_before(self) -> int:
        return sum(piece.count(b"\n") for piece in replace(self, begin=0, end=self.begin).pieces())


class _UnitCandidates(RowCandidates):
    """The candidates of a unit; they never pause, so that pools are cut as for a file."""

    @property
    def may_pause(self) -> bool:
        return False


def absolute(name: str) -> str:
    """Return a path or URL that means the same in another process."""
    return name if _URL.match(name) else str(Path(name).absolute())


def open_file_system(name: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a path or URL, and the path in it; raise UsageError for others."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if not _URL.match(name):
        return LocalFileSystem(), absolute(name)
    try:
        file_system, path = FileSystem.from_uri(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {error}.", hint="Give a path, or a URL like s3://BUCKET/KEY.") from None
    return file_system, path


def find_files(names: Sequence[str]) -> list[Unit]:
    """Return a unit for each file that is named, is in a folder that is named, or matches a glob.

    In folders, names that begin with `.` or `_` are left out. Raises InputError for a name without files.
    """
    from pyarrow.fs import FileSelector, FileType

    units: list[Unit] = []
    for name in names:
        file_system, path = open_file_system(name)
        try:
            info = file_system.get_file_info(path)
            is_glob = info.type == FileType.NotFound
            base = re.split(r"/[^/]*[*?\[]", path)[0] if is_glob else path
            selector = FileSelector(base, recursive=True, allow_not_found=True)
            found = [info] if info.type == FileType.File else file_system.get_file_info(selector)
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error}).") from None
        files = [
            info
            for info in found
            if info.type == FileType.File
            and PurePosixPath(info.path).match(path if is_glob else "*")
            and not re.search(r"/[._]", info.path[len(base) :])
        ]
        if not files:
            raise InputError(f"{name}: no such file.", hint="Name files, folders with files, or a glob.")
        scheme = "".join(name.partition("://")[:2]) if "://" in name else ""
        for info in sorted(files, key=lambda info: str(info.path)):
            of_file = name if info.path == path else scheme + info.path
            units.append(Unit("", of_file, file_system, info.path, 0, info.size))
    return units


def cut(job: Job, files: Sequence[Unit]) -> list[Unit]:
    """Cut files into units, in their order, always in the same way. Raises InputError."""
    unit_bytes = sum(file.end for file in files) // _UNITS_OF_A_JOB
    unit_bytes = max(_LEAST_BYTES, min(_MOST_BYTES, unit_bytes))

    def cut_one(number: int, file: Unit) -> list[Unit]:
        borders = [0, file.end]
        if file.format_in(job) == "parquet":
            borders = _parquet_borders(job, file, unit_bytes)
        elif file.end > unit_bytes and file.format_in(job) in (None, "json", "jsonl") and _has_lines(file):
            borders = [0]
            for offset in range(unit_bytes, file.end, unit_bytes):
                if offset > borders[-1]:
                    borders.append(_next_query(job, replace(file, begin=offset)))
            borders += [file.end] * (borders[-1] < file.end)
        return [
            replace(file, place=f"{number:05}-{part:05}", begin=begin, end=end)
            for part, (begin, end) in enumerate(pairwise(borders))
        ]

    # The worker that ranks a unit gives the warnings again, with their true places.
    with kept_warnings(), ThreadPoolExecutor(16) as pool:
        return [unit for units in pool.map(cut_one, range(len(files)), files) for unit in units]


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Collect the program's warnings in a list instead of logging them."""
    warnings: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if is_warning := record.levelno == logging.WARNING:
            warnings.append(record.getMessage())
        return not is_warning

    log.addFilter(keep)
    try:
        yield warnings
    finally:
        log.removeFilter(keep)


def _has_lines(file: Unit) -> bool:
    """Whether the first line that is not blank is an object, as in a file of JSON lines."""
    with file.open() as stream:
        line = next(filter(bytes.strip, stream), b"")
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except ValueError:
        return False


def _next_query(job: Job, rest: Unit) -> int:
    """Return the offset of the first line of a query, after the first whole row of `rest`; else its end."""
    with rest.open() as stream:
        stream.readline()
        start = stream.tell()
        row = _second_query(job, rest, stream)
        stream.seek(start)
        return start + sum(len(stream.readline()) for _ in range(row - 1)) if row else rest.end


def _second_query(job: Job, unit: Unit, stream: io.BufferedReader | None = None) -> int | None:
    """Return the number, from 1, of the row where the second query begins; None if there is none."""
    lists = unit.open_rows(job, stream).read(lambda error, text: None)
    next(lists, None)
    second = next(lists, None)
    lists.close()
    return None if second is None else int(re.split(r"[: ]", second.query.origin)[-1])


def _parquet_borders(job: Job, file: Unit, unit_bytes: int) -> list[int]:
    """Return the rows where a Parquet file is cut: at row groups or, for flat rows, at the next query."""
    import pyarrow.parquet as pq

    with file.open() as stream, pq.ParquetFile(stream.raw) as parquet:
        starts = group_starts(parquet)
        borders, size = [0], 0
        for group, (start, end) in enumerate(pairwise(starts)):
            if size >= unit_bytes and start > borders[-1]:
                # The last row before tells whether its query goes on.
                row = _second_query(job, replace(file, begin=start - 1, end=end))
                if row is not None:
                    borders.append(start + row - 2)
                    size = 0
            size += parquet.metadata.row_group(group).total_byte_size
    return [*borders, max(borders[-1], starts[-1])]


def group_starts(parquet: Any) -> list[int]:
    """Return the first row, from 0, of each row group of a Parquet file, and the number of its rows."""
    groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
    return list(accumulate((group.num_rows for group in groups), initial=0))
