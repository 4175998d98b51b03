from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.formats.scores import separate_ties, shortest_float32

float32s = st.floats(allow_nan=False, allow_infinity=False, width=32)


def shortest_by_numpy(score: float) -> float:
    return float(np.format_float_scientific(np.float32(score), unique=True))


@given(float32s)
def test_the_digits_are_the_fewest_that_numpy_knows(score: float) -> None:
    assert repr(shortest_float32(score)) == repr(shortest_by_numpy(score))


@pytest.mark.parametrize("exponent", range(-149, 128))
def test_powers_of_two_are_shortest_too(exponent: int) -> None:
    for score in (2.0**exponent, -(2.0**exponent)):
        assert shortest_float32(score) == shortest_by_numpy(score)


@given(float32s)
def test_the_digits_read_back_to_the_same_float32(score: float) -> None:
    assert struct.pack("<f", float(repr(shortest_float32(score)))) == struct.pack("<f", score)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (6.688289642333984, "6.6882896"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e-38, "1e-38"),
        (1.401298464324817e-45, "1e-45"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (0.10000000149011612, "0.1"),
    ],
)
def test_scores_are_written_with_the_fewest_digits(score: float, text: str) -> None:
    score = struct.unpack("<f", struct.pack("<f", score))[0]
    assert repr(shortest_float32(score)) == text


@given(st.lists(float32s, max_size=30))
def test_separated_scores_fall_strictly_as_float32(scores: list[float]) -> None:
    falling = list(separate_ties(sorted(scores, reverse=True)))
    assert all(np.float32(later) < np.float32(earlier) for earlier, later in itertools.pairwise(falling))


def test_scores_without_ties_stay_as_they_are() -> None:
    assert list(separate_ties([2.0, 1.5, -1.0])) == [2.0, 1.5, -1.0]


def test_ties_are_separated_by_one_step_of_a_float32() -> None:
    tied = [1.0, 1.0, 0.0, 0.0, -2.0, -2.0]
    below = [float(np.nextafter(np.float32(score), np.float32(-math.inf))) for score in (1.0, 0.0, -2.0)]
    assert list(separate_ties(tied)) == [1.0, below[0], 0.0, below[1], -2.0, below[2]]
