"""A compiled model in memory: the ways to run it, proven once on this machine and kept ready in the cache.

What OpenVINO makes of a graph for one CPU, precision and number of streams is exported beside it, in a file
that leaves the weights where they are, so that the next start takes it up in a tenth of a second. It is kept
only when the golden scores came out of it, so that its being there is the proof.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ...errors import UnavailableError
from ...files import read_json_object, write_whole
from ..batching import Float32s, Padding, PairTokens, TokenBatch, score_in_batches
from ..hardware import count_cpus, cpu_identity, has_amx, vector_width
from ..tokenizer import PairTokenizer
from .cache import CompiledModel
from .manifest import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    GoldenPair,
    library_versions,
)

log = logging.getLogger("ce_rerank")

_MOST_STREAMS = 4
_MOST_BATCH_TOKENS = 2048
_QUICK_PAIRS = 2  # the shortest golden pairs, which every start must reproduce
_HINTS = {"fp32": "f32", "bf16": "bf16"}

TOLERANCES = {"fp32": 1e-3, "bf16": 0.15}
"""The most that a logit may differ from torch's in float32, by precision.

Two within it keep their order wherever the reference gap is over twice as much.
"""

_LOW_BITS = np.uint32(0xFFFF)  # those of a float32 that bf16 does not have


def find_infidelity(reference: Float32s, logits: Float32s, precision: str) -> str | None:
    """Say in a clause how logits fail their reference; None when they are true to it.

    They must be within the precision's tolerance, and not all be rounded to bf16 steps: that would make ties
    of scores that are not equal.
    """
    if not np.isfinite(logits).all():
        return "it gives scores that are no numbers"
    differences = np.abs(logits - reference)
    worst = int(differences.argmax())
    if differences[worst] > TOLERANCES[precision]:
        return f"it gives {logits[worst]:.4f} where the model says {reference[worst]:.4f}"
    if _is_rounded(logits) and not _is_rounded(reference):
        return "its scores are rounded to bf16"
    return None


def _is_rounded(logits: Float32s) -> bool:
    return not (logits.view(np.uint32) & _LOW_BITS).any()


def padding_of(compiled: CompiledModel) -> Padding:
    """Give the padding with which a pair's score does not depend on the pairs beside it.

    Over a length that is no multiple of the CPU's vectors, sums are made up in another order than over the
    next: in bf16 the same pair then scores up to 0.03 apart, padded more or less. Over multiples it scores
    the same to the bit, and no slower.
    """
    model = compiled.manifest.model
    return Padding(
        token_id=model.pad_token_id,
        type_id=model.pad_type_id,
        left=model.pad_left,
        multiple=vector_width(),
        companions=model.companions,
        most=model.max_length,
    )


def choose_batch_tokens(threads_a_stream: int, *, with_tiles: bool) -> int:
    """Give the token budget of a batch with which a CPU gets most done.

    Measured with 12 layers of width 384. Two threads with vectors, a stream each: 512 tokens; 2,048 were 10%
    (bf16) to 15% (fp32) slower, and took a quarter more memory. With tiles: 2,048; 512 were 20% slower.
    """
    return _MOST_BATCH_TOKENS if with_tiles else min(_MOST_BATCH_TOKENS, 512 * threads_a_stream)


class RefusedError(Exception):
    """A compiled model that is not true to the model at a precision; the message is a clause."""

    def __init__(self, reason: str, precision: str) -> None:
        super().__init__(reason)
        self.precision = precision


class _NotLoadedError(RefusedError):
    """One that could not be looked at: for want of memory, perhaps, and so not for good."""


class RunningModel:
    """A model that OpenVINO has loaded, with a number of streams that work side by side.

    Safe to use from several threads: each run has requests of its own while it lasts.
    """

    def __init__(self, model: Any, streams: int, inputs: Sequence[str]) -> None:
        self._model = model
        self._inputs = inputs
        # One more than work at a time, so that a stream never waits for us to pad its next batch.
        self._ahead = streams + 1
        self._idle: list[Any] = []

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Give the float32 logits of each batch, in order."""
        # Not by AsyncInferQueue: its callbacks into Python abort the process, now and then, when it ends.
        started: deque[Any] = deque()
        try:
            for batch in batches:
                if len(started) == self._ahead:
                    yield self._finish(started.popleft())
                started.append(self._start(batch))
            while started:
                yield self._finish(started.popleft())
        finally:
            # Not cancelled: that leaves a stream in a state in which its next run fails.
            for request in started:
                with suppress(RuntimeError, MemoryError):
                    request.wait()

    def _start(self, batch: TokenBatch) -> Any:
        with _told_as_unavailable():
            request = self._idle.pop() if self._idle else self._model.create_infer_request()
            request.start_async({name: getattr(batch, name) for name in self._inputs})
        return request

    def _finish(self, request: Any) -> Float32s:
        with _told_as_unavailable():
            request.wait()
        logits = np.array(request.get_output_tensor(0).data, dtype=np.float32).reshape(-1)
        self._idle.append(request)
        return logits


