"""Candidates to rankings: tokenize, score, pool the passages of a document, select."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InputError, UnavailableError, UsageError, told_from
from .formats.fields import find_number
from .ranking import blend, is_blank, pool_passages, select_top, sigmoid
from .types import Candidates, Coverage, Pair, Passage, RankedDocument, Ranking, RankOptions, ScoreScale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .engines.base import Engine, EngineInfo
    from .engines.batching import PairTokens
    from .remote import RemoteModel

log = logging.getLogger("ce_rerank")

Progress = Callable[[int], None]

POOL_TOKENS = 1 << 16
"""A full pool, in tokens, unless batches are large: some seconds of work for a small model on a CPU."""
POOL_CHARACTERS = 1 << 24
"""Bounds the memory that a pool of long documents takes, of which little is read."""

_LEAST_BATCHES = 32  # of which a pool is made: fewer pad more, and wait longer for the last one
_FIRST_SHARE = 8  # the first pool is so much smaller, and each twice the one before: results come soon
_CHARACTERS_A_TOKEN = 4
_SPECIAL_TOKENS = 3
_LEAST_OF_A_PAIR = 64  # what a pair counts however short it is: it takes memory, too

PASSAGE_TOKENS = 192
"""The size of a passage by default: good wherever it was measured, see tests/benchmarks/buried.py."""
_LEAST_DOCUMENT_TOKENS = 64  # a query that leaves less than this for documents is refused
_ROWS_AT_A_TIME = 4096
_PASSAGES_AT_A_TIME = 256  # of one document; a long one is never held whole as tokens


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many queries are scored together: when a pool of them is full.

    That is at `tokens` tokens, once the first, smaller pools are over. Tokens are estimated by characters, at
    64 or more a pair; no more than `most_of_a_pair` count, which is all that is read of one, None where that
    has no bound. In floating point a score depends, in its last digits, on what else is in its batch. Pools
    are therefore cut by position alone, so that a run that was cut off and continued gives the same bytes.
    """

    tokens: int
    most_of_a_pair: int | None = None

    def count_tokens(self, candidates: Candidates) -> int:
        """Estimate the tokens of a query's pairs; one without documents counts as one pair."""
        own = len(candidates.query.text) // _CHARACTERS_A_TOKEN + _SPECIAL_TOKENS
        most = self.most_of_a_pair or POOL_CHARACTERS
        pairs = [own + len(document.text) // _CHARACTERS_A_TOKEN for document in candidates.documents] or [
            own
        ]
        return sum(min(max(tokens, _LEAST_OF_A_PAIR), most) for tokens in pairs)

    def is_full(self, number: int, tokens: int, characters: int) -> bool:
        """Whether pool `number`, from 0, is full with what it holds."""
        wanted = min(_FIRST_SHARE, 1 << min(number, 16)) * self.tokens // _FIRST_SHARE
        return tokens >= wanted or characters >= POOL_CHARACTERS

    def cut(self, lists: Iterable[Candidates]) -> Iterator[list[Candidates]]:
        """Cut candidates into pools, each drawn only when it is asked for."""
        pool: list[Candidates] = []
        number = tokens = characters = 0
        for candidates in lists:
            pool.append(candidates)
            tokens += self.count_tokens(candidates)
            characters += candidates.characters
            if self.is_full(number, tokens, characters):
                yield pool
                pool, tokens, characters = [], 0, 0
                number += 1
        if pool:
            yield pool


def _group_rows(reads: Iterator[_Read], *, ahead: bool) -> Iterator[list[_Read]]:
    """Yield some thousand rows at a time; with `ahead`, a thread makes the next while these are scored."""
    groups = iter(lambda: list(islice(reads, _ROWS_AT_A_TIME)), [])
    if not ahead:
        yield from groups
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = thread.submit(next, groups, None)
        while (group := following.result()) is not None:
            following = thread.submit(next, groups, None)
            yield group


