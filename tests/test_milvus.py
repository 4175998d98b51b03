from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from ce_rerank import CrossEncoderRerankFunction, Reranker, RerankResult, UsageError
from ce_rerank.models.catalog import OFFLINE_NAME

SEED = Path(__file__).resolve().parents[1].parent / "shared" / "seed-example.jsonl"


@pytest.fixture
def function(counting_reranker: Reranker) -> CrossEncoderRerankFunction:
    """The function around a model whose logit is the sum of a document's number words."""
    function = CrossEncoderRerankFunction.__new__(CrossEncoderRerankFunction)
    function.activation_fct = None
    function.model = counting_reranker
    return function


def test_the_signatures_are_those_of_milvus_model() -> None:
    parameters = inspect.signature(CrossEncoderRerankFunction.__init__).parameters
    assert {
        name: parameter.default for name, parameter in parameters.items() if name not in ("self", "kwargs")
    } == {
        "model_name": "",
        "device": "",
        "batch_size": 32,
        "activation_fct": None,
    }
    call = inspect.signature(CrossEncoderRerankFunction.__call__).parameters
    assert list(call) == ["self", "query", "documents", "top_k"]
    assert call["top_k"].default == 5


def test_a_result_has_the_shape_of_milvus_models() -> None:
    result = RerankResult("it's", 1.5, 2)
    assert repr(result) == """RerankResult(text="it's", score=1.5, index=2)"""
    assert json.dumps(result.to_dict()) == '{"text": "it\'s", "score": 1.5, "index": 2}'


def test_the_five_best_come_first_unless_told_otherwise(function: CrossEncoderRerankFunction) -> None:
    documents = ["one", "nine", "three", "five", "two", "four"]
    results = function("red", documents)
    assert [result.index for result in results] == [1, 3, 5, 2, 4]
    assert (results[0], type(results[0].score)) == (RerankResult("nine", 4.5, 1), float)
    assert [len(function("red", documents, top_k=top_k)) for top_k in (2, 99, 0)] == [2, 6, 6]


def test_an_activation_is_given_the_logits(function: CrossEncoderRerankFunction) -> None:
    function.activation_fct = lambda logits: -logits
    results = function("red", ["one", "nine", "three"], top_k=2)
    assert [(result.index, result.score) for result in results] == [(0, -1.0), (2, -3.0)]


def test_a_negative_top_k_is_refused(function: CrossEncoderRerankFunction) -> None:
    for function.activation_fct in (None, lambda logits: logits):
        with pytest.raises(UsageError, match="top_k is -1"):
            function("red", ["one"], top_k=-1)


def test_a_batch_size_under_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size is 0"):
        CrossEncoderRerankFunction(batch_size=0)


@pytest.mark.offline_weights
@pytest.mark.slow
@pytest.mark.skipif(not SEED.exists(), reason="the reference example is not here")
def test_the_reference_scores_are_reproduced() -> None:
    real = CrossEncoderRerankFunction(OFFLINE_NAME, device="cpu", engine="torch", precision="fp32")
    example = json.loads(SEED.read_text(encoding="utf-8"))
    results = real(query=example["query"], documents=example["documents"], top_k=3)
    assert [result.index for result in results] == [1, 0, 3]
    assert [result.score for result in results] == pytest.approx([6.688290, -2.272524, -4.642528], abs=1e-3)
    json.dumps([result.to_dict() for result in results])


@pytest.mark.parametrize("activate", [lambda logits: logits[:1], lambda logits: (logits - 9).log()])
def test_an_activation_that_gives_no_scores_is_refused(
    function: CrossEncoderRerankFunction, activate: Any
) -> None:
    function.activation_fct = activate
    with pytest.raises(UsageError, match="Give one that takes a tensor of shape"):
        function("red", ["one", "nine"])
