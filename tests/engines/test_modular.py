"""Rerankers of several modules, as the ettin family is built: torch runs them as its library does."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from engines.families import ODD_TEXTS, make_causal_reranker, make_modular_reranker
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from ce_rerank import Reranker
from ce_rerank.engines.model import quiet_libraries
from ce_rerank.models.store import resolve_checkpoint

pytestmark = pytest.mark.slow

_WIDTH = 32


@pytest.fixture
def modular(tmp_path: Path) -> Path:
    """A reranker of five modules."""
    return make_modular_reranker(tmp_path, last=torch.nn.Identity()).folder


def test_they_are_taken_whole_and_scored_as_by_sentence_transformers(
    modular: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ce_rerank")
    assert resolve_checkpoint(str(modular), offline=True).folder == modular
    reranker = Reranker(modular)
    pairs = [("tides", text) for text in ODD_TEXTS]
    with quiet_libraries():
        expected = CrossEncoder(str(modular), device="cpu").predict(pairs)
    np.testing.assert_allclose(reranker.score(pairs), expected, atol=1e-4)
    assert (reranker.info.engine, reranker.info.activation) == ("torch", "identity")
    assert any("it has modules after the transformer" in message for message in caplog.messages)


def test_a_causal_model_that_names_its_own_words_is_scored_by_those(tmp_path: Path) -> None:
    """As mxbai-rerank v2 does, which answers 1 or 0 where others answer yes or no."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(make_causal_reranker(tmp_path / "qwen3").folder)
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=_WIDTH, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, initializer_range=0.25, max_position_embeddings=96,
        )
    )  # fmt: skip
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("1", "0")]
    with quiet_libraries():
        model.save_pretrained(tmp_path / "qwen2")
        tokenizer.save_pretrained(tmp_path / "qwen2")
        transformer = Transformer(str(tmp_path / "qwen2"), transformer_task="text-generation")
        score = LogitScore(true_token_id=words[0], false_token_id=words[1])
        cross_encoder = CrossEncoder(modules=[transformer, score], device="cpu")
        cross_encoder.save_pretrained(str(tmp_path / "model"))
        expected = CrossEncoder(str(tmp_path / "model"), device="cpu").predict([("tides", "the moon")])
    reranker = Reranker(tmp_path / "model")
    np.testing.assert_allclose(reranker.score([("tides", "the moon")]), expected, atol=1e-4)
    assert reranker.info.engine == "torch"


def test_one_that_lacks_a_module_is_refused(modular: Path) -> None:
    for path in (modular / "4_Dense").iterdir():
        path.unlink()
    (modular / "4_Dense").rmdir()
    with pytest.raises(Exception, match=r"is not complete: 4_Dense/ is missing\."):
        resolve_checkpoint(str(modular), offline=True)
