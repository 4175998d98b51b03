"""JSON in and out, by the standard library: an array of rows, a row on each line, or a stream of rows."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError, OutputError
from .source import ROW_BYTES, LookAhead, Reject, Row, grown, read_lines, text_blocks, too_large

log = logging.getLogger("ce_rerank")

_GAP = re.compile(r"[ \t\n\r,]*")  # between values
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGE_EXPONENT = re.compile(r"\d[eE]\+?\d{3}")


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
    if is_array or not _is_row(stream.peek_line(ROW_BYTES)):
        yield from reader.read_values(is_array=is_array)
    else:
        yield from reader.read_lines(reject, skip)
    if reader.mended:
        log.warning(
            "%s: %d values cannot be kept (first: %s): NaN and Infinity are read as null, half characters as "
            "U+FFFD.", name, reader.mended, reader.first_mended,
        )  # fmt: skip


def _is_row(line: bytes) -> bool:
    """Whether each line is a row: the first line is one value, or broken before its end."""
    text = line.decode(errors="replace")
    try:
        return json.JSONDecoder().raw_decode(text)[1] == len(text)
    except json.JSONDecodeError as error:
        return error.pos < len(text)
    except (RecursionError, ValueError):
        return True


class _Reader:
    """Reads values with the standard decoder, and counts what it replaces.

    `NaN` and `Infinity` become null. Half of a surrogate pair, which UTF-8 does not have, becomes U+FFFD.
    """

    def __init__(self, stream: LookAhead, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = json.JSONDecoder(parse_constant=lambda constant: self._count(1))
        self._finite_decoder = json.JSONDecoder(
            parse_float=self._finite, parse_constant=lambda constant: None
        )
        self._blocks = text_blocks(stream, name)
        self._text = ""  # a line, or what has come of the values
        self._place = 0
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
                self._text = line.strip()
                value, end = self._decode()
                if end < len(self._text):
                    raise json.JSONDecodeError("Extra data", self._text, end)
            except json.JSONDecodeError as error:
                reject(_broken(error, self._where), line.rstrip("\r\n"))
            except InputError as error:
                reject(error, line.rstrip("\r\n"))
            else:
                yield Row(value, self._where)

    def read_values(self, *, is_array: bool) -> Iterator[Row]:
        """Read the items of an array, or values up to the end; commas between them are left out."""
        if is_array:
            self._skip_gap()
            self._move_to(self._place + 1)
        while character := self._skip_gap():
            if is_array and character == "]":
                self._move_to(self._place + 1)
                if self._skip_gap():
                    raise InputError(f"{self._where}: broken JSON (something follows the array).")
                return
            yield self._next_row()
        if is_array:
            raise InputError(f"{self._where}: broken JSON (the array has no end).", hint="Was it cut off?")

    def _decode(self) -> tuple[Any, int]:
        """Return the next value of the text, and its end.

        Raises JSONDecodeError for broken JSON, and InputError for JSON that Python cannot read.
        """
        try:
            value, end = self._decoder.raw_decode(self._text, self._place)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise InputError(f"{self._where}: the JSON is nested too deeply.") from None
        except ValueError:
            raise InputError(f"{self._where}: a number in the JSON has more than 4,300 digits.") from None
        if _LARGE_EXPONENT.search(self._text, self._place, end):
            value, end = self._finite_decoder.raw_decode(self._text, self._place)
        if _SURROGATE_ESCAPE.search(self._text, self._place, end):
            whole, halves = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
            value = json.loads(whole)
            self._count(halves)
        return value, end

    def _finite(self, digits: str) -> float | None:
        number = float(digits)
        if math.isfinite(number):
            return number
        self._count(1)  # 1e999
        return None

    def _count(self, mended: int) -> None:
        self.mended += mended
        if mended and not self.first_mended:
            self.first_mended = self._where

    def _move_to(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _skip_gap(self) -> str:
        """Skip white space and commas; return the character after them, or an empty string at the end."""
        while True:
            self._move_to(_GAP.match(self._text, self._place).end())  # type: ignore[union-attr]
            if self._place < len(self._text) or not self._read_more():
                return self._text[self._place : self._place + 1]

    def _next_row(self) -> Row:
        while True:
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                if _is_cut_off(error) and self._read_more():
                    continue
                self._move_to(error.pos)
                raise _broken(error, self._where) from None
            # A number at the end of the text may go on.
            if end < len(self._text) or self._text[end - 1] in '}]"' or not self._read_more():
                row = Row(value, self._where)
                self._move_to(end)
                return row

    def _read_more(self) -> bool:
        """Drop the text that was read and append what comes next; return whether there was more."""
        pieces = [self._text[self._place :]]
        size = left = len(pieces[0])
        if left > ROW_BYTES:
            raise too_large(self._where)
        while size < grown(left) and (block := next(self._blocks, "")):
            pieces.append(block)
            size += len(block)
        if size > left:
            self._text, self._place = "".join(pieces), 0
        return size > left


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text might complete the value; only a string can be unfinished far before the end."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - len("-Infinity")


def _broken(error: json.JSONDecodeError, where: str) -> InputError:
    rest = error.doc[error.pos : error.pos + 20].rstrip()
    hint = "" if rest and not error.msg.startswith("Unterminated") else "Was it cut off?"
    problem = f"{error.msg.removesuffix(' starting at')}: {rest or 'the end'}"
    return InputError(f"{where}: broken JSON ({problem}).", hint=hint)


def refuse_surrogates(text: str, where: str) -> None:
    """Raise InputError for a text with half of a surrogate pair, which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: \\u{ord(text[error.start]):04x} is half of a character (a lone surrogate).",
            hint="The text was cut in the middle of a character; repair or remove it.",
        ) from None


def encode_json(value: Any) -> str:
    """Encode a value on one line, without escapes; NaN and infinities become null.

    Raises OutputError for other values that JSON does not have.
    """
    try:
        try:
            return _encoder.encode(value)
        except ValueError:
            return _encoder.encode(json.loads(json.dumps(value), parse_constant=lambda constant: None))
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"A field cannot be written as JSON: {error}.") from None


def encode_cell(value: Any) -> str:
    """Encode a value for a table: a string as it is, null as nothing, and anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else encode_json(value)


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_kind(value: object) -> str:
    """Return the kind of a JSON value, for messages: `null`, `a number`, `a list`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"of type {type(value).__name__}")
