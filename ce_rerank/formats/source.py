"""Files and streams: decompress them, and read them as UTF-8, in lines or in blocks of text.

If a file is missing, a folder, cut off or not UTF-8, an InputError from here starts with its name.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from ..errors import InputError, missing_package

BUFFER_BYTES = 1 << 17
ROW_BYTES = 1 << 28
"""The largest row, or file that is one document."""
COMPRESSIONS = (".gz", ".zst")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one without data before it
_PIECE_BYTES = 1 << 10  # decompressed they are at most 32 MiB (zstd) or 1 MiB (gzip)
_LONE_CR = re.compile(r"\r(?!\n)")
_LINE_END = re.compile(rb"[\r\n]")

Reject = Callable[[InputError, str], None]
"""Called for a row that cannot be read, with the error and the row's text."""


def raise_at_once(error: InputError, text: str) -> NoReturn:
    """Reject a row by raising its error."""
    raise error


class Row(NamedTuple):
    """A row: an object or a string, and where it was read (`hits.jsonl:17`)."""

    value: Any
    origin: str


@dataclass(eq=False)
class Source:
    """A file, or an open stream, with its name for messages.

    A stream can be read once and is left open; a file can be read again.
    """

    name: str
    path: Path | None = None
    _stream: BinaryIO | Iterable[bytes] = ()
    _file: io.FileIO | None = None

    @classmethod
    def from_path(cls, path: Path) -> Source:
        """Make a source of a file; it is opened when it is read."""
        # A file name on Linux may hold any byte; bytes that are not UTF-8 are shown as \xE9.
        return cls(os.fsencode(path).decode(errors="backslashreplace"), path)

    @classmethod
    def from_name(cls, name: str) -> Source:
        """Make a source of a name on the command line: `-` is stdin, anything else a file."""
        if name != "-":
            return cls.from_path(Path(name))
        # Not buffered: the end of the program would wait for the lock of a thread that waits for input.
        return cls.from_stream(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))

    @classmethod
    def from_stream(cls, stream: BinaryIO | Iterable[bytes], name: str = "stdin") -> Source:
        """Make a source of an open stream, or of pieces of bytes, none of them empty."""
        # If another process made it non-blocking, a pause would look like the end.
        with suppress(OSError, ValueError, AttributeError):
            os.set_blocking(stream.fileno(), True)  # type: ignore[union-attr]
        return cls(name, _stream=stream)

    @property
    def size_bytes(self) -> int | None:
        """The size of the file on disk; None for a stream, a pipe or a device."""
        return self.path.stat().st_size if self.path is not None and self.path.is_file() else None

    @property
    def read_bytes(self) -> int:
        """How many bytes of the file have been read from the disk."""
        if self._file is None:
            return 0
        return (self.size_bytes or 0) if self._file.closed else self._file.tell()

    @contextmanager
    def open(self) -> Iterator[LookAhead]:
        """Yield the source's bytes, decompressed, text as UTF-8; errors of reading are InputErrors."""
        try:
            if self.path is not None:
                self._file = io.FileIO(self.path)
            with self._file or nullcontext():
                yield _as_utf8(_decompressed(LookAhead(self._file or self._stream), self.name))
        except OSError as error:
            is_folder = isinstance(error, IsADirectoryError)
            hint = "Name its files; only rank takes a folder, with --whole-files." if is_folder else ""
            problem = f"cannot be read ({error.strerror or error})"
            raise InputError(f"{self.name}: {problem}.", hint=hint) from None
        except (zlib.error, UnicodeDecodeError) as error:
            problem = f"the data is damaged ({error})"
            raise InputError(f"{self.name}: {problem}.", hint="Fetch the file again.") from None


def is_pipe_or_device(path: Path) -> bool:
    """Whether a path exists and is neither a file nor a folder."""
    with suppress(OSError):
        return path.exists() and not path.is_dir() and not path.is_file()
    return False


