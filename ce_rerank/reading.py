"""What the model is to read of each document: all of it, its beginning, or one passage after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from .errors import UsageError
from .passages import cut_passages, fit_passages, whole_passage
from .types import Coverage, LongPolicy, Pair, Passage, RankOptions

if TYPE_CHECKING:
    from .engines.batching import PairTokens
    from .engines.tokenizer import PairTokenizer

_PAIRS_AT_A_TIME = 4096
_PASSAGES_AT_A_TIME = 256  # of one document; a long one is never held whole as tokens


class Reading(NamedTuple):
    """One thing to score: the tokens of a pair, or of one passage of its document."""

    place: int
    """The pair's place among those given."""
    tokens: PairTokens
    passage: Passage | None
    """The window that was read, when documents are chunked."""


def read_pairs(
    tokenizer: PairTokenizer,
    pairs: Sequence[Pair],
    options: RankOptions,
    room_beside: Callable[[str], int] | None = None,
) -> Iterator[Reading]:
    """Tokenize pairs as `options.long` asks, a few at a time; their readings come in the order of the pairs.

    When documents are chunked, one that fits in a window is a passage as a whole. Raises UsageError when the
    windows asked for are more than the model can read.
    """
    room_beside = room_beside or tokenizer.document_room
    room_of = {query: room_beside(query) for query in {query for query, _ in pairs}}
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        window = pairs[start : start + _PAIRS_AT_A_TIME]
        for place, (pair, row) in enumerate(zip(window, tokenizer.encode(window), strict=True), start):
            chunk_tokens = _chunk_tokens(room_of[pair[0]], tokenizer.max_length, options)
            # What the pair has besides the document is what the query leaves no room for.
            document_tokens = len(row) - (tokenizer.max_length - room_of[pair[0]])
            if options.long != "chunk":
                yield Reading(place, row, None)
            elif row.truncated or document_tokens > chunk_tokens:
                for passage, tokens in _passages(tokenizer, pair, chunk_tokens, options):
                    yield Reading(place, tokens, passage)
            else:
                yield Reading(place, row, whole_passage(pair[1]))


def _passages(
    tokenizer: PairTokenizer, pair: Pair, chunk_tokens: int, options: RankOptions
) -> Iterator[tuple[Passage, PairTokens]]:
    query, document = pair
    overlap_tokens = chunk_tokens // 4 if options.chunk_overlap is None else options.chunk_overlap
    cut = cut_passages(
        document, tokenizer.token_spans(document), chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens
    )
    if options.pool == "first":
        cut = islice(cut, 1)
    while passages := list(islice(cut, _PASSAGES_AT_A_TIME)):
        yield from fit_passages(
            passages, lambda texts: tokenizer.encode([(query, text) for text in texts]), tokenizer.token_spans
        )


def _chunk_tokens(room: int, max_length: int, options: RankOptions) -> int:
    """Give the size of a window: what was asked for, as far as the query leaves room for it."""
    if options.chunk_tokens is not None and options.chunk_tokens >= max_length:
        raise UsageError(
            f"Windows of {options.chunk_tokens} tokens leave a query no room in the model's {max_length}.",
            hint="Give a smaller --chunk-tokens, or leave it out for the largest that fits.",
        )
    chunk_tokens = room if options.chunk_tokens is None else min(options.chunk_tokens, room)
    if options.chunk_overlap is not None and options.chunk_overlap >= chunk_tokens:
        raise UsageError(
            f"Windows of {chunk_tokens} tokens cannot overlap by {options.chunk_overlap}.",
            hint="Give a smaller --chunk-overlap.",
        )
    return chunk_tokens


def in_groups(readings: Iterable[Reading]) -> Iterator[list[Reading]]:
    """Group readings into what is scored together."""
    readings = iter(readings)
    while group := list(islice(readings, _PAIRS_AT_A_TIME)):
        yield group


def describe_coverage(coverage: Coverage, max_length: int, long: LongPolicy | None = None) -> Iterator[str]:
    """Yield a sentence for what was not read: documents that were cut, and blank ones.

    Where `long` can be chosen, it is said how to read all.
    """
    if coverage.truncated:
        yield _describe_truncation(coverage, max_length, long)
    if coverage.blank:
        yield (
            f"{coverage.blank:,} of {coverage.documents:,} documents have no letter, digit or symbol: "
            "they are not scored, and rank last."
        )


def _describe_truncation(coverage: Coverage, max_length: int, long: LongPolicy | None) -> str:
    where = "read in one window alone" if long == "chunk" else f"cut at {max_length:,} tokens"
    said = (
        f"{coverage.truncated:,} of {coverage.documents:,} documents were {where}, and "
        f"{_describe_unread(coverage)} of their text was not read."
    )
    way_out = "--pool max" if long == "chunk" else "--long chunk"
    return said if long is None else f"{said} Give {way_out} to score them whole."


def _describe_unread(coverage: Coverage) -> str:
    share = 1 - coverage.read_characters / max(1, coverage.cut_characters)
    if share < 0.01:
        return "less than 1%"
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"
