"""Cutting documents is exact, and costs what is read, not what there is."""

from __future__ import annotations

import tracemalloc
import unicodedata
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer
from trained_tokenizers import KINDS, copy_tokenizer, texts, trained_tokenizer

from ce_rerank.engines.tokenizer import PairTokenizer, PairTokens

ENCODERS = {
    (kind, max_length): PairTokenizer(copy_tokenizer(kind), max_length=max_length, with_type_ids=True)
    for kind in KINDS
    for max_length in (12, 24)
}
LONG_TEXTS = {
    "english": "The quick brown fox jumps over the lazy dog, and it's not the first time. ",
    "chinese": "这是一个很长的文档，没有空格。它有很多句子！每一句都不同吗？不，是一样的。",
    "thai": "ภาษาไทยไม่มีช่องว่างระหว่างคำ แต่มีระหว่างประโยค",
    "lines": "a line\nand\tanother\r\n",
}


def encode_whole(kind: str, max_length: int, query: str, document: str) -> PairTokens:
    """What tokenizing everything and cutting afterwards gives, by the library's own means."""
    tokenizer = copy_tokenizer(kind)
    tokenizer.enable_truncation(max_length, strategy="only_second")
    encoding = tokenizer.encode(query, document)
    truncated = bool(encoding.overflowing)
    of_document = [
        token for token, sequence in zip(encoding.tokens, encoding.sequence_ids, strict=True) if sequence == 1
    ]
    return PairTokens(
        encoding.ids,
        bytes(encoding.type_ids),
        truncated,
        read_to(encoding) if truncated else len(document),
        unknown=bool(of_document) and set(of_document) <= {"[UNK]", "<unk>"},
    )


def read_to(encoding: Encoding) -> int:
    places = zip(encoding.offsets, encoding.sequence_ids, strict=True)
    return max(end for (_, end), sequence in places if sequence == 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(document=texts(250), max_length=st.sampled_from([12, 24]))
def test_the_ids_are_those_of_the_document_tokenized_whole(kind: str, document: str, max_length: int) -> None:
    (row,) = ENCODERS[kind, max_length].encode([("the", document)])
    assert row == encode_whole(kind, max_length, "the", document)


LONG_DOCUMENTS = [
    *(text * 200 for text in LONG_TEXTS.values()),
    # There is no token in a long stretch, or no space.
    *("dog " + filler * 3000 + " the dog" + filler * 9000 + " fox" * 30 for filler in " \n\x00\u0301a"),
    *(
        unit * (20_000 // len(unit))
        for unit in ("- | ", "🙂 👍🏽 ", "🙂", "ภาษาไทยไม่มีช่องว่าง", "ACGT+", "the")
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("document", LONG_DOCUMENTS, ids=range(len(LONG_DOCUMENTS)))
def test_a_long_document_is_cut_to_the_ids_of_the_whole(kind: str, document: str) -> None:
    (row,) = ENCODERS[kind, 24].encode([("the", document)])
    assert row == encode_whole(kind, 24, "the", document)


def test_a_query_that_leaves_no_room_is_no_reason_to_cut_it() -> None:
    with pytest.raises(ValueError, match="no room for a document"):
        ENCODERS["wordpiece", 12].encode([("the " * 12, "dog")])


class _CountedTokenizer:
    """Counts the characters of the documents that go through a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.encode = tokenizer.encode
        self.characters = 0

    def encode_batch(self, documents: list[str], **options: bool) -> list[Encoding]:
        self.characters += sum(map(len, documents))
        return self._tokenizer.encode_batch(documents, **options)

    encode_batch_fast = encode_batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [*LONG_TEXTS.values(), "- | ", "🙂 👍🏽 ", "ACGT+"])
def test_no_more_of_a_document_is_tokenized_than_could_matter(
    monkeypatch: pytest.MonkeyPatch, kind: str, unit: str
) -> None:
    encoder = ENCODERS[kind, 24]
    counted = _CountedTokenizer(encoder._tokenizer)
    monkeypatch.setattr(encoder, "_tokenizer", counted)
    (row,) = encoder.encode([("the", unit * (2_000_000 // len(unit)))])
    assert row.truncated
    assert counted.characters < 20_000


def spans(kind: str, text: str) -> list[tuple[int, int]]:
    return list(ENCODERS[kind, 24].token_spans(text))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "metaspace", "whitespace-metaspace"])
def test_tokens_are_where_they_are_in_the_whole_text(kind: str) -> None:
    text = LONG_TEXTS["english"] * 2000
    assert spans(kind, text) == trained_tokenizer(kind).encode(text, add_special_tokens=False).offsets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [*LONG_TEXTS.values(), "a", "de\u0301", "😀"])
def test_pieces_of_any_text_come_in_order_and_miss_nothing(kind: str, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    found = spans(kind, text)
    assert found == sorted(found)
    whole = trained_tokenizer(kind).encode(text, add_special_tokens=False).offsets
    assert {
        place for place in covered(whole) - covered(found) if not unicodedata.combining(text[place])
    } == set()


def covered(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {place for start, end in ranges for place in range(start, end)}


def test_memory_does_not_grow_with_the_text() -> None:
    def peak(repeats: int) -> int:
        text = LONG_TEXTS["english"] * repeats
        tracemalloc.start()
        for _ in ENCODERS["wordpiece", 24].token_spans(text):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(18_000) < 1.5 * peak(6_000)
