"""The compiled engine: the CPU, by OpenVINO, without torch.

For a quick start OpenVINO has a cache of its own, for one kind of CPU, a precision and a number of streams.
Beside it we write the verdict of the golden scores. The cache is used only if it is unchanged since then.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ...errors import UnavailableError
from ...files import digest_file, digest_json, read_json_object, remove_folder, write_json
from ...models.checkpoint import Checkpoint
from ...models.store import NOTE
from ...ranking import ACTIVATIONS
from ...types import OnProgress, Precision
from ..base import EngineInfo, EngineOptions
from ..batching import Float32s, PairTokens, pad_rows, score_in_batches
from ..hardware import count_cpus, cpu_identity, has_amx, has_native_bf16, vector_width
from ..tokenizer import PairTokenizer
from .cache import CompiledModel, prepare_compiled
from .manifest import GRAPH_NAME, TOKENIZER_NAME, library_versions
from .runtime import CannotCompileError, last_line, load_runtime

log = logging.getLogger("ce_rerank")

TOLERANCES = {"fp32": 1e-3, "bf16": 0.15, "int8": 0.35}
"""The most that a logit may differ from torch's in float32, by precision, for logits within 12 of 0.

Two scores keep their order if their reference scores are more than twice that apart.
"""
_USUAL_LOGIT = 12  # the largest logit of the models with which the tolerances were measured
_LOW_BITS = np.uint32(0xFFFF)  # the bits of a float32 that bf16 does not have
_FEW_BATCHES = 8  # are scored before several streams would be ready
_MOST_STREAMS = 4
_MOST_BATCH_TOKENS = 2048
_GROUP_SIZE = 128  # the fastest of 32, 64 and 128, and nearly as exact
_VERDICT_NAME = "verdict.json"


def load_openvino_engine(
    checkpoint: Checkpoint, options: EngineOptions, precisions: Sequence[Precision]
) -> OpenVinoEngine:
    """Load the compiled form of a checkpoint; compile it first if need be.

    It runs in the first of the precisions that gives the reference scores; a warning is logged for one that
    does not. Raises CannotCompileError if it cannot be compiled, or no precision gives the scores.
    """
    compiled = prepare_compiled(checkpoint, "int8" if "int8" in precisions else "full")
    core = load_runtime().Core()
    for precision in precisions[:-1]:
        try:
            return OpenVinoEngine(core, compiled, checkpoint, replace(options, precision=precision))
        except CannotCompileError as error:
            log.warning("%s runs in %s: %s.", checkpoint.name, precisions[-1], error)
    return OpenVinoEngine(core, compiled, checkpoint, replace(options, precision=precisions[-1]))


class OpenVinoEngine:
    """A compiled model in one precision, behind the engine protocol.

    It is loaded with one stream for a few batches, and again with several streams for many. Threads may share
    it: each call has its own requests. Raises CannotCompileError if it does not give its golden scores.
    """

    def __init__(
        self, core: Any, compiled: CompiledModel, checkpoint: Checkpoint, options: EngineOptions
    ) -> None:
        self._core = core
        self._compiled = compiled
        self._options = options
        model, origin = compiled.manifest.model, compiled.manifest.origin
        # If a length is no multiple of the CPU's vectors, more padding changes the order in which numbers are
        # added: in bf16 the score of a pair then changes by up to 0.03. With multiples it stays exactly the
        # same, and takes no longer.
        self.padding = replace(model.padding, multiple=vector_width(), most=model.max_length)
        cpus = options.threads or count_cpus()
        self._most_streams = min(_MOST_STREAMS, cpus)
        # The fastest with 12 layers of width 384. Two threads with vectors, a stream each: 2,048 tokens are
        # 10% (bf16) to 15% (fp32) slower, and take more memory. With tiles, 512 are 20% slower.
        tokens = _MOST_BATCH_TOKENS if has_amx() else 512 * (cpus // self._most_streams)
        self.batch_tokens = min(_MOST_BATCH_TOKENS, tokens)
        self._loaded: dict[int, Any] = {}
        self._are_streams_warm = False
        self.activate = ACTIVATIONS[model.activation]
        self._idle: dict[int, list[Any]] = {1: [], self._most_streams: []}
        self._lock = threading.Lock()
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.load, 1)
            self.tokenizer = self._load_tokenizer(options.max_length, options.instruction)
        ahead.result()
        revision, notes = checkpoint.revision, checkpoint.notes
        if checkpoint.source == "compiled":
            revision, notes = origin.revision, (f"compiled from {origin.name}",)
            notes += (NOTE,) if origin.source == "offline" else ()
        self.info = EngineInfo(
            engine="openvino",
            device="cpu",
            precision=options.precision,
            model=checkpoint.name,
            revision=revision,
            max_length=self.tokenizer.max_length,
            activation=model.activation,
            instruction=model.instruction if options.instruction is None else options.instruction,
            notes=notes,
        )

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order."""
        budget = batch_tokens or self.batch_tokens
        return score_in_batches(rows, self.infer, budget, self.padding.companions, on_progress)

    def infer(self, batches: Iterable[Sequence[PairTokens]]) -> Iterator[Float32s]:
        """Yield the float32 logits of the rows of each batch, in order.

        A few batches are scored with one stream, which is ready sooner; many with several, which is faster.
        Batches are taken when they are needed, a few ahead of the results.
        """
        rest = iter(batches)
        first = list(islice(rest, _FEW_BATCHES + 1))
        streams = self._most_streams if len(first) > _FEW_BATCHES else 1
        try:
            model = self.load(streams)
        except CannotCompileError as error:
            problem = f"Openvino cannot run {self.info.model}: {error}."
            raise UnavailableError(problem, hint="Give --engine torch.") from error
        idle, batches = self._idle[streams], chain(first, rest)
        if streams > 1:
            # OpenVINO prepares weights at the first inference. When two streams did so at the same time, one
            # of them sometimes gave wrong scores: so the first batches are scored one after another.
            with self._lock:
                alone = 0 if self._are_streams_warm else streams
                scored = list(self._run(model, idle, 1, islice(batches, alone)))
                self._are_streams_warm = True
            yield from scored
        # One more than work at a time, so that a stream never waits for us to pad its next batch.
        yield from self._run(model, idle, streams + 1, batches)

    def load(self, streams: int) -> Any:
        """Load the model with a number of streams, once; return OpenVINO's `CompiledModel`.

        Its golden scores are checked once on each kind of machine. Raises CannotCompileError for wrong ones.
        """
        with self._lock:
            if streams not in self._loaded:
                if not self._idle[1]:
                    self._loaded.pop(1, None)  # it was not used; its memory is needed
                self._loaded[streams] = self._load(streams)
            return self._loaded[streams]

    def _load(self, streams: int) -> Any:
        precision, threads = self._options.precision, self._options.threads
        key = [cpu_identity(), precision, streams, threads, library_versions()["openvino"]]
        name = digest_json(key)[:16]
        folder = self._compiled.machine_folder / f"{precision}-{streams}-{name}"
        # With int8, the rest is computed in what the CPU has.
        in_bf16 = precision == "bf16" or (precision == "int8" and has_native_bf16())
        hint = "bf16" if in_bf16 else "f32"
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            # Groups of activations. With 0 they are not quantised, and 8-bit weights are not faster.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP_SIZE if precision == "int8" else 0,
            "NUM_STREAMS": streams,
            # Else all processes on a machine would be pinned to its first CPUs.
            "ENABLE_CPU_PINNING": False,
            "CACHE_MODE": "OPTIMIZE_SIZE",  # without the weights
            "CACHE_DIR": str(folder),
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        verdict = read_json_object(folder / _VERDICT_NAME)
        if "refused" in verdict:
            raise CannotCompileError(str(verdict["refused"]), passing=True)
        is_proven = bool(verdict) and verdict == {"files": _digest_cache(folder)}
        if not is_proven:
            log.info("Checking the compiled model", extra={"stage": True})
            try:
                remove_folder(folder)
                folder.mkdir(parents=True)
            except OSError as error:
                log.info("%s cannot be written, so the next start takes longer: %s.", folder, error)
                del settings["CACHE_DIR"]
        try:
            model = self._core.compile_model(self._compiled.folder / GRAPH_NAME, "CPU", settings)
        except RuntimeError as error:
            # An exported model may be of a release that this one cannot read.
            raise CannotCompileError(f"OpenVINO cannot load it ({last_line(error)})", passing=True) from error
        if is_proven:
            return model
        used = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        is_other = f"OpenVINO runs it in {used} on this CPU, not in {hint}"
        fault = self._find_fault(model) if used == hint else is_other
        with suppress(OSError):
            files = _digest_cache(folder)
            write_json(folder / _VERDICT_NAME, {"refused": fault} if fault else {"files": files})
        if fault:
            raise CannotCompileError(fault, passing=True)
        return model

    def _find_fault(self, model: Any) -> str | None:
        """Return what is wrong with the golden scores of a loaded model, as a clause; None if nothing."""
        golden = self._compiled.manifest.golden
        rows = self._load_tokenizer(None, None).encode([(pair.query, pair.document) for pair in golden])
        score = partial(self._run, model, [], 1)
        logits = score_in_batches(rows, score, _MOST_BATCH_TOKENS, self.padding.companions)
        reference = np.array([pair.logit for pair in golden], dtype=np.float32)
        fault = find_infidelity(reference, logits, self._options.precision)
        return fault and f"in {self._options.precision} {fault}"

    def _run(
        self, model: Any, idle: list[Any], most_at_once: int, batches: Iterable[Sequence[PairTokens]]
    ) -> Iterator[Float32s]:
        # Not by AsyncInferQueue: its callbacks into Python sometimes abort the process when it ends.
        started: deque[Any] = deque()
        inputs = self._compiled.manifest.model.inputs

        def finish() -> Float32s:
            request = started.popleft()
            request.wait()
            logits = np.array(request.get_output_tensor(0).data, dtype=np.float32).reshape(-1)
            idle.append(request)
            return logits

        try:
            for rows in batches:
                batch = pad_rows(rows, self.padding)
                if len(started) == most_at_once:
                    yield finish()
                request = idle.pop() if idle else model.create_infer_request()
                request.start_async({name: batch[name] for name in inputs})
                started.append(request)
            while started:
                yield finish()
        except (RuntimeError, MemoryError) as error:  # mostly for want of memory, in a model that loads
            raise UnavailableError(
                f"OpenVINO could not score a batch ({last_line(error)}).",
                hint="Where memory is short, give fewer --batch-tokens; or give --engine torch.",
            ) from error
        finally:
            # Not cancelled: that leaves a stream in a state in which its next run fails.
            for request in started:
                with suppress(RuntimeError, MemoryError):
                    request.wait()

    def _load_tokenizer(self, max_length: int | None, instruction: str | None) -> PairTokenizer:
        manifest = self._compiled.manifest
        tokenizer = Tokenizer.from_file(str(self._compiled.folder / TOKENIZER_NAME))
        return manifest.model.make_tokenizer(tokenizer, manifest.origin.name, max_length, instruction)


def find_infidelity(reference: Float32s, logits: Float32s, precision: str) -> str | None:
    """Return how logits differ from their reference, as a clause; None if they are close enough.

    They must be within the precision's tolerance, which grows with the largest logit, as rounding does. And
    they must not all be rounded to bf16: then scores that differ would be equal.
    """
    if not np.isfinite(logits).all():
        return "it gives scores that are no numbers"
    differences = np.abs(logits - reference)
    worst = int(differences.argmax())
    if differences[worst] > TOLERANCES[precision] * max(1, np.abs(reference).max() / _USUAL_LOGIT):
        return f"it gives {logits[worst]:.4f} where the model says {reference[worst]:.4f}"
    if _is_rounded(logits) and not _is_rounded(reference):
        return "its scores are rounded to bf16"
    return None


def _is_rounded(logits: Float32s) -> bool:
    return not (logits.view(np.uint32) & _LOW_BITS).any()


def _digest_cache(folder: Path) -> dict[str, str]:
    return {path.name: digest_file(path) for path in sorted(folder.glob("*.blob"))}
