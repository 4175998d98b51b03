"""BM25 finds the texts that share words with a query, in every script."""

from __future__ import annotations

from typing import Any

import pytest

from ce_rerank import Candidates, Document, Query, RankOptions, Reranker
from ce_rerank.errors import InputError, UsageError
from ce_rerank.retrieval import Bm25Index, choose


def places(texts: list[str], query: str, limit: int = 10, language: str = "english") -> list[int]:
    return [place for place, _ in Bm25Index(texts, language=language).search(query, limit)]


def test_scores_are_lucenes_formula() -> None:
    # Two texts of one word each: idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)), tf = 1 / (1 + 1.5).
    [(place, score)] = Bm25Index(["moon", "sun"]).search("moon", 5)
    assert place == 0
    assert score == pytest.approx(0.6931472 / 2.5)


@pytest.mark.parametrize(
    ("texts", "query", "limit", "found"),
    [
        (["the moon", "tides and the moon", "tides follow the moon and the tides"], "tides tides", 9, [2, 1]),
        (["bread", "butter"], "moon", 9, []),
        (["moon"] * 5 + ["moon moon"], "moon", 3, [5, 0, 1]),
    ],
)
def test_the_text_with_more_of_the_query_comes_first_and_equal_ones_in_input_order(
    texts: list[str], query: str, limit: int, found: list[int]
) -> None:
    assert places(texts, query, limit) == found


@pytest.mark.parametrize(
    ("texts", "query", "found"),
    [
        (["潮汐是月球引力造成的", "面包和水"], "月球", [0]),
        (["我的猫很可爱", "狗"], "猫", [0]),
        (["한국어를 배운다", "물을 마신다"], "물", [1]),
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


@pytest.mark.parametrize("texts", [[], ["---", "..."]])
def test_texts_without_words_give_nothing(texts: list[str]) -> None:
    assert places(texts, "moon") == []


def choose_from(texts: list[str], query: str, **options: Any) -> Candidates:
    return choose(Candidates(Query(query), [Document(text) for text in texts]), RankOptions(**options))


def test_documents_are_chosen_in_their_first_order_with_their_places() -> None:
    chosen = choose_from(["moon", "bread", "tide", "moon tide"], "moon tide", bm25=3)
    assert [document.text for document in chosen.documents] == ["moon", "tide", "moon tide"]
    assert chosen.places == [0, 2, 3]
    assert chosen.left_out == 1
    assert chosen.first_scores[2] == max(chosen.first_scores)


def test_a_long_document_is_as_good_as_its_best_part() -> None:
    long = "filler " * 2000 + "moon " * 5
    texts = [long, "moon bread"]
    assert choose_from(texts, "moon", bm25=1).places == [1]
    assert choose_from(texts, "moon", bm25=1, long="chunk").places == [0]


def test_rank_scores_only_what_bm25_chooses_and_keeps_places(counting_reranker: Reranker) -> None:
    ranking = counting_reranker.rank("cat", ["one", "cat two", "nine nine", "cat three"], bm25=2)
    assert [(hit.index, hit.score) for hit in ranking] == [(3, 3.0 / 2), (1, 2.0 / 2)]
    assert (ranking.coverage.documents, ranking.coverage.left_out) == (2, 2)
    assert [hit.first_rank for hit in ranking] == [2, 1]


def test_a_blend_is_made_of_standardised_scores(counting_reranker: Reranker) -> None:
    documents = [{"text": "one", "distance": 0.1}, {"text": "three", "distance": 0.9}]
    first, second = counting_reranker.rank(
        "cat", documents, first_score_field="-distance", blend=0.75, scores="logit"
    )
    assert (first.index, first.score, first.model_score, first.first_score) == (0, 0.5, 1.0, -0.1)
    assert (second.index, second.score) == (1, -0.5)


def test_a_blend_without_a_first_stage_is_refused(counting_reranker: Reranker) -> None:
    with pytest.raises(UsageError):
        counting_reranker.rank("cat", ["one"], blend=0.5)
    with pytest.raises(InputError):
        counting_reranker.rank("cat", [{"text": "one"}], first_score_field="distance", blend=0.5)
