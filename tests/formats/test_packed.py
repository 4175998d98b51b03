from __future__ import annotations

from ce_rerank.formats.packed import PackedLists


def packed(*rows: tuple[str, str, float, int]) -> PackedLists:
    lists = PackedLists("d")
    for row in rows:
        lists.add(*row)
    return lists


def test_lists_come_back_as_they_were_put_in() -> None:
    lists = packed(("q2", "b", 0.5, 1), ("q1", "a", 1.5, 2), ("q2", "a", -3.0, 3))
    assert list(lists) == ["q2", "q1"]
    assert lists.numbers("q2") == {"b": 0.5, "a": -3.0}
    assert list(lists.numbers("q2")) == ["b", "a"]
    assert "q1" in lists
    assert "q3" not in lists
    assert len(lists) == 2


def test_any_id_is_kept_empty_ones_and_those_of_other_scripts_too() -> None:
    ids = ["", "with space", "new\nline", "文書", "\0", "é\u0301", "🦀"]
    lists = packed(*(("q", doc_id, 1.0, 1) for doc_id in ids))
    assert list(lists.numbers("q")) == ids


def test_rows_are_counted_with_duplicates_and_without_the_query() -> None:
    lists = packed(("q", "a", 1.0, 1), ("q", "b", 1.0, 2), ("q", "a", 2.0, 3))
    assert lists.count_rows("q") == 3
    assert lists.count_rows("r") == 0
    assert lists.count_duplicates("q") == 1


def test_the_first_document_that_comes_again_is_found_with_both_lines() -> None:
    lists = packed(("q", "a", 1.0, 4), ("q", "b", 1.0, 5), ("q", "b", 2.0, 9), ("q", "a", 2.0, 12))
    assert lists.find_duplicate("q") == ("b", 5, 9)


def test_a_list_without_duplicates_has_none_to_find() -> None:
    assert packed(("q", "a", 1.0, 1), ("q", "b", 1.0, 2)).find_duplicate("q") is None


def test_of_a_document_that_comes_twice_the_last_number_stands() -> None:
    assert packed(("q", "a", 1.0, 1), ("q", "a", 2.0, 2)).numbers("q") == {"a": 2.0}


def test_grades_are_integers() -> None:
    lists = PackedLists("q")
    lists.add("q", "a", 3, 1)
    assert repr(lists.numbers("q")) == "{'a': 3}"
