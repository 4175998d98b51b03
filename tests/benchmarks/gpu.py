"""ce-rerank beside sentence-transformers on one GPU: are the scores the same, and how many pairs a second?

    python tests/benchmarks/gpu.py --model FOLDER     # under 6 minutes on an H100; the table comes last
    python tests/benchmarks/gpu.py --smoke            # tiny shapes on the CPU: only whether the script works

FOLDER has the weights of ms-marco-MiniLM-L-12-v2 (`ce-rerank models export` writes one); without it, and for
the other models, random weights have the same shapes. Nothing is fetched. A machine without a network needs
what ce-rerank depends on carried to it, beside torch with CUDA (2.11 or later) and transformers:

    pip install --target carried --python-version 3.12 --only-binary :all: --no-deps \
        sentence-transformers==6.2.0 typer regex rich platformdirs filelock
    PYTHONPATH=carried:. python tests/benchmarks/gpu.py

Each system scores the same texts, tokenizing included; figures are medians of 3 rounds of about a second.
What is left when the time is up is not measured, and the table says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ce_rerank import Reranker
from ce_rerank.cli.bench import _SENTENCES
from ce_rerank.cli.doctor import _DOCUMENTS, _QUERY
from ce_rerank.engines.base import EngineOptions
from ce_rerank.engines.model import load_model
from ce_rerank.engines.torch import PackedModel, TorchEngine
from ce_rerank.models.checkpoint import Checkpoint

Pairs = list[tuple[str, str]]
Score = Callable[[Pairs], np.ndarray]

# What sentence-transformers gives in float32 for the doctor's documents and the offline weights.
GOLDEN = np.array((5.1584015, -11.261237, -10.693955), np.float32)
WORDS = sorted(set(re.findall(r"\b[a-z]{3,5}\b", " ".join(_SENTENCES))))  # a token each, nearly all
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "MiniLM-L-12": (
        "Bert",
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "ModernBERT-base": ("ModernBert", {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2,
                                       "eos_token_id": 3, "sep_token_id": 3}),
    "XLM-R-large": (
        "XLMRoberta",
        {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 0},
    ),
    "Qwen3-0.6B": (
        "Qwen3",
        {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 128, "intermediate_size": 3072, "pad_token_id": 0},
    ),
}  # fmt: skip
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
SYSTEMS = (
    "sentence-transformers",
    "sentence-transformers, best",
    "ce-rerank fp32",
    "ce-rerank bf16 padded",
    "ce-rerank bf16",
)
ROUNDS = 3
SMOKE_LENGTHS = {100: 20, 512: 60}
ROUND_SECONDS = 1.0
MOST_PAIRS = 32_768


def make_shape(name: str, folder: Path, tiny: bool) -> Checkpoint:
    """Write a model with random weights, and a tokenizer of whole words."""
    kind, shape = SHAPES[name]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate([*special, *WORDS])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    settings = {**shape, **(TINY if tiny else {}), "num_labels": 1}
    # Large enough for scores to differ by more than rounding does.
    settings["initializer_range"] = 1.4 / settings.get("hidden_size", 768) ** 0.5
    if tiny:
        settings |= {"vocab_size": 300, "head_dim": 16, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    return Checkpoint(name=name, folder=folder, source="folder")


def make_pairs(count: int, tokens: int) -> Pairs:
    """Make pairs of 4 in 10 to 16 in 10 of `tokens`, which are one a word; what is over 512 is cut."""
    chance = random.Random(tokens)

    def make_text(length: int) -> str:
        return " ".join(chance.choices(WORDS, k=length))

    return [
        (make_text(8), make_text(chance.randint(tokens * 4 // 10, tokens * 16 // 10) - 11))
        for _ in range(count)
    ]


def load_engine(checkpoint: Checkpoint, device: str, precision: str, packed: bool) -> TorchEngine:
    options = EngineOptions(engine="torch", device=device, precision=precision, max_length=512)  # type: ignore[arg-type]
    model = load_model(checkpoint, options)
    packs = packed and device == "cuda"  # the CPU has no kernel for it
    return TorchEngine(model, checkpoint, options, PackedModel(model) if packs else None)


def load_system(system: str, checkpoint: Checkpoint, device: str) -> tuple[Score, str]:
    """Return what scores pairs, and a note about how it does."""
    if system.startswith("ce-rerank"):
        precision = system.split()[1]
        packs = precision != "fp32" and not system.endswith("padded")
        engine = load_engine(checkpoint, device, precision, packs)
        reranker = Reranker.from_engine(engine)
        return lambda pairs: reranker.score(pairs, scores="logit"), "packed" if engine.info.packed else ""
    best = system.endswith("best")
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16} if best else {}
    if best and find_spec("flash_attn"):
        kwargs["attn_implementation"] = "flash_attention_2"
    model = CrossEncoder(str(checkpoint.folder), device=device, model_kwargs=kwargs, max_length=512)
    batch_size = 256 if best else 32

    def score(pairs: Pairs) -> np.ndarray:
        return model.predict(
            pairs, batch_size=batch_size, show_progress_bar=False, activation_fn=torch.nn.Identity()
        )

    return score, f"{kwargs.get('attn_implementation', 'sdpa')}, {batch_size} pairs"


def measure(score: Score, tokens: int, device: str, smoke: bool) -> dict[str, Any]:
    """Return the median of pairs a second, of rounds whose pairs take about a second, and the peak memory."""
    count, tokens = (4, SMOKE_LENGTHS[tokens]) if smoke else (512, tokens)
    score(make_pairs(count, tokens))  # what is made at first use
    seconds = _time(score, make_pairs(count, tokens), device)
    if not smoke:
        count = int(np.clip(count * ROUND_SECONDS / seconds, 64, MOST_PAIRS))
    pairs = make_pairs(count, tokens)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rates = [count / _time(score, pairs, device) for _ in range(ROUNDS)]
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    return {"pairs": count, "pairs_per_second": statistics.median(rates), "rates": rates, "memory_mb": peak}


def _time(score: Score, pairs: Pairs, device: str) -> float:
    started = time.perf_counter()
    score(pairs)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(checkpoint: Checkpoint, device: str, smoke: bool) -> Iterator[dict[str, Any]]:
    """Compare the scores of every way with those of float32, on the CPU for the model that is quick there.

    `neighbours` is how far scores are from those of pairs alone, `spread` the scores' standard deviation.
    `golden` is how far the scores of doctor's documents are from theirs; for the weights of MiniLM alone.
    """
    pairs = make_pairs(12 if smoke else 500, 100)
    by_cpu = checkpoint.name == "MiniLM-L-12"
    reference = np.empty(0)
    ways = [("cpu", "fp32", False)] if by_cpu else []
    ways += [(device, "fp32", False), (device, "bf16", False), (device, "bf16", True)]
    ways += [(device, "fp16", False), (device, "fp16", True)] if device == "cuda" else []
    for where, precision, packed in ways:
        engine = load_engine(checkpoint, where, precision, packed)
        score = Reranker.from_engine(engine).score
        scores = score(pairs, scores="logit")
        reference = reference if len(reference) else scores
        alone = np.concatenate([score([pair], scores="logit") for pair in pairs[:8]])
        golden = score([(_QUERY, text) for text in _DOCUMENTS], scores="logit") - GOLDEN
        yield {
            "way": f"{where} {precision}{' packed' * engine.info.packed}",
            "largest": float(np.abs(scores - reference).max()),
            "mean": float(np.abs(scores - reference).mean()),
            "spread": float(reference.std()),
            "golden": float(np.abs(golden).max()),
            "neighbours": float(np.abs(scores[:8] - alone).max()),
        }
        del engine
        clear(device)


def try_out_of_memory(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give a batch more tokens than fit, and see whether the run ends whole."""
    engine = load_engine(checkpoint, "cuda", "bf16", True)
    rows = list(engine.tokenizer.encode(make_pairs(20_000, 100)))
    expected = engine.score_rows(rows)
    clear("cuda")
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        scores = engine.score_rows(rows, batch_tokens=1 << 22)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    found = float(np.abs(scores - expected).max())
    return {"largest_difference": found, "limit_tokens": engine._limit}


