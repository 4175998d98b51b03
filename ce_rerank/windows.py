"""How many queries are pooled at a time.

In floating point a score depends, in its last digits, on what else is in its batch. Windows are therefore cut
by position alone: the same input always makes the same windows, so that a run that was cut off and continued
gives the bytes of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .types import Candidates

WINDOW_TOKENS = 1 << 16
"""A full window, in tokens, unless batches are large: some seconds of work for a small model on a CPU."""
WINDOW_CHARACTERS = 1 << 24
"""Bounds the memory that a window of long documents takes, of which little is read."""

_LEAST_BATCHES = 32  # of which a window is made: fewer pad more, and wait longer for the last one
_FIRST_SHARE = 8  # the first window is so much smaller, and each twice the one before: results come soon
_CHARACTERS_A_TOKEN = 4
_SPECIAL_TOKENS = 3
_LEAST_OF_A_PAIR = 64  # what a pair counts however short it is: it takes memory, too


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """When a window is full: at `tokens` tokens, once the first, smaller ones are over.

    Tokens are estimated by characters, at 64 or more a pair. No more than `most_of_a_pair` count, which is
    all that is read of one; None where that has no bound.
    """

    tokens: int
    most_of_a_pair: int | None = None

    @classmethod
    def of(cls, batch_tokens: int, most_of_a_pair: int | None) -> WindowPlan:
        """Plan for batches of so many tokens."""
        return cls(max(WINDOW_TOKENS, _LEAST_BATCHES * batch_tokens), most_of_a_pair)

    def count_tokens(self, candidates: Candidates) -> int:
        """Estimate the tokens of a list; one without documents counts as one pair."""
        own = len(candidates.query.text) // _CHARACTERS_A_TOKEN + _SPECIAL_TOKENS
        pairs = (own + len(document.text) // _CHARACTERS_A_TOKEN for document in candidates.documents)
        return sum(map(self._bound, pairs)) or self._bound(own)

    def is_full(self, number: int, tokens: int, characters: int) -> bool:
        """Tell whether window `number`, from 0, is full with what it holds."""
        wanted = min(_FIRST_SHARE, 1 << min(number, 16)) * self.tokens // _FIRST_SHARE
        return tokens >= wanted or characters >= WINDOW_CHARACTERS

    def _bound(self, tokens: int) -> int:
        counted = max(tokens, _LEAST_OF_A_PAIR)
        return counted if self.most_of_a_pair is None else min(counted, self.most_of_a_pair)


def cut_windows(lists: Iterable[Candidates], plan: WindowPlan) -> Iterator[list[Candidates]]:
    """Cut candidate lists into windows, each drawn only when it is asked for."""
    window: list[Candidates] = []
    number = tokens = characters = 0
    for candidates in lists:
        window.append(candidates)
        tokens += plan.count_tokens(candidates)
        characters += count_characters(candidates)
        if plan.is_full(number, tokens, characters):
            yield window
            window, tokens, characters = [], 0, 0
            number += 1
    if window:
        yield window


def count_characters(candidates: Candidates) -> int:
    """Count the characters of a list's documents."""
    return sum(len(document.text) for document in candidates.documents)
