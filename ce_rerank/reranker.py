"""Reranker: the door for Python users."""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .errors import UsageError, as_python, for_python
from .inputs import (
    CandidatesInput,
    DocumentInput,
    QueryInput,
    as_candidates,
    as_field_rules,
    as_pairs,
    read_candidates,
)
from .pipeline import Pipeline, Progress, Scored
from .types import (
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .engines.base import Engine

log = logging.getLogger("ce_rerank")


class Reranker(Pipeline):
    """A cross-encoder that ranks documents.

    `model` is the name of a model on the hub or a folder with a checkpoint; by default the offline weights
    where they are installed, else cross-encoder/ms-marco-MiniLM-L-6-v2. Constructing loads it. `device` is
    auto, cpu, cuda, cuda:N or mps; `engine` auto, openvino or torch; `precision` auto, fp32, bf16 or fp16.
    `max_length` lowers the model's limit and `batch_tokens` sets the budget of a batch, both in tokens;
    `threads` bounds the CPU threads. `instruction` is the task of models that take one, in place of their
    own. With `offline` the network is never tried. `trust_remote_code` and `allow_pickle` let a model run
    code of its own, as part of it or from its pickled weights. Where `model` is the URL of a running
    `ce-rerank serve`, its model scores, and the other arguments are the server's business.

    One instance may be used from several threads, copied, pickled, and used in a forked process: the copy and
    the process load the model again. Raises UsageError for arguments that cannot mean anything and
    UnavailableError for a model, device or engine that is unavailable.

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
        instruction: str | None = None,
        offline: bool = False,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        from .engines.hardware import parse_device

        texts = {
            "model": (model, str | Path | None),
            "device": (device, str),
            "revision": (revision, str | None),
            "instruction": (instruction, str | None),
        }
        for name, (text, kinds) in texts.items():
            if not isinstance(text, kinds):
                raise UsageError(f"{name} is {text!r}.", hint="Give a string.")
        for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens), ("threads", threads)):
            require_whole_number(name, value)
        require_choice("engine", engine, get_args(EngineName))
        require_choice("precision", precision, get_args(Precision))
        device = parse_device(device)
        self._arguments = arguments
        if str(model).startswith(("http://", "https://")):
            given = [device, engine, precision, revision, max_length, batch_tokens, threads, instruction]
            if given != ["auto", "auto", "auto", *[None] * 5]:
                raise UsageError(
                    "The model is a server's, which has chosen its device, precision and limits.",
                    hint="Leave these options out, or give them to ce-rerank serve.",
                )
            self._connect(str(model))
            return
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
            instruction=instruction,
        )
        super().__init__(load_engine(checkpoint, options), batch_tokens)
        _loaded.add(self)
        log.info("%s, up to %d tokens a pair", self.info.description, self.info.max_length)

    @classmethod
    def from_engine(cls, engine: Engine, *, batch_tokens: int | None = None) -> Reranker:
        """Make a reranker of an engine that is already loaded."""
        reranker = cls.__new__(cls)
        Pipeline.__init__(reranker, engine, batch_tokens)
        return reranker

    def __repr__(self) -> str:
        info = self.info
        return f"<Reranker {info.model}, {info.engine} {info.precision} on {info.device}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_again, (self._arguments,)

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
        bm25: int | None = None,
        bm25_language: str = "english",
        first_score_field: str | None = None,
        blend: float = 0.0,
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
        on_progress: Progress | None = None,
    ) -> Ranking:
        """Rank the documents of one query, best first; equal scores keep the order of the documents.

        A document is a string, a mapping with a text field, or a `Document`; the rows of a pandas or polars
        DataFrame or a pyarrow Table are mappings. `text_field` names the fields that hold the text, joined
        with a space, and `id_field` the one with the id; without them the usual names are looked for. The
        other arguments are those of `RankOptions`; `on_progress` is called with the number of documents just
        scored.

        A document without a letter, digit or symbol is not scored: it ranks last, with a score of -inf. A
        document that is cut is marked in the result. The numbers of both are logged as a warning.

        Raises UsageError for arguments that cannot mean anything, InputError for a document or query that
        cannot be scored, UnavailableError when the model gives no number for one.
        """
        options = RankOptions(
            top_k, min_score, scores, long, chunk_tokens, chunk_overlap, pool,
            bm25, bm25_language, first_score_field, blend,
        )  # fmt: skip
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress is {on_progress!r}.", hint="Give a function of one number.")
        candidates = as_candidates(query, documents, rules=as_field_rules(text_field, id_field))
        (ranking,) = self.rank_lists([candidates], options, on_progress=on_progress)
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
        bm25: int | None = None,
        bm25_language: str = "english",
        first_score_field: str | None = None,
        blend: float = 0.0,
        text_field: str | Sequence[str] = (),
        id_field: str | None = None,
    ) -> Iterator[Ranking]:
        """Rank many queries, lazily and in order, scoring the pairs of a bounded number of them together.

        An item is a query with its documents: a pair of what `rank` takes, `Candidates`, or a mapping like
        `{"query": "...", "documents": [...]}`, as `ce-rerank batch` reads them. Cut and blank documents are
        marked in the results and not logged. Raises as `rank` does.
        """
        with for_python():
            options = RankOptions(
                top_k, min_score, scores, long, chunk_tokens, chunk_overlap, pool,
                bm25, bm25_language, first_score_field, blend,
            )  # fmt: skip
            lists = read_candidates(queries, as_field_rules(text_field, id_field))
            for candidates in self.plan_pools(options).cut(lists):
                yield from self.rank_lists(candidates, options)

    @for_python()
    def score(
        self, pairs: Iterable[Pair | Mapping[str, str]], *, scores: ScoreScale = "model"
    ) -> NDArray[np.float32]:
        """Score (query, document) pairs; return float32 of shape (pairs,), in the order of `pairs`.

        A pair is a tuple or list of two strings, or a mapping like `{"query": "...", "text": "..."}`. Blank
        documents get what the model gives them. How many documents were cut is logged as a warning. Raises as
        `rank` does.
        """
        parts = self.score_lists(as_pairs(pairs), RankOptions(), with_blanks=True)
        scored = Scored.join(parts)
        self._warn_of_unread(scored.coverage)
        self._warn_of_equal_logits(scored)
        return self._to_scale(scored.logits, scores)

    def _warn_of_unread(self, coverage: Coverage, long: LongPolicy | None = None) -> None:
        for sentence in coverage.describe(self.info.max_length, long):
            log.warning("%s", as_python(sentence))


class _LeftBehind:
    """Stands for an engine in a forked process, where its threads are gone, until it is needed."""

    def __init__(self, reranker: Reranker) -> None:
        engine = reranker._engine
        # Freed, it would wait for its threads and end the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
        self._reranker = weakref.ref(reranker)
        self._was_torch = engine.info.engine == "torch"

    def __getattr__(self, name: str) -> Any:
        reranker = self._reranker()
        assert reranker is not None
        if self._was_torch:
            import torch

            torch.set_num_threads(1)  # with more, torch waits for threads that are not here
            log.warning(
                "This process was forked after the model was loaded, so that torch has one thread here. "
                "Load the model in the new process to have all."
            )
        Reranker.__init__(reranker, **reranker._arguments)
        return getattr(reranker._engine, name)


_loaded: weakref.WeakSet[Reranker] = weakref.WeakSet()


def _leave_engines_behind() -> None:
    for reranker in _loaded:
        reranker._engine = _LeftBehind(reranker)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_engines_behind)


def _load_again(arguments: Mapping[str, Any]) -> Reranker:
    return Reranker(**arguments)
