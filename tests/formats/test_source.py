from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.formats import source
from ce_rerank.formats.source import Lines, LookAhead


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
    lines = Lines(LookAhead(Dripping(data, size)), "f")
    return [(number, line.encode(), lines.fault is not None) for number, line in lines]


@given(
    text=st.text(st.sampled_from("ab\n\r\u2028\u0085é文\x1c"), max_size=60),
    size=st.integers(min_value=1, max_value=9),
)
def test_lines_are_the_same_however_the_bytes_arrive(text: str, size: int) -> None:
    data = text.encode()
    expected = [(number, line, False) for number, line in enumerate(data.splitlines(keepends=True), 1)]
    assert numbered_lines(data, size) == expected


def test_only_the_faulty_line_has_a_fault() -> None:
    data = b"one\nna\xefve\nthree\nnu\0l\nfive\n"
    assert [fault for _, _, fault in numbered_lines(data, 1000)] == [False, True, False, True, False]


def test_lines_longer_than_the_buffer_come_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BUFFER_BYTES", 8)
    data = b"x" * 100 + b"\n" + b"y" * 3
    assert [line for _, line, _ in numbered_lines(data, 1000)] == [b"x" * 100 + b"\n", b"yyy"]


def test_looking_ahead_loses_nothing_and_takes_no_more_than_it_must() -> None:
    dripping = Dripping(b"abcdef", 2)
    ahead = LookAhead(dripping)
    assert ahead.look(lambda head: len(head) >= 3) == b"abcd"
    assert dripping.rest == b"ef"
    assert ahead.readall() == b"abcdef"
