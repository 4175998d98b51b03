"""Pairs as token ids: what a row holds; cutting is exact, and costs what is read, not what there is."""

from __future__ import annotations

import unicodedata

import pytest
from fakes import word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer
from trained_tokenizers import KINDS, copy_tokenizer, texts, trained_tokenizer

from ce_rerank.engines.tokenizer import Layout, PairTokenizer, PairTokens


def encoder(max_length: int = 12, with_type_ids: bool = True) -> PairTokenizer:
    return PairTokenizer(word_tokenizer(), max_length=max_length, with_type_ids=with_type_ids)


def test_a_pair_is_the_query_a_separator_and_the_document() -> None:
    (row,) = encoder().encode([("one", "two three")])
    assert list(row.input_ids) == [2, 5, 3, 6, 7, 3]
    assert list(row.token_type_ids) == [0, 0, 0, 1, 1, 1]
    assert (row.truncated, row.characters_read) == (False, len("two three"))


def test_the_document_is_cut_and_the_query_is_not() -> None:
    (row,) = encoder(max_length=8).encode([("one two three", "four five six seven")])
    assert list(row.input_ids) == [2, 5, 6, 7, 3, 8, 9, 3]
    assert (row.truncated, row.characters_read) == (True, len("four five"))


def test_document_room_is_what_the_query_and_the_special_tokens_leave() -> None:
    assert encoder(max_length=12).document_room("one two") == 7
    assert encoder(max_length=12).document_room("one " * 20) == -11


def test_token_spans_are_ranges_of_characters() -> None:
    assert list(encoder().token_spans("one  déjà two")) == [(0, 3), (5, 9), (10, 13)]


def one_text() -> PairTokenizer:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(list("01234"))
    layout = Layout(before="red ", between=" green ", after=" blue", trims=True)
    return PairTokenizer(tokenizer, max_length=9, with_type_ids=False, layout=layout)


def test_a_template_makes_one_text_of_a_pair() -> None:
    tokenizer = one_text()
    red, green, blue = (tokenizer.encode([("", word)])[0].input_ids[2] for word in ("red", "green", "blue"))
    whole, cut = tokenizer.encode([(" one ", "two three"), ("one", "  two three four five six seven")])
    assert list(whole.input_ids) == [red, 5, green, 6, 7, blue]
    assert (whole.truncated, whole.characters_read) == (False, len("two three"))
    assert list(cut.input_ids) == [red, 5, green, 6, 7, 8, 9, 10, blue]
    assert (cut.truncated, cut.characters_read) == (True, len("  two three four five six"))
    assert tokenizer.document_room("one two") == 4


def test_a_document_of_unknown_tokens_alone_is_told_apart() -> None:
    rows = encoder().encode([("one", "xyzzy plugh"), ("one", "xyzzy two"), ("xyzzy", ""), ("xyzzy", "two")])
    assert [row.unknown for row in rows] == [True, False, False, False]


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
    tokens = zip(encoding.tokens, encoding.offsets, encoding.sequence_ids, strict=True)
    of_document = [(token, end) for token, (_, end), sequence in tokens if sequence == 1]
    return PairTokens(
        encoding.ids,
        bytes(encoding.type_ids),
        truncated,
        max(end for _, end in of_document) if truncated else len(document),
        unknown=bool(of_document) and {token for token, _ in of_document} <= {"[UNK]", "<unk>"},
    )


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [*LONG_TEXTS.values(), "a", "de\u0301", "😀"])
def test_pieces_of_any_text_come_in_order_and_miss_nothing(kind: str, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    whole, found = trained_tokenizer(kind).encode(text, add_special_tokens=False).offsets, spans(kind, text)
    assert found == sorted(found)
    read, seen = ({place for ends in offsets for place in range(*ends)} for offsets in (whole, found))
    assert not [place for place in read - seen if not unicodedata.combining(text[place])]
