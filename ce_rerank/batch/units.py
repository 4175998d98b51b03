"""Many files, cut into units of work that are ranked each by itself into part files of a folder.

A unit ends at the border of a query, and becomes a part file that is renamed when it is whole: a unit whose
part is there is done. Files and folders are local, or on a file system that pyarrow knows (extra `parquet`).
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ..errors import InputError, UsageError
from ..formats.documents import FORMAT_OF_SUFFIX, ReadOptions
from ..formats.fields import LIST_FIELDS
from ..formats.output import cannot_write
from ..formats.rows import WriteOptions
from ..formats.source import Source, suffix_without_compression
from ..types import Coverage, RankOptions
from .read import RowCandidates
from .run import Tally

log = logging.getLogger("ce_rerank")

_UNITS_OF_A_JOB = 64
_LEAST_BYTES, _MOST_BYTES = 1 << 18, 1 << 25  # of a unit
_PIECE_BYTES = 1 << 20
_SUCCESS, _JOB, _COUNTS, _UNFINISHED = "_SUCCESS.json", "_job.json", "_counts", "_unfinished"
_MODEL_SETTINGS = {"threads", "batch_tokens"}  # may differ from run to run


@dataclass(frozen=True)
class FileJob:
    """Files to be ranked into the part files of a folder.

    `inputs` are files, folders and globs, `output` is a folder; each is a path or a URL. `model` has the
    arguments of `Reranker`. Queries are taken as they stand in a file: rows of one query in two files are two
    queries, and a query that comes again in another unit is not noticed.
    """

    inputs: Sequence[str]
    output: str
    format: str = "jsonl"
    reading: ReadOptions = field(default_factory=ReadOptions)
    ranking: RankOptions = field(default_factory=RankOptions)
    writing: WriteOptions = field(default_factory=WriteOptions)
    model: Mapping[str, Any] = field(default_factory=dict)
    query_field: str | None = None
    documents_field: str | None = None
    skip_bad_rows: bool = False
    version: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """What the bytes of the parts depend on, besides the input."""
        model = {name: value for name, value in self.model.items() if name not in _MODEL_SETTINGS}
        own = {"query_field": self.query_field, "documents_field": self.documents_field, "to": self.format}
        options = {**asdict(self.reading), **asdict(self.ranking), **asdict(self.writing)}
        return {"ce-rerank": self.version, **options, **model, **own}

    def format_of(self, unit: Unit) -> str | None:
        """Return the format of a unit's file, by option or by suffix; None to look at its first bytes."""
        named = FORMAT_OF_SUFFIX.get(suffix_without_compression(Path(unit.path)))
        return self.reading.format or (None if named == "text" else named)

    def read(self, unit: Unit, stream: BinaryIO | Iterator[bytes] | None = None) -> UnitCandidates:
        """Return the reader of a unit, or of the stream given."""
        format = self.format_of(unit)
        if stream is None:
            stream = BytesIO(unit.parquet_bytes()) if format == "parquet" else unit.pieces()
        return UnitCandidates(
            [Source.from_stream(cast(BinaryIO, stream), unit.name)],
            replace(self.reading, format=format),
            query_field=self.query_field,
            documents_field=self.documents_field,
            for_trec=self.format == "trec",
        )

    def cut(self) -> list[Unit]:
        """Return the units of all files, in their order; the same for the same input.

        Raises UsageError for a URL that is unknown and InputError for a file that is not there.
        """
        files = find_files(self.inputs)
        unit_bytes = sum(file.end for file in files) // _UNITS_OF_A_JOB
        unit_bytes = max(_LEAST_BYTES, min(_MOST_BYTES, unit_bytes))

        def cut(number: int, file: Unit) -> list[Unit]:
            borders = [0, file.end]
            if self.format_of(file) == "parquet":
                borders = _parquet_borders(self, file, unit_bytes)
            elif file.end > unit_bytes and self.format_of(file) in (None, "json", "jsonl"):
                borders = _line_borders(self, file, unit_bytes)
            return [
                replace(file, place=f"{number:05}-{part:05}", begin=begin, end=end)
                for part, (begin, end) in enumerate(pairwise(borders))
            ]

        # The warnings come again from whoever ranks, with their true places.
        with kept_warnings(), ThreadPoolExecutor(16) as pool:
            return [unit for units in pool.map(cut, range(len(files)), files) for unit in units]


