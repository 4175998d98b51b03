"""What a batch run is told, what it gives, and how far it says it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import InputError, UsageError
from ..types import Coverage, Ranking


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th query by its place in the input, from the `number`-th on; both from 1."""

    number: int = 1
    count: int = 1

    def __contains__(self, place: int) -> bool:
        return place % self.count == self.number - 1


WHOLE = Shard()
"""Every query."""


def parse_shard(text: str) -> Shard:
    """Read `I/N`; raises UsageError for what is none."""
    found = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(
            f'The shard "{text}" is not one.', hint="Give I/N with I from 1 to N: 1/4, 2/4, 3/4, 4/4."
        )
    return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out: why, starting with where it is, and its own text."""

    error: InputError
    text: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run has done; `bad_rows` are those left out."""

    queries: int = 0
    bad_rows: int = 0
    coverage: Coverage = field(default_factory=Coverage)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.queries + other.queries,
            self.bad_rows + other.bad_rows,
            self.coverage + other.coverage,
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run has come, so that another can go on from there.

    `items` counts queries and bad rows, and `digest` is of what they held.
    """

    windows: int = 0
    items: int = 0
    digest: str = ""
    tally: Tally = Tally()


START = Checkpoint()
"""Where a run begins that continues no other."""


@dataclass(frozen=True, slots=True)
class RankedWindow:
    """The rankings of a window, with the places of their queries in the input, from 1.

    `checkpoint` is where the run stands after it; None for a window that was cut short by an error in the
    input, because a run that goes on must cut it where it would have ended. `share_read` is how much of the
    input it took to get there.
    """

    rankings: Sequence[Ranking]
    numbers: Sequence[int]
    bad_rows: Sequence[BadRow]
    tally: Tally
    checkpoint: Checkpoint | None
    share_read: float | None = None
