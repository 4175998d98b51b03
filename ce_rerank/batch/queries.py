"""The queries of a file, for rows and runs that give no more of a query than its id."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError
from ..formats.beir import read_whole_queries
from ..formats.source import Reject, Source
from ..types import Query


class RejectedRow(NamedTuple):
    """What was wrong with a row, and its own text, to be rejected later."""

    # Not the error itself: its traceback would keep alive all that was being read.
    message: str
    hint: str
    text: str

    @classmethod
    def of(cls, error: InputError, text: str) -> RejectedRow:
        """Keep what `reject` would be given."""
        return cls(error.message, error.hint, text)

    def give_to(self, reject: Reject) -> None:
        """Reject the row."""
        reject(InputError(self.message, hint=self.hint), self.text)


@dataclass(frozen=True, slots=True)
class KnownQueries:
    """The queries of a file, by id, for rows that give no more than that; and its rows that are none."""

    name: str
    by_id: Mapping[str, Query]
    rejected: Sequence[RejectedRow] = ()

    @classmethod
    def read(
        cls, source: Source, wanted: Container[str] | None = None, *, skip_bad_rows: bool = False
    ) -> KnownQueries:
        """Read a file of queries, all of them or those with a wanted id.

        Raises InputError for a row that is no query, unless those are to be skipped.
        """
        rejected: list[RejectedRow] = []

        def keep_or_raise(error: InputError, text: str) -> None:
            if not skip_bad_rows:
                raise error
            rejected.append(RejectedRow.of(error, text))

        return cls(source.name, read_whole_queries(source, wanted, keep_or_raise), rejected)
