"""The compiled engine: the CPU, by OpenVINO, without torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from ...errors import UnavailableError
from ...models.store import Checkpoint
from ..base import EngineInfo, EngineOptions, Float32s, TokenBatch
from ..processor import has_native_bf16
from ..tokenization import EncoderTokenizer
from .arrangements import Arrangements, RefusedError, padding_of
from .cache import CompiledModel, discard_damaged, prepare_compiled
from .compilable import CannotCompileError, MishapError
from .manifest import TOKENIZER_NAME
from .runtime import load_runtime

log = logging.getLogger("ce_rerank")

_FEW_BATCHES = 8  # are done before several streams are ready
_HINT = "Give --engine torch, or leave --engine out."


def load_openvino_engine(checkpoint: Checkpoint, options: EngineOptions) -> OpenVinoEngine | None:
    """Load the compiled form of a checkpoint; compile it first if need be.

    None means that torch must serve: the model cannot be compiled, which is logged, or does not give its
    reference scores, which is a warning. Where the options name this engine, or there is nothing but the
    compiled form, UnavailableError is raised instead; so it is for a precision that no CPU has.
    """
    is_only_way = options.engine == "openvino" or checkpoint.source == "compiled"
    if options.precision == "fp16":
        raise UnavailableError("fp16 is not a precision of the CPU.", hint="Give --precision bf16 or fp32.")
    try:
        return _load(checkpoint, options)
    except CannotCompileError as error:
        if is_only_way:
            raise UnavailableError(f"Openvino cannot run {checkpoint.name}: {error}.", hint=_HINT) from error
        level = logging.WARNING if isinstance(error, MishapError) else logging.INFO
        log.log(level, "Torch runs %s; openvino cannot: %s.", checkpoint.name, error)
    except RefusedError as error:
        reason = f"in {error.precision} {error}"
        if is_only_way:
            raise UnavailableError(
                f"The compiled form of {checkpoint.name} is refused: {reason}.", hint=_HINT
            ) from error
        log.warning("Torch runs %s, whose compiled form is refused: %s.", checkpoint.name, reason)
    return None


class OpenVinoEngine:
    """A compiled model behind the engine protocol."""

    def __init__(self, arrangements: Arrangements, tokenizer: EncoderTokenizer, info: EngineInfo) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self.batch_tokens = arrangements.batch_tokens
        self.companions = arrangements.companions
        self._arrangements = arrangements

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Give the float32 logits of each batch, in order: of a few soonest, of many fastest."""
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


def _load(checkpoint: Checkpoint, options: EngineOptions) -> OpenVinoEngine:
    compiled = prepare_compiled(checkpoint)
    # The weights take as long to read through as all else takes to load, so that is done side by side; but
    # nothing is scored before they are known to be whole.
    pool = ThreadPoolExecutor(2)
    try:
        whole = pool.submit(compiled.weights_are_whole)
        candidates = _arrange(compiled, options)
        candidates[0].load_ahead(pool)
        tokenizer = _load_tokenizer(compiled, options.max_length)
        if not whole.result():
            log.warning("The compiled form of %s was damaged on disk; it is made anew.", checkpoint.name)
            discard_damaged(compiled)
            return _load(checkpoint, options)
    finally:
        pool.shutdown(wait=False)
    arrangements = _choose_true(candidates, compiled)
    info = EngineInfo(
        engine="openvino",
        device="cpu",
        precision=arrangements.precision,
        model=checkpoint.name,
        revision=checkpoint.revision,
        max_length=tokenizer.max_length,
        activation=compiled.manifest.model.activation,
        notes=checkpoint.notes,
    )
    return OpenVinoEngine(arrangements, tokenizer, info)


def _arrange(compiled: CompiledModel, options: EngineOptions) -> list[Arrangements]:
    """Give the model at the precisions that may serve, the preferred one first."""
    core = load_runtime().Core()
    can_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if options.precision == "bf16" and not can_bf16:
        raise CannotCompileError("OpenVINO has no bf16 on this CPU")
    precisions = [options.precision]
    if options.precision == "auto":
        precisions = ["bf16", "fp32"] if can_bf16 and has_native_bf16() else ["fp32"]
    return [Arrangements(core, compiled, precision, options.threads) for precision in precisions]


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


def _load_tokenizer(compiled: CompiledModel, max_length: int | None) -> EncoderTokenizer:
    model = compiled.manifest.model
    return EncoderTokenizer(
        Tokenizer.from_file(str(compiled.folder / TOKENIZER_NAME)),
        max_length=min(model.max_length, max_length or model.max_length),
        padding=padding_of(compiled),
        with_type_ids=model.with_type_ids,
        split_special_tokens=model.split_special_tokens,
    )
