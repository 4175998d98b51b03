"""Where a text may be cut so that the tokens in front of the cut are those of the whole text.

A model reads the first few hundred tokens of a document, and tokenizing the megabytes behind them is for
nothing; but a cut in the wrong place changes the tokens before it. Which places are right follows from how a
tokenizer works: it normalizes characters, splits the text into words, and makes the tokens of each word by
itself. A place is safe

- between two words: it is one of a kind (behind a letter and before a space, say) where this tokenizer always
  splits, and normalizing and splitting look no further than the characters at hand; or
- inside a word, where tokens are made by merging (BPE) or are the likeliest pieces (Unigram) and no piece of
  the vocabulary has the two characters around the place side by side: then no token can reach across.

"The tokens in front" are all but the last: unknown characters on both sides of a cut may make one token.
A tokenizer with a part that is not known here has no safe places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer, models

# Letters and digits that join neither neighbour (no dot reph, no vowel AM, no halfwidth sound marks).
_SOLID = r"[^\W_\u0d4e\u0e33\u0eb3\uff9e\uff9f\U00010000-\U0010ffff]"
_BEFORE_SPACE = rf"(?:{_SOLID}|[.,;:!?)\"'。！？」』）])(?={{space}}(?:[ \n\r\t\u3000]|{_SOLID}))"
_MARKS = ",;:.!?，。、！？；："

# The kinds of places: a pattern that ends at the place, and texts with one behind their first character.
_KINDS: tuple[tuple[str, list[str]], ...] = (
    (_BEFORE_SPACE.format(space=" "), [before + after for before in "a1.。" for after in (" a", "  a")]),
    (_BEFORE_SPACE.format(space=r"\n"), [before + after for before in "a1.。" for after in ("\na", "\n\na")]),
    # Only letters that no normalizer ends with a mark, which would be of a kind with the punctuation.
    (
        rf"[A-Za-z0-9\u4e00-\u9fff](?=[{_MARKS}])",
        [f"{before}{mark}a" for before in "a1中" for mark in _MARKS],
    ),
    (r"[\u4e00-\u9fff](?=[\u4e00-\u9fff])", ["中文"]),
)
# Pairs to look up in the vocabulary, among characters that are normalized each by itself.
_HAN = r"[ぁ-ゔァ-ヴ\u4e00-\u9fff、。]"
_PAIR = re.compile(rf"(?<={_HAN}){_HAN}(?={_HAN}{{2}})|[A-Za-z0-9.,!?](?= [A-Za-z0-9])")
_LOOKAHEAD = 2  # characters behind a place that the patterns look at
_STEP = 4096  # characters; with a place between words in so many, the vocabulary is not asked

_NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_LOCAL_NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents", *_NORMAL_FORMS}
)
_LOCAL_PRE_TOKENIZERS = frozenset(
    {"BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
_LOCAL_PATTERNS = frozenset([" {2,}", r"\s+"])
_LOCAL_STRINGS = frozenset(["``", "''"])


class SafeCuts:
    """The places where a text can be cut with no harm to the tokens in front, for one tokenizer.

    Safe to use from several threads.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = list(_spellings_of_added_tokens(tokenizer))
        local = _is_local(tokenizer)
        kinds = [pattern for pattern, probes in _KINDS if local and self._always_splits(pattern, probes)]
        self._between_words = re.compile("|".join(kinds)) if kinds else None
        self._inside_words = local and _makes_tokens_of_pieces(tokenizer)
        self._parted: dict[str, bool] = {}

    def find(self, text: str, start: int, stop: int) -> int | None:
        """Give the first safe place between `start` and `stop`, or one near it; None if there is none."""
        step = _STEP
        while start < stop:
            end = min(start + step, stop)
            place = self._find_between_words(text, start, end) or self._find_inside_words(text, start, end)
            if place is not None:
                return place
            start, step = end, step * 2
        return None

    def _find_between_words(self, text: str, start: int, end: int) -> int | None:
        match = self._between_words.search(text, start, end + _LOOKAHEAD) if self._between_words else None
        return match.end() if match else None

    def _find_inside_words(self, text: str, start: int, end: int) -> int | None:
        if not self._inside_words:
            return None
        places = (match.end() for match in _PAIR.finditer(text, start, end + _LOOKAHEAD))
        return next((place for place in places if self._parts(text[place - 1 : place + 1])), None)

    def _always_splits(self, pattern: str, probes: list[str]) -> bool:
        """Say whether a word always ends where the pattern does, and no added token reaches across."""
        if any(re.search(pattern, content + "a") for content in self._added):
            return False
        return all(
            _words(self._tokenizer, probe)[:1] == _words(self._tokenizer, probe[0]) for probe in probes
        )

    def _parts(self, pair: str) -> bool:
        """Say whether no token can reach from the first character of a pair to the second."""
        if pair not in self._parted:
            first = "".join(_words(self._tokenizer, pair[0]))
            both = "".join(_words(self._tokenizer, pair + "a"))
            side_by_side = both[len(first) - 1 : len(first) + 1]
            self._parted[pair] = (
                both.startswith(first)
                and len(both) > len(first) + 1
                and side_by_side not in self._pieces
                and pair not in self._pieces
                # What is not in the vocabulary may be left out, and bring its neighbours together.
                and all(self._tokenizer.token_to_id(character) is not None for character in side_by_side)
            )
        return self._parted[pair]

    @cached_property
    def _pieces(self) -> str:
        """Every piece of the vocabulary, and every added token, one after the other."""
        return "\0".join([*self._tokenizer.get_vocab(), *self._added])


