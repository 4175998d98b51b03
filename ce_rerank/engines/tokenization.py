"""Pairs to token ids: exactly those that the model was trained on, and what had to be left out.

Both engines feed what this module gives, so their scores differ by arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import regex
from tokenizers import Encoding, Tokenizer

from ..types import Pair
from .batching import PairTokens
from .cuts import SafeCuts

_CHARACTERS_A_TOKEN = 6  # more than any language has on average, so that one try nearly always does
_REACH_GROWTH = 4
# Characters between the last token that is taken and a cut at no safe place: only a word of as many could let
# it be felt.
_FAR = 1 << 16
_PIECE_CHARACTERS = 4096  # small enough for all threads of a large machine to have a part of one document
_PIECES_AT_ONCE = 64
_CHARACTER = regex.compile(r"\X")
_LONGEST_CHARACTER = 64


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

    def token_spans(self, text: str) -> Iterable[tuple[int, int]]:
        """Give the place of each of a text's own tokens, in order, as half-open ranges of characters."""
        ...


class EncoderTokenizer:
    """The tokenizer of an encoder model: `query`, separator, `document`, by the fast tokenizers library.

    `tokenizer` becomes this object's own; its truncation and padding are set here. With `with_type_ids`,
    rows carry token type ids. With `split_special_tokens`, special tokens in a text are text. Documents are
    cut on the right, as every published encoder's are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        with_type_ids: bool,
        split_special_tokens: bool = False,
    ) -> None:
        self.max_length = max_length
        self._with_type_ids = with_type_ids
        self._special_tokens = tokenizer.num_special_tokens_to_add(is_pair=True)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = split_special_tokens  # which its file does not say
        self._tokenizer = tokenizer
        self._cuts = SafeCuts(tokenizer)

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, cutting documents at `max_length`; the query must leave room (`document_room`).

        The ids are those of documents tokenized whole, though no more of one is tokenized than could matter;
        those of a word of more than 65,536 characters may be others. Raises ValueError when a query leaves no
        room.
        """
        rows: dict[int, PairTokens] = {}
        places: Sequence[int] = range(len(pairs))
        reach = self.max_length * _CHARACTERS_A_TOKEN
        while places:
            stops = [self._cut_beyond(pairs[place][1], reach) for place in places]
            beginnings = [
                (pairs[place][0], pairs[place][1][:stop]) for place, stop in zip(places, stops, strict=True)
            ]
            encodings = self._tokenizer.encode_batch(beginnings)
            unfilled = []
            for place, stop, encoding in zip(places, stops, encodings, strict=True):
                document = pairs[place][1]
                row = self._pair_tokens(encoding, document)
                if stop == len(document) or (row.truncated and row.characters_read <= reach):
                    rows[place] = row
                else:
                    unfilled.append(place)
            places = unfilled
            reach *= _REACH_GROWTH
        return [rows[place] for place in range(len(pairs))]

    def document_room(self, query: str) -> int:
        """Give the number of tokens that are left for a document beside this query; may be negative."""
        own = len(self._tokenizer.encode(query, add_special_tokens=False).ids)
        return self.max_length - self._special_tokens - own

    def token_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Give the place of each of a text's own tokens, in order, as half-open ranges of characters.

        A long text is tokenized in pieces, as the spans are drawn, in memory that does not grow with it.
        Where two pieces meet, a token can be another than in the whole text.
        """
        pieces = self._pieces(text)
        while batch := list(islice(pieces, _PIECES_AT_ONCE)):
            encodings = self._tokenizer.encode_batch(
                [text[start:stop] for start, stop in batch], add_special_tokens=False
            )
            for (place, _), encoding in zip(batch, encodings, strict=True):
                for start, end in encoding.offsets:
                    yield place + start, place + end

    def _pair_tokens(self, encoding: Encoding, document: str) -> PairTokens:
        input_ids = encoding.ids
        type_ids = encoding.type_ids if self._with_type_ids else []
        surplus = len(input_ids) - self.max_length
        if surplus <= 0:
            return PairTokens(input_ids, type_ids, truncated=False, characters_read=len(document))
        # The first that fit of the document's tokens; what the template puts behind them stays.
        sequences = encoding.sequence_ids
        of_document = [place for place, sequence in enumerate(sequences) if sequence == 1]
        if len(of_document) <= surplus:
            raise ValueError(f"a query leaves no room for a document within {self.max_length} tokens")
        left_out = slice(of_document[-surplus], of_document[-1] + 1)
        offsets = encoding.offsets[of_document[0] : left_out.start]
        del input_ids[left_out], type_ids[left_out]
        return PairTokens(input_ids, type_ids, truncated=True, characters_read=max(end for _, end in offsets))

    def _cut_beyond(self, document: str, reach: int) -> int:
        """Give a place beyond `reach`, or the document's end, where a cut does no harm to what is before."""
        far = min(reach + _FAR, len(document))
        return self._cuts.find(document, reach, far) or far

    def _pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Cut a text into pieces to tokenize by themselves, at safe places where there are some."""
        start = 0
        while len(text) - start > _PIECE_CHARACTERS:
            stop = start + _PIECE_CHARACTERS
            safe = self._cuts.find(text, stop, stop + _PIECE_CHARACTERS)
            if safe is None:  # at least not through what a reader sees as one character
                around = _CHARACTER.finditer(text, stop - _LONGEST_CHARACTER, stop + _LONGEST_CHARACTER)
                safe = max(match.start() for match in around if match.start() <= stop)
            yield start, safe
            start = safe
        yield start, len(text)
