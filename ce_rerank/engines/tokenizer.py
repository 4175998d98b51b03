"""Pairs to token ids: exactly those that the model was trained on, and what had to be left out.

Both engines feed what this module gives, so their scores differ by arithmetic alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from tokenizers import Encoding, Tokenizer

from ..errors import UsageError
from ..types import Pair
from .batching import Padding, PairTokens

INSTRUCTION = "\ue000instruction\ue000"
"""Stands for the task instruction in the texts of a layout."""

_IN_NO_VOCABULARY = "\U000f0000"
_FEWEST_CHARACTERS = 3  # a token, in a document that hardly needs to be cut
_MOST_CHARACTERS = 6  # more than a token has on average in any language, so that one try nearly always does
_REACH_GROWTH = 4
# A cut changes the tokens next to it. So it is made this far behind all that is read, at a space; or, in a
# text without spaces, farther behind.
_NEAR = 256
_FAR = 4096
_PIECE_CHARACTERS = 4096  # small enough for all threads of a large machine to have a part of one document
_PIECES_AT_ONCE = 64
_SPACE = re.compile(r"\s")
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

    def fill(self, query: str, document: str) -> str:
        """Return the one text that the model reads."""
        if self.trims:
            query, document = query.strip(), document.strip()
        return f"{self.before}{query}{self.between}{document}{self.after}"

    def with_instruction(self, instruction: str) -> Layout:
        """Return the layout with INSTRUCTION replaced."""
        before, between, after = (
            text and text.replace(INSTRUCTION, instruction)
            for text in (self.before, self.between, self.after)
        )
        return Layout(before or "", between, after or "", self.trims)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """How a model is fed and read.

    `inputs` are what its network takes, and `max_length` is the most tokens that a pair may have.
    `activation` is identity, sigmoid or the dotted name of another. With `split_special_tokens`, special
    tokens in a text are text. `layout` is what surrounds query and document; `instructed` is the same with
    INSTRUCTION in place of `instruction`, which is the model's own, or None for a model that takes none.
    """

    inputs: tuple[str, ...]
    max_length: int
    activation: str
    split_special_tokens: bool
    padding: Padding
    layout: Layout
    instructed: Layout | None
    instruction: str | None

    def make_tokenizer(
        self, tokenizer: Tokenizer, name: str, max_length: int | None = None, instruction: str | None = None
    ) -> PairTokenizer:
        """Return what feeds the model of this name; `max_length` lowers its limit.

        `tokenizer` is its checkpoint's, to be kept and changed. Raises UsageError for an instruction where
        the model takes none.
        """
        layout = self.layout
        if instruction is not None:
            if self.instructed is None:
                raise UsageError(f"{name} takes no instruction.", hint="Leave --instruction out.")
            layout = self.instructed.with_instruction(instruction)
        tokenizer.encode_special_tokens = self.split_special_tokens  # which its file does not say
        return PairTokenizer(
            tokenizer,
            max_length=min(self.max_length, max_length or self.max_length),
            with_type_ids="token_type_ids" in self.inputs,
            layout=layout,
        )


class PairTokenizer:
    """Turns pairs into ids, by the fast tokenizers library. Safe to use from several threads.

    `tokenizer` becomes this object's own; its truncation and padding are set here. With `with_type_ids`,
    rows carry token type ids.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        with_type_ids: bool,
        layout: Layout = Layout(),
    ) -> None:
        self.max_length = max_length
        self._with_type_ids = with_type_ids
        self._layout = layout
        self._is_one_text = layout.between is not None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        pieces = tokenizer.model.tokenize(_IN_NO_VOCABULARY)
        self._unknown = pieces[0].id if len(pieces) == 1 else None
        self._query_ids = lru_cache(maxsize=4096)(self._tokenize_query)
        if self._is_one_text:
            self._suffix = self._find_suffix()
        else:
            self._find_frame()

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, cutting documents at `max_length`; the query must leave room (`document_room`).

        The ids are those of documents tokenized whole, though no more of one is tokenized than could matter;
        those of a word of more than 4,096 characters may be others. Raises ValueError when a query leaves no
        room.
        """
        rows: dict[int, PairTokens] = {} if self._is_one_text else self._encode_short(pairs)
        reach = self.max_length * _MOST_CHARACTERS
        while places := [place for place in range(len(pairs)) if place not in rows]:
            beginnings = [_begin(pairs[place][1], reach) for place in places]
            texts = beginnings
            if self._is_one_text:
                filled = zip(places, beginnings, strict=True)
                texts = [self._layout.fill(pairs[place][0], beginning) for place, beginning in filled]
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            read = self._read_in_one_text if self._is_one_text else self._read_document
            for place, beginning, encoding in zip(places, beginnings, encodings, strict=True):
                row = read(encoding, *pairs[place])
                is_whole = len(beginning) == len(pairs[place][1])
                if is_whole or (row.truncated and row.characters_read <= reach):
                    rows[place] = row
            reach *= _REACH_GROWTH
        return [rows[place] for place in range(len(pairs))]

    def document_room(self, query: str) -> int:
        """Return the number of tokens that are left for a document beside this query; may be negative."""
        if self._is_one_text:
            return self.max_length - len(self._tokenize(self._layout.fill(query, "")))
        return self.max_length - self._specials - len(self._query_ids(query))

    def token_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the place of each of a text's own tokens, in order, as half-open ranges of characters.

        A long text is tokenized in pieces, as the spans are drawn, in memory that does not grow with it.
        Where two pieces meet, a token can be another than in the whole text.
        """
        pieces = _cut_into_pieces(text)
        while batch := list(islice(pieces, _PIECES_AT_ONCE)):
            encodings = self._tokenizer.encode_batch(
                [text[start:stop] for start, stop in batch], add_special_tokens=False
            )
            for (place, _), encoding in zip(batch, encodings, strict=True):
                for start, end in encoding.offsets:
                    yield place + start, place + end

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _tokenize_query(self, query: str) -> list[int]:
        return self._tokenize(self._layout.before + query)

    def _encode_short(self, pairs: Sequence[Pair]) -> dict[int, PairTokens]:
        """Tokenize the documents that are not long, without asking where their tokens are: that is faster."""
        most = self.max_length * _FEWEST_CHARACTERS
        short = [place for place, (_, document) in enumerate(pairs) if len(document) <= most]
        encodings = self._tokenizer.encode_batch_fast(
            [pairs[place][1] for place in short], add_special_tokens=False
        )
        rows = {}
        for place, encoding in zip(short, encodings, strict=True):
            query, document = pairs[place]
            ids, query_ids = encoding.ids, self._query_ids(query)
            if len(ids) + len(query_ids) + self._specials <= self.max_length:
                rows[place] = self._join(query_ids, ids, False, len(document))
        return rows

    def _read_document(self, encoding: Encoding, query: str, document: str) -> PairTokens:
        """Return the row of a pair, of whose document the encoding is; cut the document where it must be."""
        ids, query_ids = encoding.ids, self._query_ids(query)
        room = self.max_length - self._specials - len(query_ids)
        if len(ids) <= room:
            return self._join(query_ids, ids, False, len(document))
        self._require_room(room)
        characters_read = max(end for _, end in encoding.offsets[:room])
        return self._join(query_ids, ids[:room], True, characters_read)

    def _join(self, query_ids: list[int], ids: list[int], truncated: bool, characters: int) -> PairTokens:
        """Put the tokenizer's own tokens around those of query and document."""
        (before, between, after), types = self._frame
        type_ids = b""
        if self._with_type_ids:
            type_ids = b"%b%b%b%b%b" % (
                types[0],
                types[1] * len(query_ids),
                types[2],
                types[3] * len(ids),
                types[4],
            )
        return PairTokens(
            [*before, *query_ids, *between, *ids, *after],
            type_ids,
            truncated,
            characters,
            bool(ids) and ids[0] == self._unknown and ids.count(ids[0]) == len(ids),
        )

    def _read_in_one_text(self, encoding: Encoding, query: str, document: str) -> PairTokens:
        """Return the row of a pair, of which the encoding is; cut it at the end where it must be."""
        left_out, characters_read = 0, len(document)
        if self._layout.trims:
            left_out = len(document) - len(document.lstrip())
            query, document = query.strip(), document.strip()
        ids: list[int] = encoding.ids
        start = len(self._layout.before) + len(query) + len(self._layout.between or "")
        places = [
            place
            for place, (first, last) in enumerate(encoding.offsets)
            if last > start and first < start + len(document)
        ]
        truncated = len(ids) > self.max_length
        if truncated:
            # What the template ends with is written over the last tokens that fit.
            kept = self.max_length - len(self._suffix)
            ids = ids[:kept] + self._suffix
            places = [place for place in places if place < kept]
            self._require_room(len(places))
            characters_read = left_out + max(encoding.offsets[place][1] for place in places) - start
        unknown = bool(places) and all(ids[place] == self._unknown for place in places)
        type_ids = bytes(len(ids)) if self._with_type_ids else b""
        return PairTokens(ids, type_ids, truncated, characters_read, unknown)

    def _require_room(self, tokens: int) -> None:
        if tokens < 1:
            raise ValueError(f"a query leaves no room for a document within {self.max_length} tokens")

    def _find_frame(self) -> None:
        """Find the tokens that the tokenizer puts before, between and behind two texts, and all types."""
        encoding = self._tokenizer.encode("a", "b")
        sequences, ids, types = encoding.sequence_ids, encoding.ids, bytes(encoding.type_ids)
        first, second = sequences.index(0), sequences.index(1)
        first_end, end = first + sequences.count(0), second + sequences.count(1)
        self._frame = (
            (ids[:first], ids[first_end:second], ids[end:]),
            (
                types[:first],
                types[first : first + 1],
                types[first_end:second],
                types[second : second + 1],
                types[end:],
            ),
        )
        self._specials = sequences.count(None)

    def _find_suffix(self) -> list[int]:
        """Return the tokens that the template ends with, as sentence-transformers finds them.

        They are those at the end of two pairs that have no other token in common there.
        """
        first, second = (self._tokenize(self._layout.fill(text, text)) for text in ("0", "1 2 3 4"))
        common = 0
        while common < min(len(first), len(second)) and first[-1 - common] == second[-1 - common]:
            common += 1
        return first[len(first) - common :]


def _begin(document: str, reach: int) -> str:
    """Return the beginning of a document, to so far behind `reach` that the cut does no harm before it."""
    if len(document) <= reach + _NEAR:
        return document
    space = _SPACE.search(document, reach + _NEAR, reach + _FAR)
    return document[: space.start() if space else reach + _FAR]


def _cut_into_pieces(text: str) -> Iterator[tuple[int, int]]:
    """Cut a text into pieces to tokenize by themselves, at spaces where there are some."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        stop = start + _PIECE_CHARACTERS
        if space := _SPACE.search(text, stop, stop + _PIECE_CHARACTERS):
            stop = space.start()
        else:  # at least not through what a reader sees as one character
            import regex  # which takes a while to load, and is hardly ever needed

            around = regex.finditer(
                r"\X", text, pos=stop - _LONGEST_CHARACTER, endpos=stop + _LONGEST_CHARACTER
            )
            stop = max(match.start() for match in around if match.start() <= stop)
        yield start, stop
        start = stop
    yield start, len(text)
