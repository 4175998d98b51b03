"""JSON: a value a line (`jsonl`), and an array of values (`json`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..errors import InputError
from .source import Lines, LookAhead, Reject, Row, decode_whole
from .strict_json import decode_json, decode_json_item, json_kind

_SPACE = re.compile(r"[ \t\n\r]*")


def read_jsonl_rows(
    stream: LookAhead, name: str, reject: Reject, *, skip: Callable[[str], bool] = str.isspace
) -> Iterator[Row]:
    """Read an object or a string a line, without the lines that `skip` says may be passed over."""
    lines = Lines(stream, name)
    for number, line in lines:
        if skip(line):
            continue
        where = f"{name}:{number}"
        try:
            if lines.fault:
                raise lines.fault
            value = decode_json(line, where)
            if not isinstance(value, (dict, str)):
                raise InputError(f"{where}: the row is {json_kind(value)}, not an object or a string.")
        except InputError as error:
            reject(error, line.rstrip("\r\n"))
            continue
        yield Row(value, where)


def read_json_rows(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read the items of one array, an item at a time; a row's line is the one on which it starts.

    The text is held whole, its values are not. What is broken stops the reading whatever `reject` does: where
    the next item starts can no longer be known.
    """
    text = decode_whole(stream, name)
    place = _skip_space(text, 0)
    if place == len(text):
        return
    if text[place] != "[":
        raise _no_array(text, place, name)
    line, counted, opener = 1, 0, "["
    while text.startswith(opener, place):
        start = _skip_space(text, place + 1)
        if opener == "[" and text.startswith("]", start):
            place = start
            break
        line += text.count("\n", counted, start)
        counted = start
        value, end = decode_json_item(text, start, name, line)
        if isinstance(value, (dict, str)):
            yield Row(value, f"{name}:{line}")
        else:
            problem = f"{name}:{line}: the row is {json_kind(value)}, not an object or a string."
            reject(InputError(problem), text[start:end])
        place, opener = _skip_space(text, end), ","
    if not text.startswith("]", place):
        raise _not_expected(text, place, name, "a comma or ]")
    place = _skip_space(text, place + 1)
    if place < len(text):
        raise _not_expected(text, place, name, "nothing after the array")


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _no_array(text: str, place: int, name: str) -> InputError:
    value, end = decode_json_item(text, place, name, 1)
    if _skip_space(text, end) < len(text):
        return InputError(f"{name}: JSON values one after another, not an array.", hint="Give --from jsonl.")
    lists = [key for key, item in value.items() if isinstance(item, list)] if isinstance(value, dict) else []
    hint = f'Take the array out of "{lists[0]}", for example: jq .{lists[0]}' if lists else ""
    if lists and "query" in value:
        hint = "For a query with its documents: ce-rerank batch --from jsonl"
    return InputError(f"{name}: {json_kind(value)}, not an array of documents.", hint=hint)


def _not_expected(text: str, place: int, name: str, expected: str) -> InputError:
    line = text.count("\n", 0, place) + 1
    found = f"{text[place]!r}" if place < len(text) else "the end"
    return InputError(f"{name}:{line}: broken JSON ({found} where {expected} should be).")
