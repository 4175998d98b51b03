"""Load a checkpoint by sentence-transformers, and check that its scores are right.

For every engine, models with random weights, with inputs that cannot be made, or that cannot answer are
refused here.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from jinja2 import TemplateError
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.cross_encoder.modules import LogitScore
from tokenizers import Tokenizer
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import UnavailableError
from ..models.checkpoint import ACTIVATION_NAMES, LONGEST, Checkpoint
from ..types import Pair
from .base import EngineOptions
from .batching import Companions, Padding, PairTokens, TokenBatch, pad_rows
from .network import Whole, find_networks, find_score_layer, longest_pair
from .tokenizer import INSTRUCTION, Layout, ModelFacts, PairTokenizer

_IN_FLOAT32 = EngineOptions(device="cpu", precision="fp32", offline=True)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHATTERING = ("transformers", "sentence_transformers", "huggingface_hub", "torch", "openvino", "nncf")
_RERANKER_HINT = (
    "A causal reranker is a folder with a chat template that has the roles query and document, and a "
    "LogitScore module (modules.json) that names the tokens it answers with; yes and no by default."
)

_TRUST_HINT = "Read that code; if you trust it, give --trust-remote-code."
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

PROBE: Pair = ("what is it?", "Ça, c'est 一 «test» — of [SEP] “this” </s> <s>\tmodel's ids [CLS] 🙂. ")
"""A pair for which different tokenizers give different tokens, with special tokens of several families."""
LONGER: Pair = ("how do tides work", "Tides rise and fall because the moon pulls the oceans. " * 8)

# How much padding may change a score, by precision: as much as rounding does.
_MOVES = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}

_lock = threading.RLock()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide the log and the warnings of model libraries in this block.

    One thread at a time, since these settings are those of the whole process. The progress bars of
    transformers stay off after the first call.
    """
    transformers_logging.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in _CHATTERING]
    with _lock:
        before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [logging.NullHandler()], False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


