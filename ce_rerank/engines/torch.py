"""The torch engine: any device, any model that sentence-transformers can load with one label."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer

from ..errors import UnavailableError
from ..models.kind import untrusted_activation
from ..models.store import Checkpoint
from ..types import Pair, Precision
from .base import EngineInfo, EngineOptions
from .batching import Float32s, Padding, PairTokens, TokenBatch, score_in_batches
from .cross_encoder import (
    find_score_layer,
    first_line,
    load_cross_encoder,
    made_up_weights,
    name_activation,
    preprocess_pair,
)
from .limits import LONGEST, longest_pair
from .openvino.compilable import says_out_of_memory
from .quiet import quiet_libraries
from .tokenization import EncoderTokenizer, PairTokenizer

log = logging.getLogger("ce_rerank")

_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
_MOST_CHARACTERS_A_TOKEN = 32
_PROBE: Pair = ("what is it?", "Ça, c'est 一 «test» — of “this”\tmodel's ids 🙂. " * 3)


def load_torch_engine(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    """Load a checkpoint by sentence-transformers; the options name a device and a precision (no auto).

    Raises UnavailableError when it cannot be loaded whole: code that is not trusted, weights that are
    missing.
    """
    if not options.trust_remote_code and (activation := untrusted_activation(checkpoint.folder)):
        raise UnavailableError(
            f"{checkpoint.name} names its own code, {activation}, as the activation of its scores.",
            hint="Read that code; when you trust it, give --trust-remote-code.",
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    log.info("Loading %s", checkpoint.name, extra={"stage": True})
    with quiet_libraries() as messages:
        model = _load(checkpoint, options)
        _require_all_weights(checkpoint, messages)
        _require_fast_tokenizer(checkpoint, model)
        if options.precision != "fp32":
            _keep_score_in_fp32(model)
        # Beyond its position table a model crashes, which its tokenizer's own limit does not always prevent.
        model.max_seq_length = min(longest_pair(model), options.max_length or LONGEST)
        return TorchEngine(model, checkpoint, options.device, options.precision)


class TorchEngine:
    """A `CrossEncoder` behind the engine protocol. The model is only read, so threads may share it."""

    def __init__(self, model: CrossEncoder, checkpoint: Checkpoint, device: str, precision: str) -> None:
        self._model = model
        self.batch_tokens = _BATCH_TOKENS[device.partition(":")[0]]
        self.tokenizer: PairTokenizer = _make_tokenizer(model)
        self._padding = Padding(
            token_id=model.tokenizer.pad_token_id or 0,
            type_id=model.tokenizer.pad_token_type_id,
            left=model.tokenizer.padding_side == "left",
        )
        self._constants = _constant_features(model)
        self.info = EngineInfo(
            engine="torch",
            device=device,
            precision=precision,
            model=checkpoint.name,
            revision=checkpoint.revision,
            max_length=self.tokenizer.max_length,
            activation=name_activation(model),
            notes=checkpoint.notes,
        )

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        """Return the float32 logits of rows, in their order."""
        return score_in_batches(
            rows, self._infer, self._padding, batch_tokens or self.batch_tokens, on_progress
        )

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
        features: dict[str, Any] = dict(self._constants)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            ids = getattr(batch, name)
            if ids is not None:
                features[name] = torch.from_numpy(ids).to(self._model.device, non_blocking=True)
        try:
            with torch.inference_mode():
                scores: torch.Tensor = self._model(features)["scores"]
                return scores.float().squeeze(-1)
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

    def __init__(self, model: CrossEncoder, plain: EncoderTokenizer) -> None:
        self.max_length = plain.max_length
        self.token_spans = plain.token_spans
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
            return self.max_length - 1 - len(preprocess_pair(self._model, (query, ""))["input_ids"][0])

    def _encode(self, query: str, document: str) -> PairTokens:
        cuts_the_end = self._model.tokenizer.truncation_side == "right"
        beginning = document[: self.max_length * _MOST_CHARACTERS_A_TOKEN] if cuts_the_end else document
        row = self._encode_whole(query, beginning)
        if row.truncated or beginning == document:
            return row
        return self._encode_whole(query, document)

    def _encode_whole(self, query: str, document: str) -> PairTokens:
        features = preprocess_pair(self._model, (query, document))
        input_ids = features["input_ids"][0].tolist()
        type_ids = features["token_type_ids"][0].tolist() if "token_type_ids" in features else ()
        if len(input_ids) < self.max_length:
            return PairTokens(input_ids, type_ids, truncated=False, characters_read=len(document))
        return PairTokens(input_ids, type_ids, True, self._guess_characters_read(query, document))

    def _guess_characters_read(self, query: str, document: str) -> int:
        """Say about how much was read of a document that was cut: what fits beside the query."""
        beside = len(preprocess_pair(self._model, (query, ""))["input_ids"][0])
        # No more characters have to be looked at than so many tokens have at most, in any running text.
        spans = self.token_spans(document[: self.max_length * _MOST_CHARACTERS_A_TOKEN])
        return max((end for _, end in islice(spans, max(0, self.max_length - beside))), default=0)


def _load(checkpoint: Checkpoint, options: EngineOptions) -> CrossEncoder:
    try:
        return load_cross_encoder(
            checkpoint.folder,
            device=options.device,
            precision=options.precision,
            trust_remote_code=options.trust_remote_code,
            offline=options.offline,
        )
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"{checkpoint.name} does not fit in the memory of {options.device}.",
            hint="Give --device cpu, or a smaller model.",
        ) from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnavailableError(
                f"{checkpoint.name} comes with Python code of its own, which would run on this machine.",
                hint="Read that code; when you trust it, give --trust-remote-code.",
            ) from error
        raise UnavailableError(
            f"{checkpoint.name} cannot be loaded: {first_line(error)}",
            hint=f"Its files are in {checkpoint.folder}; fetch them again, or give another model.",
        ) from error


def _require_all_weights(checkpoint: Checkpoint, messages: Sequence[str]) -> None:
    made_up = made_up_weights(messages)
    if made_up:
        raise UnavailableError(
            f"{checkpoint.name} lacks weights that its scores depend on ({', '.join(made_up)}), which would "
            "be random.",
            hint="Give a cross-encoder, or fetch the model again.",
        )


def _require_fast_tokenizer(checkpoint: Checkpoint, model: CrossEncoder) -> None:
    if not getattr(model.tokenizer, "is_fast", False):
        raise UnavailableError(
            f"{checkpoint.name} has a tokenizer without a fast form, which alone tells where tokens are.",
            hint="Convert it to a tokenizer.json, or give another model.",
        )


def choose_precision(precision: Precision, device: str) -> Precision:
    """Return the precision to run in on a device."""
    if precision == "auto":
        native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return precision


def _keep_score_in_fp32(model: CrossEncoder) -> None:
    """Let the last layer answer in float32: rounded to bf16 steps, scores tie that are not equal."""
    layer = find_score_layer(model)
    if layer is not None:
        model.set_keep_in_fp32_modules([layer])


def _make_tokenizer(model: CrossEncoder) -> PairTokenizer:
    """Give the fast tokenizer, unless the model's own preprocessing does more than it would."""
    hugging_face = model.tokenizer
    probe = preprocess_pair(model, _PROBE)
    encoder = EncoderTokenizer(
        Tokenizer.from_str(hugging_face.backend_tokenizer.to_str()),
        max_length=model.max_seq_length,
        with_type_ids="token_type_ids" in probe,
    )
    same_ids = list(encoder.encode([_PROBE])[0].input_ids) == probe["input_ids"][0].tolist()
    return encoder if same_ids else PreprocessTokenizer(model, encoder)


def _constant_features(model: CrossEncoder) -> dict[str, Any]:
    """What the model wants beside the ids, the same for every batch (the modality, for one)."""
    return {
        name: value
        for name, value in preprocess_pair(model, _PROBE).items()
        if not isinstance(value, torch.Tensor)
    }


def _to_numpy(scores: torch.Tensor) -> Float32s:
    return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
