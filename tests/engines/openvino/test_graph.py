"""The last layer is pruned to what the pooled token needs, and the score stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines.families import FAMILIES, make_checkpoint

from ce_rerank.engines.openvino.cache import prepare_compiled
from ce_rerank.engines.openvino.graph import keep_pooled_token
from ce_rerank.engines.openvino.runtime import load_runtime

WIDTH = 8


def model(head: Callable[[Any], Any]) -> Any:
    """A layer by which every token reads all others, with what `head` makes of its output."""
    openvino = load_runtime()
    opset = openvino.opset13
    hidden = opset.parameter([-1, -1, WIDTH], np.float32)
    weights = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    looked = opset.softmax(opset.matmul(opset.matmul(hidden, weights, False, False), hidden, False, True), -1)
    wide = opset.gelu(opset.add(hidden, opset.matmul(looked, hidden, False, False)), "erf")
    return openvino.Model([head(opset.mvn(wide, np.array([-1]), True, 1e-5, "inside_sqrt"))], [hidden])


def take(hidden: Any, index: int) -> Any:
    return load_runtime().opset13.gather(hidden, np.array(index), np.array(1))


def mean(hidden: Any) -> Any:
    return load_runtime().opset13.reduce_mean(hidden, np.array([1]), False)


def first_and_mean(hidden: Any) -> Any:
    return load_runtime().opset13.add(take(hidden, 0), mean(hidden))


def count_single(graph: Any) -> int:
    """Count the matrix products that are computed for one token alone."""
    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return sum(node.get_output_partial_shape(0)[1] == 1 for node in products)


def run(graph: Any) -> Any:
    tokens = np.random.default_rng(1).standard_normal((3, 5, WIDTH)).astype(np.float32)
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    return load_runtime().Core().compile_model(graph, "CPU", precise)([tokens])[0]


@pytest.mark.parametrize(
    ("head", "pruned"),
    [
        (lambda hidden: take(hidden, 0), 3),
        (lambda hidden: take(hidden, -1), 3),
        (lambda hidden: take(hidden, 1), 0),
        (mean, 0),
        (first_and_mean, 0),
    ],
)
def test_the_last_layer_is_computed_for_the_pooled_token_alone(
    head: Callable[[Any], Any], pruned: int
) -> None:
    graph = model(head)
    expected = run(graph)
    keep_pooled_token(graph)
    assert count_single(graph) == pruned
    assert run(graph) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pruned_after_its_last_attention(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "cache"))
    compiled = prepare_compiled(make_checkpoint(family, tmp_path / family))
    graph = load_runtime().Core().read_model(compiled.folder / "model.xml")
    # Its own projection, and the two that a token goes through by itself.
    assert count_single(graph) >= 3
    # A product that ends in one number would be rounded to bf16 where the others are run in it.
    products = (node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul")
    assert all(list(node.get_output_partial_shape(0))[-1] != 1 for node in products)