class LookAhead:
    """A stream, or pieces of bytes, of which the next bytes can be seen before they are taken.

    It never waits for more than it is asked for, so that what a slow pipe gives is used at once. `file` is
    the file on disk, if the stream is one that is not compressed or recoded.
    """

    def __init__(self, stream: BinaryIO | io.RawIOBase | Iterable[bytes]) -> None:
        self.file = stream if isinstance(stream, io.FileIO) and stream.seekable() else None
        # `read` of a buffered stream waits until it has everything; `read1` returns what is there.
        read = getattr(stream, "read1", getattr(stream, "read", None))
        self._pieces = iter(lambda: read(BUFFER_BYTES), b"") if read else iter(stream)
        self._ahead = bytearray()

    def __iter__(self) -> Iterator[bytes]:
        """Take all bytes, in pieces as they come."""
        while self._ahead:
            piece = bytes(self._ahead[:BUFFER_BYTES])
            self.skip(len(piece))
            yield piece
        yield from self._pieces

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at least `size` unless the end comes first."""
        while len(self._ahead) < size and (piece := next(self._pieces, b"")):
            self._ahead += piece
        return bytes(self._ahead)

    def peek_line(self, limit: int) -> bytes:
        """Return the first line that is not blank, stripped; only a part if it is longer than `limit`."""
        size = 1
        while True:
            head = self.peek(size)
            text = head.lstrip()
            end = _LINE_END.search(text)
            if end or len(text) >= limit or len(head) < size:
                return text[: end.start() if end else None].strip()
            size = grown(len(head))

    def skip(self, size: int) -> None:
        """Drop bytes that were seen."""
        del self._ahead[:size]


def grown(size: int) -> int:
    """Return the size to wait for next: one byte more if there is little, twice as much if there is a lot."""
    return size + 1 if size < BUFFER_BYTES else 2 * size


def _decompressed(stream: LookAhead, name: str) -> LookAhead:
    head = stream.peek(4)
    if head.startswith(b"\x1f\x8b"):
        return LookAhead(_decompress(stream, lambda: zlib.decompressobj(wbits=31), zlib.error))
    if not _ZSTD.match(head):
        return stream
    try:
        import zstandard
    except ImportError:
        raise missing_package(f"{name}: reading zstd needs the zstandard package.", "zstd") from None
    return LookAhead(_decompress(stream, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError))


def _decompress(
    stream: LookAhead, make_frame: Callable[[], Any], damaged: type[Exception]
) -> Iterator[bytes]:
    """Decompress frames one after another, in bounded memory.

    The file objects of the libraries decompress whole blocks, which may become gigabytes, and zstandard's
    does not notice that a file is cut off.
    """
    frame: Any = None
    try:
        for data in stream:
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                while piece:
                    frame = frame or make_frame()
                    if text := frame.decompress(piece):
                        yield text
                    piece = frame.unused_data.lstrip(b"\0") if frame.eof else b""
                    frame = None if frame.eof else frame
    except damaged as error:
        raise zlib.error(str(error)) from None
    if frame is not None:
        raise zlib.error("it is cut off")


def _as_utf8(stream: LookAhead) -> LookAhead:
    """Recode text that begins with the byte order mark of UTF-16 or UTF-32; drop the mark of UTF-8."""
    head = stream.peek(4)
    if head.startswith(codecs.BOM_UTF8):
        stream.skip(len(codecs.BOM_UTF8))
    is_utf32 = head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE))  # the first begins as UTF-16 does
    if is_utf32 or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        texts = codecs.iterdecode(stream, "utf-32" if is_utf32 else "utf-16")
        return LookAhead(text.encode() for text in texts)
    return stream


def read_lines(stream: LookAhead, name: str) -> Iterator[tuple[str, int, InputError | None]]:
    r"""Read lines as (text with its end, number from 1, fault); only `\n`, `\r\n` and `\r` end a line.

    A line that is not UTF-8 or has a NUL has a fault, and U+FFFD for bytes that cannot be read. A line above
    `ROW_BYTES` has a fault, too, and its text is empty.
    """
    numbers = count(1)
    for block in _line_blocks(stream):
        text = block.decode(errors="replace")
        if text and "\0" not in text and "\ufffd" not in text:
            # A universal newline takes twice as long.
            newline = "" if _LONE_CR.search(text) else "\n"
            yield from zip(io.StringIO(text, newline=newline), numbers, repeat(None))
            continue
        # bytes.splitlines knows \n, \r and \r\n alone; str.splitlines would cut at U+2028 and U+0085.
        for raw in block.splitlines(keepends=True) or [block]:
            number = next(numbers)
            where = f"{name}:{number}"
            fault: InputError | None = None if raw else too_large(where)
            try:
                if "\0" in raw.decode():
                    fault = _not_text(where, 0)
            except UnicodeDecodeError as error:
                fault = _not_text(where, error.object[error.start])
            yield raw.decode(errors="replace"), number, fault


def _line_blocks(stream: LookAhead) -> Iterator[bytes]:
    """Yield blocks of whole lines as they come; an empty block stands for a line above `ROW_BYTES`."""
    unfinished = bytearray()
    for data in stream:
        # Not after a \r at the end, which may be half of an \r\n.
        cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, len(data) - 1) + 1
        if cut and len(unfinished) > ROW_BYTES:
            yield b""
            data = data[(data.find(b"\n") + 1 or cut) :]
            cut = data.rfind(b"\n") + 1
            unfinished.clear()
        if cut:
            yield bytes(unfinished) + data[:cut]
            unfinished = bytearray(data[cut:])
        elif len(unfinished) <= ROW_BYTES:
            unfinished += data
    if unfinished:
        yield bytes(unfinished) if len(unfinished) <= ROW_BYTES else b""


def text_blocks(stream: LookAhead, name: str) -> Iterator[str]:
    """Read a stream as text, in blocks as they come; raise InputError for a NUL or what is not UTF-8."""
    line = 1
    try:
        for text in codecs.iterdecode(stream, "utf-8"):
            if "\0" in text:
                line += text.count("\n", 0, text.index("\0"))
                raise _not_text(f"{name}:{line}", 0)
            line += text.count("\n")
            yield text
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        raise _not_text(f"{name}:{line}", error.object[error.start]) from None


def read_whole_text(source: Source) -> str:
    """Read all of a source as text; line ends are kept."""
    with source.open() as stream:
        if len(stream.peek(ROW_BYTES + 1)) > ROW_BYTES:
            raise too_large(source.name)
        return "".join(text_blocks(stream, source.name))


def suffix_without_compression(path: Path) -> str:
    """Return the suffix that names the format, in lower case: `.jsonl` of `hits.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def too_large(where: str) -> InputError:
    """Return the error for a row above `ROW_BYTES`."""
    return InputError(f"{where}: larger than {ROW_BYTES >> 20} MiB, the most that a row may be.")


def _not_text(where: str, byte: int) -> InputError:
    encoding = "WINDOWS-1252" if byte else "UTF-16LE"
    return InputError(
        f"{where}: not UTF-8 (0x{byte:02X}).",
        hint=f"If it is text, convert it, for example: iconv -f {encoding} -t UTF-8.",
    )
