from __future__ import annotations

import threading
import time

import pytest
from waiting import wait_until

from ce_rerank.batch.handoff import ClosedError, Handoff


def test_items_come_in_order_and_then_none_for_ever() -> None:
    handoff: Handoff[int] = Handoff(10)
    for number in range(3):
        handoff.put(number)
    handoff.end()
    assert [handoff.get() for _ in range(5)] == [0, 1, 2, None, None]


def test_an_error_comes_after_the_items_before_it() -> None:
    handoff: Handoff[int] = Handoff(10)
    handoff.put(1)
    handoff.end(ValueError("broken"))
    assert handoff.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            handoff.get()


def test_the_giver_waits_until_there_is_room_for_the_weight() -> None:
    handoff: Handoff[str] = Handoff(10)
    put: list[str] = []

    def give() -> None:
        for name, weight in (("a", 6), ("b", 4), ("c", 1), ("heavy", 99)):
            handoff.put(name, weight)
            put.append(name)

    giver = threading.Thread(target=give)
    giver.start()
    seen = []
    for count in (2, 3, 3, 4):
        wait_until(lambda count=count: len(put) >= count)
        time.sleep(0.05)  # in which no more may come
        seen.append("".join(name[0] for name in put))
        handoff.get()
    giver.join(5)
    assert seen == ["ab", "abc", "abc", "abch"]


def test_a_taker_that_waits_is_woken() -> None:
    handoff: Handoff[int] = Handoff(1)
    threading.Timer(0.05, handoff.put, [7]).start()
    assert handoff.get() == 7


def test_a_pause_of_the_giver_can_be_told() -> None:
    with pytest.raises(TimeoutError):
        Handoff[int](1).get(timeout_seconds=0.01)


def test_closing_stops_a_giver_that_waits_and_leaves_what_was_put() -> None:
    handoff: Handoff[int] = Handoff(1)
    handoff.put(1)
    caught: list[type] = []

    def give() -> None:
        try:
            handoff.put(2)
        except ClosedError as error:
            caught.append(type(error))

    giver = threading.Thread(target=give)
    giver.start()
    handoff.close()
    giver.join(5)
    assert caught == [ClosedError]
    assert [handoff.get(), handoff.get()] == [1, None]
