from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from trained_tokenizers import KINDS, copy_tokenizer, texts, trained_tokenizer

from ce_rerank.engines.cuts import SafeCuts


def tokens(tokenizer: Tokenizer, text: str) -> list[tuple[int, tuple[int, int]]]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return list(zip(encoding.ids, encoding.offsets, strict=True))


def safe_places(tokenizer: Tokenizer, text: str) -> list[int]:
    cuts = SafeCuts(tokenizer)
    found = (cuts.find(text, start, len(text)) for start in range(len(text)))
    return sorted({place for place in found if place is not None})


def assert_safe(tokenizer: Tokenizer, text: str) -> None:
    whole = tokens(tokenizer, text)
    for place in safe_places(tokenizer, text):
        in_front = tokens(tokenizer, text[:place])[:-1]
        assert in_front == whole[: len(in_front)], text[:place]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=texts(60))
def test_the_tokens_in_front_of_a_cut_are_those_of_the_whole_text(kind: str, text: str) -> None:
    assert_safe(trained_tokenizer(kind), text)


NORMALIZERS = {
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "accents": normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    ),
    "quotes": normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]),
    "strip": normalizers.Sequence(
        [normalizers.Nmt(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]
    ),
    "prepend": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
}


@pytest.mark.parametrize("name", NORMALIZERS)
@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), text=texts(60))
def test_a_cut_is_safe_with_any_normalizer_that_is_known(name: str, kind: str, text: str) -> None:
    tokenizer = copy_tokenizer(kind)
    tokenizer.normalizer = NORMALIZERS[name]
    assert_safe(tokenizer, text)


PRE_TOKENIZERS = {
    "none": None,
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    ),
    "words": pre_tokenizers.Whitespace(),
    "unsplit metaspace": pre_tokenizers.Metaspace(split=False, prepend_scheme="first"),
    "bytes as they are": pre_tokenizers.ByteLevel(use_regex=False),
    "punctuation": pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Split(" ", "merged_with_next")]
    ),
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), text=texts(60))
def test_a_cut_is_safe_with_any_way_to_split_that_is_known(name: str, kind: str, text: str) -> None:
    tokenizer = copy_tokenizer(kind)
    # None cannot be assigned in every version of the library; an empty sequence splits nothing.
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name] or pre_tokenizers.Sequence([])
    assert_safe(tokenizer, text)


def test_words_end_before_spaces_and_line_ends() -> None:
    for kind in ("wordpiece", "bytes", "metaspace", "whitespace-metaspace"):
        assert safe_places(trained_tokenizer(kind), "two wo\nrds\u0301  .") == [3, 6]


def test_wordpiece_parts_ideographs_and_marks() -> None:
    assert safe_places(trained_tokenizer("wordpiece"), "这文档。日本のbe,it") == [1, 2, 3, 5, 9]


def test_bytes_and_likely_pieces_are_parted_where_no_piece_reaches_across() -> None:
    for kind in ("bytes", "metaspace", "unsplit"):
        places = safe_places(trained_tokenizer(kind), "句这文是句这文是句这文是")
        assert places
        assert set(places) <= set(range(2, 11))


def test_a_letter_that_turns_into_a_mark_is_not_parted_from_punctuation() -> None:
    tokenizer = copy_tokenizer("bytes")
    tokenizer.normalizer = normalizers.NFD()
    assert safe_places(tokenizer, "café, cafe. é!") == [5, 10, 11]
    assert tokens(tokenizer, "é,")[-1][1] == (0, 2)


def merging(**settings: object) -> Tokenizer:
    """A tokenizer that knows 文, 中, 国 and 文中, and nothing else."""
    vocabulary = {"文": 0, "中": 1, "国": 2, "文中": 3}
    return Tokenizer(models.BPE(vocabulary, [("文", "中")], **settings))  # type: ignore[arg-type]


def test_only_pairs_that_make_no_token_are_parted() -> None:
    assert safe_places(merging(), "国国文中国国") == [2, 4]


def test_what_the_vocabulary_lacks_parts_nothing() -> None:
    text = "国国文一中国国"
    assert len(tokens(merging(), text)) == 5
    assert safe_places(merging(), text) == [2, 5]


@pytest.mark.parametrize(
    "settings", [{"end_of_word_suffix": "中"}, {"continuing_subword_prefix": "文"}, {"ignore_merges": True}]
)
def test_pairs_say_nothing_where_a_piece_depends_on_its_word(settings: dict[str, object]) -> None:
    assert safe_places(merging(**settings), "国国文中国国") == []


def test_pairs_are_looked_up_as_bytes_where_the_vocabulary_is_of_bytes() -> None:
    tokenizer = copy_tokenizer("bytes")
    vocabulary = tokenizer.get_vocab()
    last, first = (pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(c)[0][0] for c in "国文")
    vocabulary[last[-1] + first[0]] = len(vocabulary)
    merges = [(last[-1], first[0])]
    tokenizer.model = models.BPE(
        {c: vocabulary[c] for c in vocabulary if len(c) == 1 or c == "".join(merges[0])}, merges
    )
    assert safe_places(tokenizer, "国国国文国国") == [2, 4]
    assert_safe(tokenizer, "国国国文国国")


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "metaspace", "unsplit"])
def test_letters_without_an_end_have_no_safe_place(kind: str) -> None:
    assert safe_places(trained_tokenizer(kind), "a" * 50) == []


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.FixedLength(3),
        pre_tokenizers.Split(Regex("a+ b"), "isolated"),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.FixedLength(3)]),
    ],
)
def test_a_tokenizer_with_an_unknown_part_has_no_safe_places(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
) -> None:
    tokenizer = copy_tokenizer("bytes")
    tokenizer.pre_tokenizer = pre_tokenizer
    assert safe_places(tokenizer, "one two three, 这文档") == []


@pytest.mark.parametrize("content", ["new york", "new▁york", "b,c", "Été, a", "这文", "york", "a\nb", "句这"])
@settings(max_examples=30)
@given(kind=st.sampled_from(KINDS), text=st.data())
def test_no_cut_goes_through_an_added_token(content: str, kind: str, text: st.DataObject) -> None:
    tokenizer = copy_tokenizer(kind)
    tokenizer.add_tokens([AddedToken(content, normalized=True), AddedToken(content + "!", single_word=True)])
    morsel = st.sampled_from(
        [content, content.upper(), "new", "york", " ", "b", ",", "c", "句这", "文", "ete", "\n", "a", "!"]
    )
    assert_safe(tokenizer, "".join(text.draw(st.lists(morsel, max_size=30))))
