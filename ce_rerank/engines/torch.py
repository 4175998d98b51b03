"""The torch engine: any device, any model that sentence-transformers can load with one label."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from ..errors import UnavailableError
from ..models.checkpoint import Checkpoint
from ..types import Pair, Precision
from .base import EngineInfo, EngineOptions
from .batching import Float32s, PairTokens, TokenBatch, score_in_batches
from .model import Model, load_model, quiet_libraries
from .openvino.runtime import says_out_of_memory
from .tokenization import PairTokenizer

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
_MOST_CHARACTERS_A_TOKEN = 32


def load_torch_engine(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    """Load a checkpoint by sentence-transformers; the options name a device and a precision (no auto).

    Raises UnavailableError as `load_model` does.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log.info("Loading %s", checkpoint.name, extra={"stage": True})
    model = load_model(
        checkpoint,
        device=options.device,
        precision=options.precision,
        max_length=options.max_length,
        trust_remote_code=options.trust_remote_code,
        offline=options.offline,
    )
    return TorchEngine(model, checkpoint, options.device)


class TorchEngine:
    """A `Model` behind the engine protocol."""

    def __init__(self, model: Model, checkpoint: Checkpoint, device: str) -> None:
        self._model = model
        self.batch_tokens = _BATCH_TOKENS[device.partition(":")[0]]
        self.tokenizer: PairTokenizer = model.encoder if model.is_plain else PreprocessTokenizer(model)
        self.info = EngineInfo(
            engine="torch",
            device=device,
            precision=model.precision,
            model=checkpoint.name,
            revision=checkpoint.revision,
            max_length=model.max_length,
            activation=model.activation,
            notes=checkpoint.notes,
        )

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order."""
        budget = batch_tokens or self.batch_tokens
        return score_in_batches(rows, self._infer, self._model.padding, budget, on_progress)

    def _infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        """Yield the float32 logits of each batch, in order; one is waited for when the next is on its way."""
        started: torch.Tensor | None = None
        for batch in batches:
            ahead = self._start(batch)
            if started is not None:
                yield _to_numpy(started)
            started = ahead
        if started is not None:
            yield _to_numpy(started)

    def activate(self, logits: Float32s) -> Float32s:
        """Apply the model's own activation, by torch, as sentence-transformers does."""
        with torch.inference_mode():
            return _to_numpy(self._model.activation_fn(torch.from_numpy(logits)))

    def _start(self, batch: TokenBatch) -> torch.Tensor:
        try:
            return self._model.score(batch)
        except (RuntimeError, MemoryError) as error:  # for the CPU, torch has no kind of its own
            if not says_out_of_memory(error):
                raise
            pairs, tokens = batch.input_ids.shape
            device = self.info.device
            raise UnavailableError(
                f"{device} ran out of memory on a batch of {pairs} pairs of {tokens} tokens.",
                hint=f"Give --batch-tokens less than {pairs * tokens}"
                + (", or a smaller model." if device == "cpu" else ", or --device cpu."),
            ) from error


class PreprocessTokenizer:
    """The tokenizer of a model with a chat template or prompts: whatever its own preprocessing gives.

    One pair at a time, so that rows come unpadded, and under a lock, because the library's tokenizers change
    their own settings on every call. A text by itself is left to `plain`, the same tokenizer without a
    template.
    """

    def __init__(self, model: Model) -> None:
        self.max_length = model.max_length
        self.token_spans = model.encoder.token_spans
        self._model = model
        self._lock = threading.Lock()

    def encode(self, pairs: Sequence[Pair]) -> list[PairTokens]:
        """Tokenize pairs. A row that fills the whole limit counts as cut; where, can be told roughly."""
        with self._lock, quiet_libraries():
            return [self._encode(*pair) for pair in pairs]

    def document_room(self, query: str) -> int:
        """Give the number of tokens that are left for a document beside this query; may be negative."""
        with self._lock, quiet_libraries():
            # One less than there is: a row that is just full could not be told from one that was cut.
            return self.max_length - 1 - len(self._model.preprocess((query, ""))["input_ids"][0])

    def _encode(self, query: str, document: str) -> PairTokens:
        cuts_the_end = self._model.cross_encoder.tokenizer.truncation_side == "right"
        beginning = document[: self.max_length * _MOST_CHARACTERS_A_TOKEN] if cuts_the_end else document
        row = self._encode_whole(query, beginning)
        if row.truncated or beginning == document:
            return row
        return self._encode_whole(query, document)

    def _encode_whole(self, query: str, document: str) -> PairTokens:
        features = self._model.preprocess((query, document))
        input_ids = features["input_ids"][0].tolist()
        type_ids = features["token_type_ids"][0].tolist() if "token_type_ids" in features else ()
        if len(input_ids) < self.max_length:
            return PairTokens(input_ids, type_ids, truncated=False, characters_read=len(document))
        return PairTokens(input_ids, type_ids, True, self._guess_characters_read(query, document))

    def _guess_characters_read(self, query: str, document: str) -> int:
        """Say about how much was read of a document that was cut: what fits beside the query."""
        beside = len(self._model.preprocess((query, ""))["input_ids"][0])
        # No more characters have to be looked at than so many tokens have at most, in any running text.
        spans = self.token_spans(document[: self.max_length * _MOST_CHARACTERS_A_TOKEN])
        return max((end for _, end in islice(spans, max(0, self.max_length - beside))), default=0)


def choose_precision(precision: Precision, device: str) -> Precision:
    """Return the precision to run in on a device."""
    if precision == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return precision


def _to_numpy(scores: torch.Tensor) -> Float32s:
    return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
