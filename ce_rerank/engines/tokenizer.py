"""Make the token ids of pairs, exactly as the model was trained, and cut documents that are too long.

All engines read the ids of this module, so their scores differ only by arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, takewhile

from tokenizers import Encoding, Tokenizer

from ..errors import UsageError
from ..types import Pair
from .batching import Padding, PairTokens

INSTRUCTION = "\ue000instruction\ue000"
"""Stands for the task instruction in the texts of a layout."""

_IN_NO_VOCABULARY = "\U000f0000"
_FEWEST_CHARACTERS = 3  # of a token: with fewer for each token of the limit, a document is hardly ever cut
_MOST_CHARACTERS = 6  # of a token, more than the average of any language: one try is nearly always enough
_REACH_GROWTH = 4
# A cut changes the tokens near it. So it is this many characters after all that is read, at a space, or
# farther in a text without spaces.
_NEAR = 256
_FAR = 4096
_PIECE_CHARACTERS = 4096  # small, so that all threads of a large machine get a part of a document
_PIECES_AT_ONCE = 64
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Layout:
    """The text around query and document in the input of a model.

    If `between` is None, the input is two texts, and the tokenizer puts its separator between them: `before`
    with the query, and the document. Otherwise it is one text, as a chat template makes it: `before`, query,
    `between`, document, `after`; special tokens are in it as text. With `trims`, white space around query and
    document is left out.
    """

    before: str = ""
    between: str | None = None
    after: str = ""
    trims: bool = False

    def fill(self, query: str, document: str) -> str:
        """Return the one text that the model reads; if it reads two texts, the document."""
        if self.between is None:
            return document
        if self.trims:
            query, document = query.strip(), document.strip()
        return f"{self.before}{query}{self.between}{document}{self.after}"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The inputs and limits of a model.

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
        """Return the tokenizer of the model `name`; `max_length` lowers its limit.

        `tokenizer` is that of the checkpoint, and is changed. Raises UsageError for an instruction if the
        model takes none.
        """
        layout = self.layout
        if instruction is not None:
            if self.instructed is None:
                raise UsageError(f"{name} takes no instruction.", hint="Leave --instruction out.")
            texts = {name: getattr(self.instructed, name) for name in ("before", "between", "after")}
            changed = {name: text and text.replace(INSTRUCTION, instruction) for name, text in texts.items()}
            layout = replace(self.instructed, **changed)
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
        self, tokenizer: Tokenizer, *, max_length: int, with_type_ids: bool, layout: Layout = Layout()
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
        self._tokenize_once = lru_cache(maxsize=4096)(self._tokenize)
        if self._is_one_text:
            # The tokens that two different pairs have in common at their ends, as sentence-transformers does.
            first, second = (self._tokenize(layout.fill(text, text)) for text in ("0", "1 2 3 4"))
            ends = zip(reversed(first), reversed(second), strict=False)
            self._suffix = [one for one, _ in takewhile(lambda tokens: tokens[0] == tokens[1], ends)][::-1]
        else:
            # The tokens before, between and after two texts, and the types of all.
            encoding = tokenizer.encode("a", "b")
            sequences = encoding.sequence_ids
            a, b = sequences.index(0), sequences.index(1)
            a_end, b_end = a + sequences.count(0), b + sequences.count(1)
            borders = [(0, a), (a, a + 1), (a_end, b), (b, b + 1), (b_end, None)]
            self._frame_ids = [encoding.ids[slice(*border)] for border in borders]
            self._frame_types = [bytes(encoding.type_ids[slice(*border)]) for border in borders]
            self._specials = sequences.count(None)

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs, and cut documents at `max_length`; the query must leave room (`document_room`).

        Only the beginning of a long document is tokenized, but the ids are those of the whole document,
        except in a word of more than 4,096 characters. Raises ValueError if a query leaves no room.
        """
        rows: dict[int, PairTokens] = {}
        if not self._is_one_text:  # most documents are short, and quickly read without the places of tokens
            most = self.max_length * _FEWEST_CHARACTERS
            short = [place for place, (_, document) in enumerate(pairs) if len(document) <= most]
            texts = [pairs[place][1] for place in short]
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for place, encoding in zip(short, encodings, strict=True):
                row = self._read_document(encoding, *pairs[place])
                if not row.truncated:
                    rows[place] = row
        read = self._read_in_one_text if self._is_one_text else self._read_document
        reach = self.max_length * _MOST_CHARACTERS
        while places := [place for place in range(len(pairs)) if place not in rows]:
            beginnings = [_begin(pairs[place][1], reach) for place in places]
            texts = list(map(self._layout.fill, [pairs[place][0] for place in places], beginnings))
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            for place, beginning, encoding in zip(places, beginnings, encodings, strict=True):
                row = read(encoding, *pairs[place])
                is_whole = len(beginning) == len(pairs[place][1])
                if is_whole or (row.truncated and row.characters_read <= reach):
                    rows[place] = row
            reach *= _REACH_GROWTH
        return [rows[place] for place in range(len(pairs))]

    def document_room(self, query: str) -> int:
        """Return the number of tokens that are left for a document beside a query; may be negative."""
        if self._is_one_text:
            return self.max_length - len(self._tokenize_once(self._layout.fill(query, "")))
        return self.max_length - self._specials - len(self._tokenize_once(self._layout.before + query))

    def token_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the first character of each token of a text, and the one after its last, in order.

        A long text is tokenized in pieces, when their spans are asked for, in bounded memory. At the border
        of two pieces a token may differ from that in the whole text.
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

    def _read_document(self, encoding: Encoding, query: str, document: str) -> PairTokens:
        """Return the row of a pair from the encoding of its document; cut the document if it is too long."""
        ids, query_ids = encoding.ids, self._tokenize_once(self._layout.before + query)
        room = self.max_length - self._specials - len(query_ids)
        truncated, characters_read = len(ids) > room, len(document)
        if truncated:
            self._require_room(room)
            ids = ids[:room]
            characters_read = max(end for _, end in encoding.offsets[:room])
        before, _, between, _, after = self._frame_ids
        type_ids = b""
        if self._with_type_ids:
            types = self._frame_types
            of_query, of_document = types[1] * len(query_ids), types[3] * len(ids)
            type_ids = b"%b%b%b%b%b" % (types[0], of_query, types[2], of_document, types[4])
        unknown = bool(ids) and ids[0] == self._unknown and ids.count(ids[0]) == len(ids)
        row = [*before, *query_ids, *between, *ids, *after]
        return PairTokens(row, type_ids, truncated, characters_read, unknown)

    def _read_in_one_text(self, encoding: Encoding, query: str, document: str) -> PairTokens:
        """Return the row of a pair from the encoding of all its text; cut the document if it is too long."""
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
            # The end of the template replaces the last tokens that fit.
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


def _begin(document: str, reach: int) -> str:
    """Return the beginning of a document, cut so far after `reach` that no token before it changes."""
    if len(document) <= reach + _NEAR:
        return document
    space = _SPACE.search(document, reach + _NEAR, reach + _FAR)
    return document[: space.start() if space else reach + _FAR]


def _cut_into_pieces(text: str) -> Iterator[tuple[int, int]]:
    """Cut a text into pieces that are tokenized by themselves, at spaces if there are some."""
    start = 0
    while start < len(text):
        stop = start + _PIECE_CHARACTERS
        if space := _SPACE.search(text, stop, stop + _PIECE_CHARACTERS):
            stop = space.start()
        yield start, stop
        start = stop
