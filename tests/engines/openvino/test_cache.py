"""Why a model cannot be compiled is found in its small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ce_rerank.engines.openvino.cache import find_obstacle
from ce_rerank.models.checkpoint import Checkpoint

BERT = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "obstacle"),
    [
        ({}, None),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, None),
        ({"model_type": "bloom"}, "models of the type 'bloom' have not been tried"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "its activation is torch.nn.Tanh"),
        ({"sbert_ce_default_activation_function": "own.code.Odd"}, "it brings Python code of its own"),
        ({"auto_map": {"AutoModel": "modeling.Own"}}, "it brings Python code of its own"),
    ],
)
def test_what_stands_in_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], obstacle: str | None
) -> None:
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text(json.dumps({**BERT, **config}))
    assert find_obstacle(Checkpoint("some/model", tmp_path, "folder")) == obstacle
