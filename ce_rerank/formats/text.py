"""Plain text: a document a line."""

from __future__ import annotations

from collections.abc import Iterator

from .source import Lines, LookAhead, Reject, Row


def read_text_rows(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read each line that is not blank as a row, without its line end."""
    lines = Lines(stream, name)
    for number, line in lines:
        text = line.rstrip("\r\n")
        if lines.fault:
            reject(lines.fault, text)
        elif text and not text.isspace():
            yield Row(text, f"{name}:{number}")
