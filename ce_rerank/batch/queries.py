"""The queries of a file, for rows and runs that give no more of a query than its id."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from ..errors import InputError
from ..formats.beir import read_whole_queries
from ..formats.source import Reject, Source
from ..types import Query


class RejectedRows:
    """Rows that cannot be ranked: kept to be rejected later where they may be skipped, else raised."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        # Not the errors themselves: their tracebacks would keep alive all that was being read.
        self._rows: list[tuple[str, str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def keep_or_raise(self, error: InputError, text: str) -> None:
        """Keep a row's own text and what is wrong with it; raises that when rows are not to be skipped."""
        if not self._skip:
            raise error
        self._rows.append((error.message, error.hint, text))

    def give_to(self, reject: Reject) -> None:
        """Reject the rows that were kept, in their order."""
        for message, hint, text in self._rows:
            reject(InputError(message, hint=hint), text)


@dataclass(frozen=True, slots=True)
class KnownQueries:
    """The queries of a file, by id, for rows that give no more than that; and its rows that are none."""

    name: str
    by_id: Mapping[str, Query]
    rejected: RejectedRows

    @classmethod
    def read(
        cls, source: Source, rejected: RejectedRows, wanted: Container[str] | None = None
    ) -> KnownQueries:
        """Read a file of queries, all of them or those with a wanted id; a row that is none is `rejected`."""
        return cls(source.name, read_whole_queries(source, wanted, rejected.keep_or_raise), rejected)
