"""Pairs to token ids: exactly those that the model was trained on, and what had to be left out.

Both engines feed what this module gives, so their scores differ by arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import regex
from tokenizers import Encoding, Tokenizer

from ..errors import UsageError
from ..types import Pair
from .batching import PairTokens
from .cuts import SafeCuts

INSTRUCTION = "\ue000instruction\ue000"
"""Stands for the task instruction in the texts of a layout."""

_IN_NO_VOCABULARY = "\U000f0000"
_CHARACTERS_A_TOKEN = 6  # more than any language has on average, so that one try nearly always does
_REACH_GROWTH = 4
# Characters between the last token that is taken and a cut at no safe place: only a word of as many could let
# it be felt.
_FAR = 1 << 16
_PIECE_CHARACTERS = 4096  # small enough for all threads of a large machine to have a part of one document
_PIECES_AT_ONCE = 64
_CHARACTER = regex.compile(r"\X")
_LONGEST_CHARACTER = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """What surrounds query and document in what a model reads.

    Two texts, between which the tokenizer puts its own separator: `before` comes before the query. Or, where
    there is a `between`, one text: `before`, query, `between`, document, `after`, which is all that a chat
    template makes of a pair; special tokens stand in it as text. With `trims`, white space around query and
    document is left out.
    """

    before: str = ""
    between: str | None = None
    after: str = ""
    trims: bool = False

    def fill(self, query: str, document: str) -> tuple[str, str] | str:
        """Return the one text, or the two, that the model reads."""
        if self.between is None:
            return self.before + query, document
        return f"{self.before}{query}{self.between}{document}{self.after}"

    def with_instruction(self, instruction: str) -> Layout:
        """Return the layout with INSTRUCTION replaced."""
        before, between, after = (
            text and text.replace(INSTRUCTION, instruction)
            for text in (self.before, self.between, self.after)
        )
        return Layout(before or "", between, after or "", self.trims)


def instruct(layout: Layout | None, instruction: str, name: str) -> Layout:
    """Return a layout with an instruction in its place; raises UsageError for a model that takes none."""
    if layout is None:
        raise UsageError(f"{name} takes no instruction.", hint="Leave --instruction out.")
    return layout.with_instruction(instruction)


class PairTokenizer:
    """Turns pairs into ids, by the fast tokenizers library. Safe to use from several threads.

    `tokenizer` becomes this object's own; its truncation and padding are set here. With `with_type_ids`,
    rows carry token type ids. With `split_special_tokens`, special tokens in a text are text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        with_type_ids: bool,
        split_special_tokens: bool = False,
        layout: Layout = Layout(),
    ) -> None:
        self.max_length = max_length
        self._with_type_ids = with_type_ids
        self._layout = layout
        self._is_one_text = layout.between is not None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = split_special_tokens  # which its file does not say
        self._tokenizer = tokenizer
        self._cuts = SafeCuts(tokenizer)
        pieces = tokenizer.model.tokenize(_IN_NO_VOCABULARY)
        self._unknown = pieces[0].id if len(pieces) == 1 else None
        self._suffix = self._find_suffix() if self._is_one_text else []

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, cutting documents at `max_length`; the query must leave room (`document_room`).

        The ids are those of documents tokenized whole, though no more of one is tokenized than could matter;
        those of a word of more than 65,536 characters may be others. Raises ValueError when a query leaves no
        room.
        """
        if self._layout.trims:
            return self._encode_trimmed(pairs)
        return self._encode(pairs)

    def _encode_trimmed(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        rows = self._encode([(query.strip(), document.strip()) for query, document in pairs])
        return [
            replace(
                row,
                characters_read=row.characters_read + len(document) - len(document.lstrip())
                if row.truncated
                else len(document),
            )
            for row, (_, document) in zip(rows, pairs, strict=True)
        ]

    def _encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        rows: dict[int, PairTokens] = {}
        places: Sequence[int] = range(len(pairs))
        reach = self.max_length * _CHARACTERS_A_TOKEN
        while places:
            stops = [self._cut_beyond(pairs[place][1], reach) for place in places]
            beginnings = [
                self._layout.fill(pairs[place][0], pairs[place][1][:stop])
                for place, stop in zip(places, stops, strict=True)
            ]
            encodings = self._tokenizer.encode_batch(beginnings, add_special_tokens=not self._is_one_text)
            unfilled = []
            for place, stop, encoding in zip(places, stops, encodings, strict=True):
                document = pairs[place][1]
                row = self._pair_tokens(encoding, *pairs[place])
                if stop == len(document) or (row.truncated and row.characters_read <= reach):
                    rows[place] = row
                else:
                    unfilled.append(place)
            places = unfilled
            reach *= _REACH_GROWTH
        return [rows[place] for place in range(len(pairs))]

    def document_room(self, query: str) -> int:
        """Give the number of tokens that are left for a document beside this query; may be negative."""
        if self._layout.trims:
            query = query.strip()
        filled = self._layout.fill(query, "")
        if isinstance(filled, str):
            return self.max_length - len(self._tokenizer.encode(filled, add_special_tokens=False).ids)
        return self.max_length - len(self._tokenizer.encode(*filled).ids)

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

    def _pair_tokens(self, encoding: Encoding, query: str, document: str) -> PairTokens:
        input_ids = encoding.ids
        type_ids = encoding.type_ids if self._with_type_ids else []
        surplus = len(input_ids) - self.max_length
        has_unknown = self._unknown in input_ids
        if surplus <= 0:
            unknown = has_unknown and self._is_unknown(
                encoding, self._places_of_document(encoding, query, document)[1]
            )
            return PairTokens(input_ids, type_ids, False, len(document), unknown)
        start, places = self._places_of_document(encoding, query, document)
        # The first that fit of the document's tokens; what is behind them stays.
        if self._is_one_text:
            # Cut at the end, and what the template ends with written over the last tokens.
            kept = self.max_length - len(self._suffix)
            input_ids[kept:] = self._suffix
            del type_ids[self.max_length :]
            places = [place for place in places if place < kept]
        else:
            left_out = slice(places[-surplus], places[-1] + 1) if surplus < len(places) else slice(0, 0)
            del input_ids[left_out], type_ids[left_out]
            places = places[:-surplus]
        if not places:
            raise ValueError(f"a query leaves no room for a document within {self.max_length} tokens")
        offsets = encoding.offsets
        unknown = has_unknown and self._is_unknown(encoding, places)
        return PairTokens(
            input_ids, type_ids, True, max(offsets[place][1] for place in places) - start, unknown
        )

    def _places_of_document(self, encoding: Encoding, query: str, document: str) -> tuple[int, list[int]]:
        """Return where the document starts in its text, and the places of its tokens."""
        if not self._is_one_text:
            sequences = encoding.sequence_ids
            return 0, [place for place, sequence in enumerate(sequences) if sequence == 1]
        start = len(self._layout.before) + len(query) + len(self._layout.between or "")
        stop = start + len(document)
        return start, [
            place for place, (first, last) in enumerate(encoding.offsets) if last > start and first < stop
        ]

    def _is_unknown(self, encoding: Encoding, places: Sequence[int]) -> bool:
        """Whether the vocabulary has none of the tokens that are read of a document."""
        ids = encoding.ids
        return bool(places) and all(ids[place] == self._unknown for place in places)

    def _find_suffix(self) -> list[int]:
        """Return the tokens that the template ends with, as sentence-transformers finds them.

        They are those at the end of two pairs that have no other token in common there.
        """
        first, second = (
            self._tokenizer.encode(str(self._layout.fill(filler, filler)), add_special_tokens=False).ids
            for filler in ("0", "1 2 3 4")
        )
        common = 0
        while common < min(len(first), len(second)) and first[-1 - common] == second[-1 - common]:
            common += 1
        return first[len(first) - common :]

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
