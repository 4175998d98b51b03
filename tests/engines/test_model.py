"""What a checkpoint must have before it may rank, and what its scores must not depend on; on both engines."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from engines.families import (
    MAX_LENGTH,
    QUERY_AND_DOCUMENT,
    change_json,
    make_causal_reranker,
    make_checkpoint,
    make_modular_reranker,
)
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder
from typer.testing import CliRunner, Result

from ce_rerank import Reranker, UnavailableError
from ce_rerank.cli.app import app
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.types import EngineName, Pair

pytestmark = pytest.mark.slow

ENGINES: tuple[EngineName, ...] = ("torch", "openvino")
on_both_engines = pytest.mark.parametrize("engine", ENGINES)
PAIRS: list[Pair] = [
    ("how do tides work", "a [SEP] b [CLS] c"),
    ("how do tides work", "the moon </s> pulls the oceans, <s> so it is said, and the sun does too"),
    ("how do tides work", "tides"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))


def load(checkpoint: Checkpoint, engine: EngineName = "torch") -> Reranker:
    options = EngineOptions(engine=engine, device="cpu", precision="fp32")
    return Reranker.from_engine(load_engine(checkpoint, options))


def alone(folder: Path) -> np.ndarray:
    """What sentence-transformers gives for each pair by itself."""
    model = CrossEncoder(str(folder), device="cpu")
    return np.concatenate([model.predict([list(pair)], show_progress_bar=False) for pair in PAIRS])


def drop_weights(folder: Path, *names: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name not in names}
    assert len(kept) == len(weights) - len(names)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_would_be_random_are_found_without_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint("bert", tmp_path / "model")
    drop_weights(checkpoint.folder, "classifier.weight", "classifier.bias")
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    with pytest.raises(UnavailableError, match=r"lacks weights .*\(classifier\.bias, classifier\.weight\)"):
        load(checkpoint, "openvino")


def test_a_causal_model_whose_untied_head_is_missing_is_refused_and_a_tied_one_is_not(tmp_path: Path) -> None:
    untied = make_causal_reranker(tmp_path / "model")
    drop_weights(untied.folder, "lm_head.weight")
    with pytest.raises(UnavailableError, match=r"lacks weights .*lm_head\.weight"):
        load(untied)
    change_json(untied.folder / "config.json", tie_word_embeddings=True)
    np.testing.assert_allclose(load(untied).score(PAIRS), alone(untied.folder), atol=1e-4)


@on_both_engines
def test_special_tokens_in_a_text_are_text_where_the_model_says_so(
    tmp_path: Path, engine: EngineName
) -> None:
    folder = make_checkpoint("bert", tmp_path / "model").folder
    plain = alone(folder)
    change_json(folder / "tokenizer_config.json", split_special_tokens=True)
    split = alone(folder)
    assert abs(split[0] - plain[0]) > 0.1
    np.testing.assert_allclose(load(Checkpoint("m", folder, "folder"), engine).score(PAIRS), split, atol=1e-4)


def test_a_token_without_a_vector_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder)
    tokenizer.add_tokens(["zzqq"])
    tokenizer.save_pretrained(checkpoint.folder)
    with pytest.raises(UnavailableError, match="has the token 'zzqq' with id"):
        load(checkpoint)


def test_a_special_token_without_a_vector_is_text(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", tmp_path / "model")
    expected = load(checkpoint).score(PAIRS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder)
    tokenizer.add_special_tokens({"bos_token": "tides"})
    tokenizer.save_pretrained(checkpoint.folder)
    np.testing.assert_array_equal(load(checkpoint).score(PAIRS), expected)


def make_template(template: str) -> Callable[[Path], Checkpoint]:
    return lambda folder: make_causal_reranker(folder, chat_template=QUERY_AND_DOCUMENT + template)


def make_two_outputs(folder: Path) -> Checkpoint:
    checkpoint = make_modular_reranker(folder, last=torch.nn.Identity())
    dense = checkpoint.folder / "4_Dense"
    change_json(dense / "config.json", out_features=2)
    weights = load_file(dense / "model.safetensors")
    twice = {name: np.concatenate([weight, weight]) for name, weight in weights.items()}
    save_file(twice, dense / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


def make_no_score(folder: Path) -> Checkpoint:
    checkpoint = make_modular_reranker(folder, last=torch.nn.Identity())
    modules = checkpoint.folder / "modules.json"
    modules.write_text(json.dumps(json.loads(modules.read_text())[:-1]))
    return checkpoint


def make_nan(folder: Path) -> Checkpoint:
    checkpoint = make_checkpoint("bert", folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


def make_short(tokens: int) -> Callable[[Path], Checkpoint]:
    def make(folder: Path) -> Checkpoint:
        checkpoint = make_checkpoint("roberta", folder)
        change_json(folder / "tokenizer_config.json", model_max_length=tokens)
        return checkpoint

    return make


def make_end_counter(kind: str, **config: Any) -> Callable[[Path], Checkpoint]:
    """Write a model that reads its last end token, and refuses a batch in which their numbers differ."""

    def make(folder: Path) -> Checkpoint:
        checkpoint = make_checkpoint("roberta", folder)
        vocabulary = len(transformers.AutoTokenizer.from_pretrained(folder))
        ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
        torch.manual_seed(0)
        settings = getattr(transformers, f"{kind}Config")(
            vocab_size=vocabulary, d_model=32, num_labels=1, **ids, **config
        )
        getattr(transformers, f"{kind}ForSequenceClassification")(settings).save_pretrained(folder)
        return checkpoint

    return make


make_bart = make_end_counter(
    "Bart", encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=48, decoder_ffn_dim=48, init_std=0.25, max_position_embeddings=MAX_LENGTH, bos_token_id=0,
    forced_eos_token_id=2,
)  # fmt: skip
make_t5 = make_end_counter("T5", d_kv=8, d_ff=48, num_layers=1, num_decoder_layers=1, num_heads=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: make_causal_reranker(folder, words=()), "no yes or no no"),
        (lambda folder: make_causal_reranker(folder, words=(), unk_token="<|pad|>"), "no two tokens for"),
        (lambda folder: make_causal_reranker(folder, chat_template=None), "nothing between query and"),
        (make_template("{{ query }}"), "its chat template changes query or document, or leaves one out"),
        (make_template("{{ raise_exception('No query!') }}"), "A causal reranker is a folder with a chat"),
        (lambda folder: make_checkpoint("bert", folder, type_vocab_size=1), "cannot score a pair: index out"),
        (make_two_outputs, "it gives 2 scores for a pair"),
        (make_no_score, "none of its modules gives a score"),
        (make_nan, "gives nan as the score of a pair. Give --precision fp32."),
        (make_short(8), "leaves no room for a document within 8 tokens"),
    ],
)
def test_what_cannot_rank_is_refused_by_what_it_lacks(
    make: Callable[[Path], Checkpoint], message: str, tmp_path: Path
) -> None:
    result = rank(make(tmp_path / "model"))
    assert result.exit_code == 4
    assert message in " ".join(result.stderr.split())


def rank(checkpoint: Checkpoint, *options: str) -> Result:
    documents = [document for _, document in PAIRS]
    given = ["-m", str(checkpoint.folder), "--precision", "fp32", "-q", "a", *documents, *options]
    return CliRunner().invoke(app, ["rank", *given])


@pytest.mark.parametrize("make", [make_checkpoint, make_short(16), make_bart, make_t5])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_limit_too_short_for_our_own_texts_and_end_tokens_in_a_text_are_no_obstacle(
    make: Callable[..., Checkpoint], engine: str, tmp_path: Path
) -> None:
    checkpoint = make("bert", tmp_path) if make is make_checkpoint else make(tmp_path)
    assert rank(checkpoint, "--engine", engine).exit_code == 0
    assert rank(checkpoint, "--engine", engine, "--max-length", "8").exit_code == 0


def test_a_model_that_names_no_padding_is_padded_all_the_same(tmp_path: Path) -> None:
    checkpoint = make_causal_reranker(tmp_path / "model")
    change_json(checkpoint.folder / "tokenizer_config.json", pad_token=None, eos_token=None)
    change_json(checkpoint.folder / "config.json", pad_token_id=None)
    expected = alone(make_causal_reranker(tmp_path / "padded").folder)
    np.testing.assert_allclose(load(checkpoint).score(PAIRS), expected, atol=1e-4)


@on_both_engines
def test_a_score_does_not_depend_on_its_neighbours_where_padding_would_change_it(
    tmp_path: Path, engine: EngineName
) -> None:
    checkpoint = make_checkpoint("bert", tmp_path / "model")
    change_json(checkpoint.folder / "tokenizer_config.json", padding_side="left")
    np.testing.assert_allclose(load(checkpoint, engine).score(PAIRS), alone(checkpoint.folder), atol=1e-4)


@pytest.mark.parametrize("make", [make_bart, make_t5])
def test_pairs_that_cannot_share_a_batch_are_scored_one_at_a_time(
    make: Callable[[Path], Checkpoint], tmp_path: Path
) -> None:
    checkpoint = make(tmp_path / "model")
    np.testing.assert_allclose(load(checkpoint).score(PAIRS), alone(checkpoint.folder), atol=1e-4)


def test_a_sigmoid_inside_the_last_layer_is_the_models_activation(tmp_path: Path) -> None:
    checkpoint = make_modular_reranker(tmp_path, last=torch.nn.Sigmoid())
    reranker, expected = load(checkpoint), alone(checkpoint.folder)
    assert reranker.info.activation == "sigmoid"
    for scale in ("model", "sigmoid"):
        np.testing.assert_allclose(reranker.score(PAIRS, scores=scale), expected, atol=1e-5)
    np.testing.assert_allclose(
        reranker.score(PAIRS, scores="logit"), np.log(expected / (1 - expected)), atol=1e-3
    )


def spoil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)


def drop_fast_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "sentencepiece.bpe.model").write_bytes(b"x" * 100)


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 999), "cannot be loaded", "Copy or fetch"),
        (spoil_pickle, r"pytorch_model\.bin is damaged, or holds more than weights", "Copy or fetch"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
            "cannot be loaded",
            "^pip install peft$",
        ),
        (drop_fast_tokenizer, "cannot be loaded", "^pip install sentencepiece"),
        (
            lambda folder: change_json(folder / "config.json", vocab_size=1000),
            r"of other sizes .* roberta\.embeddings\.word",
            r"^Its config\.json",
        ),
    ],
    ids=["weights", "pickle", "adapter", "tokenizer", "sizes"],
)
def test_what_cannot_be_loaded_is_refused_with_what_mends_it(
    tmp_path: Path, spoil: Callable[[Path], object], message: str, hint: str
) -> None:
    checkpoint = make_checkpoint("xlm-roberta", tmp_path / "model")
    spoil(checkpoint.folder)
    with pytest.raises(UnavailableError, match=message) as caught:
        load(checkpoint)
    assert re.search(hint, caught.value.hint)
    assert "weights_only" not in str(caught.value)


def test_code_that_does_not_run_is_blamed_and_not_the_files(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", tmp_path / "model")
    classes = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    change_json(checkpoint.folder / "config.json", model_type="own", auto_map=classes)
    (checkpoint.folder / "own.py").write_text("from transformers.utils import gone_since\n")
    with pytest.raises(UnavailableError, match="gone_since") as caught:
        load_engine(checkpoint, EngineOptions(engine="torch", device="cpu", trust_remote_code=True))
    assert "another version of transformers" in caught.value.hint
