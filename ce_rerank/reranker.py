"""Reranker: the pipeline from documents to a ranking, and the door for Python users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from .errors import InputError, UsageError, as_python, for_python, told_from
from .formats.fields import FieldRules
from .inputs import CandidatesInput, DocumentInput, QueryInput, as_candidates, as_pairs, read_candidates
from .ranking import is_blank, sigmoid
from .reading import describe_coverage, in_groups, read_pairs
from .results import (
    Scored,
    blank_document,
    name_document,
    pool_passages,
    score_reading,
    select_results,
)
from .types import (
    Candidates,
    Coverage,
    EngineName,
    LongPolicy,
    Pair,
    PoolName,
    Precision,
    Ranking,
    RankOptions,
    ScoreScale,
    require_choice,
    require_whole_number,
)
from .windows import WindowPlan, cut_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .engines.base import Engine, EngineInfo

log = logging.getLogger("ce_rerank")

Progress = Callable[[int], None]

_LEAST_DOCUMENT_TOKENS = 64  # a query that leaves less than this for documents is refused


class Reranker:
    """A cross-encoder that ranks documents.

    `model` is the name of a model on the hub or a folder with a checkpoint; by default the offline weights
    where they are installed, else cross-encoder/ms-marco-MiniLM-L-6-v2. Constructing loads it. `device` is
    auto, cpu, cuda, cuda:N or mps; `engine` auto, openvino or torch; `precision` auto, fp32, bf16 or fp16.
    `max_length` lowers the model's limit and `batch_tokens` sets the budget of a batch, both in tokens;
    `threads` bounds the CPU threads. With `offline` the network is never tried. `trust_remote_code` and
    `allow_pickle` let a model run code of its own, as part of it or from its pickled weights.

    One instance may be used from several threads. Raises UsageError for arguments that cannot mean anything
    and UnavailableError for a model, device or engine that is not to be had.

        for hit in Reranker().rank("query", ["a", "b"], top_k=3):
            print(hit.index, hit.score, hit.text)
    """

    @for_python()
    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        engine: EngineName = "auto",
        precision: Precision = "auto",
        revision: str | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
        offline: bool = False,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        from .engines.hardware import parse_device

        for name, text, kinds in (
            ("model", model, str | Path | None),
            ("device", device, str),
            ("revision", revision, str | None),
        ):
            if not isinstance(text, kinds):
                raise UsageError(f"{name} is {text!r}.", hint="Give a string.")
        device = parse_device(device)
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens), ("threads", threads)):
            require_whole_number(name, value)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}.", hint="Give at least 1.")
        require_choice("engine", engine, get_args(EngineName))
        require_choice("precision", precision, get_args(Precision))
        from .engines import load_engine
        from .engines.base import EngineOptions
        from .models.store import resolve_checkpoint

        checkpoint = resolve_checkpoint(
            None if model is None else str(model),
            revision=revision,
            offline=offline,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
        options = EngineOptions(
            engine,
            device,
            precision,
            max_length,
            threads,
            trust_remote_code=trust_remote_code,
            offline=offline,
        )
        self._start(load_engine(checkpoint, options), batch_tokens)
        log.info("%s, up to %d tokens a pair", self.info.description, self.info.max_length)

    @classmethod
    def from_engine(cls, engine: Engine, *, batch_tokens: int | None = None) -> Reranker:
        """Make a reranker of an engine that is already loaded."""
        reranker = cls.__new__(cls)
        reranker._start(engine, batch_tokens)
        return reranker

    def _start(self, engine: Engine, batch_tokens: int | None) -> None:
        self._engine = engine
        self._batch_tokens = batch_tokens
        # A query is tokenized once, though its room is asked for by whoever reads it and whoever scores it.
        self._room_beside = lru_cache(maxsize=4096)(engine.tokenizer.document_room)
        self._warned_of: set[str] = set()

    def __repr__(self) -> str:
        info = self.info
        return f"<Reranker {info.model}, {info.engine} {info.precision} on {info.device}>"

    @property
    def info(self) -> EngineInfo:
        """What runs, where and how: engine, device, precision, model, limits and scale."""
        return self._engine.info

    def plan_windows(self, options: RankOptions) -> WindowPlan:
        """Say how much of many queries is pooled: enough to fill batches, little enough to wait for."""
        most = self.info.max_length if options.long == "truncate" else None
        return WindowPlan.of(self._batch_tokens or self._engine.batch_tokens, most)

    @for_python()
    def rank(
        self,
        query: QueryInput,
        documents: Iterable[DocumentInput],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        scores: ScoreScale = "model",
        long: LongPolicy = "truncate",
        chunk_tokens: int | None = None,
        chunk_overlap: int | None = None,
        pool: PoolName = "max",
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
        on_progress: Progress | None = None,
    ) -> Ranking:
        """Rank the documents of one query, best first; equal scores keep the order of the documents.

        A document is a string, a mapping with a text field, or a `Document`; the rows of a pandas or polars
        DataFrame or a pyarrow Table are mappings. `text_field` names the fields that hold the text, joined
        with a space, and `id_field` the one with the id; without them the usual names are looked for. The
        other arguments are those of `RankOptions`; `on_progress` is called with the number of documents
        just scored.

        A document without a letter, digit or symbol is not scored: it ranks last, with a score of -inf. A
        document that is cut is marked in the result. The numbers of both are logged as a warning.

        Raises UsageError for arguments that cannot mean anything, InputError for a document or query that
        cannot be scored, UnavailableError when the model gives no number for one.
        """
        options = RankOptions(top_k, min_score, scores, long, chunk_tokens, chunk_overlap, pool)
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress is {on_progress!r}.", hint="Give a function of one number.")
        candidates = as_candidates(query, documents, rules=_field_rules(text_field, id_field))
        ranking = self.rank_lists([candidates], options, on_progress=on_progress)[0]
        self._warn_of_unread(ranking.coverage, long)
        return ranking

    def rank_many(
        self,
        queries: Iterable[CandidatesInput],
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        scores: ScoreScale = "model",
        long: LongPolicy = "truncate",
        chunk_tokens: int | None = None,
        chunk_overlap: int | None = None,
        pool: PoolName = "max",
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
    ) -> Iterator[Ranking]:
        """Rank many queries, lazily and in order, pooling the pairs of a bounded window of them.

        An item is a query with its documents: a pair of what `rank` takes, `Candidates`, or a mapping like
        `{"query": "...", "documents": [...]}`, as `ce-rerank batch` reads them. Cut and blank documents are
        marked in the results and not logged. Raises as `rank` does.
        """
        with for_python():
            options = RankOptions(top_k, min_score, scores, long, chunk_tokens, chunk_overlap, pool)
        lists = read_candidates(queries, _field_rules(text_field, id_field))
        with for_python():
            for window in cut_windows(lists, self.plan_windows(options)):
                yield from self.rank_lists(window, options)

    def rank_lists(
        self, lists: Sequence[Candidates], options: RankOptions, *, on_progress: Progress | None = None
    ) -> list[Ranking]:
        """Rank candidate lists with all their pairs pooled; gives a ranking for each, in their order."""
        self._require_room(lists)
        if options.long == "error":
            self._require_whole(lists)
        pairs = _pairs_of(lists)
        places = [place for place, (_, text) in enumerate(pairs) if not is_blank(text)]
        if on_progress is not None and len(places) < len(pairs):
            on_progress(len(pairs) - len(places))
        scored = [blank_document(text) for _, text in pairs]
        for place, one in zip(
            places, self._score_pairs([pairs[place] for place in places], options, on_progress), strict=True
        ):
            scored[place] = one
        rankings = []
        start = 0
        for candidates in lists:
            stop = start + len(candidates.documents)
            rankings.append(select_results(candidates, scored[start:stop], options))
            start = stop
        return rankings

    def require_scorable(self, candidates: Candidates, options: RankOptions) -> None:
        """Raise InputError for a query that leaves no room, or a document too long where that is refused."""
        self._require_room([candidates])
        if options.long == "error":
            self._require_whole([candidates])

    @for_python()
    def score(
        self, pairs: Iterable[Pair | Mapping[str, str]], *, scores: ScoreScale = "model"
    ) -> NDArray[np.float32]:
        """Score (query, document) pairs; return float32 of shape (pairs,), in the order of `pairs`.

        A pair is a tuple or list of two strings, or a mapping like `{"query": "...", "text": "..."}`. Blank
        documents get what the model gives them. How many documents were cut is logged as a warning. Raises as
        `rank` does.
        """
        import numpy as np

        options = RankOptions(scores=scores)
        lists = as_pairs(pairs)
        self._require_room(lists)
        scored = self._score_pairs(_pairs_of(lists), options, None)
        rankings = [select_results(one, [of_one], options) for one, of_one in zip(lists, scored, strict=True)]
        self._warn_of_unread(sum((ranking.coverage for ranking in rankings), Coverage()))
        return np.array([one.score for one in scored], dtype=np.float32)

    def _score_pairs(
        self, pairs: Sequence[Pair], options: RankOptions, on_progress: Progress | None
    ) -> list[Scored]:
        parts: list[list[Scored]] = [[] for _ in pairs]
        for group in in_groups(read_pairs(self._engine.tokenizer, pairs, options, self._room_beside)):
            rows = [reading.tokens for reading in group]
            documents = sum(not parts[place] for place in {reading.place for reading in group})
            progress = on_progress and _in_documents(documents, len(group), on_progress)
            logits = self._engine.score_rows(rows, self._batch_tokens, progress)
            for reading, logit in zip(group, logits.tolist(), strict=True):
                parts[reading.place].append(score_reading(reading, logit))
                if reading.tokens.truncated:
                    self._warn_of_long_query(pairs[reading.place][0])
        # Pooled as logits, so that the same passage is the best on every scale.
        pooled = [
            pool_passages(of_document, len(document), options)
            for of_document, (_, document) in zip(parts, pairs, strict=True)
        ]
        self._warn_of_equal_logits(pairs, pooled)
        scores = self._to_scale([one.score for one in pooled], options.scores)
        return [replace(one, score=score) for one, score in zip(pooled, scores, strict=True)]

    def _warn_of_unread(self, coverage: Coverage, long: LongPolicy | None = None) -> None:
        for sentence in describe_coverage(coverage, self.info.max_length, long):
            log.warning("%s", as_python(sentence))

    def _warn_of_long_query(self, query: str) -> None:
        """Warn, once, of a query that sentence-transformers would cut beside a document that is cut."""
        if 2 * self._room_beside(query) < self._room_beside(""):
            self._warn_once(
                f"A query takes more than half of the model's {self.info.max_length:,} tokens. Documents are "
                "cut to what it leaves; sentence-transformers would cut the query, too, and score otherwise."
            )

    def _warn_of_equal_logits(self, pairs: Sequence[Pair], scored: Sequence[Scored]) -> None:
        """Warn, once, when all of two or more different documents of a query have the same logit."""
        for _, group in groupby(zip(pairs, scored, strict=True), key=lambda scored_pair: scored_pair[0][0]):
            of_query = list(group)
            if len({one.score for _, one in of_query}) > 1:
                continue
            read = {" ".join(text[: one.characters_read].lower().split()) for (_, text), one in of_query}
            if len(read) > 1:
                self._warn_once(
                    f"The model gave all of {len(read)} different documents the same score: "
                    f"{self.info.model} may be broken, or no reranker."
                )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned_of:
            self._warned_of.add(message)
            log.warning("%s", message)

    def _to_scale(self, logits: Sequence[float], scale: ScoreScale) -> Sequence[float]:
        import numpy as np

        if scale == "logit":
            return logits
        values = np.array(logits, dtype=np.float32)
        scores = sigmoid(values) if scale == "sigmoid" else self._engine.activate(values)
        # A scale must not hide what is no number: the sigmoid of infinity is a perfect score.
        kept: list[float] = np.where(np.isfinite(values), scores, values).tolist()
        return kept

    def _require_room(self, lists: Sequence[Candidates]) -> None:
        """Refuse a query that leaves too little of the model for documents: it is never cut itself."""
        limit = self.info.max_length
        least = min(_LEAST_DOCUMENT_TOKENS, limit // 4)
        for query in {candidates.query.text: candidates.query for candidates in lists}.values():
            room = self._room_beside(query.text)
            if room < least:
                problem = (
                    f"the query takes {limit - room} of the model's {limit} tokens and leaves {max(room, 0)} "
                    f"for a document; at least {least} are needed."
                )
                raise InputError(told_from(query.origin, problem), hint="Shorten the query.")

    def _require_whole(self, lists: Sequence[Candidates]) -> None:
        """Refuse documents that the model cannot read to their end, before any is scored."""
        readings = read_pairs(self._engine.tokenizer, _pairs_of(lists), RankOptions(), self._room_beside)
        cut = [reading.tokens.truncated for reading in readings]
        if not any(cut):
            return
        named = [
            name_document(document, place)
            for candidates in lists
            for place, document in enumerate(candidates.documents)
        ]
        raise InputError(
            f"{named[cut.index(True)]} is longer than the model's {self.info.max_length} tokens with its "
            f"query; {sum(cut)} of {len(cut)} documents are.",
            hint="Give --long chunk to score it whole, or --long truncate to score its beginning.",
        )


def _field_rules(text_field: object, id_field: object) -> FieldRules:
    text_fields = (text_field,) if isinstance(text_field, str) else text_field
    if not isinstance(text_fields, tuple | list) or not all(isinstance(name, str) for name in text_fields):
        raise UsageError(
            f"text_field is {text_field!r}.", hint="Give the name of a field, or a list of them."
        )
    if id_field is not None and not isinstance(id_field, str):
        raise UsageError(f"id_field is {id_field!r}.", hint="Give the name of a field.")
    return FieldRules(tuple(text_fields), id_field)


def _pairs_of(lists: Sequence[Candidates]) -> list[Pair]:
    return [(one.query.text, document.text) for one in lists for document in one.documents]


def _in_documents(documents: int, rows: int, on_progress: Progress) -> Progress:
    """Return what counts `documents` as done in step with the `rows`, pairs or passages, that are scored."""
    scored = counted = 0

    def count(more: int) -> None:
        nonlocal scored, counted
        scored += more
        done = documents * scored // rows
        on_progress(done - counted)
        counted = done

    return count
