"""What cannot be compiled is told from small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ce_rerank.engines.openvino.cache import find_obstacle
from ce_rerank.models.checkpoint import Checkpoint

BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def obstacle_of(folder: Path) -> str | None:
    return find_obstacle(Checkpoint("some/model", folder, "folder"))


@pytest.mark.parametrize(
    "config",
    [
        BERT,
        {**BERT, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {**BERT, "sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
        {**BERT, "sbert_ce_default_activation_function": None},
        {"model_type": "bert"},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    ],
)
def test_an_encoder_with_a_known_activation_has_no_obstacle(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path, "config.json", config)
    assert obstacle_of(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"model_type": "bloom"}, "models of the type 'bloom' have not been tried"),
        ({"model_type": None}, "models of the type '' have not been tried"),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
            "its activation is torch.nn.modules.activation.Tanh",
        ),
        ({"sbert_ce_default_activation_function": "own.code.Odd"}, "it brings Python code of its own"),
        ({"auto_map": {"AutoModel": "modeling.Own"}}, "it brings Python code of its own"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path: Path, changes: dict[str, Any], obstacle: str) -> None:
    write(tmp_path, "config.json", {**BERT, **changes})
    assert obstacle_of(tmp_path) == obstacle


def test_the_activation_that_sentence_transformers_saved_goes_first(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {**BERT, "sentence_transformers": {"activation_fn": "torch.nn.Tanh"}})
    write(
        tmp_path, "config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.linear.Identity"}
    )
    assert obstacle_of(tmp_path) is None
