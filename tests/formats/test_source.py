from __future__ import annotations

import io
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.formats.source import LookAhead, Source, read_lines, text_blocks


class Dripping(io.RawIOBase):
    """Gives a few bytes at a time, as a slow pipe does."""

    def __init__(self, data: bytes, size: int) -> None:
        self.rest, self.size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.rest[: min(self.size, len(buffer))]
        self.rest = self.rest[len(data) :]
        buffer[: len(data)] = data
        return len(data)


@given(
    text=st.text(st.sampled_from("ab\n\r\u2028\u0085é文\x1c"), max_size=60),
    size=st.integers(min_value=1, max_value=9),
)
def test_text_and_lines_are_the_same_however_the_bytes_arrive(text: str, size: int) -> None:
    data = text.encode()
    assert "".join(text_blocks(LookAhead(Dripping(data, size)), "f")) == text
    lines = [(line.encode(), number) for line, number, _ in read_lines(LookAhead(Dripping(data, size)), "f")]
    assert lines == [(line, number) for number, line in enumerate(data.splitlines(keepends=True), 1)]


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_a_pipe_that_is_set_not_to_wait_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", 0) as stream, os.fdopen(writer, "wb", 0) as pen:
        given = Source.from_stream(stream)
        later = threading.Timer(0.2, lambda: (pen.write(b"late\n"), pen.close()))
        later.start()
        with given.open() as ahead:
            assert b"".join(ahead) == b"late\n"
        later.join()
