"""Where bytes come from: files and streams, decompressed, looked at without losing a byte, in lines.

Everything that can go wrong with a file before its format matters (it is not there, it is a folder, its gzip
is cut off, it is UTF-16) is said here, once, as an InputError that starts with the file's name.
"""

from __future__ import annotations

import difflib
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from ..errors import InputError

BUFFER_BYTES = 1 << 17
UTF8_BOM = b"\xef\xbb\xbf"
COMPRESSIONS = (".gz", ".zst")
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame without data, which may come first

Reject = Callable[[InputError, str], None]
"""What is done with a row that cannot be read, given the error and the row's own text."""


def raise_at_once(error: InputError, text: str) -> NoReturn:
    """Reject a row by stopping there."""
    raise error


class Row(NamedTuple):
    """A row as it was read: an object or a bare string, and where (`hits.jsonl:17`)."""

    value: object
    origin: str


class Source:
    """A file, or a stream that is open already, with the name that messages call it by.

    A stream can be read once and is left open; a file as often as one likes.
    """

    def __init__(self, name: str, *, path: Path | None = None, stream: BinaryIO | None = None) -> None:
        self.name = name
        self.path = path
        self.stream = stream
        self._raw: BinaryIO | io.RawIOBase | None = None

    @classmethod
    def from_path(cls, path: Path) -> Source:
        """Name a file; it is opened when it is read."""
        # What is no text in a name, any byte on Linux, is written as \xE9 wherever the name is.
        return cls(os.fsencode(path).decode(errors="backslashreplace"), path=path)

    @classmethod
    def from_name(cls, name: str) -> Source:
        """Take a name as a command line has it: `-` is stdin, anything else a file."""
        return cls.from_stream(sys.stdin.buffer) if name == "-" else cls.from_path(Path(name))

    @classmethod
    def from_stream(cls, stream: BinaryIO, name: str = "stdin") -> Source:
        """Name a stream that is open already."""
        # Some other process may have made it one that does not wait, and what is still to come would be lost.
        with suppress(OSError, ValueError, AttributeError):
            os.set_blocking(stream.fileno(), True)
        return cls(name, stream=stream)

    @property
    def size_bytes(self) -> int | None:
        """How large the file is on disk; None for a stream and for what is no regular file."""
        found = None if self.path is None else _status(self.path)
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    @property
    def read_bytes(self) -> int:
        """How much of the file was taken from disk so far: with `size_bytes`, the share that is done."""
        raw = self._raw
        if raw is None:
            return 0
        if raw.closed:
            return self.size_bytes or 0
        return raw.tell() if raw.seekable() else 0

    @contextmanager
    def open(self) -> Iterator[LookAhead]:
        """Give the source's decompressed bytes; what goes wrong while they are read is an InputError."""
        with ExitStack() as stack, _told_as_input_errors(self):
            self._raw = self.stream or stack.enter_context(self._open_path())
            ahead = LookAhead(self._raw)
            yield _decompress(ahead, self)

    def _open_path(self) -> io.FileIO:
        if self.path is None:
            raise ValueError("a source needs a path or a stream")
        return io.FileIO(self.path)


def is_pipe_or_device(path: Path) -> bool:
    """Tell whether a name is neither a file's nor a folder's; one under which nothing can be found is not."""
    found = _status(path)
    return found is not None and not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode)


def _status(path: Path) -> os.stat_result | None:
    """Look at what is under a name; None where nothing can be looked at, whatever the cause."""
    try:
        return path.stat()
    except OSError:
        return None


Readable = Path | Source


def as_source(readable: Readable) -> Source:
    """Take a path or a source as a source."""
    return readable if isinstance(readable, Source) else Source.from_path(readable)


class LookAhead(io.RawIOBase):
    """A stream whose first bytes can be looked at, and are still there to be read.

    Never waits for more than it is asked to: a pipe that is fed slowly is passed on as it comes.
    """

    def __init__(self, stream: BinaryIO | io.RawIOBase | gzip.GzipFile) -> None:
        # `read` of a buffered stream blocks until it has everything; `read1` gives what there is.
        self._read: Callable[[int], bytes | None] = getattr(stream, "read1", stream.read)
        self._stream = stream
        self._ahead = b""

    def look(self, enough: Callable[[bytes], bool]) -> bytes:
        """Give the first bytes, as many as it takes until `enough` is content or the stream ends."""
        while not enough(self._ahead):
            more = self._read(BUFFER_BYTES)
            if not more:
                break
            self._ahead += more
        return self._ahead

    def file_beneath(self) -> io.FileIO | None:
        """Give the file that this reads, at its start, if it is a file and not compressed; else None."""
        if not isinstance(self._stream, io.FileIO) or not self._stream.seekable():
            return None
        self._stream.seek(0)
        return self._stream

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12's
        """Fill a buffer with what is there."""
        data = self._ahead[: len(buffer)]
        if data:
            self._ahead = self._ahead[len(data) :]
        else:
            data = self._read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


