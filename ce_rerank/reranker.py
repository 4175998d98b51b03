"""Reranker: the door for Python users, and what ranks for the command line and the server."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .errors import UsageError, as_python, from_system, told_from
from .formats.fields import find_number
from .inputs import (
    CandidatesInput,
    DocumentInput,
    QueryInput,
    as_candidates,
    as_field_rules,
    as_pairs,
    read_candidates,
)
from .pipeline import POOL_BATCHES, POOL_TOKENS, LocalModel, PoolPlan
from .ranking import ACTIVATIONS, Scored, blend, measure_coverage, select_top, unscored
from .types import (
    Candidates,
    Coverage,
    Document,
    EngineName,
    LongPolicy,
    OnProgress,
    Pair,
    Passage,
    Precision,
    RankedDocument,
    Ranking,
    RankKeywords,
    RankOptions,
    ScoreScale,
    require_whole_number,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .engines.base import Engine, EngineInfo
    from .remote import RemoteModel

log = logging.getLogger("ce_rerank")


class Reranker:
    """A cross-encoder that ranks documents.

    `model` is the name of a model on the hub or a folder with a checkpoint; by default the offline weights
    where they are installed, else cross-encoder/ms-marco-MiniLM-L-6-v2. Constructing loads it. `device` is
    auto, cpu, cuda, cuda:N or mps; `engine` auto, openvino or torch; `precision` auto, fp32, bf16, fp16 or
    int8. `max_length` lowers the model's limit and `batch_tokens` sets the budget of a batch, both in tokens;
    `threads` bounds the CPU threads. `instruction` is the task of models that take one, in place of their
    own. With `offline` the network is never used. `trust_remote_code` runs Python code that comes with the
    model, and `allow_pickle` loads pickled weights, which can run any code. If `model` is the URL of a
    running `ce-rerank serve`, its model scores, and the server decides all the rest.

    Threads may share an instance. It can be copied, pickled and used in a forked process: the copy or the
    process loads the model again. Raises UsageError for a wrong argument and UnavailableError for a model,
    device or engine that is unavailable.

        for hit in Reranker().rank("query", ["a", "b"], top_k=3):
            print(hit.index, hit.score, hit.text)
    """

    info: EngineInfo
    """What runs, where and how: engine, device, precision, model, limits and scale."""

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
        instruction: str | None = None,
        offline: bool = False,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        from .engines.base import EngineOptions
        from .engines.hardware import parse_device
        from .models.store import is_url, resolve_checkpoint

        for name, text in {"model": model, "revision": revision, "instruction": instruction}.items():
            if not isinstance(text, str | Path | None):
                raise UsageError(f"{name} is {text!r}.", hint="Give a string.")
        require_whole_number("batch_tokens", batch_tokens)
        options = EngineOptions(
            engine, parse_device(device), precision, max_length, threads, instruction=instruction
        )
        self._arguments = arguments
        if is_url(str(model)):
            if (options, revision, batch_tokens) != (EngineOptions(), None, None):
                raise UsageError(
                    "The server has chosen its device, precision and limits.",
                    hint="Leave these options out, or give them to ce-rerank serve.",
                )
            from .remote import RemoteModel

            self._start(RemoteModel(str(model)))
        else:
            from .engines import load_engine

            trust: dict[str, Any] = {"trust_remote_code": trust_remote_code, "offline": offline}
            asked = None if model is None else str(model)
            try:
                checkpoint = resolve_checkpoint(asked, revision=revision, allow_pickle=allow_pickle, **trust)
                self._start(LocalModel(load_engine(checkpoint, replace(options, **trust)), batch_tokens))
            except OSError as error:
                raise from_system(error) from error
        _loaded.add(self)
        log.info("%s, up to %d tokens a pair", self.info.description, self.info.max_length)

    @classmethod
    def from_engine(cls, engine: Engine, *, batch_tokens: int | None = None) -> Reranker:
        """Make a reranker of an engine that is already loaded."""
        reranker = cls.__new__(cls)
        reranker._start(LocalModel(engine, batch_tokens))
        return reranker

    def _start(self, model: LocalModel | RemoteModel) -> None:
        self._model: LocalModel | RemoteModel | None = model
        self.info = model.info
        self._has_warned = False

    def __repr__(self) -> str:
        info = self.info
        return f"<Reranker {info.model}, {info.engine} {info.precision} on {info.device}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Reranker, **self._arguments), ()

    @property
    def model(self) -> LocalModel | RemoteModel:
        """What scores. In a forked process it is loaded again when it is first asked for."""
        if self._model is None:
            if self.info.engine == "torch" and (torch := sys.modules.get("torch")):
                torch.set_num_threads(1)  # with more, torch waits for threads that are not here
                log.warning(
                    "This process was forked after the model was loaded, so that torch has one thread here. "
                    "Load the model in the new process to have all."
                )
            Reranker.__init__(self, **self._arguments)
        assert self._model is not None
        return self._model

    def rank(
        self,
        query: QueryInput,
        documents: Iterable[DocumentInput],
        *,
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[RankKeywords],
    ) -> Ranking:
        """Rank the documents of one query, best first; equal scores keep the order of the documents.

        A document is a string, a mapping with a text field, or a `Document`; the rows of a pandas or polars
        DataFrame or a pyarrow Table are mappings. `text_field` names the fields that hold the text, joined
        with a space, and `id_field` the one with the id; without them the usual names are looked for.
        `on_progress` is called with the number of documents just scored. `options` are those of
        `RankOptions`: `top_k`, `min_score`, `scores`, `long` and so on.

        A document without a letter, digit or symbol is not scored: it ranks last, with a score of -inf. A
        document that is cut is marked in the result. How many there are of both is logged as a warning.

        Raises UsageError for a wrong argument, InputError for a document or query that cannot be scored, and
        UnavailableError if the model gives no number for one.
        """
        asked = RankOptions.from_keywords(options)
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress is {on_progress!r}.", hint="Give a function of one number.")
        candidates = as_candidates(query, documents, rules=as_field_rules(text_field, id_field))
        (ranking,) = self.rank_lists([candidates], asked, on_progress=on_progress)
        self._warn_of_unread(ranking.coverage, asked.long)
        return ranking

    def rank_many(
        self,
        queries: Iterable[CandidatesInput],
        *,
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
        **options: Unpack[RankKeywords],
    ) -> Iterator[Ranking]:
        """Rank many queries, lazily and in order; the pairs of several queries are scored together.

        An item is a pair of what `rank` takes, `Candidates`, or a mapping as `ce-rerank batch` reads it:
        `{"query": "...", "documents": [...]}`. Cut and blank documents are marked in the results and not
        logged. Arguments and errors are those of `rank`.
        """
        asked = RankOptions.from_keywords(options)
        lists = read_candidates(queries, as_field_rules(text_field, id_field))
        for pool in self.plan_pools(asked).cut(lists):
            yield from self.rank_lists(pool, asked)

    def score(
        self, pairs: Iterable[Pair | Mapping[str, str]], *, scores: ScoreScale = "model"
    ) -> NDArray[np.float32]:
        """Score (query, document) pairs; return float32 of shape (pairs,), in the order of `pairs`.

        A pair is a tuple or list of two strings, or a mapping like `{"query": "...", "text": "..."}`. Blank
        documents are scored, too. How many documents were cut is logged as a warning. Errors are those of
        `rank`.
        """
        import numpy as np

        lists = as_pairs(pairs)
        tables = self.model.score_lists(lists, RankOptions(), with_blanks=True)
        scored = np.concatenate([unscored([]), *tables])
        self._warn_of_unread(measure_coverage(scored))
        self._warn_of_equal_logits([document for one in lists for document in one.documents], scored)
        return self._to_scale(scored["logit"].copy(), scores)

    def rank_lists(
        self, lists: Sequence[Candidates], options: RankOptions, *, on_progress: OnProgress | None = None
    ) -> list[Ranking]:
        """Rank the documents of several queries, scored together; return a ranking for each, in their order.

        Errors are those of `rank`. Documents that were cut are marked, and not logged.
        """
        lists = [self.take_first_stage(candidates, options) for candidates in lists]
        tables = self.model.score_lists(lists, options, on_progress)
        return [self.make_ranking(one, scored, options) for one, scored in zip(lists, tables, strict=True)]

    def plan_pools(self, options: RankOptions) -> PoolPlan:
        """Return how many queries to score together."""
        most = self.info.max_length if options.long == "truncate" else None
        return PoolPlan(max(POOL_TOKENS, POOL_BATCHES * self.model.batch_tokens), most)

    def take_first_stage(self, candidates: Candidates, options: RankOptions) -> Candidates:
        """Return the documents that BM25 chooses, or all of them with the first scores of a field."""
        if options.first_score_field is not None:
            name = options.first_score_field
            scores = [find_number(one, name, place) for place, one in enumerate(candidates.documents)]
            return replace(candidates, first_scores=scores)
        if options.bm25 is None or candidates.first_scores:
            if options.blend and len(candidates.first_scores) != len(candidates.documents):
                problem = "--blend mixes in a first stage's score, and there is none."
                raise UsageError(problem, hint="Give --bm25 or --first-score-field.")
            return candidates
        from .retrieval import choose

        chosen = choose(candidates, options)
        if candidates.documents and not chosen.documents:
            name = told_from(candidates.query.origin, f'"{candidates.query.text}"')
            log.warning("No document shares a word with the query %s, so that none is scored.", name)
        return chosen

    def make_ranking(self, candidates: Candidates, scored: Scored, options: RankOptions) -> Ranking:
        """Rank a query's documents by what was scored: scale, order, threshold and number of results."""
        documents, first_scores, places = candidates.documents, candidates.first_scores, candidates.places
        self._warn_of_equal_logits(documents, scored)
        logits = scored["logit"].copy()  # a column by itself, which engines take
        values = model_values = self._to_scale(logits, options.scores)
        if options.blend:
            values = blend(logits, first_scores, options.blend)
        first_ranks: dict[int, int] = {}
        if options.bm25 is not None:
            first_ranks = {place: rank for rank, place in enumerate(select_top(first_scores), start=1)}
        order = select_top(values, top_k=options.top_k, min_score=options.min_score)
        scores, model_scores = values.tolist(), model_values.tolist()
        results = []
        for rank, (place, facts) in enumerate(zip(order, scored[order].tolist(), strict=True), start=1):
            _, tokens, _, characters_read, truncated, _, start, end, line = facts
            results.append(
                RankedDocument(
                    document=documents[place],
                    index=place if places is None else places[place],
                    rank=rank,
                    score=scores[place],
                    tokens=tokens,
                    truncated=truncated,
                    characters_read=characters_read,
                    passage=Passage(documents[place].text[start:end], start, end, line) if line else None,
                    model_score=model_scores[place] if options.blend else None,
                    first_score=first_scores[place] if first_scores else None,
                    first_rank=first_ranks.get(place),
                )
            )
        coverage = replace(measure_coverage(scored), left_out=candidates.left_out)
        return Ranking(candidates.query, tuple(results), coverage)

    def _to_scale(self, logits: NDArray[np.float32], scale: ScoreScale) -> NDArray[np.float32]:
        """Return scores on a scale; those of documents that were not scored stay -inf."""
        import numpy as np

        if scale == "logit":
            return logits
        activate = self.model.activate if scale == "model" else ACTIVATIONS[scale]
        return np.where(np.isneginf(logits), logits, activate(logits))

    def _warn_of_unread(self, coverage: Coverage, long: LongPolicy | None = None) -> None:
        for sentence in coverage.describe(self.info.max_length, long):
            log.warning("%s", as_python(sentence))

    def _warn_of_equal_logits(self, documents: Sequence[Document], scored: Scored) -> None:
        """Warn once if two or more different documents all have exactly the same logit."""
        logits = scored["logit"][scored["tokens"] > 0]
        if self._has_warned or len(logits) < 2 or logits.min() < logits.max():
            return
        facts = zip(documents, scored["characters_read"].tolist(), scored["tokens"].tolist(), strict=True)
        read = {" ".join(document.text[:end].lower().split()) for document, end, tokens in facts if tokens}
        if len(read) > 1:
            self._has_warned = True
            log.warning(
                "The model gave all of %d different documents the same score: %s may be broken, or no "
                "reranker.",
                len(read),
                self.info.model,
            )


_loaded: weakref.WeakSet[Reranker] = weakref.WeakSet()


def _leave_models_behind() -> None:
    """Forget the models in a forked process, where their threads are gone."""
    for reranker in _loaded:
        # Freed, it would wait for its threads and end the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(reranker._model))
        reranker._model = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_models_behind)
