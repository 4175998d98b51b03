"""JSON in and out, by the standard library: one array of rows, a row a line, or rows one after another."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError, OutputError
from .source import BUFFER_BYTES, ROW_BYTES, Lines, LookAhead, Reject, Row, text_blocks, too_large

log = logging.getLogger("ce_rerank")

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_LIST_LINE_BYTES = 1 << 20  # a longer line that starts with [ is taken for an array of rows
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_rows(
    stream: LookAhead, name: str, reject: Reject, *, skip: Callable[[str], bool] = str.isspace
) -> Iterator[Row]:
    """Read the items of one array, or a row a line, or rows one after another on any lines.

    It is an array if the first value is one and nothing follows it; lines if the first line is a whole value.
    Where it is neither, and in an array, a broken value ends the reading whatever `reject` does: nothing
    tells where the next one starts. Lines that `skip` is true for are passed over.
    """
    decoder = JsonDecoder()
    if _is_lines(stream):
        yield from _read_lines(stream, name, reject, decoder, skip)
    else:
        yield from _read_values(stream, name, reject, decoder)
    decoder.warn_of_mended(name)


class JsonDecoder:
    """Decodes values with the standard decoder, and counts what it mends.

    `NaN` and `Infinity` become null, half of a surrogate pair, which UTF-8 does not have, becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(parse_constant=self._make_null)
        self._mended = 0
        self._first_mended = ""

    def decode(self, text: str, where: str) -> Any:
        """Decode a text that is one value; raises InputError that starts with `where` (`hits.jsonl:17`)."""
        try:
            value, end = self.decode_at(text, _skip_space(text, 0), where)
            end = _skip_space(text, end)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            raise _broken(error, where) from None
        return value

    def decode_at(self, text: str, start: int, where: str) -> tuple[Any, int]:
        """Decode the value that starts at a place; returns it and its end.

        Raises JSONDecodeError for what is not JSON, InputError for JSON that Python does not read.
        """
        mended = self._mended
        try:
            value, end = self._decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise InputError(f"{where}: the JSON is nested too deeply.") from None
        except ValueError:
            raise InputError(f"{where}: a number in the JSON has more than 4,300 digits.") from None
        if _SURROGATE_ESCAPE.search(text, start, end):
            whole, halves = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
            if halves:
                value = json.loads(whole)
                self._mended += halves
        if self._mended > mended and not self._first_mended:
            self._first_mended = where
        return value, end

    def warn_of_mended(self, name: str) -> None:
        """Log how much was mended, if anything was."""
        if self._mended:
            log.warning(
                "%s: %d values cannot be kept: NaN and Infinity are read as null, half characters as U+FFFD "
                "(first: %s).", name, self._mended, self._first_mended,
            )  # fmt: skip

    def _make_null(self, constant: str) -> None:
        self._mended += 1


def _read_lines(
    stream: LookAhead, name: str, reject: Reject, decoder: JsonDecoder, skip: Callable[[str], bool]
) -> Iterator[Row]:
    lines = Lines(stream, name)
    for number, line in lines:
        where = f"{name}:{number}"
        try:
            if lines.fault:
                raise lines.fault
            if skip(line):
                continue
            value = decoder.decode(line, where)
        except InputError as error:
            reject(error, line.rstrip("\r\n"))
        else:
            yield Row(value, where)


def _read_values(stream: LookAhead, name: str, reject: Reject, decoder: JsonDecoder) -> Iterator[Row]:
    values = _Values(stream, name, decoder)
    is_array = values.next_character() == "["
    if is_array:
        values.step()
    character = values.next_character()
    while character != ("]" if is_array else ""):
        values.next_character()
        row, size = values.next_row()
        if size > ROW_BYTES:
            reject(too_large(row.origin), "")
        else:
            yield row
        character = values.next_character()
        if is_array and character == ",":
            values.step()
        elif is_array and character != "]":
            raise values.not_expected("a comma or ]")
    if is_array:
        values.step()
        if values.next_character():
            raise values.not_expected("nothing after the array")


