"""The folder of part files, one for each unit of a job, and the files beside them that tell how far it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from ..formats.output import cannot_write
from ..formats.source import Reject
from ..types import Candidates, Document, Query
from .ahead import CandidateReader, Tally
from .output import encode_bad_row
from .resume import require_same
from .run import Job
from .units import Unit, absolute, open_file_system

_CANDIDATES_CHARACTERS = 1 << 22  # of a file of candidates
_SUCCESS, _WORK = "_SUCCESS.json", "_unfinished"
_JOB, _REPORTS, _CANDIDATES, _ATTEMPTS = (
    f"{_WORK}/{name}" for name in ("job.json", "reports", "candidates", "attempts")
)


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


def open_unit(job: Job, unit: Unit) -> CandidateReader:
    """Return a reader of a unit's candidates."""
    return _WrittenCandidates(unit) if unit.has_candidates else unit.open_rows(job)


@dataclass(frozen=True)
class _WrittenCandidates:
    """The candidates of a file that `PartFolder.write_candidates` has written."""

    unit: Unit
    may_pause = False
    share_read = None

    def read(self, reject: Reject) -> Generator[Candidates, None, None]:
        for line in b"".join(self.unit.pieces()).splitlines():
            value = json.loads(line)
            query, documents = Query(**value.pop("query")), value.pop("documents")
            for document in documents:
                document["text_fields"] = tuple(document["text_fields"])
            yield Candidates(query, [Document(**document) for document in documents], **value)


def _as_mapping(noun: Any) -> dict[str, Any]:
    """Return the fields of a query, a document or candidates, for JSON."""
    return {name: getattr(noun, name) for name in noun.__slots__}


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
            raise UsageError(
                f"{self.name} is not empty.", hint="Give --resume to go on with it, or name another folder."
            )
        # Only the units of files depend on the sizes of files; other input is read once.
        described = [[absolute(name) for name in job.names], [(file.name, file.end) for file in files]]
        digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=8).hexdigest()
        self._settings = {**job.settings(), "the input": digest}
        if _SUCCESS in names:
            summary = json.loads(self._read(_SUCCESS))
            require_same(self.name, summary["settings"], self._settings)
            return Report(Tally(queries=summary["queries"], bad_rows=summary["bad_rows"]))
        if is_begun:
            require_same(self.name, json.loads(self._read(_JOB)), self._settings)
            self._files.delete_dir_contents(f"{self._path}/{_ATTEMPTS}")
            return None
        try:
            for name in (_REPORTS, _CANDIDATES, _ATTEMPTS):
                self._files.create_dir(f"{self._path}/{name}", recursive=True)
        except OSError as error:
            raise UsageError(f"{self.name}: cannot be written ({error}).", hint="Name another.") from None
        self._write(_JOB, json.dumps(self._settings).encode())
        return None

    def write_candidates(self, job: Job) -> list[Unit]:
        """Write the candidates of a job into files, unless they are there; return their units."""
        if "candidates.json" not in self._names(_REPORTS):
            errors: list[bytes] = []

            def reject(error: InputError, text: str) -> None:
                if not job.skip_bad_rows:
                    raise error
                errors.append(encode_bad_row(str(error), text))

            self._files.delete_dir_contents(f"{self._path}/{_CANDIDATES}")  # of a run that was cut off
            lines: list[str] = []
            number = size = 0
            for candidates in job.open_reader().read(reject):
                lines.append(json.dumps(candidates, default=_as_mapping) + "\n")
                size += len(lines[-1])
                if size > _CANDIDATES_CHARACTERS:
                    self._write(f"{_CANDIDATES}/{number:05}", "".join(lines).encode())
                    lines, number, size = [], number + 1, 0
            if lines or not number:
                self._write(f"{_CANDIDATES}/{number:05}", "".join(lines).encode())
            self.report("candidates", Report(Tally(bad_rows=len(errors))), errors)
        path = f"{self._path}/{_CANDIDATES}"
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
            content["tally"] = Tally(**content["tally"])
            reports[name.removesuffix(".json")] = Report(**content)
        return reports

    def report(self, place: str, report: Report, errors: Sequence[bytes]) -> None:
        """Write the lines of bad rows, and then the report of a unit that is done."""
        if errors:
            self._write(f"errors-{place}.jsonl", b"".join(errors))
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
        except BaseException as error:
            with suppress(OSError):
                self._files.delete_file(unfinished)
            if isinstance(error, OSError):
                raise cannot_write(Path(self.name) / name, error) from None
            raise

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
