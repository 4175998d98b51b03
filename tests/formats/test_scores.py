from __future__ import annotations

import decimal
import itertools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank.ranking import separate_ties, shortest_float32

float32s = st.floats(allow_nan=False, allow_infinity=False, width=32)
powers_of_two = st.integers(-149, 127).map(lambda exponent: 2.0**exponent)


@given(float32s | powers_of_two)
def test_the_digits_read_back_to_the_same_float32_and_fewer_do_not(score: float) -> None:
    short = shortest_float32(score)
    packed = struct.pack("<f", score)
    assert struct.pack("<f", float(repr(short))) == packed
    digits = len(decimal.Decimal(repr(short)).normalize().as_tuple().digits)
    if digits > 1:
        assert struct.pack("<f", float(f"{score:.{digits - 1}g}")) != packed


@pytest.mark.parametrize("text", ["6.6882896", "0.0", "-0.0", "1e-38", "1e-45", "3.4028235e+38", "0.1"])
def test_scores_are_written_with_the_fewest_digits(text: str) -> None:
    assert repr(shortest_float32(float(np.float32(text)))) == text


@given(st.lists(float32s, max_size=30))
def test_separated_scores_fall_strictly_as_float32(scores: list[float]) -> None:
    falling = list(separate_ties(sorted(scores, reverse=True)))
    assert all(np.float32(later) < np.float32(earlier) for earlier, later in itertools.pairwise(falling))


def test_blank_documents_are_placed_one_below_the_lowest_score() -> None:
    assert list(separate_ties([2.0, -1.5, -math.inf])) == [2.0, -1.5, -2.5]
    assert list(separate_ties([-math.inf])) == [-1.0]