@dataclass(frozen=True)
class Unit:
    """What is ranked by itself: a stretch of a file, in rows of Parquet, in bytes of anything else.

    `name` is that of the file in messages, `place` that of the part in the folder.
    """

    place: str
    name: str
    file_system: Any
    path: str
    begin: int
    end: int

    def pieces(self, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
        """Yield the bytes from `begin` to `end`."""
        try:
            with self.file_system.open_input_file(self.path) as file:
                file.seek(self.begin)
                left = self.end - self.begin
                while left and (piece := file.read(min(left, piece_bytes))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror or error}).") from None

    @contextmanager
    def open_parquet(self) -> Iterator[Any]:
        """Open a pyarrow.parquet.ParquetFile; what fails meanwhile is an InputError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.file_system.open_input_file(self.path) as file, pq.ParquetFile(file) as parquet:
                yield parquet
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{self.name}: cannot be read as Parquet ({reason}).") from None

    def parquet_bytes(self) -> bytes:
        """Return the rows from `begin` to `end` as a Parquet file of their own."""
        import pyarrow.parquet as pq

        with self.open_parquet() as parquet:
            starts = _group_starts(parquet)
            stretches = enumerate(pairwise(starts))
            groups = [i for i, (start, end) in stretches if start < self.end and self.begin < end]
            table = parquet.read_row_groups(groups)
            first = starts[groups[0]] if groups else 0
        stream = BytesIO()
        pq.write_table(table.slice(self.begin - first, self.end - self.begin), stream, compression="none")
        return stream.getvalue()

    def with_places(self, text: str) -> str:
        """Correct the places in a message of the reader, which counts lines and rows from `begin`."""
        return re.sub(
            rf"({re.escape(self.name)}:( row )?)(\d+)",
            lambda found: f"{found[1]}{int(found[3]) + (self.begin if found[2] else self._lines_before)}",
            text,
        )

    @cached_property
    def _lines_before(self) -> int:
        return sum(piece.count(b"\n") for piece in replace(self, begin=0, end=self.begin).pieces())


class UnitCandidates(RowCandidates):
    """The candidates of a unit: they never pause, so that pools are cut as those of a file."""

    @property
    def may_pause(self) -> bool:
        """A file never pauses, however slow it is."""
        return False


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a unit, or of several: counts, what scored it, and what was warned of."""

    tally: Tally = field(default_factory=Tally)
    scored_by: list[str] = field(default_factory=list)
    max_length: int = 0
    warnings: list[str] = field(default_factory=list)

    def __add__(self, other: Report) -> Report:
        return Report(
            self.tally + other.tally,
            list(dict.fromkeys((*self.scored_by, *other.scored_by))),
            max(self.max_length, other.max_length),
            list(dict.fromkeys((*self.warnings, *other.warnings))),
        )


