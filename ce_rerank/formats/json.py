"""JSON in and out, by the standard library: an array of rows, a row on each line, or a stream of rows."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError
from .source import ROW_BYTES, LookAhead, Reject, Row, grown, read_lines, text_blocks, too_large

log = logging.getLogger("ce_rerank")

_GAP = re.compile(r"[ \t\n\r,]*")  # between values
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_rows(
    stream: LookAhead, name: str, reject: Reject, *, skip: Callable[[str], bool] = str.isspace
) -> Iterator[Row]:
    """Read the items of an array, or a row on each line, or rows one after another on any lines.

    It is an array if it starts with a bracket. If the first line is one value, each line is a row; otherwise
    values may begin and end anywhere. In an array, and in values on any lines, a broken value ends the
    reading whatever `reject` does, since the next value cannot be found. Lines for which `skip` is true are
    left out.
    """
    reader = _Reader(stream, name)
    is_array = stream.peek_line(1).startswith(b"[")
    is_row = False  # the first line is one value, or broken before its end
    if not is_array:
        line = stream.peek_line(ROW_BYTES).decode(errors="replace")
        try:
            is_row = json.JSONDecoder().raw_decode(line)[1] == len(line)
        except (RecursionError, ValueError) as error:
            is_row = getattr(error, "pos", 0) < len(line)
    yield from reader.read_lines(reject, skip) if is_row else reader.read_values(is_array=is_array)
    if reader.mended:
        log.warning(
            "%s: %d values cannot be kept (first: %s): NaN and Infinity are read as null, half characters as "
            "U+FFFD.", name, reader.mended, reader.first_mended,
        )  # fmt: skip


class _Reader:
    """Reads values with the standard decoder, and counts what it replaces.

    `NaN` and `Infinity` become null. Half of a surrogate pair, which UTF-8 does not have, becomes U+FFFD.
    """

    def __init__(self, stream: LookAhead, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = json.JSONDecoder(parse_constant=lambda constant: self._count(1))
        self._line = 1
        self.mended = 0
        self.first_mended = ""

    @property
    def _where(self) -> str:
        return f"{self._name}:{self._line}"

    def read_lines(self, reject: Reject, skip: Callable[[str], bool]) -> Iterator[Row]:
        """Read a row on each line."""
        for line, number, fault in read_lines(self._stream, self._name):
            self._line = number
            try:
                if fault:
                    raise fault
                if skip(line):
                    continue
                value = self._mend(self._decoder.decode(line.rstrip("\r\n")), line)
            except InputError as error:
                reject(error, line.rstrip("\r\n"))
            except (RecursionError, ValueError) as error:
                reject(_broken(error, self._where), line.rstrip("\r\n"))
            else:
                yield Row(value, self._where)

    def read_values(self, *, is_array: bool) -> Iterator[Row]:
        """Read the items of an array, or values up to the end; commas between them are left out."""
        blocks = text_blocks(self._stream, self._name)
        text = ""  # what has come and is not read yet
        brackets, is_last = 0, False
        while not is_last:
            if len(text) > ROW_BYTES:
                raise too_large(self._where)
            wanted = grown(len(text))
            pieces, size = [text], len(text)
            while not is_last and size < wanted:
                pieces.append(next(blocks, ""))
                size += len(pieces[-1])
                is_last = not pieces[-1]
            text, place = "".join(pieces), 0
            while (start := _GAP.match(text, place).end()) < len(text):  # type: ignore[union-attr]
                self._line += text.count("\n", place, start)
                place = start
                if brackets == 2:
                    raise InputError(f"{self._where}: broken JSON (something follows the array).")
                if is_array and (brackets == 0 or text[place] == "]"):
                    brackets += 1
                    place += 1
                    continue
                try:
                    value, end = self._decoder.raw_decode(text, place)
                except json.JSONDecodeError as error:
                    # Only a string can be unfinished far before the end.
                    is_near_end = error.pos >= len(text) - len("-Infinity")
                    if not is_last and (is_near_end or error.msg.startswith("Unterminated string")):
                        break
                    self._line += text.count("\n", place, error.pos)
                    raise _broken(error, self._where, "; the rest is not read") from None
                except (RecursionError, ValueError) as error:
                    raise _broken(error, self._where, "; the rest is not read") from None
                if end - place > ROW_BYTES:
                    raise too_large(self._where)
                if end == len(text) and text[-1] not in '}]"' and not is_last:
                    break  # a number may go on
                yield Row(self._mend(value, text, place, end), self._where)
                self._line += text.count("\n", place, end)
                place = end
            text = text[place:]
        if is_array and brackets < 2:
            raise InputError(f"{self._where}: broken JSON (the array has no end).", hint="Was it cut off?")

    def _mend(self, value: Any, text: str, start: int = 0, end: int = sys.maxsize) -> Any:
        """Return the value that was read at these places of the text, without halves of characters."""
        if not _SURROGATE_ESCAPE.search(text, start, end):
            return value
        whole, halves = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
        self._count(halves)
        return json.loads(whole)

    def _count(self, mended: int) -> None:
        self.first_mended = self.first_mended or (self._where if mended else "")
        self.mended += mended


def _broken(error: Exception, where: str, outcome: str = "") -> InputError:
    """Return the error for JSON that is broken, nested too deeply, or has a number of over 4,300 digits."""
    problem, hint = str(error), ""
    if isinstance(error, json.JSONDecodeError):
        rest = error.doc[error.pos : error.pos + 20].rstrip()
        problem = f"{error.msg.removesuffix(' starting at')}: {rest or 'the end'}"
        hint = "" if rest and not error.msg.startswith("Unterminated") else "Was it cut off?"
    return InputError(f"{where}: broken JSON ({problem}){outcome}.", hint=hint)


def encode_json(value: Any) -> str:
    """Encode a value on one line, without escapes; NaN and infinities become null."""
    try:
        return _encoder.encode(value)
    except ValueError:
        return _encoder.encode(json.loads(json.dumps(value), parse_constant=lambda constant: None))


def encode_cell(value: Any) -> str:
    """Encode a value for a table: a string as it is, null as nothing, and anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else encode_json(value)


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_kind(value: object) -> str:
    """Return the kind of a JSON value, for messages: `null`, `a number`, `a list`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"of type {type(value).__name__}")
