from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.formats import source
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


def numbered_lines(data: bytes, size: int) -> list[tuple[int, bytes, bool]]:
    lines = read_lines(LookAhead(Dripping(data, size)), "f")
    return [(number, line.encode(), fault is not None) for line, number, fault in lines]


@given(
    text=st.text(st.sampled_from("ab\n\r\u2028\u0085é文\x1c"), max_size=60),
    size=st.integers(min_value=1, max_value=9),
)
def test_text_and_lines_are_the_same_however_the_bytes_arrive(text: str, size: int) -> None:
    data = text.encode()
    assert "".join(text_blocks(LookAhead(Dripping(data, size)), "f")) == text
    expected = [(number, line, False) for number, line in enumerate(data.splitlines(keepends=True), 1)]
    assert numbered_lines(data, size) == expected


def test_only_the_faulty_line_has_a_fault() -> None:
    data = b"one\nna\xefve\nthree\nnu\0l\nfive\n"
    assert [fault for _, _, fault in numbered_lines(data, 1000)] == [False, True, False, True, False]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_above_the_limit_is_a_fault_and_the_next_lines_are_read(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(source, "ROW_BYTES", 50)
    after = b"y\r\nz" if end else b""
    lines = numbered_lines(b"a\n" + b"x" * 100 + end + after, 7)
    assert (
        lines
        == [(1, b"a\n", False), (2, b"", True), (3, b"y\r\n", False), (4, b"z", False)][: 4 if end else 2]
    )


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


def test_the_share_of_a_file_that_is_read_never_falls_back(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 9)
    given = Source.from_path(tmp_path / "f")
    assert given.read_bytes == 0
    with given.open() as ahead:
        b"".join(ahead)
        assert given.read_bytes == 9
    assert given.read_bytes == 9


def test_looking_ahead_loses_nothing_and_takes_no_more_than_it_must() -> None:
    dripping = Dripping(b"abcdef", 2)
    ahead = LookAhead(dripping)
    assert ahead.peek(3) == b"abcd"
    assert dripping.rest == b"ef"
    assert b"".join(ahead) == b"abcdef"