def _spellings_of_added_tokens(tokenizer: Tokenizer) -> Iterator[str]:
    """Give the added tokens as a text may hold them: they are sought in it as it is, or normalized."""
    for token in tokenizer.get_added_tokens_decoder().values():
        for content in (token.content, _normalize(tokenizer, token.content)):
            yield content
            # Normalizing can make a space of any other, and of a space what stands for it.
            yield from (re.sub(r"[\s▁]", space, content) for space in (" ", "\n"))


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """Give the words that a text is split into, as the vocabulary spells them."""
    normalized = _normalize(tokenizer, text)
    if tokenizer.pre_tokenizer is None:
        return [normalized]
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]


def _normalize(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)


def _is_local(tokenizer: Tokenizer) -> bool:
    """Say whether every part of a tokenizer is known to look no further than the characters at hand."""
    normalizers = _parts_of(tokenizer.normalizer, "normalizers")
    pre_tokenizers = _parts_of(tokenizer.pre_tokenizer, "pretokenizers")
    return (
        all(part["type"] in _LOCAL_NORMALIZERS or _is_local_pattern(part) for part in normalizers)
        and all(part["type"] in _LOCAL_PRE_TOKENIZERS or _is_local_pattern(part) for part in pre_tokenizers)
        and isinstance(tokenizer.model, models.BPE | models.Unigram | models.WordLevel | models.WordPiece)
    )


def _parts_of(component: Any, name: str) -> list[dict[str, Any]]:
    """Give the settings of a component's parts; only its own serialization tells them."""
    if component is None:
        return []
    settings = json.loads(component.__getstate__())
    nested: list[dict[str, Any]] = settings.get(name, [settings])
    return nested


def _is_local_pattern(part: dict[str, Any]) -> bool:
    """Say whether a part that replaces or splits at a pattern matches single characters or runs of space."""
    if part["type"] not in {"Replace", "Split"}:
        return False
    string = part["pattern"].get("String", "")
    return len(string) == 1 or string in _LOCAL_STRINGS or part["pattern"].get("Regex") in _LOCAL_PATTERNS


def _makes_tokens_of_pieces(tokenizer: Tokenizer) -> bool:
    """Say whether a token is in the vocabulary as it is spelled, whatever is beside it in its word."""
    model = tokenizer.model
    if any(token.single_word for token in tokenizer.get_added_tokens_decoder().values()):
        return False
    if isinstance(model, models.BPE):
        changed = model.continuing_subword_prefix or model.end_of_word_suffix or model.dropout
        return not (changed or model.ignore_merges)
    return isinstance(model, models.Unigram)
