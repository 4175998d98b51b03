from __future__ import annotations

import math

import pytest
from fakes import CountingEngine, word_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from ce_rerank import Document, Passage, RankOptions, Reranker, UnavailableError, UsageError
from ce_rerank.engines.tokenizer import PairTokenizer
from ce_rerank.reading import read_pairs

# 32 tokens, of which three are special and one is the query: windows of 28 words.
BURIED = "zero " * 50 + "nine nine " + "zero " * 50


def test_chunk_scores_the_best_window_and_says_where_it_is(counting_reranker: Reranker) -> None:
    (hit,) = counting_reranker.rank("red", [BURIED], long="chunk", scores="logit")
    assert hit.score == 18.0
    assert hit.passage is not None
    assert hit.text[hit.start : hit.end] == hit.passage.text
    assert "nine nine" in hit.passage.text
    assert hit.tokens <= 32
    assert not hit.truncated


def test_truncate_does_not_see_what_chunk_finds(counting_reranker: Reranker) -> None:
    (hit,) = counting_reranker.rank("red", [BURIED], scores="logit")
    assert (hit.score, hit.truncated, hit.passage) == (0.0, True, None)


def test_a_document_that_fits_is_read_the_same_either_way(counting_reranker: Reranker) -> None:
    text = "one " * 28
    (cut,), (chunked,) = (counting_reranker.rank("red", [text], long=long) for long in ("truncate", "chunk"))
    assert (cut.score, cut.tokens) == (chunked.score, chunked.tokens)
    assert chunked.passage == Passage(text, 0, len(text), 1)


def test_the_passages_line_is_counted_from_one(counting_reranker: Reranker) -> None:
    text = "zero " * 27 + "\n" + "zero " * 26 + "\n" + "nine " * 10
    (hit,) = counting_reranker.rank("red", [text], long="chunk", chunk_overlap=0)
    assert hit.passage is not None
    assert (hit.passage.line, hit.passage.text.split()) == (3, ["nine"] * 10)


def test_the_first_window_alone_is_not_the_whole_document(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    text = "one " * 56
    (hit,) = counting_reranker.rank("red", [text], long="chunk", pool="first")
    assert (hit.truncated, hit.characters_read) == (True, hit.end)
    assert hit.characters_read < len(text)
    assert caplog.messages == [
        "1 of 1 documents were read in one window alone, and 50% of their text was not read. "
        'Give pool="max" to score them whole.'
    ]


def test_how_much_is_read_at_a_time_changes_nothing(
    counting_reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [BURIED, "five", BURIED + "nine", "one"]
    whole = counting_reranker.rank("red", texts, long="chunk")
    for name in ("_PAIRS_AT_A_TIME", "_PASSAGES_AT_A_TIME"):
        monkeypatch.setattr(f"ce_rerank.reading.{name}", 2)
    assert counting_reranker.rank("red", texts, long="chunk") == whole


def test_windows_overlap_by_a_quarter_unless_told_otherwise(counting_reranker: Reranker) -> None:
    options = RankOptions(long="chunk", chunk_tokens=20)
    readings = list(read_pairs(CountingEngine().tokenizer, [("red", "one " * 100)], options))
    starts = [reading.passage.start for reading in readings if reading.passage is not None]
    assert starts[:3] == [0, 15 * len("one "), 30 * len("one ")]


def test_reading_stops_where_the_last_window_does(counting_reranker: Reranker) -> None:
    text = "nine " * 30 + "zero " * 30
    (hit,) = counting_reranker.rank("red", [text], long="chunk")
    assert (hit.start, hit.truncated, hit.characters_read) == (0, False, len(text))


def test_windows_may_be_smaller_than_the_model(counting_engine: CountingEngine) -> None:
    pairs = [("red", "one " * 12)]
    options = RankOptions(long="chunk", chunk_tokens=5, chunk_overlap=0)
    texts = [
        reading.passage.text.split()
        for reading in read_pairs(counting_engine.tokenizer, pairs, options)
        if reading.passage
    ]
    assert [word for words in texts for word in words] == ["one"] * 12
    assert max(len(words) for words in texts) == 5


def test_pools(counting_reranker: Reranker) -> None:
    text = "one " * 5 + "nine " * 5 + "two " * 5 + "three " * 5
    scores = {
        pool: counting_reranker.rank(
            "red", [text], long="chunk", chunk_tokens=5, chunk_overlap=0, pool=pool, scores="logit"
        )[0]
        for pool in ("max", "mean-top3", "first")
    }
    assert scores["max"].score == 45.0
    assert scores["mean-top3"].score == pytest.approx((45 + 15 + 10) / 3)
    assert scores["first"].score == 5.0
    assert [hit.passage.text.split()[0] for hit in scores.values() if hit.passage] == ["nine", "nine", "one"]


def test_windows_are_pooled_on_the_models_own_scale(counting_reranker: Reranker) -> None:
    text = "one " * 5 + "two " * 5
    windows = {"long": "chunk", "chunk_tokens": 5, "chunk_overlap": 0, "pool": "mean-top3"}
    (hit,) = counting_reranker.rank("red", [text], **windows, scores="sigmoid")  # type: ignore[arg-type]
    assert hit.score == pytest.approx(1 / (1 + math.exp(-7.5)))


def test_a_window_without_a_score_is_not_hidden_by_a_better_one(counting_reranker: Reranker) -> None:
    text = "one " * 5 + "inf " * 5 + "two " * 5
    with pytest.raises(UnavailableError, match="The model gave inf for document 0"):
        counting_reranker.rank("red", [text], long="chunk", chunk_tokens=5, chunk_overlap=0)


def test_documents_of_one_ranking_may_be_long_and_short(counting_reranker: Reranker) -> None:
    documents = [Document("five"), Document(BURIED), Document("six two")]
    ranking = counting_reranker.rank("red", documents, long="chunk", scores="logit")
    assert [(hit.index, hit.score) for hit in ranking] == [(1, 18.0), (2, 8.0), (0, 5.0)]
    assert ranking.coverage.truncated == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 32}, "Windows of 32 tokens leave a query no room in the model's 32"),
        ({"chunk_tokens": 5, "chunk_overlap": 5}, "Windows of 5 tokens cannot overlap by 5"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    counting_reranker: Reranker, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        counting_reranker.rank("red", [BURIED], long="chunk", **options)  # type: ignore[arg-type]


@given(
    st.lists(
        st.sampled_from(["one", "two ", "\n", " ", "é", "🙂", "中文", "x" * 40, ". "]), max_size=120
    ).map("".join),
    st.integers(1, 20),
)
def test_windows_are_read_whole_and_cover_every_token(text: str, chunk_tokens: int) -> None:
    tokenizer = PairTokenizer(word_tokenizer(), max_length=32, with_type_ids=True)
    options = RankOptions(long="chunk", chunk_tokens=chunk_tokens)
    readings = list(read_pairs(tokenizer, [("red", text)], options))
    assert not any(reading.tokens.truncated for reading in readings)
    windows = [(reading.passage.start, reading.passage.end) for reading in readings if reading.passage]
    for start, end in tokenizer.token_spans(text) if windows else ():
        assert any(first <= start and end <= last for first, last in windows)
