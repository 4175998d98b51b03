from __future__ import annotations

import decimal
import itertools
import struct

import numpy as np
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


@given(st.lists(st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32), max_size=30))
def test_separated_scores_fall_strictly_as_float32(scores: list[float]) -> None:
    falling = list(separate_ties(sorted(scores, reverse=True)))
    assert all(np.float32(later) < np.float32(earlier) for earlier, later in itertools.pairwise(falling))
