from __future__ import annotations

import re
from itertools import pairwise

import pytest
from fakes import CountingEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_tokenizers import KINDS, texts, trained_tokenizer

from ce_rerank import Passage, RankOptions, Reranker, UnavailableError, UsageError
from ce_rerank.engines.tokenizer import PairTokenizer
from ce_rerank.passages import whole_passage
from ce_rerank.pipeline import LocalModel

# 32 tokens, of which three are special and one is the query: passages of 28 words.
BURIED = "zero " * 50 + "nine nine " + "zero " * 50


def read_passages(reranker: Reranker, text: str, options: RankOptions) -> list[Passage]:
    reads = local_model(reranker)._read([("red", text)], [0], options)
    return [passage for _, _, passage in reads if passage]


def local_model(reranker: Reranker) -> LocalModel:
    assert isinstance(reranker.model, LocalModel)
    return reranker.model


def test_chunk_scores_the_best_passage_and_says_where_it_is(counting_reranker: Reranker) -> None:
    (hit,) = counting_reranker.rank("red", [BURIED], long="chunk", scores="logit")
    assert hit.score == 18.0
    assert hit.passage is not None
    assert hit.text[hit.passage.start : hit.passage.end] == hit.passage.text
    assert "nine nine" in hit.passage.text
    assert hit.tokens <= 32
    assert not hit.truncated


def test_the_first_passage_alone_is_not_the_whole_document(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    text = "one " * 56
    (hit,) = counting_reranker.rank("red", [text], long="chunk", pool="first")
    assert hit.passage is not None
    assert (hit.truncated, hit.characters_read) == (True, hit.passage.end)
    assert hit.characters_read < len(text)
    assert caplog.messages == [
        "1 of 1 documents were read in one passage alone, and 50% of their text was not read. "
        'Give pool="max" to score them whole.'
    ]


def test_how_much_is_read_at_a_time_changes_nothing(
    counting_reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [BURIED, "five", BURIED + "nine", "one"]
    whole = counting_reranker.rank("red", texts, long="chunk")
    for name in ("_ROWS_AT_A_TIME", "_PASSAGES_AT_A_TIME"):
        monkeypatch.setattr(f"ce_rerank.pipeline.{name}", 2)
    assert counting_reranker.rank("red", texts, long="chunk") == whole


def test_passages_overlap_by_a_quarter_unless_told_otherwise(counting_reranker: Reranker) -> None:
    options = RankOptions(long="chunk", chunk_tokens=20)
    passages = read_passages(counting_reranker, "one " * 100, options)
    assert [passage.start for passage in passages[:3]] == [0, 15 * len("one "), 30 * len("one ")]


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


def test_a_passage_without_a_score_is_not_hidden_by_a_better_one(counting_reranker: Reranker) -> None:
    text = "one " * 5 + "inf " * 5 + "two " * 5
    with pytest.raises(UnavailableError, match="The model gave inf for document 0"):
        counting_reranker.rank("red", [text], long="chunk", chunk_tokens=5, chunk_overlap=0)


def test_passages_that_cannot_be_are_refused(counting_reranker: Reranker) -> None:
    with pytest.raises(UsageError, match="Passages of 32 tokens leave a query no room in the model's 32"):
        counting_reranker.rank("red", [BURIED], long="chunk", chunk_tokens=32)
    with pytest.raises(UsageError, match="Passages of 5 tokens cannot overlap by 5"):
        counting_reranker.rank("red", [BURIED], long="chunk", chunk_tokens=5, chunk_overlap=5)


def reranker_of(kind: str, max_length: int) -> Reranker:
    engine = CountingEngine(max_length)
    engine.tokenizer = PairTokenizer(trained_tokenizer(kind), max_length=max_length, with_type_ids=False)
    return Reranker.from_engine(engine)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    text=texts(150),
    query=st.sampled_from(["the", "这文", "dog fox"]),
    max_length=st.integers(24, 48),
    chunk_tokens=st.one_of(st.none(), st.integers(1, 20)),
)
def test_passages_are_read_whole_beside_their_query(
    kind: str, text: str, query: str, max_length: int, chunk_tokens: int | None
) -> None:
    model = local_model(reranker_of(kind, max_length))
    options = RankOptions(long="chunk", chunk_tokens=chunk_tokens)
    reads = list(model._read([(query, text)], [0], options))
    passages = [passage for _, _, passage in reads if passage is not None]
    assert len(passages) == len(reads)
    assert (passages[0].start, passages[-1].end) == (0, len(text))
    assert all(after.start <= before.end for before, after in pairwise(passages))
    for (_, row, _), passage in zip(reads, passages, strict=True):
        assert passage.text == text[passage.start : passage.end]
        first_word = passage.start + len(passage.text) - len(passage.text.lstrip())
        if passage.text.strip():
            assert passage.line == 1 + len(re.findall(r"\r\n|\n|\r", text[:first_word]))
        assert not row.truncated or len(passage.text) == 1
        assert row == model.engine.tokenizer.encode([(query, passage.text)])[0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts(40))
def test_a_document_that_fits_is_fed_to_the_model_as_if_it_were_not_chunked(kind: str, text: str) -> None:
    model = local_model(reranker_of(kind, 64))
    ((_, row, _),) = model._read([("the", text)], [0], RankOptions())
    reads = list(model._read([("the", text)], [0], RankOptions(long="chunk")))
    assert row.truncated or reads == [(0, row, whole_passage(text))]


def test_documents_of_which_the_model_knows_no_word_are_counted(
    counting_reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    ranking = counting_reranker.rank("one", ["a" * 1_000_000, "two three", "zzz two", "zzz " * 100])
    assert ranking.coverage.unknown == 2
    assert "2 of 4 documents have no word that the model knows" in caplog.text
    chunked = counting_reranker.rank("one", ["zzz " * 100 + "two", "zzz " * 100], long="chunk")
    assert chunked.coverage.unknown == 1