def clear(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a folder with the weights of ms-marco-MiniLM-L-12-v2")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--seconds", type=float, default=330, help="when to stop measuring")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu.json")
    given = parser.parse_args()
    device = "cpu" if given.smoke else "cuda"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ce_rerank").addFilter(lambda record: "padded" in record.msg or "memory" in record.msg)
    transformers.utils.logging.disable_progress_bar()
    end = time.perf_counter() + given.seconds
    versions = {library.__name__: library.__version__ for library in (torch, transformers)}
    name = "CPU" if given.smoke else torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": name, "versions": versions, "parity": [], "speed": []}

    def keep() -> None:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            own = given.model if shape == "MiniLM-L-12" else None
            checkpoint = (
                Checkpoint(name=shape, folder=own, source="folder")
                if own
                else make_shape(shape, Path(folder) / shape, given.smoke)
            )
            for result in compare(checkpoint, device, given.smoke):
                report["parity"].append({"model": shape, **result})
            if device == "cuda" and shape == "MiniLM-L-12":
                report["out_of_memory"] = try_out_of_memory(checkpoint)
            keep()
            for system in SYSTEMS:
                if time.perf_counter() > end:
                    report["speed"].append({"model": shape, "system": system, "note": "no time left"})
                    continue
                score, note = load_system(system, checkpoint, device)
                for tokens in (100, 512):
                    figures = measure(score, tokens, device, given.smoke)
                    row = {"model": shape, "system": system, "tokens": tokens, "note": note, **figures}
                    report["speed"].append(row)
                del score
                clear(device)
                keep()
    draw(report)


def draw(report: dict[str, Any]) -> None:
    print(f"\n{report['device']}, {report['versions']}; out of memory: {report.get('out_of_memory')}")
    titles = ("largest", "mean", "spread", "neighbours", "golden")
    print(f"\n{'model':16} {'scores by':18}" + "".join(f"{title:>11}" for title in titles))
    for one in report["parity"]:
        print(f"{one['model']:16} {one['way']:18}" + "".join(f"{one[title]:11.2g}" for title in titles))
    print(f"\n{'model':16} {'tokens':>6} {'system':28} {'pairs/s':>9} {'times':>6} {'MB':>7}  note")
    first: dict[tuple[str, int], float] = {}
    for one in report["speed"]:
        rate = one.get("pairs_per_second", 0.0)
        times = rate / (first.setdefault((one["model"], one.get("tokens", 0)), rate) or 1)
        print(
            f"{one['model']:16} {one.get('tokens', ''):>6} {one['system']:28} {rate:9.0f} {times:5.1f}x "
            f"{one.get('memory_mb') or 0:7.0f}  {one['note']}"
        )


if __name__ == "__main__":
    main()
