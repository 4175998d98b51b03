"""A job in parts: files are cut into units, each ranked by itself into a part file of a folder.

A unit ends where a query ends. Files are local, or on a file system that pyarrow knows (extra `parquet`).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, OutputError, UsageError
from ..formats.documents import FORMAT_OF_SUFFIX
from ..formats.source import Reject, Source, suffix_without_compression
from ..types import Candidates, Document, Query
from .job import Job, require_same
from .read import CandidateReader, RowCandidates, open_reader
from .run import BadRow, Tally

log = logging.getLogger("ce_rerank")

_UNITS_OF_A_JOB = 64
_LEAST_BYTES, _MOST_BYTES = 1 << 18, 1 << 25  # of a unit
_PIECE_BYTES = 1 << 17
_CANDIDATES_BYTES = 1 << 22  # of a file of candidates
_URL = re.compile(r"\w\w+:/")  # no drive of Windows
_SUCCESS, _WORK = "_SUCCESS.json", "_unfinished"
_JOB, _REPORTS, _CANDIDATES, _ATTEMPTS = (
    f"{_WORK}/{name}" for name in ("job.json", "reports", "candidates", "attempts")
)


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
            starts = _group_starts(parquet)
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

    def open_reader(self, job: Job) -> CandidateReader:
        """Return a reader of the candidates."""
        if self.has_candidates:
            return _WrittenCandidates(self)
        format = self.format_in(job)
        pieces = iter([self.parquet_bytes()]) if format == "parquet" else self.pieces()
        job = replace(job, reading=replace(job.reading, format=format))
        reader = RowCandidates(job, [Source.from_stream(pieces, self.name)])
        reader.may_pause = False  # so that pools are cut as for a file
        return reader

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


class _WrittenCandidates(CandidateReader):
    """The candidates of a file that `PartFolder.write_candidates` has written."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        for line in b"".join(self._unit.pieces()).splitlines():
            value = json.loads(line)
            query, documents = Query(**value.pop("query")), value.pop("documents")
            for document in documents:
                document["text_fields"] = tuple(document["text_fields"])
            yield Candidates(query, [Document(**document) for document in documents], **value)


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
            while (offset := borders[-1] + unit_bytes) < file.end:
                borders.append(_next_query(job, replace(file, begin=offset)))
            if borders[-1] < file.end:
                borders.append(file.end)
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
        row = _second_query(job, replace(rest, begin=start))
        return start + sum(len(stream.readline()) for _ in range(row - 1)) if row else rest.end


def _second_query(job: Job, unit: Unit) -> int | None:
    """Return the number, from 1, of the row where the second query begins; None if there is none."""
    lists = unit.open_reader(job).read(lambda error, text: None)
    next(lists, None)
    second = next(lists, None)
    lists.close()
    return None if second is None else int(re.split(r"[: ]", second.query.origin)[-1])


def _parquet_borders(job: Job, file: Unit, unit_bytes: int) -> list[int]:
    """Return the rows where a Parquet file is cut: at row groups or, for flat rows, at the next query."""
    import pyarrow.parquet as pq

    with file.open() as stream, pq.ParquetFile(stream.raw) as parquet:
        starts = _group_starts(parquet)
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


