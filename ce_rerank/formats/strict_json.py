"""JSON that comes out as it went in: strict to read, exact to write.

The standard decoder accepts NaN, lets the last of two equal keys win, and turns `1e400` into infinity and
`1.10` into `1.1`. Rows pass through this program on their way to another, so none of that is done here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..errors import InputError, OutputError

Decoded = TypeVar("Decoded")

DEEPEST_LEVEL = 200
"""How many lists and objects may lie in one another.

The decoder goes deeper than what it gives can be written again, which takes two calls a level of the
thousand that Python allows."""


class ExactFloat(float):
    """A number whose literal a double does not write back: `1.10`, `1e400`, thirty digits.

    In arithmetic it is the nearest double; `literal`, also its `repr` and `str`, is what was read, and what
    `encode_json` writes.
    """

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> ExactFloat:
        """Make the number from its literal."""
        number = super().__new__(cls, literal)
        number.literal = literal
        return number

    def __repr__(self) -> str:
        return self.literal

    __str__ = __repr__

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # a float's own gives a float
        return (self.literal,)


def decode_json(text: str, where: str, *, deepest: int = DEEPEST_LEVEL) -> Any:
    """Decode a text that is one JSON value; `where` (`hits.jsonl:17`) starts the InputError it may raise.

    `deepest` is how many lists and objects may lie in one another.
    """
    try:
        value = _decode(lambda decoder: decoder.decode(text), where)
    except json.JSONDecodeError as error:
        raise _broken_json(where, error) from None
    _require_depth(value, text.count("{") + text.count("["), where, deepest)
    if "\\u" in text and _SURROGATE_ESCAPE.search(text):
        refuse_surrogates(value, where)
    return value


def decode_json_item(text: str, start: int, name: str, line: int) -> tuple[Any, int]:
    """Decode the JSON value that starts at `start`, on line `line`; gives it and where it ends."""
    where = f"{name}:{line}"
    try:
        value, end = _decode(lambda decoder: decoder.raw_decode(text, start), where)
    except json.JSONDecodeError as error:
        raise _broken_json(f"{name}:{error.lineno}", error) from None
    _require_depth(value, text.count("{", start, end) + text.count("[", start, end), where, DEEPEST_LEVEL)
    if _SURROGATE_ESCAPE.search(text, start, end):
        refuse_surrogates(value, where)
    return value, end


def refuse_surrogates(value: Any, where: str) -> None:
    """Raise InputError when a string in `value` holds half of a surrogate pair, which UTF-8 cannot hold."""
    try:
        (value if isinstance(value, str) else encode_json(value)).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: \\u{ord(error.object[error.start]):04x} is half of a character (a lone surrogate).",
            hint="The text was cut in the middle of a character; mend or drop the row.",
        ) from None


def encode_json(value: Any) -> str:
    """Encode a value on one line, characters as they are, numbers as they were read.

    Raises OutputError for what JSON does not have.
    """
    try:
        return _encode_exactly(value) if _holds_exact_float(value) else _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"A field cannot be written as JSON: {error}.") from None


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


class _NotStrictError(ValueError):
    """What the standard decoder would let pass."""


def _decode(decode: Callable[[json.JSONDecoder], Decoded], where: str) -> Decoded:
    try:
        return _decode_any_integer(decode)
    except _NotStrictError as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise _too_deep(where) from None


def _decode_any_integer(decode: Callable[[json.JSONDecoder], Decoded]) -> Decoded:
    try:
        return decode(_decoder)
    except (json.JSONDecodeError, _NotStrictError):
        raise
    except ValueError:
        # An integer of more digits than int() is allowed to read: sys.get_int_max_str_digits().
        return decode(_any_integer_decoder)


def _require_depth(value: Any, brackets: int, where: str, deepest: int) -> None:
    """Raise InputError for a value beyond `deepest`; `brackets` is how many its text opens."""
    if brackets <= deepest:
        return
    level = [value]
    for depth in range(1, deepest + 1):
        # Each opens a list or an object once at most, so that what is left soon cannot reach far enough.
        brackets -= len(level)
        if depth + brackets <= deepest:
            return
        inner = (outer.values() if type(outer) is dict else outer for outer in level)
        level = [item for items in inner for item in items if type(item) is dict or type(item) is list]
    if level:
        raise _too_deep(where)


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: the JSON is nested too deeply to be read.")


def _broken_json(where: str, error: json.JSONDecodeError) -> InputError:
    reason = error.msg[0].lower() + error.msg[1:]
    end = len(error.doc.rstrip())
    cut_off = error.pos >= end
    # Not behind the line end, where columns begin anew.
    column = end - error.doc.rfind("\n", 0, end) if cut_off else error.colno
    return InputError(
        f"{where}: broken JSON at column {column} ({reason}).",
        hint="It ends too early; was it cut off, or is it spread over several lines?" if cut_off else "",
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotStrictError(f'the field "{twice}" is there twice in one object.')
    return fields


def _read_float(literal: str) -> float:
    number = float(literal)
    return number if repr(number) == literal else ExactFloat(literal)


def _read_integer(literal: str) -> int | ExactFloat:
    try:
        return int(literal)
    except ValueError:
        return ExactFloat(literal)


def _refuse_constant(name: str) -> NoReturn:
    raise _NotStrictError(f"{name} is not JSON. Write null, or a number.")


def _holds_exact_float(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return any(map(_holds_exact_float, value.values()))
    if kind is list or kind is tuple:
        return any(map(_holds_exact_float, value))
    return kind is ExactFloat


def _encode_exactly(value: Any) -> str:
    # The standard encoder writes subclasses of float as plain floats, and has no door for a literal.
    if isinstance(value, ExactFloat):
        return value.literal
    if isinstance(value, dict):
        items = (f"{_encoder.encode(key)}: {_encode_exactly(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_encode_exactly, value)) + "]"
    return _encoder.encode(value)


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=_read_float, parse_constant=_refuse_constant
)
_any_integer_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_float=_read_float,
    parse_int=_read_integer,
    parse_constant=_refuse_constant,
)
