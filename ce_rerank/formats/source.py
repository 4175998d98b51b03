"""Where bytes come from: files and streams, decompressed, as UTF-8, in lines or in blocks of text.

What can go wrong with a file whatever its format (it is missing, a folder, cut off, not UTF-8) is an
InputError from here that starts with the file's name.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from ..errors import InputError, UnavailableError

BUFFER_BYTES = 1 << 17
ROW_BYTES = 1 << 28
"""A row, or a whole file that is one document, is refused above this size."""
COMPRESSIONS = (".gz", ".zst")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one without data before it
_PIECE_BYTES = 1 << 10  # zstd makes 32 MiB of them at most, gzip one
_LONE_CR = re.compile(r"\r(?!\n)")
_LINE_END = re.compile(rb"[\r\n]")
_BOMS = {  # UTF-32 before UTF-16, which begins alike
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ZEROS_OF: dict[tuple[bool, ...], str] = {  # which of the first four bytes are zero, if ASCII
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
}

Reject = Callable[[InputError, str], None]
"""Takes a row that cannot be read: the error and the row's own text."""


def raise_at_once(error: InputError, text: str) -> NoReturn:
    """Reject a row by raising its error."""
    raise error


class Row(NamedTuple):
    """A row as it was read: an object or a bare string, and where (`hits.jsonl:17`)."""

    value: object
    origin: str


class Source:
    """A file, or a stream that is open already, with the name that messages call it by.

    A stream can be read once and is left open; a file can be read again.
    """

    def __init__(self, name: str, *, path: Path | None = None, stream: BinaryIO | None = None) -> None:
        self.name = name
        self.path = path
        self._stream = stream
        self._raw: BinaryIO | io.FileIO | None = None

    @classmethod
    def from_path(cls, path: Path) -> Source:
        """Name a file; it is opened when it is read."""
        # A name on Linux may hold any byte; what is not UTF-8 is shown as \xE9.
        return cls(os.fsencode(path).decode(errors="backslashreplace"), path=path)

    @classmethod
    def from_name(cls, name: str) -> Source:
        """Take a name as a command line has it: `-` is stdin, anything else a file."""
        if name != "-":
            return cls.from_path(Path(name))
        # Buffered, it has a lock, which a thread that still waits for input would hold when the program ends.
        return cls.from_stream(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))

    @classmethod
    def from_stream(cls, stream: BinaryIO, name: str = "stdin") -> Source:
        """Name a stream that is open already."""
        # Another process may have made it non-blocking; a read would then take a pause for the end.
        with suppress(OSError, ValueError, AttributeError):
            os.set_blocking(stream.fileno(), True)
        return cls(name, stream=stream)

    @property
    def size_bytes(self) -> int | None:
        """The size of the file on disk; None for a stream and for what is not a regular file."""
        with suppress(OSError):
            return self.path.stat().st_size if self.path is not None and self.path.is_file() else None
        return None

    @property
    def read_bytes(self) -> int:
        """How many bytes of the file were taken from disk so far."""
        if self._raw is None or self.path is None:
            return 0
        return (self.size_bytes or 0) if self._raw.closed else self._raw.tell()

    @contextmanager
    def open(self) -> Iterator[LookAhead]:
        """Yield the source's bytes, decompressed, text as UTF-8; what fails meanwhile is an InputError."""
        with ExitStack() as stack, _told_as_input_errors(self):
            raw = self._stream or stack.enter_context(io.FileIO(self.path or ""))
            self._raw = raw
            yield _as_utf8(_decompressed(LookAhead(raw), self), self.name)


Readable = Path | Source


def as_source(readable: Readable) -> Source:
    """Take a path or a source as a source."""
    return readable if isinstance(readable, Source) else Source.from_path(readable)


def is_pipe_or_device(path: Path) -> bool:
    """Whether something has this name that is neither a file nor a folder."""
    with suppress(OSError):
        return path.exists() and not path.is_dir() and not path.is_file()
    return False


