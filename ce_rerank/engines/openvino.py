"""The compiled engine: the CPU, by OpenVINO, without torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from ..errors import UnavailableError
from ..models.compilable import CannotCompileError, UnusableCacheError
from ..models.compiled import CompiledModel, discard_damaged, prepare_compiled
from ..models.manifest import TOKENIZER_NAME
from ..models.runtime import load_runtime
from ..models.store import Checkpoint
from .arrangements import Arrangements, RefusedError
from .base import EngineInfo, EngineOptions, Float32s, TokenBatch
from .processor import has_native_bf16
from .tokenization import EncoderTokenizer, Padding

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = 2048
_HINT = "Give --engine torch, or leave --engine out."


def load_openvino_engine(checkpoint: Checkpoint, options: EngineOptions) -> OpenVinoEngine | None:
    """Load the compiled form of a checkpoint; compile it first if need be.

    None means that torch must serve: the model cannot be compiled, which is logged, or does not give its
    reference scores, which is a warning. Where the options name this engine, UnavailableError is raised
    instead; so it is for a precision that no CPU has.
    """
    if options.precision == "fp16":
        raise UnavailableError("fp16 is not a precision of the CPU.", hint="Give --precision bf16 or fp32.")
    try:
        return _load(checkpoint, options)
    except CannotCompileError as error:
        if options.engine == "openvino":
            raise UnavailableError(f"{checkpoint.name} cannot be compiled: {error}.", hint=_HINT) from error
        level = logging.WARNING if isinstance(error, UnusableCacheError) else logging.INFO
        log.log(level, "Torch runs %s, which cannot be compiled: %s.", checkpoint.name, error)
    except RefusedError as error:
        reason = f"in {error.precision} {error}"
        if options.engine == "openvino":
            raise UnavailableError(
                f"The compiled form of {checkpoint.name} is refused: {reason}.", hint=_HINT
            ) from error
        log.warning("Torch runs %s, whose compiled form is refused: %s.", checkpoint.name, reason)
    return None


class OpenVinoEngine:
    """A compiled model behind the engine protocol."""

    batch_tokens = _BATCH_TOKENS

    def __init__(self, arrangements: Arrangements, tokenizer: EncoderTokenizer, info: EngineInfo) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self._arrangements = arrangements

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Give the float32 logits of each batch, in order; a single one soonest, many fastest."""
        rest = iter(batches)
        first = list(islice(rest, 2))
        if first:
            running = self._arrangements.select(for_many=len(first) > 1)
            yield from running.infer(chain(first, rest))

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, float32 in and out."""
        if self.info.activation == "identity":
            return logits
        # exp of a large number is infinite, and one over that is the 0 that it should be.
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def _load(checkpoint: Checkpoint, options: EngineOptions) -> OpenVinoEngine:
    compiled = _prepare_whole(checkpoint)
    model = compiled.manifest.model
    tokenizer = EncoderTokenizer(
        Tokenizer.from_file(str(compiled.folder / TOKENIZER_NAME)),
        max_length=min(model.max_length, options.max_length or model.max_length),
        padding=Padding(model.pad_token_id, model.pad_type_id, model.pad_left),
        with_type_ids=model.with_type_ids,
    )
    arrangements = _arrange(compiled, tokenizer, options)
    info = EngineInfo(
        engine="openvino",
        device="cpu",
        precision=arrangements.precision,
        model=checkpoint.name,
        revision=checkpoint.revision,
        max_length=tokenizer.max_length,
        activation=model.activation,
        notes=checkpoint.notes,
    )
    return OpenVinoEngine(arrangements, tokenizer, info)


def _prepare_whole(checkpoint: Checkpoint) -> CompiledModel:
    """Give a compiled model that is as it was written; its weights are read while OpenVINO is imported."""
    while True:
        compiled = prepare_compiled(checkpoint)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(compiled.weights_are_whole)
            load_runtime()
        if whole.result():
            return compiled
        log.warning("The compiled form of %s was damaged on disk; it is made anew.", checkpoint.name)
        discard_damaged(compiled)


def _arrange(compiled: CompiledModel, tokenizer: EncoderTokenizer, options: EngineOptions) -> Arrangements:
    core = load_runtime().Core()
    can_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if options.precision == "bf16" and not can_bf16:
        raise CannotCompileError("OpenVINO has no bf16 on this CPU")
    if options.precision == "auto" and can_bf16 and has_native_bf16():
        arrangements = Arrangements(core, compiled, tokenizer, "bf16", options.threads)
        try:
            arrangements.prove()
            return arrangements
        except RefusedError as error:
            log.warning(
                "%s runs in fp32, since its compiled form is refused in bf16: %s.",
                compiled.manifest.origin.name,
                error,
            )
    precision = "bf16" if options.precision == "bf16" else "fp32"
    arrangements = Arrangements(core, compiled, tokenizer, precision, options.threads)
    arrangements.prove()
    return arrangements