class Lines:
    r"""The lines of a stream, as text, with their ends: `\n`, `\r\n` or `\r`; nothing else ends a line.

    Iterating gives (number from 1, line). A line that is not UTF-8, or holds a NUL, is given too, with what
    cannot be read replaced, and `fault` is set while it is current; whoever iterates must look at it.
    """

    def __init__(self, stream: LookAhead, name: str) -> None:
        _refuse_utf16(stream, name)
        self._stream = stream
        self._name = name
        self.fault: InputError | None = None

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 0
        for block in _line_blocks(self._stream):
            data = block if number else block.removeprefix(UTF8_BOM)
            text = _decode_or_none(data)
            if text is None or "\0" in text or "\r" in text:
                yield from self._lines_one_by_one(data, number + 1)
                # bytes.splitlines knows \n, \r and \r\n alone; str.splitlines would cut at U+2028 and U+0085.
                number += len(data.splitlines())
            else:
                yield from enumerate(io.StringIO(text, newline="\n"), number + 1)
                number += text.count("\n")

    def _lines_one_by_one(self, data: bytes, first_number: int) -> Iterator[tuple[int, str]]:
        for number, raw in enumerate(data.splitlines(keepends=True), first_number):
            where = f"{self._name}:{number}"
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                self.fault = _not_utf8(where, error)
                line = raw.decode(errors="replace")
            else:
                if "\0" in line:
                    problem = f"{where}: a NUL byte, which text does not have."
                    self.fault = InputError(problem, hint="Is it a binary file?")
            yield number, line
            self.fault = None


def _decode_or_none(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _line_blocks(stream: LookAhead) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines, as large as they come."""
    unfinished: list[bytes] = []
    while data := stream.read(BUFFER_BYTES):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield b"".join((*unfinished, data[:cut]))
            unfinished = [data[cut:]]
        else:
            unfinished.append(data)
    if rest := b"".join(unfinished):
        yield rest


def decode_whole(stream: LookAhead, name: str) -> str:
    """Read all of a stream as text, its line ends as they are, without a byte order mark."""
    _refuse_utf16(stream, name)
    data = io.BufferedReader(stream, BUFFER_BYTES).read().removeprefix(UTF8_BOM)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        line_start = data.rfind(b"\n", 0, error.start) + 1
        raise _not_utf8(f"{name}:{line}", error, line_start) from None
    if "\0" in text:
        raise InputError(f"{name}: NUL bytes, which text does not have.", hint="Is it a binary file?")
    return text


def read_whole_text(source: Source) -> str:
    """Read all of a source as text; see `decode_whole`."""
    with source.open() as stream:
        return decode_whole(stream, source.name)


def read_query(readable: Readable) -> str:
    """Read a query from a file: all of it, less one line end at its end.

    Raises InputError when there is nothing but space in it.
    """
    source = as_source(readable)
    text = read_whole_text(source)
    query = text.removesuffix("\n").removesuffix("\r")
    if not query.strip():
        raise InputError(f"{source.name}: no query in it.", hint="Write the query there, as plain text.")
    return query


def suffix_without_compression(path: Path) -> str:
    """Give the suffix that tells the format, in lower case: `.jsonl` of `hits.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def _refuse_utf16(stream: LookAhead, name: str) -> None:
    head = stream.look(lambda head: len(head) >= 2)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            f"{name}: the text is UTF-16, not UTF-8.", hint="Convert it: iconv -f UTF-16 -t UTF-8."
        )


def _not_utf8(where: str, error: UnicodeDecodeError, line_start: int = 0) -> InputError:
    place = error.start - line_start + 1
    return InputError(
        f"{where}: not UTF-8 (byte {place} of the line is 0x{error.object[error.start]:02X}).",
        hint="Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8.",
    )


def _decompress(ahead: LookAhead, source: Source) -> LookAhead:
    head = ahead.look(lambda head: len(head) >= 4)
    if head.startswith(b"\x1f\x8b"):
        return LookAhead(gzip.GzipFile(fileobj=io.BufferedReader(ahead, BUFFER_BYTES)))
    if head.startswith(b"\x28\xb5\x2f\xfd") or _ZSTD_SKIPPABLE.match(head):
        from .zstd import ZstdStream

        return LookAhead(ZstdStream(ahead, source.name))
    suffix = source.path.suffix.lower() if source.path else ""
    if suffix in COMPRESSIONS and head:
        kind = "gzip" if suffix == ".gz" else "zstd"
        raise InputError(f"{source.name}: not {kind} data, whatever its name says.", hint="Rename it.")
    return ahead


@contextmanager
def _told_as_input_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{source.name}: no such file.", hint=_nearest_name(source)) from None
    except IsADirectoryError:
        raise InputError(f"{source.name}: a directory, not a file.", hint="Name the files in it.") from None
    except PermissionError:
        raise InputError(f"{source.name}: no permission to read it.") from None
    except EOFError:
        raise InputError(f"{source.name}: the gzip data is cut off.", hint="Fetch the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{source.name}: the gzip data is damaged ({error}).", hint="Fetch the file again."
        ) from None
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error.strerror or error}).") from None


def _nearest_name(source: Source) -> str:
    if source.path is None:
        return ""
    try:
        # Not the name itself, which a link to nothing has.
        names = [entry.name for entry in source.path.parent.iterdir() if entry.name != source.path.name]
    except OSError:
        return "" if source.path.parent.exists() else f"There is no folder {source.path.parent} either."
    nearest = difflib.get_close_matches(source.path.name, names, n=1, cutoff=0.7)
    return f"Is it {source.path.parent / nearest[0]}?" if nearest else ""