class LookAhead:
    """A stream whose first bytes can be looked at, and are still there to be read.

    Made of a stream or of pieces of bytes, none of them empty. It never waits for more than it is asked for,
    so that a slow pipe is passed on as it comes.
    """

    def __init__(self, stream: io.IOBase | BinaryIO | Iterable[bytes]) -> None:
        self._stream = stream
        self._pieces = _pieces_of(stream) if hasattr(stream, "read") else iter(stream)
        self._ahead = bytearray()

    def look(self, enough: Callable[[bytearray], bool]) -> bytes:
        """Return the first bytes, as many as it takes until `enough` is content or the stream ends."""
        while not enough(self._ahead) and (piece := next(self._pieces, b"")):
            self._ahead += piece
        return bytes(self._ahead)

    def peek(self, size: int) -> bytes:
        """Return the first bytes, at least so many if there are."""
        return self.look(lambda ahead: len(ahead) >= size)

    def look_at_line(self, limit: int) -> bytes:
        """Return the first line that is not blank, without space around it; of one above `limit`, a part."""
        begin = searched = 0

        def enough(ahead: bytearray) -> bool:
            nonlocal begin, searched
            if not searched:
                begin = len(ahead) - len(ahead.lstrip())
                if begin == len(ahead):
                    return False
            found = _LINE_END.search(ahead, max(begin, searched))
            searched = len(ahead)
            return found is not None or len(ahead) - begin >= limit

        head = self.look(enough)
        return _LINE_END.split(head[begin:], maxsplit=1)[0].strip()

    def skip(self, size: int) -> None:
        """Pass over bytes that were looked at."""
        del self._ahead[:size]

    def take(self) -> bytes:
        """Take the bytes that are there next; none at the end."""
        if self._ahead:
            taken, self._ahead = bytes(self._ahead), bytearray()
            return taken
        return next(self._pieces, b"")

    def file_beneath(self) -> io.FileIO | None:
        """Return the file that this reads, at its start; None if it is compressed or not a file."""
        if not isinstance(self._stream, io.FileIO) or not self._stream.seekable():
            return None
        self._stream.seek(0)
        return self._stream


def _pieces_of(stream: Any) -> Iterator[bytes]:
    # `read` of a buffered stream waits until it has everything; `read1` returns what is there.
    read = getattr(stream, "read1", stream.read)
    while piece := read(BUFFER_BYTES):
        yield piece


def _decompressed(stream: LookAhead, source: Source) -> LookAhead:
    head = stream.peek(4)
    if head.startswith(b"\x1f\x8b"):
        return LookAhead(_decompress(stream, lambda: zlib.decompressobj(wbits=31), zlib.error))
    if _ZSTD.match(head):
        try:
            import zstandard
        except ImportError:
            raise UnavailableError(
                f"{source.name}: reading zstd needs the zstandard package.",
                hint="Install it: pip install 'ce-rerank[zstd]'",
            ) from None
        zstd = zstandard.ZstdDecompressor()
        return LookAhead(_decompress(stream, zstd.decompressobj, zstandard.ZstdError))
    suffix = source.path.suffix.lower() if source.path else ""
    if suffix in COMPRESSIONS and head:
        kind = "gzip" if suffix == ".gz" else "zstd"
        raise InputError(f"{source.name}: not {kind} data, whatever its name says.", hint="Rename it.")
    return stream


def _decompress(
    stream: LookAhead, make_frame: Callable[[], Any], damaged: type[Exception]
) -> Iterator[bytes]:
    """Decompress frames one after another, in bounded memory.

    The libraries' own files read whole blocks, of which a few bytes may become gigabytes, and zstandard's
    takes a file that is cut off for one that ends.
    """
    frame: Any = None
    try:
        for data in iter(stream.take, b""):
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
        raise EOFError


def _as_utf8(stream: LookAhead, name: str) -> LookAhead:
    """Recode text that begins with the byte order mark of another encoding, and drop the mark of UTF-8."""
    head = stream.peek(4)
    for bom, encoding in _BOMS.items():
        if head.startswith(bom):
            return LookAhead(_recoded(stream, encoding, name))
    if head.startswith(codecs.BOM_UTF8):
        stream.skip(len(codecs.BOM_UTF8))
    return stream


def _refuse_unmarked(stream: LookAhead, name: str) -> None:
    encoding = _ZEROS_OF.get(tuple(byte == 0 for byte in stream.peek(4)[:4]))
    if encoding:
        raise InputError(
            f"{name}: the text is {encoding}.", hint=f"Convert it: iconv -f {encoding} -t UTF-8."
        )


