"""The torch engine against sentence-transformers, and its packing against its padding, over every family.

Ordinary attention stands in for the GPU's kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engines.families import (
    FAMILIES,
    MAX_LENGTH,
    ODD_TEXTS,
    change_json,
    make_checkpoint,
    make_layout,
)
from sentence_transformers import CrossEncoder
from torch.nn.functional import scaled_dot_product_attention

from ce_rerank import Reranker, UnavailableError
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import Engine, EngineOptions
from ce_rerank.engines.batching import Float32s, PairTokens, TokenBatch
from ce_rerank.engines.model import Model, load_model
from ce_rerank.engines.network import Network
from ce_rerank.engines.torch import (
    CannotPackError,
    PackedModel,
    TorchEngine,
    attend,
    load_torch_engine,
)
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.types import Pair

pytestmark = pytest.mark.slow

QUERY = "why does the keeper trim the wick?"
ODD_PAIRS = [(QUERY, text) for text in ODD_TEXTS]


def load(checkpoint: Checkpoint, **options: object) -> Reranker:
    return Reranker.from_engine(
        load_engine(checkpoint, EngineOptions(engine="torch", device="cpu", **options))
    )  # type: ignore[arg-type]


def reference(checkpoint: Checkpoint) -> np.ndarray:
    model = CrossEncoder(str(checkpoint.folder), device="cpu", local_files_only=True)
    model.max_seq_length = min(model.max_seq_length, MAX_LENGTH)
    return np.asarray(model.predict([list(pair) for pair in ODD_PAIRS], show_progress_bar=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_sentence_transformers(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(family, tmp_path)
    np.testing.assert_allclose(load(checkpoint).score(ODD_PAIRS), reference(checkpoint), atol=1e-4)


def test_code_of_a_model_does_not_run_unless_it_is_trusted(tmp_path: Path) -> None:
    checkpoint, ran = make_checkpoint("bert", tmp_path / "model"), tmp_path / "ran"
    code = {"AutoModelForSequenceClassification": "modeling.Mine"}
    change_json(checkpoint.folder / "config.json", auto_map=code)
    (checkpoint.folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with suppress(UnavailableError):
        load(checkpoint)
    assert not ran.exists()
    with suppress(UnavailableError):
        load(checkpoint, trust_remote_code=True)
    assert ran.exists()


WORDS = "the keeper trims the wick, winds the clockwork and writes the weather into the log"
PAIRS: list[Pair] = [
    ("why do tides rise?", " ".join([WORDS] * times)[:characters])
    for times, characters in ((1, 3), (9, 999), (1, 40), (2, 120), (1, 1), (3, 200), (9, 999))
]
OPTIONS = EngineOptions(engine="torch", device="cpu", precision="fp32")


def make(kind: str, folder: Path) -> Checkpoint:
    return make_layout(kind, folder) if kind in ("qwen3", "gemma") else make_checkpoint(kind, folder)


def pack(padded: TorchEngine, checkpoint: Checkpoint) -> TorchEngine:
    """Pack the model of a padded engine, which is of no use afterwards."""
    return TorchEngine(padded.model, checkpoint, OPTIONS, PackedModel(padded.model))


def rows_of(engine: Engine) -> Sequence[PairTokens]:
    return list(engine.tokenizer.encode(PAIRS))


KERNEL_OPTIONS = frozenset({"scale", "window_size", "enable_gqa", "num_splits"})
"""What the newest kernel takes."""


def attend_apart(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    *others: object,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
    num_splits: int,
) -> torch.Tensor:
    """Do by ordinary attention, with a mask, what the GPU's kernel does; shapes are (tokens, heads, size)."""
    sequences = torch.repeat_interleave(torch.arange(len(borders) - 1), borders.diff().long())
    places = torch.arange(len(sequences))
    back = places[:, None] - places
    left, right = (len(places) if reach < 0 else reach for reach in window_size)
    mask = (sequences[:, None] == sequences) & (back <= left) & (back >= -right)
    one, other, values = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    attended = scaled_dot_product_attention(one, other, values, mask, scale=scale, enable_gqa=enable_gqa)
    return attended[0].transpose(0, 1)


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ce_rerank.engines.torch.find_kernel", lambda: (attend_apart, KERNEL_OPTIONS))
        yield


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def loaded(bert: Checkpoint) -> tuple[TorchEngine, TorchEngine]:
    padded = load_torch_engine(bert, OPTIONS)
    return padded, pack(load_torch_engine(bert, OPTIONS), bert)