class Model:
    """A cross-encoder that was loaded and tried. Threads may share it.

    `network` gives the float32 logits, of shape (pairs, 1), of the tensors of a batch. `tokenizer` cuts at
    the model's own limit.
    """

    def __init__(self, name: str, cross_encoder: CrossEncoder, precision: str) -> None:
        self.name = name
        self.cross_encoder = cross_encoder
        self.precision = precision
        self.activation_fn = _take_activation(cross_encoder)
        tokenizer, longest = cross_encoder.tokenizer, longest_pair(cross_encoder)
        # Special tokens without a vector become text.
        vectors, content = _count_vectors(cross_encoder), json.loads(tokenizer.backend_tokenizer.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vectors]
        self.tokenizer_json = json.dumps(content, ensure_ascii=False)
        prompt = cross_encoder._resolve_prompt(None, None)
        dotted = f"{type(self.activation_fn).__module__}.{type(self.activation_fn).__qualname__}"
        layout, instructed = (_read_layout(cross_encoder, text) for text in (prompt, INSTRUCTION))
        has_template = layout.between is not None
        takes_instruction = INSTRUCTION in instructed.fill("", "") if has_template else prompt
        cross_encoder.max_seq_length = LONGEST  # sentence-transformers must not cut our probe
        fed = cross_encoder.preprocess([list(PROBE)], prompt=prompt)
        self.facts = ModelFacts(
            inputs=tuple(name for name in _INPUTS if name in fed),
            max_length=longest,
            activation=ACTIVATION_NAMES.get(dotted, dotted),
            split_special_tokens=tokenizer.split_special_tokens,
            padding=Padding(
                token_id=tokenizer.pad_token_id,
                type_id=tokenizer.pad_token_type_id,
                left=tokenizer.padding_side == "left",
            ),
            layout=layout,
            instructed=instructed if takes_instruction else None,
            instruction=prompt,
        )
        self.tokenizer = self.make_tokenizer()
        uncut = replace(self.facts, max_length=LONGEST)
        (row,) = uncut.make_tokenizer(Tokenizer.from_str(self.tokenizer_json), name).encode([PROBE])
        made = {"input_ids": [*row.input_ids], "token_type_ids": [*row.token_type_ids]}
        if any(ids != fed[name][0].tolist() for name, ids in made.items() if name in fed):
            raise ValueError("its tokens are made by preprocessing that is not known here")
        self._whole = Whole(cross_encoder, fed)
        self.network: torch.nn.Module = self._whole
        self._choose_network()

    def make_tokenizer(self, max_length: int | None = None, instruction: str | None = None) -> PairTokenizer:
        """Return a tokenizer that gives what the model's own preprocessing does, and cuts documents alone."""
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        return self.facts.make_tokenizer(tokenizer, self.name, max_length, instruction)

    def tensors(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """Return a batch on the model's device, by the names of the network's inputs."""
        device = self.cross_encoder.device
        return {name: torch.from_numpy(ids).to(device, non_blocking=True) for name, ids in batch.items()}

    def score(self, batch: TokenBatch) -> torch.Tensor:
        """Return the float32 logits of a batch, shape (pairs,), on the model's device."""
        return self._run(self.network, batch).squeeze(-1)

    def _run(self, network: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = network(**self.tensors(batch))
            return logits.float()

    def reference(self, row: PairTokens) -> float:
        """Return the logit of a row by itself, as sentence-transformers computes it."""
        return self._run(self._whole, pad_rows([row], self.facts.padding)).item()

    def _choose_network(self) -> None:
        """Use backbone and head if they give the same score; find which pairs can share a batch."""
        rows, padding = self.tokenizer.encode([PROBE, LONGER]), self.facts.padding
        alone = pad_rows(rows[:1], padding)
        logits = self._run(self._whole, alone)
        if logits.numel() != 1:
            raise ValueError(f"it gives {logits.numel()} scores for a pair")
        logit = logits.item()
        if not math.isfinite(logit):
            raise UnavailableError(
                f"{self.name} gives {logit} as the score of a pair.",
                hint="Give --precision fp32. If that does not help, the model is damaged.",
            )
        companions: Companions = "equal"
        try:
            if self.is_near(self._run(self._whole, pad_rows(rows, padding))[0].item(), logit):
                companions = "any"
        except (ValueError, IndexError):
            companions = "none"
        self.facts = replace(self.facts, padding=replace(padding, companions=companions))
        for network in find_networks(self.cross_encoder, padding.left):
            with suppress(RuntimeError, ValueError, TypeError, AttributeError, IndexError):
                if self.is_near(self._run(network, alone).item(), logit):
                    self.network = network
                    return
        # Scores that are rounded to bf16 would be equal when they are not.
        layer = find_score_layer(self.cross_encoder)
        if self.precision != "fp32" and layer is not None:
            self.cross_encoder.set_keep_in_fp32_modules([layer])

    def is_near(self, logit: float, expected: float) -> bool:
        """Whether two logits differ only by the rounding of this precision."""
        return abs(logit - expected) <= _MOVES[self.precision] * max(1, abs(expected))


@quiet_libraries()
def load_model(checkpoint: Checkpoint, options: EngineOptions = _IN_FLOAT32) -> Model:
    """Load a checkpoint onto a device in a precision (no auto), and try it.

    Only trusted code is fetched from the hub, where it may be in another repository; with `offline` it is
    not. Raises UnavailableError if the model is incomplete, needs code that is not trusted, or cannot score a
    pair.
    """
    name = checkpoint.name
    trusted = options.trust_remote_code
    if not trusted and (activation := checkpoint.foreign_activation):
        raise UnavailableError(
            f"{name} names its own code, {activation}, as the activation of its scores.", hint=_TRUST_HINT
        )
    try:
        with _made_up_weights() as (missing, mismatched):
            model = CrossEncoder(
                str(checkpoint.folder),
                device=options.device,
                trust_remote_code=trusted,
                local_files_only=options.offline or not trusted,
                model_kwargs={"dtype": _DTYPES[options.precision]},
            ).eval()
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"{name} does not fit in the memory of {options.device}.",
            hint="Give --device cpu, or a smaller model.",
        ) from error
    except Exception as error:
        problem, hint = _explain(checkpoint, error)
        raise UnavailableError(f"{name} {problem}.", hint=hint) from error
    try:
        for problem, hint in _find_faults(model, missing, mismatched):
            raise UnavailableError(f"{name} {problem}.", hint=hint)
        tokenizer, config = model.tokenizer, model[0].model.config
        # Scores do not depend on the padding token of a model that names none.
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        return Model(name, model, options.precision)
    except UnavailableError:
        raise
    except Exception as error:  # any of those that a forward pass or a template may raise
        is_of_template = isinstance(error, TemplateError) or "chat template" in str(error)
        hint = _RERANKER_HINT if is_of_template else "Give another model."
        raise UnavailableError(f"{name} cannot score a pair: {first_line(error)}.", hint=hint) from error


def _read_layout(model: CrossEncoder, prompt: str | None) -> Layout:
    """Return the layout of a model's input; that of a chat template is found by filling it.

    Raise ValueError or TemplateError for a template that does not have query and document once each.
    """
    transformer = model[0]
    if "message" not in transformer.modality_config:
        return Layout(before=prompt or "")
    formatter, query, document = transformer.input_formatter, "\ue000query\ue000", "\ue000document\ue000"
    settings = {
        name: value
        for name, value in transformer.processing_kwargs.get("chat_template", {}).items()
        if name not in ("restore_suffix", "truncation", "max_length", "padding", "return_tensors")
    }

    def render(query: str, document: str) -> str:
        messages = [formatter.pair_to_messages((query, document))]
        if prompt:
            messages = formatter.prepend_prompt_to_messages(messages, prompt)
        return str(transformer.processor.apply_chat_template(messages[0], tokenize=False, **settings))

    before, _, rest = render(query, document).partition(query)
    between, _, after = rest.partition(document)
    layout = Layout(before, between, after)
    spaced = render(f" {query} ", f" {document} ")
    if spaced == layout.fill(query, document):
        return replace(layout, trims=True)
    if spaced != layout.fill(f" {query} ", f" {document} "):
        raise ValueError("its chat template changes query or document, or leaves one out")
    return layout


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or its class if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _made_up_weights() -> Iterator[tuple[set[str], set[str]]]:
    """Collect the names of weights that transformers makes up while it loads: missing, and of other sizes."""
    missing, mismatched = set[str](), set[str]()
    plain = PreTrainedModel.__dict__["from_pretrained"].__func__

    def load(cls: type, *args: Any, **options: Any) -> Any:
        own = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = plain(cls, *args, **{**options, **own})
        missing.update(info["missing_keys"])
        mismatched.update(name for name, *_ in info["mismatched_keys"])
        return (model, info) if options.get("output_loading_info") else model

    PreTrainedModel.from_pretrained = classmethod(load)
    try:
        yield missing, mismatched
    finally:
        PreTrainedModel.from_pretrained = classmethod(plain)


def _explain(checkpoint: Checkpoint, error: Exception) -> tuple[str, str]:
    """Return why a checkpoint could not be loaded, as a clause, and what to do."""
    said, files = str(error), checkpoint.files
    if "trust_remote_code" in said:
        return "comes with Python code of its own, which would run on this machine", _TRUST_HINT
    if "LogitScore" in said:
        return "cannot answer: its vocabulary has no yes or no no", _RERANKER_HINT
    problem = f"cannot be loaded: {first_line(error).rstrip('.')}"
    is_unread = isinstance(error, OSError) or re.search("weights_only|PytorchStreamReader", said)
    if checkpoint.pickled and is_unread:
        # Torch's own advice may be to load it without any check.
        problem = f"cannot be loaded: {checkpoint.pickled[0]} is damaged, or holds more than weights"
        return problem, f"Copy or fetch {checkpoint.folder} again, or choose a model with safetensors."
    if package := re.search(r"pip install (?:-\S+ )*(\w[\w.-]*\w)", said):
        return problem, f"pip install {package[1]}"
    if "tokenizer.json" not in files and any(one.endswith(".model") for one in files):
        # transformers needs that library to make a fast tokenizer of it.
        return problem, "pip install sentencepiece, or convert its tokenizer to a tokenizer.json."
    if checkpoint.code:
        return problem, "Its own Python code may have been written for another version of transformers."
    return problem, f"Copy or fetch {checkpoint.folder} again, or give another model."


def _find_faults(
    model: CrossEncoder, missing: Collection[str], mismatched: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield why the scores of a loaded model would be wrong, as a clause, and what to do.

    `missing` and `mismatched` are the weights that are random.
    """
    if missing:
        names = ", ".join(sorted(missing))
        problem = f"lacks weights that its scores depend on ({names}), which would be random"
        yield problem, "Give a cross-encoder, or fetch the model again."
    if mismatched:
        names = ", ".join(sorted(mismatched)[:3])
        problem = f"has {len(mismatched)} weights of other sizes than its config.json says, such as {names}"
        yield problem, "Its config.json belongs to another model. Fetch both again."
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        problem = "has no fast tokenizer, and only that tells where tokens are"
        yield problem, "Convert it to a tokenizer.json, or give another model."
    vectors, needed = _count_vectors(model), set(tokenizer("a", "b").input_ids)
    for token, last in tokenizer.get_vocab().items():
        if last >= vectors and (last in needed or last not in tokenizer.all_special_ids):
            yield (
                f"has the token {token!r} with id {last}, and vectors only for ids below {vectors}: its "
                "tokenizer is of another model",
                "Fetch the model again; or resize its embeddings and train it.",
            )
    score = list(model)[-1]
    if isinstance(score, LogitScore):
        answers = (score.true_token_id, score.false_token_id)
        unknown = tokenizer.unk_token_id
        if answers[0] == answers[1] or (unknown is not None and unknown in answers):
            yield "cannot answer: its vocabulary has no two tokens for yes and no", _RERANKER_HINT
        sequences = tokenizer.backend_tokenizer.encode("a", "b").sequence_ids
        if "message" not in model[0].modality_config and (0, 1) in pairwise(sequences):
            yield "has no chat template and puts nothing between query and document", _RERANKER_HINT


def _count_vectors(model: CrossEncoder) -> int:
    """Return for how many tokens a model has vectors: for all ids below that number."""
    embeddings = model[0].model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", LONGEST))


def _take_activation(model: CrossEncoder) -> Any:
    """Remove the activation from the end of a model, which then gives logits, and return it."""
    activation, last = model.activation_fn, list(model)[-1]
    if not isinstance(last, Dense) or last.use_residual:
        return activation
    own, last.activation_function = last.activation_function, torch.nn.Identity()
    if isinstance(own, torch.nn.Identity):
        return activation
    return own if isinstance(activation, torch.nn.Identity) else torch.nn.Sequential(own, activation)
