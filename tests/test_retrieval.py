"""BM25 finds the texts that share words with a query, in every script."""

from __future__ import annotations

import pytest

from ce_rerank.errors import UsageError
from ce_rerank.retrieval import Bm25Index


def places(texts: list[str], query: str, limit: int = 10, language: str = "english") -> list[int]:
    return [place for place, _ in Bm25Index(texts, language=language).search(query, limit)]


def test_the_text_with_more_of_the_query_comes_first() -> None:
    texts = ["the moon", "tides and the moon", "tides follow the moon and the tides", "bread"]
    assert places(texts, "tides tides") == [2, 1]


def test_scores_are_lucenes_formula() -> None:
    # Two texts of one word each: idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)), tf = 1 / (1 + 1.5).
    [(place, score)] = Bm25Index(["moon", "sun"]).search("moon", 5)
    assert place == 0
    assert score == pytest.approx(0.6931472 / 2.5)


def test_a_text_without_a_word_of_the_query_is_never_found() -> None:
    assert places(["bread", "butter"], "moon") == []
    assert places(["bread", "moon"], "moon", limit=10) == [1]


def test_equal_scores_keep_input_order_when_the_limit_cuts_among_them() -> None:
    assert places(["moon"] * 5 + ["moon moon"], "moon", limit=3) == [5, 0, 1]


@pytest.mark.parametrize(
    ("texts", "query", "found"),
    [
        (["潮汐是月球引力造成的", "面包和水"], "月球", [0]),
        (["น้ำขึ้นน้ำลง", "ขนมปัง"], "ขนม", [1]),
        (["a b c", "x y z"], "y", [1]),
        (["STRASSE", "Weg"], "straße", [0]),
        (["C3PO 42", "R2D2"], "42", [0]),
    ],
)
def test_words_of_every_script_and_length_are_found(texts: list[str], query: str, found: list[int]) -> None:
    assert places(texts, query) == found


def test_words_are_stemmed_in_the_language_that_is_named() -> None:
    texts = ["rotating keys", "Schlüssel"]
    assert places(texts, "rotate the key") == [0]
    assert places(texts, "rotate the key", language="none") == []
    with pytest.raises(UsageError, match="klingon"):
        Bm25Index(texts, language="klingon")


@pytest.mark.parametrize("texts", [[], [""], ["---", "..."]])
def test_texts_without_words_give_nothing(texts: list[str]) -> None:
    assert places(texts, "moon") == []
    assert len(Bm25Index(texts)) == len(texts)
