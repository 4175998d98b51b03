"""What one thread hands to another: in order, only so much ahead, and with an end that both sides may set."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ClosedError(Exception):
    """The other side is gone: what is put can no longer be taken."""


class Handoff(Generic[Item]):
    """A queue that holds items up to a weight of `limit`, and always at least one.

    The giver calls `put`, then `end`; the taker calls `get` until it is None. `close` ends it for both, and
    may be called from any thread and from a signal handler.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Item, int]] = deque()
        self._weight = 0
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        # A Condition's own lock may be taken again by the thread that holds it: a signal handler does.
        self._changed = threading.Condition()

    def put(self, item: Item, weight: int = 1) -> None:
        """Hand over an item, once there is room for it; raises ClosedError when nobody will take it."""
        with self._changed:
            while self._items and self._weight + weight > self._limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ClosedError
            self._items.append((item, weight))
            self._weight += weight
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more will come, because all is done or because of an error, which the taker gets."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Let nothing more be put. What was put can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self, timeout_seconds: float | None = None) -> Item | None:
        """Take the next item; None when there will be no more.

        Raises the error with which the giver ended, after the items before it, and TimeoutError when nothing
        comes for `timeout_seconds`. After `close`, items run out without waiting for the giver to end.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            while not self._items:
                if self._ended and self._error is not None:
                    raise self._error
                if self._ended or self._closed:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)
            item, weight = self._items.popleft()
            self._weight -= weight
            self._changed.notify_all()
            return item
