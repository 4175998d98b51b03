"""Output files that are complete or not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError
from ..files import name_errors
from .source import COMPRESSIONS, is_pipe_or_device


@contextmanager
def open_output(path: Path | None, stdout: BinaryIO) -> Iterator[BinaryIO]:
    """Open a file for writing, which gets its name only when it is complete; None is `stdout`.

    It is written under a name that ends with `.part`, and renamed when the block ends without an error;
    otherwise an existing file stays. The new file has the mode of the one that it replaces, and a symbolic
    link stays one. A terminal, a pipe or a device is written directly.

    Raises UsageError as `require_writable` does. An OSError of writing names the file, or stdout.
    """
    with name_errors(path or "stdout"):
        if path is None:
            yield stdout
            stdout.flush()
        elif is_pipe_or_device(path):
            with path.open("wb") as stream:
                yield stream
        else:
            target = require_writable(path)
            part = target.with_name(f"{target.name}.{os.urandom(4).hex()}.part")
            try:
                with part.open("xb") as stream:
                    yield stream
                    finish_output(stream, part, target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise


def finish_output(stream: BinaryIO, part: Path, target: Path) -> None:
    """Bring a stream to the disk, close it, and rename its file to `target`."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()
    if target.exists():
        part.chmod(stat.S_IMODE(target.stat().st_mode))
    part.replace(target)


def require_writable(path: Path) -> Path:
    """Return the file that will be written, with links followed.

    Raises UsageError if its folder is missing, or if it has the name of a compressed file; raises the OSError
    of writing for a folder, and for a file without write permission.
    """
    target = Path(os.path.realpath(path))  # in Python 3.12, `resolve` fails for links in a circle
    if target.suffix.lower() in COMPRESSIONS:
        raise UsageError(
            f"{path} is the name of a compressed file, and what is written is not compressed.",
            hint=f"Name it {target.stem}.",
        )
    if not target.parent.is_dir():
        raise UsageError(
            f"{path}: there is no folder {path.parent} to write to.", hint=f"Make it: mkdir -p {path.parent}"
        )
    if target.exists():
        os.close(os.open(target, os.O_WRONLY))
    return target


def require_other_file(path: Path, inputs: Iterable[str], suffixes: Sequence[str] = ()) -> None:
    """Raise UsageError if one of the input files (`-` is stdin) is the output.

    Its name with one of `suffixes` counts, too. A terminal, a pipe or a device may be both.
    """
    written = [f"{os.path.realpath(path)}{suffix}" for suffix in ("", *suffixes)]
    for name in () if is_pipe_or_device(path) else inputs:
        if name != "-" and os.path.realpath(name) in written:
            raise UsageError(
                f"{name} is input, and writing {path} would overwrite it.", hint="Write to another file."
            )
