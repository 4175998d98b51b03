"""Pairs to scores: tokenize, cut into passages, let the engine score, pool the passages of a document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from .errors import InputError, UnavailableError, UsageError, told_from
from .ranking import SCORED, Scored, is_blank, pool_passages, unscored
from .types import Candidates, OnProgress, Pair, Passage, PoolName, RankOptions

if TYPE_CHECKING:
    from .engines.base import Engine
    from .engines.batching import PairTokens

    Read = tuple[int, PairTokens, Passage | None]
    """A row to score: the place of its pair, its tokens, and its passage if there are any."""

log = logging.getLogger("ce_rerank")

POOL_TOKENS = 1 << 16
"""A full pool, in tokens, unless batches are large: some seconds of work for a small model on a CPU."""
POOL_BATCHES = 32
"""The fewest batches of a pool: with fewer there is more padding, and more waiting for the last one."""
HELD_CHARACTERS_A_TOKEN = 128
"""So many characters count a token at least, though fewer may be read: they take memory."""
PASSAGE_TOKENS = 192
"""The default size of a passage: good on every collection tried, see tests/benchmarks/buried.py."""

_FIRST_SHARE = 8  # the first pool is an eighth, and each next one twice as large: results come soon
_CHARACTERS_A_TOKEN = 4
_SPECIAL_TOKENS = 3
_LEAST_OF_A_PAIR = 64  # tokens that even a short pair counts, for the memory that it takes
_LEAST_DOCUMENT_TOKENS = 64  # a query that leaves less than this for documents is refused
_ROWS_AT_A_TIME = 4096
_PASSAGES_AT_A_TIME = 256  # so that a long document is never held whole as tokens


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many queries are scored together, as a pool.

    A pool is full at `tokens` tokens; the first pools are smaller. The tokens of a pair are estimated from
    its characters, as at least 64 and at most `most_of_a_pair`, the number that the model reads; a very long
    document counts more, for the memory that it takes. The last digits of a score depend on the other pairs
    of its batch. So pools are cut by position alone, and a run that was cut off and continued gives the same
    bytes.
    """

    tokens: int
    most_of_a_pair: int | None = None

    def count_tokens(self, candidates: Candidates) -> int:
        """Estimate the tokens of a query's pairs; a query without documents counts as one pair."""
        query_tokens = len(candidates.query.text) // _CHARACTERS_A_TOKEN + _SPECIAL_TOKENS
        count = 0
        for length in [len(document.text) for document in candidates.documents] or [0]:
            tokens = max(query_tokens + length // _CHARACTERS_A_TOKEN, _LEAST_OF_A_PAIR)
            count += max(min(tokens, self.most_of_a_pair or tokens), length // HELD_CHARACTERS_A_TOKEN)
        return count

    def is_full(self, number: int, tokens: int) -> bool:
        """Whether pool `number`, from 0, is full with so many tokens."""
        return tokens >= min(_FIRST_SHARE, 1 << min(number, 16)) * self.tokens // _FIRST_SHARE

    def cut(self, lists: Iterable[Candidates]) -> Iterator[list[Candidates]]:
        """Yield candidates in pools; read no further than the pool that is asked for."""
        pool: list[Candidates] = []
        number = tokens = 0
        for candidates in lists:
            pool.append(candidates)
            tokens += self.count_tokens(candidates)
            if self.is_full(number, tokens):
                yield pool
                pool, tokens, number = [], 0, number + 1
        if pool:
            yield pool


class LocalModel:
    """Scores for a `Reranker` by an engine in this process. Threads may share it."""

    def __init__(self, engine: Engine, batch_tokens: int | None = None) -> None:
        self.engine = engine
        self.info = engine.info
        self.batch_tokens = batch_tokens or engine.batch_tokens
        self.activate = engine.activate
        self._has_warned = False

    def require_scorable(self, candidates: Candidates, options: RankOptions) -> None:
        """Raise InputError for a query that leaves no room, or a long document if `long` is `error`."""
        self._require_room(candidates)
        if options.long == "error":
            pairs = [(candidates.query.text, document.text) for document in candidates.documents]
            self._require_whole([candidates], list(self._read(pairs, range(len(pairs)), options)))

    def score_lists(
        self,
        lists: Sequence[Candidates],
        options: RankOptions,
        on_progress: OnProgress | None = None,
        *,
        with_blanks: bool = False,
    ) -> list[Scored]:
        """Score all documents of several queries together; return a table for each query, in their order.

        Blank documents are scored only `with_blanks`. Only the options about long documents have an effect.
        Raises InputError before anything is scored, UsageError for passages that do not fit beside the query,
        and UnavailableError for a score that is no number.
        """
        import numpy as np

        for candidates in lists:
            self._require_room(candidates)
        pairs = [(one.query.text, document.text) for one in lists for document in one.documents]
        scored = unscored([text for _, text in pairs])
        places = [place for place, (_, text) in enumerate(pairs) if with_blanks or not is_blank(text)]
        reads = self._read(pairs, places, options)
        if options.long == "error":
            reads = iter(self._require_whole(lists, list(reads)))
        if on_progress is not None and len(places) < len(pairs):
            on_progress(len(pairs) - len(places))
        tables: list[Scored] = []
        last = -1
        for group in _group_rows(reads, ahead=self.info.device != "cpu"):
            table = _describe_rows(group)
            documents = int(np.count_nonzero(np.diff(table["place"], prepend=last)))
            last = table["place"][-1]
            report = on_progress and _in_documents(on_progress, documents, len(group))
            rows = [row for _, row, _ in group]
            table["logit"] = self.engine.score_rows(rows, self.batch_tokens, report)
            for bad in table[~np.isfinite(table["logit"])]:
                raise UnavailableError(
                    f"The model gave {bad['logit']} for {_name_document(lists, bad['place'])}: no score.",
                    hint="Give --precision fp32. If that does not help, the model is damaged.",
                )
            tables.append(table)
        if tables:
            _pool_rows(scored, np.concatenate(tables), options.pool)
        ends = np.cumsum([0, *(len(one.documents) for one in lists)])
        scored_lists = [scored[start:end] for start, end in pairwise(ends)]
        if options.long == "truncate":
            self._warn_of_long_queries(lists, scored_lists)
        return scored_lists

    def _read(self, pairs: Sequence[Pair], places: Sequence[int], options: RankOptions) -> Iterator[Read]:
        """Tokenize the pairs at `places`, some at a time; cut long documents if `long` is `chunk`."""
        for start in range(0, len(places), _ROWS_AT_A_TIME):
            group = places[start : start + _ROWS_AT_A_TIME]
            rows = self.engine.tokenizer.encode([pairs[place] for place in group])
            for place, row in zip(group, rows, strict=True):
                if options.long == "chunk":
                    yield from self._read_passages(place, *pairs[place], row, options)
                else:
                    yield place, row, None

    def _read_passages(
        self, place: int, query: str, text: str, row: PairTokens, options: RankOptions
    ) -> Iterator[Read]:
        """Tokenize a document's passages; `row` is the pair with as much of the document as fits."""
        from .passages import cut_passages, whole_passage

        room = self.engine.tokenizer.document_room(query)
        chunk_tokens, overlap_tokens = _passage_size(options, room, self.info.max_length)
        # The pair has the query, special tokens, and the document.
        document_tokens = len(row) - (self.info.max_length - room)
        if not row.truncated and document_tokens <= (chunk_tokens if options.chunk_tokens else room):
            yield place, row, whole_passage(text)
            return
        spans = self.engine.tokenizer.token_spans(text)
        passages = cut_passages(text, spans, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens)
        if options.pool == "first":
            passages = islice(passages, 1)
        while some := list(islice(passages, _PASSAGES_AT_A_TIME)):
            yield from self._fit(place, query, some)

    def _fit(self, place: int, query: str, passages: Sequence[Passage]) -> Iterator[Read]:
        """Tokenize passages with their query, and cut those that are too long for the model.

        A passage by itself can have a few tokens more than it had within the document.
        """
        from .passages import cut_passages, whole_passage

        tokenizer = self.engine.tokenizer
        rows = tokenizer.encode([(query, passage.text) for passage in passages])
        for passage, row in zip(passages, rows, strict=True):
            spans = list(tokenizer.token_spans(passage.text)) if row.truncated else []
            if len(spans) < 2:
                yield place, row, passage
                continue
            start, line = passage.start, passage.line - whole_passage(passage.text).line
            parts = [
                Passage(part.text, start + part.start, start + part.end, line + part.line)
                for part in cut_passages(
                    passage.text, spans,
                    chunk_tokens=-(-len(spans) * 5 // 8), overlap_tokens=len(spans) // 4,
                )
            ]  # fmt: skip
            yield from self._fit(place, query, parts)

    def _require_room(self, candidates: Candidates) -> None:
        """Refuse a query that leaves too few tokens for documents: a query is never cut."""
        limit = self.info.max_length
        least = min(_LEAST_DOCUMENT_TOKENS, limit // 4)
        room = self.engine.tokenizer.document_room(candidates.query.text)
        if room < least:
            problem = (
                f"the query and what the model puts around it take {limit - room} of its {limit} tokens, and "
                f"leave {max(room, 0)} for a document; at least {least} are needed."
            )
            raise InputError(
                told_from(candidates.query.origin, problem),
                hint="Shorten the query, or give a larger --max-length or a model that reads more.",
            )

    def _warn_of_long_queries(self, lists: Sequence[Candidates], scored_lists: Sequence[Scored]) -> None:
        """Warn once of a query that takes over half of the limit and whose documents were cut."""
        room = self.engine.tokenizer.document_room
        if not self._has_warned and any(
            scored["truncated"].any() and 2 * room(candidates.query.text) < room("")
            for candidates, scored in zip(lists, scored_lists, strict=True)
        ):
            self._has_warned = True
            log.warning(
                "A query takes more than half of the model's %s tokens. Documents are cut to the rest; "
                "sentence-transformers would cut the query, too, and give other scores.",
                f"{self.info.max_length:,}",
            )

    def _require_whole(self, lists: Sequence[Candidates], reads: list[Read]) -> list[Read]:
        """Return the rows; raise InputError if the model would not read a document to its end."""
        cut = [place for place, row, _ in reads if row.truncated]
        if cut:
            raise InputError(
                f"{_name_document(lists, cut[0])} is longer than the model's {self.info.max_length} tokens "
                f"with its query; {len(cut)} of {len(reads)} documents are.",
                hint="Give --long chunk to score it whole, or --long truncate to score its beginning.",
            )
        return reads


def _group_rows(reads: Iterator[Read], *, ahead: bool) -> Iterator[list[Read]]:
    """Yield some thousand rows at a time; `ahead`: a thread makes the next ones while these are scored."""
    groups = iter(lambda: list(islice(reads, _ROWS_AT_A_TIME)), [])
    if not ahead:
        yield from groups
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = thread.submit(next, groups, None)
            yield group


def _describe_rows(group: Sequence[Read]) -> Scored:
    """Return the table of rows to score, with the places of their documents."""
    import numpy as np

    places, rows, passages = zip(*group, strict=True)
    table = np.zeros(len(group), [("place", np.intp), *SCORED])
    table["place"] = places
    table["tokens"] = [len(row.input_ids) for row in rows]
    table["truncated"] = [row.truncated for row in rows]
    table["unknown"] = [row.unknown for row in rows]
    table["characters_read"] = [row.characters_read for row in rows]
    if passages[0] is not None:
        for name in ("start", "end", "line"):
            table[name] = [getattr(passage, name) for passage in passages]
        table["characters_read"] += table["start"]
    return table


def _pool_rows(scored: Scored, table: Scored, pool: PoolName) -> None:
    """Fill in the table of documents from the table of rows.

    Passages are pooled by their logits, so that the same passage is the best on every scale.
    """
    import numpy as np

    # Not by np.unique, which imports numpy.ma: the rows of a document follow each other.
    firsts = np.flatnonzero(np.diff(table["place"], prepend=-1))
    places, counts = table["place"][firsts], np.diff(firsts, append=len(table))
    logits, best = pool_passages(table["logit"], counts, pool)
    of_best = table[best]
    for name in ("tokens", "start", "end", "line"):
        scored[name][places] = of_best[name]
    scored["logit"][places] = logits
    read = np.maximum.reduceat(table["characters_read"], firsts)
    scored["characters_read"][places] = read
    is_cut = np.logical_or.reduceat(table["truncated"], firsts)
    scored["truncated"][places] = is_cut | (read < scored["characters"][places])
    scored["unknown"][places] = np.logical_and.reduceat(table["unknown"], firsts)


def _passage_size(options: RankOptions, room: int, max_length: int) -> tuple[int, int]:
    """Return how many tokens a passage and an overlap have, which the room beside the query limits."""
    if options.chunk_tokens is not None and options.chunk_tokens >= max_length:
        raise UsageError(
            f"Passages of {options.chunk_tokens} tokens leave a query no room in the model's {max_length}.",
            hint="Give a smaller --chunk-tokens, or leave it out.",
        )
    chunk_tokens = min(options.chunk_tokens or PASSAGE_TOKENS, room)
    overlap_tokens = chunk_tokens // 4 if options.chunk_overlap is None else options.chunk_overlap
    if overlap_tokens >= chunk_tokens:
        raise UsageError(
            f"Passages of {chunk_tokens} tokens cannot overlap by {overlap_tokens}.",
            hint="Give a smaller --chunk-overlap.",
        )
    return chunk_tokens, overlap_tokens


def _in_documents(on_progress: OnProgress, documents: int, rows: int) -> OnProgress:
    """Return a function that turns finished rows into finished documents; `rows` make up `documents`."""
    finished = 0

    def report(count: int) -> None:
        nonlocal finished
        before = documents * finished // rows
        finished += count
        on_progress(documents * finished // rows - before)

    return report


def _name_document(lists: Sequence[Candidates], place: int) -> str:
    """Return what messages call a document: where it was read, its place in its list and its id."""
    for candidates in lists:
        if place < len(candidates.documents):
            break
        place -= len(candidates.documents)
    document = candidates.documents[place]
    name = "" if document.id is None else f" (id {document.id})"
    return told_from(document.origin, f"document {place}{name}")