@pytest.fixture(params=["padded", "packed"])
def engine(
    request: pytest.FixtureRequest,
    loaded: tuple[TorchEngine, TorchEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> TorchEngine:
    """A BERT, as it was loaded."""
    engine = loaded[request.param == "packed"]
    monkeypatch.setattr(engine, "_limit", sys.maxsize)
    return engine


@pytest.mark.parametrize(
    "kind",
    ["bert", "distilbert", "electra", "gemma", "modernbert", "qwen3", "xlm-roberta"],
)
def test_packed_scores_are_the_padded_ones_whatever_lies_beside(kind: str, tmp_path: Path) -> None:
    checkpoint = make(kind, tmp_path)
    padded = load_torch_engine(checkpoint, OPTIONS)
    rows = rows_of(padded)
    expected = padded.score_rows(rows)
    engine = pack(padded, checkpoint)
    assert np.ptp(expected) > 1e-2
    np.testing.assert_allclose(engine.score_rows(rows), expected, atol=1e-4)
    np.testing.assert_allclose(engine.score_rows(rows, batch_tokens=1), expected, atol=1e-4)
    np.testing.assert_allclose(engine.score_rows(rows[::-1], batch_tokens=150), expected[::-1], atol=1e-4)


def test_the_mean_is_that_of_a_rows_own_tokens(bert: Checkpoint) -> None:
    padded = load_torch_engine(bert, OPTIONS)
    assert isinstance(padded.model.network, Network)
    padded.model.network.pooling = "mean"
    rows = rows_of(padded)
    expected = padded.score_rows(rows)
    np.testing.assert_allclose(pack(padded, bert).score_rows(rows), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("albert", "it is not one backbone, pooled token and head"),
        ("deberta-v2", "its attention is of a kind of its own"),
        ("mpnet", "its attention is of a kind of its own"),
    ],
)
def test_a_model_that_cannot_be_packed_stays_as_it_was(kind: str, reason: str, tmp_path: Path) -> None:
    padded = load_torch_engine(make(kind, tmp_path), OPTIONS)
    rows = rows_of(padded)
    before = padded.score_rows(rows)
    with pytest.raises(CannotPackError, match=reason):
        PackedModel(padded.model)
    assert padded.score_rows(rows).tobytes() == before.tobytes()


def test_a_model_that_packing_would_score_differently_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = load_torch_engine(make("modernbert", tmp_path), OPTIONS)

    def without_window(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        return attend_apart(*tensors, **{**options, "window_size": (-1, -1)})

    monkeypatch.setattr("ce_rerank.engines.torch.find_kernel", lambda: (without_window, KERNEL_OPTIONS))
    with pytest.raises(CannotPackError, match="a pair's logit would be"):
        PackedModel(padded.model)


def test_out_of_memory_halves_the_batches_and_loses_nothing(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(engine) * 3
    expected, tried, done = engine.score_rows(rows), [], []
    score = engine._start

    def score_few(some: Sequence[PairTokens]) -> torch.Tensor:
        tried.append(sum(map(len, some)) if engine.info.packed else len(some) * max(map(len, some)))
        if tried[-1] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(some)

    monkeypatch.setattr(engine, "_start", score_few)
    np.testing.assert_allclose(engine.score_rows(rows, on_progress=done.append), expected, atol=1e-5)
    assert tried[0] > 200
    assert sum(done) == len(rows)
    tried.clear()
    engine.score_rows(rows)
    assert max(tried) <= 200, "the next call starts with what is known to fit"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory on one pair of 96 tokens"),
        (RuntimeError("device-side assert triggered"), "cannot score a batch: device-side assert triggered"),
    ],
)
def test_what_cannot_be_scored_is_an_error_that_says_why(
    engine: TorchEngine, fault: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(some: Sequence[PairTokens]) -> torch.Tensor:
        raise fault

    monkeypatch.setattr(engine, "_start", fail)
    with pytest.raises(UnavailableError, match=message):
        engine.score_rows(rows_of(engine))


@pytest.mark.parametrize(
    ("takes", "causal", "window", "expected"),
    [
        (KERNEL_OPTIONS, False, None, {"window_size": (-1, -1)}),
        (KERNEL_OPTIONS, True, None, {"window_size": (-1, 0)}),
        (KERNEL_OPTIONS, False, 65, {"window_size": (64, 64)}),
        (frozenset({"scale", "window_size"}), True, 65, {"window_size": (64, 0)}),
    ],
)
def test_the_kernel_is_given_what_its_version_takes(
    takes: frozenset[str],
    causal: bool,
    window: int | None,
    expected: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, object] = {}

    def note(query: torch.Tensor, key: torch.Tensor, *others: object, **options: object) -> torch.Tensor:
        given.update(options, heads=key.shape[1])
        return query

    monkeypatch.setattr("ce_rerank.engines.torch.find_kernel", lambda: (note, takes))
    query, key = torch.ones(1, 4, 7, 16), torch.ones(1, 2, 7, 16)
    result, _ = attend(
        SimpleNamespace(is_causal=causal), query, key, key, None,
        cu_seq_lens_q=torch.tensor([0, 3, 7], dtype=torch.int32), max_length_q=4, scaling=0.5,
        sliding_window=window,
    )  # type: ignore[arg-type]  # fmt: skip
    assert result.shape == (1, 7, 4, 16)
    options = {"num_splits": 1, "enable_gqa": True, "heads": 2} if takes == KERNEL_OPTIONS else {"heads": 4}
    assert given == {"scale": 0.5, **expected, **options}


def test_on_cuda_a_16_bit_model_is_packed_and_a_float32_one_is_padded(
    bert: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_on_cpu(checkpoint: Checkpoint, options: EngineOptions) -> Model:
        return load_model(checkpoint, replace(options, device="cpu"))

    monkeypatch.setattr("ce_rerank.engines.find_device", lambda device: device)
    monkeypatch.setattr("ce_rerank.engines.torch.load_model", load_on_cpu)
    ran: dict[str, Float32s] = {}
    for precision in ("bf16", "fp32"):
        engine = load_engine(bert, EngineOptions(device="cuda", precision=precision))  # type: ignore[arg-type]
        assert engine.info.packed == (precision == "bf16")
        ran[precision] = engine.score_rows(rows_of(engine))
    np.testing.assert_allclose(ran["bf16"], ran["fp32"], atol=0.15)


def test_on_mps_threads_take_turns_and_batches_have_few_shapes(
    bert: Checkpoint, loaded: tuple[TorchEngine, TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(loaded[0].model, bert, replace(OPTIONS, device="mps"))
    rows = rows_of(engine) * 5
    expected = loaded[0].score_rows(rows)
    score, shapes, running, most = engine.model.score, set(), [], []

    def watch(batch: TokenBatch) -> torch.Tensor:
        running.append(1)
        most.append(len(running))
        shapes.add(batch["input_ids"].shape)
        try:
            return score(batch)
        finally:
            running.pop()

    monkeypatch.setattr(engine.model, "score", watch)
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda budget: engine.score_rows(rows, budget), (100, 300, 700, 900) * 2):
            np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert max(most) == 1
    assert {width for _, width in shapes} <= {32, 64, 96}
    assert {count for count, _ in shapes} <= {1, 2, 4, 8, 16, 32}
