"""Rerankers with templates, prompts and modules: both engines score them as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from engines.families import LAYOUTS, ODD_TEXTS, make_checkpoint, make_layout
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau
from sentence_transformers import CrossEncoder

from ce_rerank import Reranker, UsageError
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.engines.batching import pad_rows
from ce_rerank.engines.model import load_model
from ce_rerank.engines.openvino.runtime import load_runtime
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.types import EngineName, Pair

pytestmark = pytest.mark.slow

ENGINES: tuple[EngineName, ...] = ("torch", "openvino")
PAIRS: list[Pair] = [("tides and the moon", text) for text in ODD_TEXTS]
DOCUMENTS = [
    f"{who} {what} {where}, {why}."
    for who, what, where, why in product(
        ("The keeper", "A fox", "The moon", "My café", "Das Licht"),
        ("trims the wick", "jumps over", "pulls the ocean", "re-heats coffee", "3.14 litres"),
        ("at dawn", "in the log", "月球", "and it's not"),
        ("don't they", "because of gravity"),
    )
]


def train_head(checkpoint: Checkpoint) -> None:
    """Let scores tell documents apart, as those of a trained model do: by what differs most between them."""
    model = load_model(checkpoint)
    rows = model.tokenizer.encode([("tides and the moon", document) for document in DOCUMENTS])
    behind = getattr(model.network.head, "modules_behind", None)
    seen: list[torch.Tensor] = []
    layer = model.network.head if behind is None else behind[-1].linear
    layer.register_forward_pre_hook(lambda _, vectors: seen.append(vectors[0]))
    model.score(pad_rows(rows, model.facts.padding))
    vectors = seen[0] - seen[0].mean(0)
    _, widths, directions = torch.linalg.svd(vectors, full_matrices=False)
    weight = directions[0] * 0.6 * len(rows) ** 0.5 / widths[0]
    path = checkpoint.folder / ("model.safetensors" if behind is None else "4_Dense/model.safetensors")
    weights = load_file(path)
    if behind is None:
        score = model.cross_encoder[1]
        weights["lm_head.weight"][score.true_token_id] = weight
        if score.false_token_id is not None:
            weights["lm_head.weight"][score.false_token_id] = -weight
    else:
        weights["linear.weight"] = weight[None]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Checkpoint]]:
    """A checkpoint of each layout, and a cache for what is compiled of them."""
    folder = tmp_path_factory.mktemp("layouts")

    @cache
    def checkpoint(layout: str) -> Checkpoint:
        checkpoint = make_layout(layout, folder / layout)
        train_head(checkpoint)
        return checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CE_RERANK_CACHE", str(folder / "cache"))
        yield checkpoint


def load(checkpoint: Checkpoint, engine: EngineName, **options: object) -> Reranker:
    settings = {"precision": "fp32", **options}
    return Reranker.from_engine(
        load_engine(checkpoint, EngineOptions(engine=engine, device="cpu", **settings))  # type: ignore[arg-type]
    )


def alone(checkpoint: Checkpoint, prompt: str | None = None) -> np.ndarray:
    """What sentence-transformers gives for each pair by itself, before the activation."""
    model = CrossEncoder(str(checkpoint.folder), device="cpu")
    return np.asarray(
        model.predict(
            [list(pair) for pair in PAIRS],
            prompt=prompt,
            batch_size=1,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_scores_are_those_of_sentence_transformers(
    layout: str, engine: EngineName, checkpoints: Callable[[str], Checkpoint]
) -> None:
    reranker, expected = load(checkpoints(layout), engine), alone(checkpoints(layout))
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_gives_distinct_scores_in_nearly_the_same_order(
    layout: str, engine: EngineName, checkpoints: Callable[[str], Checkpoint]
) -> None:
    capabilities = load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if engine == "openvino" and "BF16" not in capabilities:
        pytest.skip("OpenVINO has no bf16 on this CPU")
    pairs = [("tides and the moon", document) for document in DOCUMENTS]
    exact = load(checkpoints(layout), engine).score(pairs)
    rounded = load(checkpoints(layout), engine, precision="bf16").score(pairs)
    assert len(set(rounded.tolist())) == len(DOCUMENTS) == 200
    # Narrow random models: to round no more than the inputs of matrix products leaves 0.9935 to 0.9961.
    assert kendalltau(exact, rounded).statistic >= 0.983


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_instruction_takes_the_place_of_the_models_own(
    layout: str, engine: EngineName, checkpoints: Callable[[str], Checkpoint]
) -> None:
    task = "Find what a sailor would want to know: "
    reranker = load(checkpoints(layout), engine, instruction=task)
    assert reranker.info.instruction == task
    assert f'instruction "{task.strip()}"' in reranker.info.description
    np.testing.assert_allclose(reranker.score(PAIRS), alone(checkpoints(layout), task), atol=1e-4)


def test_a_model_that_takes_no_instruction_says_so(checkpoints: Callable[[str], Checkpoint]) -> None:
    bert = make_checkpoint("bert", checkpoints("ettin").folder.parent / "bert")
    for engine in ENGINES:
        with pytest.raises(UsageError, match="takes no instruction"):
            load(bert, engine, instruction="Find what a sailor would want to know")
