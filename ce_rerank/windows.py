"""How many queries are pooled at a time.

In floating point a score depends, in its last digits, on what else is in its batch. Windows are therefore cut
by position alone: the same input always makes the same windows, so that a run that was cut off and continued
gives the bytes of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .types import CandidateList

FIRST_WINDOW_PAIRS = 128
"""The first window is small, so that the first results come soon; each is twice the one before."""
WINDOW_CHARACTERS = 1 << 24
"""Bounds the memory that a window of long documents takes."""


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """When a window is full: at `pairs` pairs, once the first, smaller ones are over."""

    pairs: int

    def is_full(self, number: int, pairs: int, characters: int) -> bool:
        """Tell whether window `number`, from 0, is full with what it holds."""
        wanted = min(self.pairs, FIRST_WINDOW_PAIRS << min(number, 16))
        return pairs >= wanted or characters >= WINDOW_CHARACTERS


def cut_windows(lists: Iterable[CandidateList], plan: WindowPlan) -> Iterator[list[CandidateList]]:
    """Cut candidate lists into windows, each drawn only when it is asked for."""
    window: list[CandidateList] = []
    number = pairs = characters = 0
    for candidates in lists:
        window.append(candidates)
        pairs += count_pairs(candidates)
        characters += count_characters(candidates)
        if plan.is_full(number, pairs, characters):
            yield window
            window, pairs, characters = [], 0, 0
            number += 1
    if window:
        yield window


def count_pairs(candidates: CandidateList) -> int:
    """Count the pairs of a list; a query without documents counts as one, so that they are bounded too."""
    return max(1, len(candidates.documents))


def count_characters(candidates: CandidateList) -> int:
    """Count the characters of a list's documents."""
    return sum(len(document.text) for document in candidates.documents)