def _group_starts(parquet: Any) -> list[int]:
    """Return the first row, from 0, of each row group of a Parquet file, and the number of its rows."""
    groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
    return list(accumulate((group.num_rows for group in groups), initial=0))


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a unit, or of several: counts, the models that scored, and the warnings."""

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
    """The folder of the parts; a file in it is complete or not there.

    `_SUCCESS.json`, with the settings of the job, is written last. Until then a folder in it holds them, the
    files of candidates, and a report of each unit that is done. A report is written after its part.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._files, self._path = open_file_system(name)
        self._settings: dict[str, Any] = {}

    def begin(self, job: Job, files: Sequence[Unit], *, resume: bool) -> Report | None:
        """Prepare the folder for a job, or for the rest of one; return a report if nothing is left to do.

        Raises UsageError if there are files in it and `resume` is False, or they are of another job.
        """
        names = {*self._names()} - {_WORK}
        is_begun = "job.json" in self._names(_WORK)
        if (names or is_begun) and not (resume and (_SUCCESS in names or is_begun)):
            way_on = "Name another folder." if resume else "Give --resume to go on, or name another folder."
            raise UsageError(f"{self.name} is not empty.", hint=way_on)
        # Only the units of files depend on the sizes of files; other input is read once.
        described = [[absolute(name) for name in job.names], [(file.name, file.end) for file in files]]
        digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=8).hexdigest()
        self._settings = {**job.settings(), "the input": digest}
        if _SUCCESS in names:
            summary = json.loads(self._read(_SUCCESS))
            require_same(self.name, summary["settings"], self._settings)
            if sum(name.startswith("part-") for name in names) != summary["parts"]:
                raise UsageError(f"{self.name} lacks parts that were there.", hint="Remove it to rank again.")
            return Report(Tally(queries=summary["queries"], bad_rows=summary["bad_rows"]))
        if is_begun:
            require_same(self.name, json.loads(self._read(_JOB)), self._settings)
            self._files.delete_dir_contents(f"{self._path}/{_ATTEMPTS}")
            return None
        for name in (_REPORTS, _CANDIDATES, _ATTEMPTS):
            self._files.create_dir(f"{self._path}/{name}", recursive=True)
        self._write(_JOB, json.dumps(self._settings).encode())
        return None

    def write_candidates(self, job: Job) -> list[Unit]:
        """Write the candidates of a job into files, unless they are there; return their units."""
        path = f"{self._path}/{_CANDIDATES}"
        if "candidates.json" not in self._names(_REPORTS):
            bad_rows: list[BadRow] = []

            def reject(error: InputError, text: str) -> None:
                if not job.skip_bad_rows:
                    raise error
                bad_rows.append(BadRow(error.for_shell, text))

            def fields_of(noun: Any) -> dict[str, Any]:
                return {name: getattr(noun, name) for name in noun.__slots__}

            self._files.delete_dir_contents(path)  # of a run that was cut off
            lists = open_reader(job).read(reject)
            for number, first in enumerate(lists):
                with self.write_whole(f"{_CANDIDATES}/{number:05}") as stream:
                    for candidates in chain([first], lists):
                        stream.write(f"{json.dumps(candidates, default=fields_of)}\n".encode())
                        if stream.tell() >= _CANDIDATES_BYTES:
                            break
            self.report("candidates", Report(Tally(bad_rows=len(bad_rows))), bad_rows)
        infos = [self._files.get_file_info(f"{path}/{name}") for name in sorted(self._names(_CANDIDATES))]
        return [
            Unit(info.base_name, info.path, self._files, info.path, 0, info.size, has_candidates=True)
            for info in infos
        ]

    def reports(self) -> dict[str, Report]:
        """Return the reports of the units that are done, by their places, and that of `write_candidates`."""
        reports = {}
        for name in self._names(_REPORTS):
            content = json.loads(self._read(f"{_REPORTS}/{name}"))
            reports[name.removesuffix(".json")] = Report(**content | {"tally": Tally(**content["tally"])})
        return reports

    def report(self, place: str, report: Report, bad_rows: Sequence[BadRow]) -> None:
        """Write the bad rows, and then the report, of a unit that is done."""
        if bad_rows:
            self._write(f"errors-{place}.jsonl", b"".join(bad.encode() for bad in bad_rows))
        self._write(f"{_REPORTS}/{place}.json", json.dumps(asdict(report)).encode())

    def count_attempts(self, place: str) -> int:
        """Return how often a unit was begun in this run, including this time."""
        self._write(f"{_ATTEMPTS}/{place}.{os.urandom(8).hex()}", b"")
        return sum(name.startswith(f"{place}.") for name in self._names(_ATTEMPTS))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the folder as complete, and remove the files of the job."""
        summary = {**summary, "settings": self._settings}
        self._write(_SUCCESS, (json.dumps(summary, indent=1) + "\n").encode())
        with suppress(OSError):
            self._files.delete_dir(f"{self._path}/{_WORK}")

    @contextmanager
    def write_whole(self, name: str) -> Iterator[Any]:
        """Open a file for writing that gets its name when the block ends without an error."""
        # At random: when a task is done again, the first try may still be running.
        unfinished = f"{self._path}/{_WORK}/{os.urandom(8).hex()}"
        try:
            with self._files.open_output_stream(unfinished) as stream:
                yield stream
            self._files.move(unfinished, f"{self._path}/{name}")
        except OSError as error:
            raise OutputError(f"{self.name}/{name}: cannot be written ({error}).") from None

    def _write(self, name: str, content: bytes) -> None:
        with self.write_whole(name) as stream:
            stream.write(content)

    def _names(self, below: str = "") -> list[str]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._path}/{below}".rstrip("/"), allow_not_found=True)
        return [info.base_name for info in self._files.get_file_info(selector)]

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(f"{self._path}/{name}") as stream:
            content: bytes = stream.read()
            return content
