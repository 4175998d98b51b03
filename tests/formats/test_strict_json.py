from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from ce_rerank.errors import InputError, OutputError
from ce_rerank.formats.strict_json import (
    DEEPEST_LEVEL,
    ExactFloat,
    decode_json,
    decode_json_item,
    encode_json,
)


@pytest.mark.parametrize(
    "literal",
    [
        "1.10",
        "1e400",
        "-1E+2",
        "0.1234567890123456789012345678901",
        "1e-400",
        "-0.0",
        "9" * 5000,
        "1" + "0" * 40,
    ],
)
def test_numbers_are_written_as_they_were_read(literal: str) -> None:
    text = f'{{"a": {literal}, "b": [{{"c": {literal}}}, "é"]}}'
    assert encode_json(decode_json(text, "x:1")) == text


def test_ordinary_numbers_are_plain_floats_and_integers() -> None:
    value = decode_json("[1.5, 0.1, 7, -2]", "x:1")
    assert [type(number) for number in value] == [float, float, int, int]


def test_an_exact_float_is_a_number_and_survives_pickling() -> None:
    number = ExactFloat("1.10")
    assert number + 1 == 2.1
    assert str(number) == f"{number!r}" == "1.10"
    assert [twin.literal for twin in (pickle.loads(pickle.dumps(number)), copy.deepcopy(number))] == [
        "1.10"
    ] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": }', "x:3: broken JSON at column 7 (expecting value)."),
        (
            '{"a": 1',
            "x:3: broken JSON at column 8 (expecting ',' delimiter). "
            "It ends too early; was it cut off, or is it spread over several lines?",
        ),
        (
            '{"a":\n',
            "x:3: broken JSON at column 6 (expecting value). "
            "It ends too early; was it cut off, or is it spread over several lines?",
        ),
        ('{"a": NaN}', "x:3: NaN is not JSON. Write null, or a number."),
        ("[-Infinity]", "x:3: -Infinity is not JSON. Write null, or a number."),
        ('{"a": 1, "b": 2, "a": 3}', 'x:3: the field "a" is there twice in one object.'),
        (
            '{"a": "\\ud83d"}',
            "x:3: \\ud83d is half of a character (a lone surrogate). "
            "The text was cut in the middle of a character; mend or drop the row.",
        ),
        ("[" * 200_000, "x:3: the JSON is nested too deeply to be read."),
    ],
)
def test_what_is_not_strict_json_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_json(text, "x:3")
    assert str(caught.value) == message


def test_one_endless_integer_makes_no_other_number_one() -> None:
    digits = "7" * 5000
    fields = decode_json(f'{{"id": 7, "n": {digits}}}', "f:1")
    assert (fields["id"], type(fields["id"])) == (7, int)
    assert encode_json(fields) == f'{{"id": 7, "n": {digits}}}'
    with pytest.raises(InputError, match=r"^f:1: NaN is not JSON"):
        decode_json(f'{{"n": {digits}, "x": NaN}}', "f:1")


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert decode_json('"\\ud83d\\ude00"', "x:1") == "😀"


def test_characters_are_written_as_they_are() -> None:
    assert encode_json({"t": "naïve 文\u2028"}) == '{"t": "naïve 文\u2028"}'


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}, [float("inf")]])
def test_what_json_lacks_is_an_output_error(value: Any) -> None:
    with pytest.raises(OutputError):
        encode_json(value)


def nested(levels: int, *, number: str = "1.10") -> str:
    """A text of lists and objects in turn, with a number at its bottom that takes the longer way out."""
    pairs = [("[", "]"), ('{"a": ', "}")]
    opened = [pairs[level % 2] for level in range(levels)]
    return "".join(start for start, _ in opened) + number + "".join(end for _, end in reversed(opened))


def test_what_is_nested_as_deeply_as_is_read_can_be_written_again() -> None:
    text = nested(DEEPEST_LEVEL)
    assert encode_json({"results": [{"input": decode_json(text, "x:1")}]}) == (
        f'{{"results": [{{"input": {text}}}]}}'
    )


@pytest.mark.parametrize("levels", [DEEPEST_LEVEL + 1, 500, 900, 2000])
def test_what_is_nested_deeper_is_refused_when_it_is_read(levels: int) -> None:
    text = nested(levels)
    message = r"^x:3: the JSON is nested too deeply to be read\.$"
    with pytest.raises(InputError, match=message):
        decode_json(f'{{"id": 1, "b": [1, 2], "t": {nested(levels - 1)}}}', "x:3")
    with pytest.raises(InputError, match=message):
        decode_json_item(f"[{text}]", 1, "x", 3)


def test_many_values_beside_one_another_are_not_deep() -> None:
    text = "[" + ", ".join(['{"a": [1, "[[["]}'] * 1000) + "]"
    assert encode_json(decode_json(text, "x:1")) == text
    assert decode_json(f'"{"[" * 500}"', "x:1") == "[" * 500


def test_what_is_nested_too_deeply_to_be_written_is_an_output_error() -> None:
    value: Any = ExactFloat("1.10")
    for _ in range(3000):
        value = [value]
    with pytest.raises(OutputError, match="A field cannot be written as JSON"):
        encode_json(value)
