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
_RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    from openvino import opset13

    return opset13.constant(_RANDOM.standard_normal(shape).astype(np.float32))


def layer(hidden: Any) -> Any:
    """An encoder layer with one head, as the converter writes them."""
    from openvino import opset13 as opset

    query, key, value = (opset.matmul(hidden, weights(WIDTH, WIDTH), False, False) for _ in range(3))
    looked = opset.softmax(opset.matmul(query, key, False, True), -1)
    hidden = opset.add(hidden, opset.matmul(looked, value, False, False))
    wide = opset.gelu(opset.matmul(hidden, weights(WIDTH, 3 * WIDTH), False, False), "erf")
    hidden = opset.add(hidden, opset.matmul(wide, weights(3 * WIDTH, WIDTH), False, False))
    axes = opset.constant([-1], dtype="int64")
    return opset.mvn(hidden, axes, True, 1e-5, "inside_sqrt")


def take(hidden: Any, index: int) -> Any:
    from openvino import opset13 as opset

    return opset.gather(hidden, opset.constant(index, dtype="int64"), opset.constant(1, dtype="int64"))


def model(head: Callable[[Any], Any]) -> Any:
    """Two layers, with what `head` makes of their output."""
    openvino = load_runtime()
    hidden = openvino.opset13.parameter([-1, -1, WIDTH], np.float32)
    return openvino.Model([head(layer(layer(hidden)))], [hidden])


def count_single(graph: Any) -> int:
    """Count the matrix products that are computed for one token alone."""
    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return sum(node.get_output_partial_shape(0)[1] == 1 for node in products)


def run(graph: Any) -> Any:
    tokens = np.random.default_rng(1).standard_normal((3, 5, WIDTH)).astype(np.float32)
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    return load_runtime().Core().compile_model(graph, "CPU", precise)([tokens])[0]


@pytest.mark.parametrize("index", [0, -1])
def test_the_last_layer_is_computed_for_the_pooled_token_alone(index: int) -> None:
    graph = model(lambda hidden: take(hidden, index))
    expected = run(graph)
    assert keep_pooled_token(graph) == 10
    # The query's product, the two of the attention and the two behind it; of twelve.
    assert count_single(graph) == 5
    assert run(graph) == pytest.approx(expected, abs=1e-5)


def mean(hidden: Any) -> Any:
    from openvino import opset13 as opset

    return opset.reduce_mean(hidden, opset.constant([1], dtype="int64"), False)


def first_and_mean(hidden: Any) -> Any:
    from openvino import opset13 as opset

    return opset.add(take(hidden, 0), mean(hidden))


@pytest.mark.parametrize("head", [mean, first_and_mean, lambda hidden: take(hidden, 1)])
def test_a_score_of_other_tokens_is_left_as_it_is(head: Callable[[Any], Any]) -> None:
    graph = model(head)
    expected = run(graph)
    assert keep_pooled_token(graph) == 0
    assert count_single(graph) == 0
    assert run(graph).tobytes() == expected.tobytes()


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
