"""Small tokenizers of every kind that encoders use, trained on the spot, and texts that try them."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

KINDS = (
    "wordpiece",
    "bytes",
    "bytes-prefixed",
    "metaspace",
    "unsplit",
)

_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
_SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and it's not the first time.",
    "Déjà vu: naïve café owners re-heat 3.14 litres of coffee, don't they?",
    "这是一个很长的文档，没有空格。它有很多句子！每一句都不同吗？不，是一样的。",
    "日本語の文章です。カタカナとひらがなが、混ざっています。",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ แต่มีระหว่างประโยค",
    "한국어 문장은 띄어쓰기가 있습니다. हिन्दी में भी।",
    "def f(x):\n    return x['a'] + 1\n\n\nprint(f({'a': 2}))",
    "aaaa aaa aa a aaaaaaaa",
    "Cafe\u0301, cafe\u0301. Cafe\u0301! (cafe\u0301)",
)


@cache
def trained_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of one of KINDS, with the template of a pair. Shared: copy it before changing it."""
    tokenizer = _UNTRAINED[kind]()
    family = next(name for name in _TRAINERS if name in kind)
    tokenizer.train_from_iterator([*_SENTENCES * 20], _TRAINERS[family]())
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return tokenizer


def copy_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of one of KINDS to do with as one likes."""
    return Tokenizer.from_str(trained_tokenizer(kind).to_str())


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bytes(add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if add_prefix_space:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _unsplit() -> Tokenizer:
    """Merges over the whole text, spaces written as a letter: the way of Gemma."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


_UNTRAINED = {
    "wordpiece": _wordpiece,
    "bytes": lambda: _bytes(add_prefix_space=False),
    "bytes-prefixed": lambda: _bytes(add_prefix_space=True),
    "metaspace": _metaspace,
    "unsplit": _unsplit,
}

_TRAINERS = {
    "wordpiece": lambda: trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=_SPECIAL, show_progress=False
    ),
    "bytes": lambda: trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=_SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ),
    "unsplit": lambda: trainers.BpeTrainer(vocab_size=500, special_tokens=_SPECIAL, show_progress=False),
    "metaspace": lambda: trainers.UnigramTrainer(
        vocab_size=300, special_tokens=_SPECIAL, show_progress=False, unk_token="<unk>"
    ),
}

_MORSELS = (
    *" \n\t\r", "\r\n", "  ", "\n\n", " \n ", "\u3000", "\xa0", "\u200b", "\u2028", "\x00", "\x1c", "\x85",
    *"aAzZ019_.,;:!?'\"-()[]/…—", "the", "dog", "don't", "'ll", "e.g.", "3.14", "ſ", "Σ", "İ", "ß", "½", "㎏",
    "é", "e\u0301", "\u0301", "\u0323\u0301", "\u0327", "ﬁ", "ｶﾞ", "か\u3099", "が", "Ａ", "¨", "ͺ",
    *"。、，！？「」", *"这是文档没有空格", "日本語", "カタカナ", "ー", "っ", "ไทย", "กำ", "เ", "한국어",
    "\u1112\u1161\u11ab", "हिन्दी", "क्षि", "\u0600", "ൎ", "𠀀", "😀", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "🇫",
    "\u200d", "\ufe0f", "❤\ufe0f", "\u200c", "▁", "##", "<mask>", "<s>", " <mask>", "</s>",
    "a" * 30, "文" * 12, "的是", " " * 12,
)  # fmt: skip


def texts(max_morsels: int = 120) -> st.SearchStrategy[str]:
    """Texts made to be hard: every script, marks without letters, joined emoji, long words, runs of space."""
    morsel = st.one_of(
        st.sampled_from(_MORSELS),
        st.sampled_from([" ", " ", " word", " the", ". ", "\n", "。"]),
        st.characters(exclude_categories=["Cs"]),
        st.builds(str.__mul__, st.sampled_from(_MORSELS), st.integers(1, 9)),
    )
    return st.lists(morsel, max_size=max_morsels).map("".join)
