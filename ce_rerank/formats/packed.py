"""The documents of many queries, each with a number, held in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Literal

# A byte that UTF-8 does not have, so that any id can be kept.
_END_OF_ID = b"\xff"


class PackedLists:
    """Lists of documents by query id, each document with a number: a score, or a grade.

    `kind` is the number's: `d` (float) or `q` (integer of 64 bits). A row takes 13 bytes and the id's, where
    dicts and strings would take 200. Rows of one query need not stand together. Iterating gives query ids in
    the order in which they first came.
    """

    def __init__(self, kind: Literal["d", "q"]) -> None:
        self._kind = kind
        self._lists: dict[str, tuple[bytearray, array[float], array[int]]] = {}

    def add(self, query_id: str, doc_id: str, number: float, line: int) -> None:
        """Append a document to its query's list; `line` is where it was read, for messages."""
        entry = self._lists.get(query_id)
        if entry is None:
            entry = self._lists[query_id] = (bytearray(), array(self._kind), array("I"))
        entry[0].extend(doc_id.encode() + _END_OF_ID)
        entry[1].append(number)
        entry[2].append(line)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._lists

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def count_rows(self, query_id: str) -> int:
        """Say how many rows the query has, duplicates and all; 0 when it is not here."""
        return len(self._lists[query_id][1]) if query_id in self._lists else 0

    def count_duplicates(self, query_id: str) -> int:
        """Say how many of the query's rows name a document that an earlier one has named."""
        ids = self._packed_ids(query_id)
        return len(ids) - len(set(ids))

    def find_duplicate(self, query_id: str) -> tuple[str, int, int] | None:
        """Give the first document that comes a second time, and the lines of the two; None if none does."""
        first: dict[bytes, int] = {}
        for doc_id, line in zip(self._packed_ids(query_id), self._lists[query_id][2], strict=True):
            if doc_id in first:
                return doc_id.decode(), first[doc_id], line
            first[doc_id] = line
        return None

    def numbers(self, query_id: str) -> dict[str, float]:
        """Give the query's documents with their numbers; of one that comes twice, the last."""
        ids = map(bytes.decode, self._packed_ids(query_id))
        return dict(zip(ids, self._lists[query_id][1], strict=True))

    def _packed_ids(self, query_id: str) -> list[bytes]:
        return bytes(self._lists[query_id][0]).split(_END_OF_ID)[:-1]