@contextmanager
def _told_as_unavailable() -> Iterator[None]:
    """Say why OpenVINO could not score a batch, which for a model that loads is mostly want of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise UnavailableError(
            f"OpenVINO could not score a batch ({_last_line(error)}).",
            hint="Where memory is short, give fewer --batch-tokens; or give --engine torch.",
        ) from error


def _last_line(error: Exception) -> str:
    """Give the last line of what OpenVINO says, which is the cause; before it come places in its source."""
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)


class Arrangements:
    """The ways to run one compiled model at one precision: one stream for a few batches, several for many.

    Each is loaded when it is first wanted. `threads` bounds the CPU threads of each.
    """

    def __init__(self, core: Any, compiled: CompiledModel, precision: str, threads: int | None) -> None:
        self.precision = precision
        self._core = core
        self._compiled = compiled
        self._threads = threads
        self.padding = padding_of(compiled)
        cpus = threads or count_cpus()
        self._most_streams = min(_MOST_STREAMS, cpus)
        self.batch_tokens = choose_batch_tokens(cpus // self._most_streams, with_tiles=has_amx())
        self._running: dict[int, RunningModel] = {}
        self._ahead: Future[RunningModel | None] | None = None
        self._lock = threading.Lock()
        key = [
            cpu_identity(),
            precision,
            threads,
            self._most_streams,
            library_versions()["openvino"],
        ]
        self._folder = compiled.checked_folder
        self._name = f"{precision}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}"
        self._record_path = self._folder / f"{self._name}.json"
        self._record: Mapping[str, Any] = read_json_object(self._record_path)

    def load_ahead(self, pool: Executor) -> None:
        """Begin to load what answers a few batches, if it is known to be true, behind what else is to do."""
        if "refused" not in self._record and self._is_proven():
            self._ahead = pool.submit(self._take_up, 1)

    def prove(self, make_tokenizer: Callable[[], PairTokenizer]) -> None:
        """Make sure that the golden scores came out of every arrangement; try them if that is not known.

        `make_tokenizer` gives one with the model's own limit. The weights must be known to be whole. Raises
        RefusedError when the scores did not come out.
        """
        if "refused" in self._record:
            raise RefusedError(str(self._record["refused"]), self.precision)
        if self._is_proven():
            return
        log.info("Checking the compiled model", extra={"stage": True})
        blobs = {}
        try:
            self._require_golden_tokens(make_tokenizer())
            for streams in sorted({1, self._most_streams}):
                self._running[streams], blobs[streams] = self._make(streams)
        except _NotLoadedError:
            raise
        except RefusedError as error:
            self._keep({"refused": str(error)}, {})
            raise
        digests = {str(streams): hashlib.sha256(blob).hexdigest() for streams, blob in blobs.items()}
        self._keep({"sha256": digests}, blobs)

    def select(self, *, for_many: bool) -> RunningModel:
        """Give the model as it runs best, for many batches or for a few."""
        streams = self._most_streams if for_many else 1
        with self._lock:
            if streams not in self._running:
                ahead = self._ahead if streams == 1 else None
                self._ahead = None  # what is not wanted gives its memory back to what is
                found = self._take_up(streams) if ahead is None else ahead.result()
                if found is None or self._find_fault(found, self._shortest_golden_pairs()):
                    found = self._remake(streams)
                self._running[streams] = found
            return self._running[streams]

    def _is_proven(self) -> bool:
        return isinstance(self._record.get("sha256"), dict)

    def _take_up(self, streams: int) -> RunningModel | None:
        """Load what was exported; None when it is not as it was written."""
        try:
            blob = self._blob_path(streams).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(blob).hexdigest() != self._record["sha256"].get(str(streams)):
            return None
        weights = {"WEIGHTS_PATH": str(self._compiled.folder / WEIGHTS_NAME)}
        try:
            model = self._core.import_model(blob, "CPU", {**self._settings(streams), **weights})
        except RuntimeError as error:
            log.info("OpenVINO cannot take up what it exported: %s", error)
            return None
        return self._run(model, streams)

    def _shortest_golden_pairs(self) -> list[GoldenPair]:
        return sorted(self._compiled.manifest.golden, key=lambda pair: len(pair.input_ids))[:_QUICK_PAIRS]

    def _remake(self, streams: int) -> RunningModel:
        log.info("Making %s anew: it was damaged on disk.", self._blob_path(streams).name)
        with suppress(OSError):
            self._record_path.unlink()
        try:
            running, _ = self._make(streams)
        except RefusedError as error:
            name = self._compiled.manifest.origin.name
            raise UnavailableError(
                f"The compiled form of {name} is refused: {error}.", hint="Give --engine torch."
            ) from error
        return running

    def _make(self, streams: int) -> tuple[RunningModel, bytes]:
        """Load the graph, hold it to all golden scores, and export it."""
        graph = self._compiled.folder / GRAPH_NAME
        try:
            model = self._core.compile_model(graph, "CPU", self._settings(streams))
        except RuntimeError as error:
            # One that was compiled elsewhere may be of a release that this one cannot read.
            raise _NotLoadedError(f"OpenVINO cannot load it ({_last_line(error)})", self.precision) from error
        used = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _HINTS[self.precision]:
            raise RefusedError(f"OpenVINO runs it in {used}", self.precision)
        running = self._run(model, streams)
        fault = self._find_fault(running, self._compiled.manifest.golden)
        if fault is not None:
            raise RefusedError(fault, self.precision)
        return running, model.export_model().getvalue()

    def _run(self, model: Any, streams: int) -> RunningModel:
        return RunningModel(model, streams, self._compiled.manifest.model.inputs)

    def _require_golden_tokens(self, tokenizer: PairTokenizer) -> None:
        golden = self._compiled.manifest.golden
        rows = tokenizer.encode([(pair.query, pair.document) for pair in golden])
        for row, pair in zip(rows, golden, strict=True):
            same_ids = tuple(row.input_ids) == pair.input_ids
            if not same_ids or tuple(row.token_type_ids) != pair.token_type_ids:
                raise RefusedError(f"{pair.document[:40]!r} is fed to it in other tokens", self.precision)

    def _find_fault(self, running: RunningModel, golden: Sequence[GoldenPair]) -> str | None:
        rows = [PairTokens(pair.input_ids, pair.token_type_ids, False, 0) for pair in golden]
        logits = score_in_batches(rows, running.infer, self.padding, _MOST_BATCH_TOKENS)
        reference = np.array([pair.logit for pair in golden], dtype=np.float32)
        return find_infidelity(reference, logits, self.precision)

    def _settings(self, streams: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "NUM_STREAMS": streams,
            # Processes that share a machine would all be pinned to its first CPUs.
            "ENABLE_CPU_PINNING": False,
            # What is exported leaves the weights out.
            "CACHE_MODE": "OPTIMIZE_SIZE",
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._threads
        return settings

    def _keep(self, record: Mapping[str, Any], blobs: Mapping[int, bytes]) -> None:
        self._record = record
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for streams, blob in blobs.items():
                write_whole(self._blob_path(streams), blob)
            write_whole(self._record_path, json.dumps(record))
        except OSError as error:
            log.info("%s cannot be written, so the next start takes longer: %s.", self._folder, error)

    def _blob_path(self, streams: int) -> Any:
        return self._folder / f"{self._name}-{streams}.blob"