def _recoded(stream: LookAhead, encoding: str, name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while data := stream.take():
            if text := decoder.decode(data):
                yield text.encode()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: damaged {encoding.upper()} ({error.reason}).") from None


class Lines:
    r"""The lines of a stream, as text, with their ends: `\n`, `\r\n` or `\r`; nothing else ends a line.

    Iterating gives (number from 1, line). A line that is not UTF-8 or holds a NUL is given with U+FFFD in
    place of what cannot be read, one above `ROW_BYTES` is given empty; `fault` is set while it is current,
    and whoever iterates must look at it.
    """

    def __init__(self, stream: LookAhead, name: str) -> None:
        _refuse_unmarked(stream, name)
        self._stream = stream
        self._name = name
        self.fault: InputError | None = None

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 0
        for block in _line_blocks(self._stream):
            text = "" if block is _TOO_LONG else block.decode(errors="replace")
            if text and "\0" not in text and "\ufffd" not in text:
                # A universal newline takes twice as long.
                newline = "" if _LONE_CR.search(text) else "\n"
                for number, line in enumerate(io.StringIO(text, newline=newline), number + 1):  # noqa: B020
                    yield number, line
                continue
            # bytes.splitlines knows \n, \r and \r\n alone; str.splitlines would cut at U+2028 and U+0085.
            for raw in [block] if block is _TOO_LONG else block.splitlines(keepends=True):
                number += 1
                line, self.fault = _decode_line(raw, f"{self._name}:{number}")
                yield number, line
                self.fault = None


def _decode_line(raw: bytes, where: str) -> tuple[str, InputError | None]:
    if raw is _TOO_LONG:
        return "", too_large(where)
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        return raw.decode(errors="replace"), _not_utf8(where, error)
    if "\0" in line:
        return line, InputError(
            f"{where}: a NUL byte, which text does not have.", hint="Is it a binary file?"
        )
    return line, None


_TOO_LONG = bytes(bytearray(b"too long"))  # an object of its own, to be known by identity


def _line_blocks(stream: LookAhead) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines, as they come; `_TOO_LONG` stands for one above `ROW_BYTES`."""
    unfinished: list[bytes] = []
    size = 0
    while data := stream.take():
        # Not at a \r at the end, which may be half of an \r\n.
        cut = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, len(data) - 1) + 1
        if cut and size > ROW_BYTES:
            yield _TOO_LONG
            data = data[(data.find(b"\n") + 1 or cut) :]
            cut = data.rfind(b"\n") + 1
            unfinished, size = [], 0
        if cut:
            yield b"".join((*unfinished, data[:cut]))
            unfinished, size = [data[cut:]], len(data) - cut
            continue
        unfinished.append(data)
        size += len(data)
        if size > ROW_BYTES:
            unfinished.clear()
    if size:
        yield b"".join(unfinished) if size <= ROW_BYTES else _TOO_LONG


def text_blocks(stream: LookAhead, name: str) -> Iterator[str]:
    """Read a stream as text, in blocks as they come; raises InputError where it is not UTF-8."""
    _refuse_unmarked(stream, name)
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    data = b" "
    try:
        while data:
            data = stream.take()
            line += data.count(b"\n")
            if text := decoder.decode(data, final=not data):
                yield text
    except UnicodeDecodeError as error:
        line -= error.object.count(b"\n", error.start)
        raise _not_utf8(f"{name}:{line}", error) from None


def read_whole_text(source: Source) -> str:
    """Read all of a source as text, its line ends as they are."""
    blocks: list[str] = []
    size = 0
    with source.open() as stream:
        for block in text_blocks(stream, source.name):
            if "\0" in block:
                raise _nul(source.name)
            blocks.append(block)
            size += len(block)
            if size > ROW_BYTES:
                raise too_large(source.name)
    return "".join(blocks)


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
    """Return the suffix that names the format, in lower case: `.jsonl` of `hits.jsonl.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def too_large(where: str) -> InputError:
    """Return the error for a row above `ROW_BYTES`."""
    return InputError(f"{where}: larger than {ROW_BYTES >> 20} MiB, the most that a row may be.")


def _nul(where: str) -> InputError:
    return InputError(f"{where}: a NUL byte, which text does not have.", hint="Is it a binary file?")


def _not_utf8(where: str, error: UnicodeDecodeError) -> InputError:
    return InputError(
        f"{where}: not UTF-8 (0x{error.object[error.start]:02X}).",
        hint="Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8.",
    )


_AGAIN = "Fetch the file again."
_PROBLEMS: dict[type[Exception], tuple[str, str]] = {
    FileNotFoundError: ("no such file.", ""),
    IsADirectoryError: ("a folder, not a file.", "Name its files, or give --whole-files."),
    PermissionError: ("no permission to read it.", ""),
    EOFError: ("the compressed data is cut off.", _AGAIN),
    zlib.error: ("the compressed data is damaged ({}).", _AGAIN),
    OSError: ("cannot be read ({}).", ""),
}


@contextmanager
def _told_as_input_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        problem, hint = next(told for kind, told in _PROBLEMS.items() if isinstance(error, kind))
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source.name}: {problem.format(reason)}", hint=hint) from None
