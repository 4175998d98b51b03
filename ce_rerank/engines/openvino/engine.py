"""The compiled engine: the CPU, by OpenVINO, without torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from ...models.offline import NOTE
from ...models.store import Checkpoint
from ..base import EngineInfo, EngineOptions
from ..batching import Float32s, PairTokens, TokenBatch, score_in_batches
from ..tokenizer import PairTokenizer, instruct
from .arrangements import Arrangements, RefusedError
from .cache import CompiledModel, discard_damaged, prepare_compiled
from .manifest import TOKENIZER_NAME
from .runtime import load_runtime

log = logging.getLogger("ce_rerank")

_FEW_BATCHES = 8  # are done before several streams are ready


def load_openvino_engine(
    checkpoint: Checkpoint, options: EngineOptions, precisions: Sequence[str]
) -> OpenVinoEngine:
    """Load the compiled form of a checkpoint; compile it first if need be.

    It runs in the first of the precisions in which it gives its reference scores; that one was not true is
    logged as a warning. Raises CannotCompileError, and RefusedError when none is true.
    """
    compiled = prepare_compiled(checkpoint)
    # The weights take as long to read through as all else takes to load, so that is done side by side; but
    # nothing is scored before they are known to be whole.
    pool = ThreadPoolExecutor(2)
    try:
        whole = pool.submit(compiled.weights_are_whole)
        core = load_runtime().Core()
        candidates = [Arrangements(core, compiled, precision, options.threads) for precision in precisions]
        candidates[0].load_ahead(pool)
        tokenizer = _load_tokenizer(compiled, options.max_length, options.instruction)
        if not whole.result():
            log.warning("The compiled form of %s was damaged on disk; it is made anew.", checkpoint.name)
            discard_damaged(compiled)
            return load_openvino_engine(checkpoint, options, precisions)
    finally:
        pool.shutdown(wait=False)
    arrangements = _choose_true(candidates, compiled)
    origin, revision, notes = compiled.manifest.origin, checkpoint.revision, checkpoint.notes
    if checkpoint.source == "compiled":
        revision, notes = origin.revision, (f"compiled from {origin.name}",)
        notes += (NOTE,) if origin.source == "offline" else ()
    model = compiled.manifest.model
    info = EngineInfo(
        engine="openvino",
        device="cpu",
        precision=arrangements.precision,
        model=checkpoint.name,
        revision=revision,
        max_length=tokenizer.max_length,
        activation=model.activation,
        instruction=model.instruction if options.instruction is None else options.instruction,
        notes=notes,
    )
    return OpenVinoEngine(arrangements, tokenizer, info)


class OpenVinoEngine:
    """A compiled model behind the engine protocol."""

    def __init__(self, arrangements: Arrangements, tokenizer: PairTokenizer, info: EngineInfo) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self.batch_tokens = arrangements.batch_tokens
        self._arrangements = arrangements

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order."""
        budget = batch_tokens or self.batch_tokens
        return score_in_batches(rows, self._infer, self._arrangements.padding, budget, on_progress)

    def _infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Yield the float32 logits of each batch, in order: of a few soonest, of many fastest."""
        rest = iter(batches)
        first = list(islice(rest, _FEW_BATCHES + 1))
        if first:
            running = self._arrangements.select(for_many=len(first) > _FEW_BATCHES)
            yield from running.infer(chain(first, rest))

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, float32 in and out."""
        if self.info.activation == "identity":
            return logits
        # exp of a large number is infinite, and one over that is the 0 that it should be.
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def _choose_true(candidates: Sequence[Arrangements], compiled: CompiledModel) -> Arrangements:
    """Give the first that is true to the model; raises RefusedError when none is."""
    first, *others = candidates
    try:
        first.prove(lambda: _load_tokenizer(compiled, max_length=None))
    except RefusedError as error:
        if not others:
            raise
        name, instead = compiled.manifest.origin.name, others[0].precision
        log.warning("%s runs in %s: in %s %s.", name, instead, error.precision, error)
        return _choose_true(others, compiled)
    return first


def _load_tokenizer(
    compiled: CompiledModel, max_length: int | None, instruction: str | None = None
) -> PairTokenizer:
    model = compiled.manifest.model
    layout = model.layout
    if instruction is not None:
        layout = instruct(model.instructed, instruction, compiled.manifest.origin.name)
    return PairTokenizer(
        Tokenizer.from_file(str(compiled.folder / TOKENIZER_NAME)),
        max_length=min(model.max_length, max_length or model.max_length),
        with_type_ids=model.with_type_ids,
        split_special_tokens=model.split_special_tokens,
        layout=layout,
    )