class PartFolder:
    """Where the parts are; a file in it is whole or not there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._files, self._path = open_file_system(name)

    def begin(self, job: FileJob, units: Sequence[Unit], *, resume: bool) -> Report | None:
        """Get ready for a job, or for the rest of it; return a report if nothing is left to do.

        Raises UsageError for a folder with files in it that are not to be continued, or are another job's.
        """
        names = self._names()
        if names and not resume:
            raise UsageError(
                f"{self.name} is not empty.", hint="Give --resume to go on with it, or name another folder."
            )
        described = {
            **{f"--{name.replace('_', '-')}": value for name, value in job.settings.items()},
            "the input": [[absolute(unit.name), unit.begin, unit.end] for unit in units],
        }
        described = json.loads(json.dumps(described))
        if names:
            was = json.loads(self._read(_JOB)) if _JOB in names else {}
            if differing := [name for name in described if was.get(name) != described[name]]:
                raise UsageError(
                    f"{self.name} is of another job: {', '.join(differing)} differ.",
                    hint="Run it as it was begun (--batch-tokens and --threads may differ), or name another "
                    "folder.",
                )
        if _SUCCESS in names:
            summary = json.loads(self._read(_SUCCESS))
            return Report(Tally(summary["queries"], summary["bad_rows"]))
        try:
            with suppress(FileNotFoundError):
                self._files.delete_dir(f"{self._path}/{_UNFINISHED}")
            for name in (_COUNTS, _UNFINISHED):
                self._files.create_dir(f"{self._path}/{name}", recursive=True)
        except OSError as error:
            raise UsageError(f"{self.name}: cannot be written ({error}).", hint="Name another.") from None
        if not names:
            with self.write_whole(_JOB) as stream:
                stream.write(json.dumps(described).encode())
        return None

    def reports(self, units: Sequence[Unit]) -> dict[str, Report]:
        """Return the reports of the units that are done, by their places."""
        parts = {name.partition(".")[0] for name in self._names()}
        reports = {}
        for unit in units:
            if f"part-{unit.place}" in parts:
                counts = json.loads(self._read(f"{_COUNTS}/{unit.place}.json"))
                coverage = Coverage(**counts["tally"].pop("coverage"))
                reports[unit.place] = Report(
                    **{**counts, "tally": Tally(**counts["tally"], coverage=coverage)}
                )
        return reports

    @contextmanager
    def write_part(
        self, unit: Unit, format: str
    ) -> Iterator[tuple[BinaryIO, Callable[[Report, bytes], None]]]:
        """Open a unit's part, and yield it with what is to be called, at the end, with report and bad rows.

        The part has its name when the block has ended well.
        """

        def end(report: Report, errors: bytes) -> None:
            # Before the part has its name: where that is, these are.
            files = {f"{_COUNTS}/{unit.place}.json": json.dumps(asdict(report)).encode()}
            if errors:
                files[f"errors-{unit.place}.jsonl"] = errors
            for name, content in files.items():
                with self.write_whole(name) as stream:
                    stream.write(content)

        with self.write_whole(f"part-{unit.place}.{'jsonl' if format == 'rows' else format}") as part:
            yield part, end

    def count_attempts(self, unit: Unit) -> int:
        """Return how often a unit was begun in this run, this time included."""
        prefix = f"{unit.place}."
        name = f"{self._path}/{_UNFINISHED}/{prefix}{os.urandom(8).hex()}"
        self._files.open_output_stream(name).close()
        return sum(name.startswith(prefix) for name in self._names(_UNFINISHED))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which says that the folder is complete, and remove what only the job needed."""
        with self.write_whole(_SUCCESS) as stream:
            stream.write((json.dumps(summary, indent=1) + "\n").encode())
        with suppress(OSError):
            for name in (_COUNTS, _UNFINISHED):
                self._files.delete_dir(f"{self._path}/{name}")

    @contextmanager
    def write_whole(self, name: str) -> Iterator[Any]:
        """Open a file that has its name when the block has ended well, and is gone otherwise."""
        # A task that is done again may find the one before it still at work.
        unfinished = f"{self._path}/{_UNFINISHED}/{os.urandom(8).hex()}"
        try:
            with self._files.open_output_stream(unfinished) as stream:
                yield stream
            self._files.move(unfinished, f"{self._path}/{name}")
        except BaseException as error:
            with suppress(OSError):
                self._files.delete_file(unfinished)
            if isinstance(error, OSError):
                raise cannot_write(Path(self.name) / name, error) from None
            raise

    def _names(self, below: str = "") -> list[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._path}/{below}".rstrip("/"), allow_not_found=True)
        return [info.base_name for info in self._files.get_file_info(selector)]

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read()
            return content


def absolute(name: str) -> str:
    """Return a path that means the same in another process; a URL does."""
    return name if "://" in name else str(Path(name).absolute())