class _Values:
    """JSON values in a stream of text, each decoded once all of it has come."""

    def __init__(self, stream: LookAhead, name: str, decoder: JsonDecoder) -> None:
        self._blocks = text_blocks(stream, name)
        self._name = name
        self._decoder = decoder
        self._text = ""
        self._place = 0
        self._line = 1

    def next_character(self) -> str:
        """Go to the next character that is not white space, and return it; empty at the end."""
        while True:
            self.step(_skip_space(self._text, self._place) - self._place)
            if self._place < len(self._text) or not self._read_more():
                return self._text[self._place : self._place + 1]

    def step(self, characters: int = 1) -> None:
        """Go past some characters."""
        self._line += self._text.count("\n", self._place, self._place + characters)
        self._place += characters

    def next_row(self) -> tuple[Row, int]:
        """Decode the value that starts here, and go past it; returns it and its size."""
        where = f"{self._name}:{self._line}"
        while True:
            try:
                value, end = self._decoder.decode_at(self._text, self._place, where)
            except json.JSONDecodeError as error:
                if _is_cut_off(error) and self._read_more():
                    continue
                line = self._line + self._text.count("\n", self._place, error.pos)
                raise _broken(error, f"{self._name}:{line}") from None
            # A number at the end of the text may go on.
            if end < len(self._text) or self._text[end - 1] in '}]"' or not self._read_more():
                break
        size = end - self._place
        self.step(size)
        return Row(value, where), size

    def not_expected(self, expected: str) -> InputError:
        """Return the error for another character than the one that should be here."""
        found = repr(self._text[self._place]) if self._place < len(self._text) else "the end"
        return InputError(f"{self._name}:{self._line}: broken JSON ({found} where {expected} should be).")

    def _read_more(self) -> bool:
        """Read what comes next, behind what is left; return whether there was more."""
        pieces = [self._text[self._place :]]
        size = left = len(pieces[0])
        if left > ROW_BYTES:
            raise too_large(f"{self._name}:{self._line}")
        while size < _grown(left) and (block := next(self._blocks, "")):
            pieces.append(block)
            size += len(block)
        self._text, self._place = "".join(pieces), 0
        return size > left


def _is_lines(stream: LookAhead) -> bool:
    """Whether a line is a row: the first one is a value, or not even the beginning of a longer one."""
    decoder = json.JSONDecoder()
    is_list = stream.look_at_line(1).startswith(b"[")
    line = stream.look_at_line(_LIST_LINE_BYTES if is_list else ROW_BYTES)
    text = line.decode(errors="replace")
    try:
        end = decoder.raw_decode(text)[1]
    except json.JSONDecodeError:
        return not is_list and not _begins_value(stream, decoder)
    except (RecursionError, ValueError):
        return True
    if text[end:].strip():
        return False
    # A list alone is an array of rows, a list and more are lines that are no rows.
    return not is_list or len(stream.look(lambda ahead: len(ahead.strip()) > len(line)).strip()) > len(line)


def _begins_value(stream: LookAhead, decoder: json.JSONDecoder) -> bool:
    """Whether the text begins with a value that goes on behind the first line."""
    size = 1
    while size <= ROW_BYTES:
        head = stream.peek(size)
        try:
            decoder.raw_decode(head.decode(errors="replace").lstrip())
        except json.JSONDecodeError as error:
            if not _is_cut_off(error) or len(head) < size:
                return False
        except (RecursionError, ValueError):
            return False
        else:
            return True
        size = _grown(len(head))
    return False


def _grown(size: int) -> int:
    """Return the size to try a value at next: whatever comes if it is short, doubled if that is long."""
    return size + 1 if size < BUFFER_BYTES else 2 * size


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text might mend it; nothing but a string is broken far before the end of a text."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - len("-Infinity")


def _broken(error: json.JSONDecodeError, where: str) -> InputError:
    reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting")
    rest = error.doc[error.pos : error.pos + 20].rstrip()
    hint = "" if rest and not reason.startswith("unterminated") else "Was it cut off?"
    return InputError(f"{where}: broken JSON ({reason} at {rest or 'the end'}).", hint=hint)


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def refuse_surrogates(text: str, where: str) -> None:
    """Raise InputError for a text with half of a surrogate pair, which UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: \\u{ord(text[error.start]):04x} is half of a character (a lone surrogate).",
            hint="The text was cut in the middle of a character; mend or drop it.",
        ) from None


def encode_json(value: Any) -> str:
    """Encode a value on one line, characters as they are; numbers that JSON does not have become null.

    Raises OutputError for other things that JSON does not have.
    """
    try:
        try:
            return _encoder.encode(value)
        except ValueError:
            return _encoder.encode(json.loads(json.dumps(value), parse_constant=lambda constant: None))
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"A field cannot be written as JSON: {error}.") from None


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def encode_utf8(text: str) -> bytes:
    """Encode text that is to be written; raises OutputError for half a character (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            f"Half of a character, \\u{ord(text[error.start]):04x}, cannot be written.",
            hint="Mend the text that holds it: a lone surrogate is no character.",
        ) from None


def json_kind(value: object) -> str:
    """Name the kind of a JSON value as a person would: `null`, `a number`, `a list`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "an object" if isinstance(value, dict) else f"of type {type(value).__name__}"
