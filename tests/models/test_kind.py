from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ce_rerank import UnavailableError
from ce_rerank.models.kind import require_reranker, untrusted_activation
from ce_rerank.models.store import Checkpoint


def checkpoint(folder: Path, config: Any, **others: Any) -> Checkpoint:
    for name, content in {"config": config, **others}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return Checkpoint(name="some/model", folder=folder, source="folder")


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        {"architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1},
        {"architectures": ["Qwen3ForCausalLM"]},
    ],
)
def test_models_with_one_score_for_a_pair_are_rerankers(tmp_path: Path, config: dict[str, Any]) -> None:
    require_reranker(checkpoint(tmp_path, config))


def test_a_cross_encoder_made_of_modules_is_a_reranker(tmp_path: Path) -> None:
    described = {"config_sentence_transformers": {"model_type": "CrossEncoder"}, "modules": []}
    require_reranker(checkpoint(tmp_path, {"architectures": ["ModernBertModel"]}, **described))


@pytest.mark.parametrize(
    ("config", "others", "message"),
    [
        (
            {
                "architectures": ["RobertaForSequenceClassification"],
                "id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"},
            },
            {},
            r"a classifier with 3 labels \(contradiction, entailment, neutral\), not a reranker",
        ),
        ({"architectures": ["BertForSequenceClassification"]}, {}, "a classifier with 2 labels"),
        ({"architectures": ["BertModel"]}, {"modules": []}, r"an embedding model \(BertModel\)"),
        ({"architectures": ["XLMRobertaModel"]}, {}, r"an embedding model \(XLMRobertaModel\)"),
        (
            {"architectures": ["BertModel"]},
            {"modules": [], "config_sentence_transformers": {"model_type": "SentenceTransformer"}},
            "an embedding model",
        ),
        ({"architectures": ["JinaForRanking"]}, {}, "a listwise reranker"),
        (
            {"architectures": ["T5ForConditionalGeneration"]},
            {},
            "a T5ForConditionalGeneration, which cannot score",
        ),
        ({}, {}, "a model of no named architecture"),
    ],
)
def test_other_models_are_refused_by_what_they_are(
    tmp_path: Path, config: dict[str, Any], others: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        require_reranker(checkpoint(tmp_path, config, **others))


@pytest.mark.parametrize("labels", [["L"], "L", 1])
def test_labels_that_transformers_cannot_read_are_named(tmp_path: Path, labels: Any) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    with pytest.raises(UnavailableError, match=r"^id2label in its config\.json is .*, which transformers"):
        require_reranker(checkpoint(tmp_path, config))


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnavailableError, match=r"config\.json"):
        require_reranker(Checkpoint(name="some/model", folder=tmp_path, source="folder"))


@pytest.mark.parametrize(
    ("config", "others", "activation"),
    [
        ({}, {}, None),
        ({"sentence_transformers": None}, {}, None),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, {}, None),
        ({"sbert_ce_default_activation_function": "mine.Squash"}, {}, "mine.Squash"),
        ({"sentence_transformers": {"activation_fn": "mine.Squash"}}, {}, "mine.Squash"),
        ({}, {"config_sentence_transformers": {"activation_fn": "mine.Squash"}}, "mine.Squash"),
    ],
)
def test_an_activation_that_is_not_torchs_is_found(
    tmp_path: Path, config: dict[str, Any], others: dict[str, Any], activation: str | None
) -> None:
    assert untrusted_activation(checkpoint(tmp_path, config, **others).folder) == activation
