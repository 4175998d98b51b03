"""The torch engine against sentence-transformers itself, over every family of models."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from engines.families import (
    FAMILIES,
    MAX_LENGTH,
    ODD_TEXTS,
    make_checkpoint,
    make_one_label_sigmoid,
)
from sentence_transformers import CrossEncoder

from ce_rerank import Reranker, UnavailableError
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.models.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

QUERY = "why does the keeper trim the wick?"
PAIRS = [(QUERY, text) for text in ODD_TEXTS]


def load(checkpoint: Checkpoint, **options: object) -> Reranker:
    return Reranker.from_engine(
        load_engine(checkpoint, EngineOptions(engine="torch", device="cpu", **options))
    )  # type: ignore[arg-type]


def reference(checkpoint: Checkpoint) -> np.ndarray:
    model = CrossEncoder(str(checkpoint.folder), device="cpu", local_files_only=True)
    model.max_seq_length = min(model.max_seq_length, MAX_LENGTH)
    return np.asarray(model.predict([list(pair) for pair in PAIRS], show_progress_bar=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_sentence_transformers(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(family, tmp_path)
    np.testing.assert_allclose(load(checkpoint).score(PAIRS), reference(checkpoint), atol=1e-4)


def test_the_models_own_activation_is_named_and_applied(tmp_path: Path) -> None:
    checkpoint = make_one_label_sigmoid(tmp_path)
    reranker = load(checkpoint)
    assert reranker.info.activation == "sigmoid"
    np.testing.assert_allclose(reranker.score(PAIRS), reference(checkpoint), atol=1e-6)
    logits = reranker.score(PAIRS, scores="logit").astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), reranker.score(PAIRS), atol=1e-6)


def test_a_score_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    reranker = load(make_checkpoint("bert", tmp_path))
    together = reranker.score(PAIRS)
    alone = np.concatenate([reranker.score([pair]) for pair in PAIRS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert together.tobytes() == reranker.score(PAIRS).tobytes()


def test_bf16_gives_float32_scores_that_are_not_rounded_to_its_steps(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", tmp_path)
    scores = load(checkpoint, precision="bf16").score(PAIRS)
    assert scores.dtype == np.float32
    assert (scores.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(scores, reference(checkpoint), atol=0.15)


def test_the_limit_can_be_lowered(tmp_path: Path) -> None:
    reranker = load(make_checkpoint("bert", tmp_path), max_length=40)
    (hit,) = reranker.rank(QUERY, ["word " * 300])
    assert (reranker.info.max_length, hit.tokens, hit.truncated) == (40, 40, True)


def test_the_limit_cannot_be_raised_above_the_models_positions(tmp_path: Path) -> None:
    reranker = load(make_checkpoint("bert", tmp_path), max_length=4 * MAX_LENGTH)
    (hit,) = reranker.rank(QUERY, ["word " * 1000])
    assert (reranker.info.max_length, hit.tokens) == (MAX_LENGTH, MAX_LENGTH)


def test_code_of_a_model_does_not_run_unless_it_is_trusted(tmp_path: Path) -> None:
    checkpoint, ran = make_checkpoint("bert", tmp_path / "model"), tmp_path / "ran"
    config = checkpoint.folder / "config.json"
    code = {"auto_map": {"AutoModelForSequenceClassification": "modeling.Mine"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **code}))
    (checkpoint.folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with suppress(UnavailableError):
        load(checkpoint)
    assert not ran.exists()
    with suppress(UnavailableError):
        load(checkpoint, trust_remote_code=True)
    assert ran.exists()
