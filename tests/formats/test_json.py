from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.errors import InputError
from ce_rerank.formats import json as our_json
from ce_rerank.formats import source
from ce_rerank.formats.json import encode_json, read_json_rows
from ce_rerank.formats.source import LookAhead, raise_at_once

PRETTY = '{\n  "a": 1\n}\n{\n  "a": [\n    2\n  ]\n}\n'


def read(text: str, *, pieces: int = 1 << 20) -> list[tuple[Any, str]]:
    data = text.encode()
    stream = LookAhead([data[start : start + pieces] for start in range(0, len(data), pieces)])
    return [(row.value, row.origin.removeprefix("f:")) for row in read_json_rows(stream, "f", raise_at_once)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": 1}\n\n{"a": 2}', [({"a": 1}, "1"), ({"a": 2}, "3")]),
        ('"one"\r\n"two"\r\n', [("one", "1"), ("two", "2")]),
        ('[{"a": 1}, {"a": 2}]', [({"a": 1}, "1"), ({"a": 2}, "1")]),
        ('\n[\n"one"\n,\n"two"]\n', [("one", "3"), ("two", "5")]),
        ("[]", []),
        ("", []),
        (PRETTY, [({"a": 1}, "1"), ({"a": [2]}, "4")]),
        ('{"a": 1}{"a": 2} "x"', [({"a": 1}, "1"), ({"a": 2}, "1"), ("x", "1")]),
        ('{"a": 1},\n{"a": 2},\n', [({"a": 1}, "1"), ({"a": 2}, "2")]),
        ('"' + "[" * 500 + '"', [("[" * 500, "1")]),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_an_array_or_lines_or_values_one_after_another_are_rows(
    text: str, rows: list[tuple[Any, str]], pieces: int
) -> None:
    assert read(text, pieces=pieces) == rows


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3))


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=3), max_size=4),
    layout=st.sampled_from(["array", "lines", "values"]),
    ascii=st.booleans(),
    pieces=st.integers(1, 40),
)
def test_every_layout_gives_the_same_rows_however_the_bytes_arrive(
    rows: list[Any], layout: str, ascii: bool, pieces: int
) -> None:
    indent = 1 if layout == "values" else None
    texts = [json.dumps(row, ensure_ascii=ascii, indent=indent) for row in rows]
    text = "[" + ",\n".join(texts) + "]" if layout == "array" else "\n".join(texts)
    assert [value for value, _ in read(text, pieces=pieces)] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": }', "f:1: broken JSON (Expecting value: })."),
        ('{"a": "b}', 'f:1: broken JSON (Unterminated string: "b}). Was it cut off?'),
        ('{"a": 1}\n{"a": "b\n{"a": 2}\n', 'f:2: broken JSON (Unterminated string: "b). Was it cut off?'),
        ('{"a": 1}\n{"a" 1}\n', "f:2: broken JSON (Expecting ':' delimiter: 1})."),
        ('{"a": 1}\n{"a": 1', "f:2: broken JSON (Expecting ',' delimiter: the end). Was it cut off?"),
        ('["a", "b"', "f:1: broken JSON (the array has no end). Was it cut off?"),
        ('["a",\n"b"]\n"c"', "f:3: broken JSON (something follows the array)."),
        (PRETTY + "{,}", "f:9: broken JSON"),
        ("[" * 200_000, "f:1: broken JSON (maximum recursion depth exceeded"),
        ('{"a": ' + "9" * 5000 + "}", "f:1: broken JSON (Exceeds the limit (4300 digits)"),
    ],
)
def test_broken_json_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("first", ['{"a" 1}', '": 1}', "9" * 5000])
def test_a_bad_line_is_a_bad_row_even_if_it_is_the_first(first: str) -> None:
    rejected: list[str] = []
    stream = LookAhead([f'{first}\n{{"b": 2}}\n'.encode()])
    rows = read_json_rows(stream, "f", lambda error, text: rejected.append(text))
    assert [row.value for row in rows] == [{"b": 2}]
    assert rejected == [first]


def test_what_json_and_utf8_do_not_have_is_mended_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    text = '{"a": NaN, "b": [-Infinity], "c": "NaN"}\n{"t": "x\\ud83d", "u": "\\ud83d\\ude00"}\n'
    assert [value for value, _ in read(text)] == [
        {"a": None, "b": [None], "c": "NaN"},
        {"t": "x\ufffd", "u": "\U0001f600"},
    ]
    (message,) = caplog.messages
    assert message.startswith("f: 3 values cannot be kept (first: f:1): NaN and Infinity are read as null")


def test_a_value_above_the_limit_is_refused_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_json, "ROW_BYTES", 1000)
    monkeypatch.setattr(source, "ROW_BYTES", 1000)
    row = json.dumps("x" * 5000)
    rejected: list[str] = []
    lines = LookAhead(f'"a"\n{row}\n"b"\n'.encode()[start : start + 100] for start in range(0, 5100, 100))
    rows = read_json_rows(lines, "f", lambda error, text: rejected.append(error.message))
    assert [row.value for row in rows] == ["a", "b"]
    assert rejected[0].startswith("f:2: larger than ")
    with pytest.raises(InputError, match=r"^f:2: larger than "):
        read(f'["a",\n{row}]', pieces=100)
    with pytest.raises(InputError, match=r"^f:2: larger than "):
        read(f'["a",\n{row}]')


def test_an_array_is_read_while_it_comes() -> None:
    def pieces() -> Any:
        yield b'[\n"one", '
        yield b'"two", "'
        raise AssertionError("read too far")

    rows = read_json_rows(LookAhead(pieces()), "f", raise_at_once)
    assert [next(rows).value, next(rows).value] == ["one", "two"]


def test_characters_are_written_as_they_are_and_infinite_numbers_as_null() -> None:
    value = {"t": "naïve 文\u2028", "n": read("1e999")[0][0], "m": 1.10}
    assert encode_json(value) == '{"t": "naïve 文\u2028", "n": null, "m": 1.1}'
