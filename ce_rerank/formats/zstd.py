"""Zstandard, read as a stream, by the `zstandard` library (extra `zstd`)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnavailableError

if TYPE_CHECKING:
    from .source import LookAhead

CHUNK_BYTES = 1 << 16


class ZstdStream(io.RawIOBase):
    """The decompressed bytes of one or more zstd frames.

    The library's own stream reader takes a file that is cut off for one that ends; this raises InputError.
    Raises UnavailableError when the library is not installed.
    """

    def __init__(self, compressed: LookAhead, name: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise UnavailableError(
                f"{name}: reading zstd needs the zstandard package.",
                hint="Install it: pip install 'ce-rerank[zstd]'",
            ) from None
        self._zstandard = zstandard
        self._compressed = compressed
        self._name = name
        self._frame: Any = None
        self._pending = b""
        self._output = b""

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12's
        """Fill a buffer with what is there."""
        while not self._output and self._decompress_more():
            pass
        data = self._output[: len(buffer)]
        self._output = self._output[len(data) :]
        buffer[: len(data)] = data
        return len(data)

    def _decompress_more(self) -> bool:
        chunk = self._pending or self._compressed.read(CHUNK_BYTES)
        self._pending = b""
        if not chunk:
            if self._frame is not None:
                raise InputError(f"{self._name}: the zstd data is cut off.", hint="Fetch the file again.")
            return False
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            self._output = self._frame.decompress(chunk)
        except self._zstandard.ZstdError as error:
            raise InputError(
                f"{self._name}: the zstd data is damaged ({error}).", hint="Fetch the file again."
            ) from None
        if self._frame.eof:
            self._pending = self._frame.unused_data
            self._frame = None
        return True
