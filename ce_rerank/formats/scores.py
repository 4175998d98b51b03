"""Scores as text: as few digits as say which float32 it is, and an order that survives being read back."""

from __future__ import annotations

import decimal
import struct
from collections.abc import Iterable, Iterator

_FLOAT32 = struct.Struct("<f")
_INT32 = struct.Struct("<i")

SMALLEST_NORMAL = 2.0**-126
"""Below this a float32 has fewer digits, down to one."""

_EIGHT_DIGITS_OUTWARD = decimal.Context(prec=8, rounding=decimal.ROUND_UP)


def shortest_float32(score: float) -> float:
    """Give the double whose `repr` has the fewest digits that read back to the same float32.

    `score` is a float32, widened. Any decimal of six digits comes back from a normal float32, and nine
    digits tell every one (C's FLT_DIG and FLT_DECIMAL_DIG), so there are four lengths to try.
    """
    packed = _FLOAT32.pack(score)
    for digits in range(6 if abs(score) >= SMALLEST_NORMAL else 1, 9):
        short = float(f"{score:.{digits}g}")
        if _FLOAT32.pack(short) == packed:
            return short
    # Below a power of two the float32s lie twice as close as above it. The nearest decimal of eight digits
    # may then be below and too far, while the next one, above, is not: 2**-96 is 1.2621775e-29.
    short = float(_EIGHT_DIGITS_OUTWARD.create_decimal(score))
    return short if _FLOAT32.pack(short) == packed else float(f"{score:.9g}")


def separate_ties(scores: Iterable[float]) -> Iterator[float]:
    """Lower scores by as little as makes each less than the one before it, as float32.

    trec_eval holds scores as float32, sorts by them, and breaks ties by document id: an order that is to
    survive it must not have any.
    """
    previous = float("inf")
    for score in scores:
        lowered = score if score < previous else _next_below(previous)
        yield lowered
        previous = lowered


def _next_below(score: float) -> float:
    if score == 0:
        return -_widen(1)
    (bits,) = _INT32.unpack(_FLOAT32.pack(score))
    return _widen(bits - 1 if score > 0 else bits + 1)


def _widen(bits: int) -> float:
    return float(_FLOAT32.unpack(_INT32.pack(bits))[0])