class Pipeline:
    """Ranks candidates with an engine that is loaded, or the model of a server. Threads may share it."""

    _remote: RemoteModel | None = None

    def __init__(self, engine: Engine, batch_tokens: int | None = None) -> None:
        self._info = engine.info
        self._engine = engine
        self._batch_tokens = batch_tokens
        # A query is tokenized once, though its room is asked for by whoever reads it and whoever scores it.
        self._room_beside = lru_cache(maxsize=4096)(engine.tokenizer.document_room)
        self._warned_of: set[str] = set()

    def _connect(self, url: str) -> None:
        """Take the model of a server as what scores, in the place of an engine."""
        from .engines.base import EngineInfo
        from .remote import RemoteModel

        self._remote = RemoteModel(url)
        self._batch_tokens = None
        self._warned_of = set()
        names = EngineInfo.__dataclass_fields__
        facts: dict[str, Any] = {name: self._remote.info.get(name) for name in names}
        facts |= {"device": f"{facts['device']} of {self._remote.url}", "notes": tuple(facts["notes"] or ())}
        facts["packed"] = facts["packed"] is True  # servers of before do not say
        self._info = EngineInfo(**facts)

    @property
    def info(self) -> EngineInfo:
        """What runs, where and how: engine, device, precision, model, limits and scale."""
        return self._info

    @property
    def batch_tokens(self) -> int:
        """The tokens of a batch, padding included; 0 where a server decides."""
        return 0 if self._remote else self._batch_tokens or self._engine.batch_tokens

    def plan_pools(self, options: RankOptions) -> PoolPlan:
        """Return how many queries to score together: enough to fill batches, few enough to wait for."""
        most = self.info.max_length if options.long == "truncate" else None
        return PoolPlan(max(POOL_TOKENS, _LEAST_BATCHES * self.batch_tokens), most)

    def require_scorable(self, candidates: Candidates, options: RankOptions) -> None:
        """Raise InputError for a query that leaves no room, or a document too long where that is refused.

        A server looks at that when it scores.
        """
        if self._remote is not None:
            return
        self._require_room([candidates])
        if options.long == "error":
            self._require_whole([candidates], list(self._read(_pairs_of([candidates]), options)))

    def rank_lists(
        self, lists: Sequence[Candidates], options: RankOptions, *, on_progress: Progress | None = None
    ) -> list[Ranking]:
        """Rank the documents of several queries, scored together; return a ranking for each, in their order.

        Raises InputError and UnavailableError as `rank` does. What was cut is marked and not logged.
        """
        lists = [self.take_first_stage(candidates, options) for candidates in lists]
        scored = self.score_lists(lists, options, on_progress)
        return [self.make_ranking(one, of_one, options) for one, of_one in zip(lists, scored, strict=True)]

    def take_first_stage(self, candidates: Candidates, options: RankOptions) -> Candidates:
        """Return the documents that BM25 chooses, or those given with the first scores that they carry."""
        if options.bm25 is not None and not candidates.first_scores:
            try:
                from .retrieval import choose
            except ImportError as error:
                raise UnavailableError(
                    f"bm25 needs {error.name}.", hint="Install it: pip install 'ce-rerank[bm25]'"
                ) from None
            chosen = choose(candidates, options)
            if candidates.documents and not chosen.documents:
                name = told_from(candidates.query.origin, f'"{candidates.query.text}"')
                log.warning("No document shares a word with the query %s, so that none is scored.", name)
            return chosen
        if options.first_score_field is not None:
            name = options.first_score_field
            scores = [find_number(one, name, place) for place, one in enumerate(candidates.documents)]
            return replace(candidates, first_scores=scores)
        return candidates

    def make_ranking(self, candidates: Candidates, scored: Scored, options: RankOptions) -> Ranking:
        """Rank a query's documents by what came of them: scale, order, threshold and number of results."""
        self._warn_of_equal_logits(scored)
        values = self._to_scale(scored.logits, options.scores)
        on_scale: list[float] | None = None
        first_ranks: dict[int, int] = {}
        if options.blend and len(candidates.first_scores) != len(candidates.documents):
            raise UsageError(
                "blend mixes in a first stage's score, and there is none.",
                hint="Give bm25 or first_score_field.",
            )
        if options.blend:
            on_scale = values.tolist()
            values = blend(scored.logits, candidates.first_scores, options.blend)
        if candidates.places is not None:
            order = select_top(candidates.first_scores)
            first_ranks = {place: rank for rank, place in enumerate(order, start=1)}
        scores: list[float] = values.tolist()
        results = tuple(
            RankedDocument(
                document=candidates.documents[place],
                index=place if candidates.places is None else candidates.places[place],
                rank=rank,
                score=scores[place],
                tokens=int(scored.tokens[place]),
                truncated=bool(scored.truncated[place]),
                characters_read=int(scored.characters_read[place]),
                passage=scored.passages[place],
                model_score=on_scale[place] if on_scale else None,
                first_score=candidates.first_scores[place] if candidates.first_scores else None,
                first_rank=first_ranks.get(place),
            )
            for rank, place in enumerate(
                select_top(scores, top_k=options.top_k, min_score=options.min_score), start=1
            )
        )
        coverage = replace(scored.coverage, left_out=candidates.left_out)
        return Ranking(candidates.query, results, coverage)

    def score_lists(
        self,
        lists: Sequence[Candidates],
        options: RankOptions,
        on_progress: Progress | None = None,
        *,
        with_blanks: bool = False,
    ) -> list[Scored]:
        """Score all documents of several queries together; return what came of each query's, in their order.

        A blank document is not scored, except `with_blanks`. Of the options those about long documents count.
        """
        import numpy as np

        if self._remote is not None:
            return _score_remotely(self._remote, lists, options, on_progress, with_blanks=with_blanks)
        self._require_room(lists)
        pairs = _pairs_of(lists)
        scored = Scored.unread([text for _, text in pairs])
        skipped = (
            set() if with_blanks else {place for place, text in enumerate(scored.texts) if is_blank(text)}
        )
        if skipped and on_progress is not None:
            on_progress(len(skipped))
        reads = self._read(pairs, options, skipped)
        if options.long == "error":
            reads = iter(self._require_whole(lists, list(reads)))
        logits = [np.empty(0, np.float32)]
        facts: list[tuple[int, int, bool, int, bool]] = []
        passages: list[Passage | None] = []
        for group in _group_rows(reads, ahead=self.info.device != "cpu"):
            documents = len({read.place for read in group} - {facts[-1][0] if facts else -1})
            report = on_progress and _in_documents(on_progress, documents, len(group))
            logits.append(self._engine.score_rows([read.row for read in group], self._batch_tokens, report))
            for place, row, passage in group:
                before = passage.start if passage else 0
                facts.append((place, len(row), row.truncated, before + row.characters_read, row.unknown))
                passages.append(passage)
                if row.truncated:
                    self._warn_of_long_query(pairs[place][0])
        columns = np.array(facts, dtype=np.intp).reshape(-1, 5)
        of_rows = np.concatenate(logits)
        _require_numbers(of_rows, columns[:, 0], lists)
        places, counts = np.unique(columns[:, 0], return_counts=True)
        # Pooled as logits, so that the same passage is the best on every scale.
        scored.logits[places], best = pool_passages(of_rows, counts, options.pool)
        scored.tokens[places] = columns[best, 1]
        first_of_each = np.cumsum(counts) - counts
        read = np.maximum.reduceat(columns[:, 3], first_of_each) if facts else columns[:, 3]
        is_cut = np.maximum.reduceat(columns[:, 2], first_of_each) if facts else columns[:, 2]
        scored.truncated[places] = (is_cut > 0) | (read < scored.characters_read[places])
        scored.characters_read[places] = read
        if facts:
            scored.unknown[places] = np.minimum.reduceat(columns[:, 4], first_of_each) > 0
        for place, number in zip(places.tolist(), best.tolist(), strict=True):
            scored.passages[place] = passages[number]
        return list(scored.split([len(candidates.documents) for candidates in lists]))

    def _read(
        self, pairs: Sequence[Pair], options: RankOptions, skipped: Container[int] = ()
    ) -> Iterator[_Read]:
        """Tokenize pairs, a few at a time and in their order; `chunk` makes passages of long documents."""
        tokenizer = self._engine.tokenizer
        places = (place for place in range(len(pairs)) if place not in skipped)
        while group := list(islice(places, _ROWS_AT_A_TIME)):
            for place, row in zip(group, tokenizer.encode([pairs[place] for place in group]), strict=True):
                if options.long == "chunk":
                    yield from self._read_passages(place, *pairs[place], row, options)
                else:
                    yield _Read(place, row, None)

    def _read_passages(
        self, place: int, query: str, text: str, row: PairTokens, options: RankOptions
    ) -> Iterator[_Read]:
        """Tokenize a document by its passages; `row` is the pair, with as much of the document as fits."""
        from .passages import cut_passages, whole_passage

        room = self._room_beside(query)
        chunk_tokens, overlap_tokens = _passage_size(options, room, self.info.max_length)
        # What the pair has besides the document is what the query leaves no room for.
        document_tokens = len(row) - (self.info.max_length - room)
        if not row.truncated and document_tokens <= (chunk_tokens if options.chunk_tokens else room):
            yield _Read(place, row, whole_passage(text))
            return
        passages = cut_passages(
            text,
            self._engine.tokenizer.token_spans(text),
            chunk_tokens=chunk_tokens,
            overlap_tokens=overlap_tokens,
        )
        if options.pool == "first":
            passages = islice(passages, 1)
        while some := list(islice(passages, _PASSAGES_AT_A_TIME)):
            yield from self._fit(place, query, text, some)

    def _fit(self, place: int, query: str, text: str, passages: Sequence[Passage]) -> Iterator[_Read]:
        """Tokenize passages with their query, and cut those that are too long for the model.

        Out of its context a text can be a few tokens longer than it was in it.
        """
        from .passages import cut_passages

        tokenizer = self._engine.tokenizer
        rows = tokenizer.encode([(query, passage.text) for passage in passages])
        for passage, row in zip(passages, rows, strict=True):
            spans = list(tokenizer.token_spans(passage.text)) if row.truncated else []
            if len(spans) < 2:
                yield _Read(place, row, passage)
                continue
            start, stop = passage.start, passage.end
            parts = cut_passages(
                text,
                [(start + begin, start + end) for begin, end in spans],
                chunk_tokens=-(-len(spans) * 5 // 8),
                overlap_tokens=len(spans) // 4,
                start=start,
                stop=stop,
            )
            yield from self._fit(place, query, text, list(parts))

    def _to_scale(self, logits: NDArray[np.float32], scale: ScoreScale) -> NDArray[np.float32]:
        """Return scores on a scale; those of documents that were not scored stay -inf."""
        import numpy as np

        if scale == "logit":
            return logits
        activation = self.info.activation if scale == "model" and self._remote is not None else scale
        if activation not in ("model", "sigmoid", "identity"):
            raise UsageError(
                f"The server's model has an activation of its own, {activation}.",
                hint="Give --scores logit or sigmoid.",
            )
        if activation == "identity":
            return logits
        scores = sigmoid(logits) if activation == "sigmoid" else self._engine.activate(logits)
        return np.where(np.isneginf(logits), logits, scores)

    def _require_room(self, lists: Sequence[Candidates]) -> None:
        """Refuse a query that leaves too little of the model for documents: it is never cut itself."""
        limit = self.info.max_length
        least = min(_LEAST_DOCUMENT_TOKENS, limit // 4)
        for candidates in lists:
            room = self._room_beside(candidates.query.text)
            if room < least:
                problem = (
                    f"the query takes {limit - room} of the model's {limit} tokens and leaves {max(room, 0)} "
                    f"for a document; at least {least} are needed."
                )
                raise InputError(told_from(candidates.query.origin, problem), hint="Shorten the query.")

    def _require_whole(self, lists: Sequence[Candidates], reads: list[_Read]) -> list[_Read]:
        """Refuse documents that the model cannot read to their end, before any is scored."""
        cut = [read.place for read in reads if read.row.truncated]
        if cut:
            raise InputError(
                f"{_name_document(lists, cut[0])} is longer than the model's {self.info.max_length} tokens "
                f"with its query; {len(cut)} of {len(reads)} documents are.",
                hint="Give --long chunk to score it whole, or --long truncate to score its beginning.",
            )
        return reads

    def _warn_of_long_query(self, query: str) -> None:
        """Warn, once, of a query that sentence-transformers would cut beside a document that is cut."""
        if 2 * self._room_beside(query) < self._room_beside(""):
            self._warn_once(
                f"A query takes more than half of the model's {self.info.max_length:,} tokens. Documents are "
                "cut to what it leaves; sentence-transformers would cut the query, too, and score otherwise."
            )

    def _warn_of_equal_logits(self, scored: Scored) -> None:
        """Warn, once, when all of two or more different documents have the same logit, to the bit."""
        logits = scored.logits
        is_scored = logits > -float("inf")
        if is_scored.sum() < 2 or logits[is_scored].min() < logits.max():
            return
        ends = scored.characters_read.tolist()
        read = {
            " ".join(text[:end].lower().split())
            for text, end, counts in zip(scored.texts, ends, is_scored, strict=True)
            if counts
        }
        if len(read) > 1:
            self._warn_once(
                f"The model gave all of {len(read)} different documents the same score: "
                f"{self.info.model} may be broken, or no reranker."
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned_of:
            self._warned_of.add(message)
            log.warning("%s", message)


class _Read(NamedTuple):
    """One thing to score: a pair, or a passage of its document."""

    place: int
    """The pair's place among those given."""
    row: PairTokens
    passage: Passage | None
    """What was read, when documents are chunked."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of documents, in their order: arrays of shape (documents,).

    The logit of a document that was not scored, since it is blank, is -inf.
    """

    texts: list[str]
    logits: NDArray[np.float32]
    tokens: NDArray[np.intp]
    truncated: NDArray[np.bool_]
    characters_read: NDArray[np.intp]
    unknown: NDArray[np.bool_]
    passages: list[Passage | None]

    @classmethod
    def unread(cls, texts: list[str]) -> Scored:
        """Return what holds for documents that are not scored."""
        import numpy as np

        count = len(texts)
        return cls(
            texts,
            np.full(count, -np.inf, np.float32),
            np.zeros(count, np.intp),
            np.zeros(count, bool),
            np.fromiter(map(len, texts), np.intp, count),
            np.zeros(count, bool),
            [None] * count,
        )

    @classmethod
    def join(cls, parts: Sequence[Scored]) -> Scored:
        """Return what came of the documents of all parts, one part after the other."""
        import numpy as np

        joined = cls.unread([text for part in parts for text in part.texts])
        if parts:
            for name in ("logits", "tokens", "truncated", "characters_read", "unknown"):
                getattr(joined, name)[:] = np.concatenate([getattr(part, name) for part in parts])
            joined.passages[:] = [passage for part in parts for passage in part.passages]
        return joined

    def split(self, counts: Iterable[int]) -> Iterator[Scored]:
        """Yield so many documents at a time."""
        start = 0
        for count in counts:
            part = slice(start, start + count)
            yield Scored(
                self.texts[part],
                self.logits[part],
                self.tokens[part],
                self.truncated[part],
                self.characters_read[part],
                self.unknown[part],
                self.passages[part],
            )
            start += count

    @property
    def coverage(self) -> Coverage:
        """How much of the documents was read."""
        truncated = self.truncated.nonzero()[0]
        return Coverage(
            documents=len(self.texts),
            truncated=len(truncated),
            cut_characters=sum(len(self.texts[place]) for place in truncated),
            read_characters=int(self.characters_read[truncated].sum()),
            blank=int((self.tokens == 0).sum()),
            tokens=int(self.tokens.sum()),
            unknown=int(self.unknown.sum()),
        )


def _score_remotely(
    model: RemoteModel,
    lists: Sequence[Candidates],
    options: RankOptions,
    on_progress: Progress | None,
    *,
    with_blanks: bool,
) -> list[Scored]:
    """Let a server score what is not blank."""
    results = []
    kept = [
        [place for place, one in enumerate(candidates.documents) if with_blanks or not is_blank(one.text)]
        for candidates in lists
    ]
    to_send = [
        Candidates(one.query, [one.documents[place] for place in places])
        for one, places in zip(lists, kept, strict=True)
    ]
    answers = model.score(to_send, options, on_progress)
    for candidates, places, of_kept in zip(lists, kept, answers, strict=True):
        scored = Scored.unread([document.text for document in candidates.documents])
        for place, answer in zip(places, of_kept, strict=True):
            if answer["relevance_score"] is None:  # blank
                continue
            scored.logits[place] = answer["relevance_score"]
            for name in ("tokens", "truncated", "characters_read"):
                getattr(scored, name)[place] = answer[name]
            if "line" in answer:
                start, end = answer["start"], answer["end"]
                scored.passages[place] = Passage(scored.texts[place][start:end], start, end, answer["line"])
        results.append(scored)
    return results


def _passage_size(options: RankOptions, room: int, max_length: int) -> tuple[int, int]:
    """Return the tokens of a passage and of an overlap: those asked for, as far as the query leaves room."""
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


def _in_documents(on_progress: Progress, documents: int, rows: int) -> Progress:
    """Return what to call with the number of rows finished, of `rows`, that make up `documents`."""
    finished = 0

    def report(count: int) -> None:
        nonlocal finished
        before = documents * finished // rows
        finished += count
        on_progress(documents * finished // rows - before)

    return report


def _require_numbers(
    logits: NDArray[np.float32], places: NDArray[np.intp], lists: Sequence[Candidates]
) -> None:
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise UnavailableError(
            f"The model gave {logits[bad[0]]} for {_name_document(lists, places[bad[0]])}: no score.",
            hint="Give --precision fp32; if it stays, the model is damaged.",
        )


def _name_document(lists: Sequence[Candidates], place: int) -> str:
    """Say which document it is, by where it came from, its place in its list and its id."""
    for candidates in lists:
        if place < len(candidates.documents):
            break
        place -= len(candidates.documents)
    document = candidates.documents[place]
    name = "" if document.id is None else f" (id {document.id})"
    return told_from(document.origin, f"document {place}{name}")


def _pairs_of(lists: Sequence[Candidates]) -> list[Pair]:
    return [(one.query.text, document.text) for one in lists for document in one.documents]
