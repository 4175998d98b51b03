from __future__ import annotations

from ce_rerank.types import CandidateList, Document, Query
from ce_rerank.windows import WINDOW_CHARACTERS, WindowPlan, cut_windows


def lists_of(*sizes: int, text: str = "one") -> list[CandidateList]:
    return [CandidateList(Query(str(place)), [Document(text)] * size) for place, size in enumerate(sizes)]


def test_windows_double_until_they_are_as_large_as_planned() -> None:
    windows = cut_windows(lists_of(*[64] * 40), WindowPlan(512))
    assert [len(window) for window in windows] == [2, 4, 8, 8, 8, 8, 2]


def test_no_list_is_parted_and_none_is_lost() -> None:
    lists = lists_of(1000, 0, 127, 1, 5)
    windows = list(cut_windows(lists, WindowPlan(1024)))
    assert [len(window) for window in windows] == [1, 4]
    assert [candidates for window in windows for candidates in window] == lists


def test_queries_without_documents_fill_a_window_too() -> None:
    assert [len(window) for window in cut_windows(lists_of(*[0] * 300), WindowPlan(128))] == [128, 128, 44]


def test_long_documents_make_small_windows() -> None:
    windows = cut_windows(lists_of(1, 1, 1, text="a" * (WINDOW_CHARACTERS // 2)), WindowPlan(1024))
    assert [len(window) for window in windows] == [2, 1]


def test_lists_are_drawn_only_for_the_window_that_is_asked_for() -> None:
    lists = iter(lists_of(*[128] * 4))
    next(cut_windows(lists, WindowPlan(128)))
    assert len(list(lists)) == 3