def open_file_system(name: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a path or URL, and the path in it; raise UsageError for neither."""
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in name:
        return LocalFileSystem(), absolute(name)
    try:
        file_system, path = FileSystem.from_uri(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {error}.", hint="Give a path, or a URL like s3://BUCKET/KEY.") from None
    return file_system, path


def find_files(names: Sequence[str]) -> list[Unit]:
    """Return a unit for each file that is named, for those in a folder, and for those that fit a glob.

    In folders, names that begin with `.` or `_` are passed over. Raises InputError where there is nothing.
    """
    from pyarrow.fs import FileSelector, FileType

    units: list[Unit] = []
    for name in names:
        file_system, path = open_file_system(name)
        try:
            info = file_system.get_file_info(path)
            if info.type == FileType.File:
                units.append(Unit("", name, file_system, path, 0, info.size))
                continue
            base, pattern = path, "*"
            if info.type == FileType.NotFound:
                base, pattern = re.split(r"/[^/]*[*?\[]", path)[0], path
            selector = FileSelector(base, recursive=True, allow_not_found=True)
            found = sorted(file_system.get_file_info(selector), key=lambda info: str(info.path))
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error}).") from None
        files = [
            info
            for info in found
            if info.type == FileType.File
            and PurePosixPath(info.path).match(pattern)
            and not re.search(r"/[._]", info.path[len(base) :])
        ]
        if not files:
            raise InputError(f"{name}: no such file.", hint="Name files, folders with files, or a glob.")
        scheme = "".join(name.partition("://")[:2]) if "://" in name else ""
        units += [Unit("", scheme + info.path, file_system, info.path, 0, info.size) for info in files]
    return units


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keep the program's warnings in a list, in place of logging them."""
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


def _line_borders(job: FileJob, file: Unit, unit_bytes: int) -> list[int]:
    """Return where a file of JSON lines is cut, in bytes; any other file is left whole."""
    head = b""
    for piece in file.pieces():
        head += piece
        if b"\n" in head.lstrip():
            break
    try:
        is_object = isinstance(json.loads(head.lstrip().partition(b"\n")[0].decode("utf-8-sig")), dict)
    except ValueError:
        is_object = False
    borders = [0]
    for offset in range(unit_bytes, file.end, unit_bytes) if is_object else ():
        if offset > borders[-1]:
            borders.append(_next_query(job, replace(file, begin=offset)))
    return borders if borders[-1] == file.end else [*borders, file.end]


def _next_query(job: FileJob, rest: Unit) -> int:
    """Return the offset of a query's first line, behind the first whole row of `rest`; else its end."""
    taken: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        is_whole = False
        for piece in rest.pieces(1 << 17):
            taken.append(piece)
            if not is_whole and b"\n" in piece:
                piece, is_whole = piece.partition(b"\n")[2], True
            if is_whole and piece:
                yield piece

    row = _second_query(job, rest, pieces())
    # As many lines as the row's number says lie before it: the first is the rest of one, and not counted.
    return rest.begin + sum(map(len, b"".join(taken).splitlines(keepends=True)[:row])) if row else rest.end


def _second_query(job: FileJob, unit: Unit, stream: Iterator[bytes] | None = None) -> int | None:
    """Return the number, from 1, of the row in which the second query begins; None if there is none."""
    lists = job.read(unit, stream).read(lambda error, text: None)
    next(lists, None)
    second = next(lists, None)
    lists.close()
    return None if second is None else int(re.split(r"[: ]", second.query.origin)[-1])


def _parquet_borders(job: FileJob, file: Unit, unit_bytes: int) -> list[int]:
    """Return where a Parquet file is cut, in rows: at row groups or, in flat rows, at the next query."""
    import pyarrow as pa

    lists = LIST_FIELDS if job.documents_field is None else (job.documents_field.partition(".")[0],)
    with file.open_parquet() as parquet:
        is_nested = any(one.name in lists and pa.types.is_nested(one.type) for one in parquet.schema_arrow)
        starts = _group_starts(parquet)
        borders, size = [0], 0
        for group, (start, end) in enumerate(pairwise(starts)):
            if size >= unit_bytes and start > borders[-1]:
                row = 1 if is_nested else _second_query(job, replace(file, begin=start, end=end))
                if row is not None:
                    borders.append(start + row - 1)
                    size = 0
            size += parquet.metadata.row_group(group).total_byte_size
    return [*borders, max(borders[-1], starts[-1])]


def _group_starts(parquet: Any) -> list[int]:
    """Return the numbers, from 0, of the first rows of a Parquet file's row groups, and of the row behind."""
    groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
    return list(accumulate((group.num_rows for group in groups), initial=0))
