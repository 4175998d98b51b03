"""Pairs to token ids: exactly those that the model was trained on, and what had to be left out.

Both engines feed what this module gives, so their scores differ by arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tokenizers import Encoding, Tokenizer

from ..types import Pair
from .base import TokenBatch


@dataclass(frozen=True, slots=True)
class PairTokens:
    """One pair as the model takes it, special tokens included, not yet padded.

    `token_type_ids` is empty for models that take none. `characters_read` is how much of the document is in
    `input_ids`, in characters from its start; `truncated` says that there was more.
    """

    input_ids: Sequence[int]
    token_type_ids: Sequence[int]
    truncated: bool
    characters_read: int

    def __len__(self) -> int:
        return len(self.input_ids)


class PairTokenizer(Protocol):
    """Turns pairs into ids. Safe to use from several threads."""

    @property
    def max_length(self) -> int:
        """The most tokens that a pair may have."""
        ...

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, cutting documents, never queries, at `max_length`."""
        ...

    def document_room(self, query: str) -> int:
        """Give the number of tokens that are left for a document beside this query; may be negative."""
        ...

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Give the place of each of a text's own tokens, as half-open ranges of characters."""
        ...

    def pad(self, rows: Sequence[PairTokens]) -> TokenBatch:
        """Pad rows to the longest of them."""
        ...


@dataclass(frozen=True, slots=True)
class Padding:
    """What fills a row: the ids and the side, as the model's tokenizer is configured."""

    token_id: int = 0
    type_id: int = 0
    left: bool = False


class EncoderTokenizer:
    """The tokenizer of an encoder model: `query`, separator, `document`, by the fast tokenizers library.

    `tokenizer` becomes this object's own; its truncation and padding are set here. With `with_type_ids`,
    rows carry token type ids. Documents are cut on the right, as every published encoder's are.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_length: int, padding: Padding = Padding(), with_type_ids: bool
    ) -> None:
        self.max_length = max_length
        self._padding = padding
        self._with_type_ids = with_type_ids
        self._special_tokens = tokenizer.num_special_tokens_to_add(is_pair=True)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._whole = tokenizer
        self._cut = Tokenizer.from_str(tokenizer.to_str())
        self._cut.enable_truncation(max_length, strategy="only_second")

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, cutting documents at `max_length`; the query must leave room (`document_room`)."""
        return [
            self._pair_tokens(encoding, document)
            for encoding, (_, document) in zip(self._cut.encode_batch(list(pairs)), pairs, strict=True)
        ]

    def document_room(self, query: str) -> int:
        """Give the number of tokens that are left for a document beside this query; may be negative."""
        own = len(self._whole.encode(query, add_special_tokens=False).ids)
        return self.max_length - self._special_tokens - own

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Give the place of each of a text's own tokens, as half-open ranges of characters."""
        return self._whole.encode(text, add_special_tokens=False).offsets

    def pad(self, rows: Sequence[PairTokens]) -> TokenBatch:
        """Pad rows to the longest of them."""
        return pad_rows(rows, self._padding)

    def _pair_tokens(self, encoding: Encoding, document: str) -> PairTokens:
        truncated = bool(encoding.overflowing)
        characters_read = len(document)
        if truncated:
            characters_read = max(
                (
                    end
                    for (_, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
                    if sequence == 1
                ),
                default=0,
            )
        return PairTokens(
            input_ids=encoding.ids,
            token_type_ids=encoding.type_ids if self._with_type_ids else (),
            truncated=truncated,
            characters_read=characters_read,
        )


def pad_rows(rows: Sequence[PairTokens], padding: Padding) -> TokenBatch:
    """Pad rows to the longest of them; the result's arrays are int64 of shape (rows, tokens)."""
    shape = (len(rows), max(len(row) for row in rows))
    input_ids = np.full(shape, padding.token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    with_types = bool(len(rows[0].token_type_ids))
    token_type_ids = np.full(shape, padding.type_id, dtype=np.int64) if with_types else None
    for place, row in enumerate(rows):
        filled = slice(shape[1] - len(row), None) if padding.left else slice(0, len(row))
        input_ids[place, filled] = row.input_ids
        attention_mask[place, filled] = 1
        if token_type_ids is not None:
            token_type_ids[place, filled] = row.token_type_ids
    return TokenBatch(input_ids, attention_mask, token_type_ids)
