"""Output files that are complete or not there."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ..errors import OutputError, UsageError
from .source import COMPRESSIONS, is_pipe_or_device

BUFFER_BYTES = 1 << 16


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; it gets its name only when it is complete.

    It is written under a name that ends with `.part`, and renamed when the block ends without an error;
    otherwise an existing file stays. The new file has the mode of the one that it replaces, and a symbolic
    link stays one. A terminal, a pipe or a device is written directly.

    Raises UsageError if it cannot be opened, and OutputError if it cannot be written.
    """
    target = real_path(path)
    part: Path | None = None
    with told_as_usage_errors(path):
        if is_pipe_or_device(path):
            raw = OutputFile(path, target, "wb")
        else:
            require_writable(target)
            part = target.with_name(f"{target.name}.{os.urandom(4).hex()}.part")
            raw = OutputFile(path, part, "xb")
    stream = io.BufferedWriter(raw, BUFFER_BYTES)
    try:
        yield stream
        if part is not None:
            finish_output(stream, part, path)
        stream.close()
    except BaseException:
        # It may be impossible to write what is still buffered, and nobody needs it.
        with suppress(OutputError, OSError):
            stream.close()
        if part is not None:
            part.unlink(missing_ok=True)
        raise


class OutputFile(io.FileIO):
    """A file that raises OutputErrors with the user's name for it, and BrokenPipeError for a closed pipe."""

    def __init__(self, name: Path, file: Path | int, mode: str, *, closefd: bool = True) -> None:
        super().__init__(file, mode, closefd)
        self._name = name

    def write(self, data: Any) -> int:
        """Write all of the data; the operating system may take it in parts."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # a pipe that does not block, and is full
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(self._name, error) from None
        return size


def tell_failures(stream: TextIO, name: str) -> TextIO:
    """Return a standard stream that raises OutputErrors, with a name, if it cannot be written.

    A stream that is no file, such as a console on Windows, is returned as it is.
    """
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO) or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    file = OutputFile(Path(name), raw.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        file if raw is buffer else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def real_path(path: Path) -> Path:
    """Follow the links of a path; no error is raised, whatever is there."""
    return Path(os.path.realpath(path))


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error for a file that cannot be written."""
    return OutputError(f"{path}: cannot be written ({error.strerror or error}).")


def require_writable(target: Path) -> None:
    """Raise the OSError that writing would raise: for a folder, or a file without write permission.

    Raises UsageError for the name of a compressed file, since output is not compressed.
    """
    if target.suffix.lower() in COMPRESSIONS:
        raise UsageError(
            f"{target.name} is the name of a compressed file, and what is written is not compressed.",
            hint=f"Name it {target.stem}, or write to stdout and compress that: ... | gzip > {target.name}",
        )
    if target.exists():
        os.close(os.open(target, os.O_WRONLY))


def require_other_file(path: Path, inputs: Iterable[str]) -> None:
    """Raise UsageError if one of the input files (`-` is stdin) is the output file.

    A terminal, a pipe or a device may be both.
    """
    target = real_path(path)
    names = () if is_pipe_or_device(path) else inputs
    if any(name != "-" and real_path(Path(name)) == target for name in names):
        raise UsageError(f"{path} is both input and output.", hint="Write to another file.")


def finish_output(stream: BinaryIO, part: Path, path: Path) -> None:
    """Rename `part` to the output; raise OutputError if that fails."""
    target = real_path(path)
    stream.flush()
    try:
        os.fsync(stream.fileno())
        stream.close()
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        part.replace(target)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def told_as_usage_errors(path: Path) -> Iterator[None]:
    """Raise UsageError for an OSError in this block, which opens a file for writing."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(
            f"{path}: there is no folder {path.parent} to write to.", hint=f"Make it: mkdir -p {path.parent}"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be written ({reason}).", hint="Name another place.") from None
