"""Compile a checkpoint: convert torch to OpenVINO's graph, and record the scores that it must give.

The graph takes batches of any shape and keeps float32 weights, whatever precision it runs in: with smaller
weights its logits are rounded. Its score layer is written as products and a sum, which OpenVINO leaves in
float32 when it runs matrix products in bf16. The last layer of the backbone is pruned to what the score reads
(`graph.py`).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...models.checkpoint import Checkpoint
from ...ranking import ACTIVATIONS
from ..batching import PairTokens, pad_rows
from ..model import Model, first_line, load_model, quiet_libraries
from ..network import find_score_layer
from .graph import keep_pooled_token, save_graph
from .manifest import GRAPH_NAME, TOKENIZER_NAME, GoldenPair, Manifest, Origin
from .runtime import CannotCompileError, load_converter, says_out_of_memory

_LONG_DOCUMENT = " ".join(
    f"Entry {number}: the keeper noted the wind, the height of the water and the ships that passed; "
    f"on day {number * 7 % 365} the lamp was cleaned and {number % 9 + 1} litres of oil were used."
    for number in range(1, 24)
)

# A compiled model is used only if it gives the reference scores of these pairs: our own sentences of several
# lengths, relevant and not, in several scripts, one longer than most models read. To change them, raise the
# recipe.
GOLDEN_TEXTS: tuple[tuple[str, str], ...] = (
    ("how do tides work", "Tides rise and fall because the moon's gravity pulls the oceans."),
    ("how do tides work", "Bread needs flour, water, salt and time."),
    (
        "what does a lighthouse keeper do all day",
        "A keeper trims the wick, winds the clockwork that turns the lens, cleans the glass, pumps oil and "
        "writes the weather into the log. Visitors ask about storms; most days are about polish and paint.",
    ),
    ("what does a lighthouse keeper do all day", _LONG_DOCUMENT),
    (
        "warum ist der Himmel blau?",
        "Das Licht der Sonne wird an den Molekülen der Luft gestreut, blaues stärker als rotes — deshalb "
        "erscheint uns der Himmel tagsüber blau und abends rötlich.",
    ),
    ("潮汐是怎么形成的？", "月球的引力牵动海水，所以海面每天涨落两次。🌊"),
    ("python list sort", "sorted(xs, key=len, reverse=True) gives a new list; xs.sort() changes xs itself."),
    ("what does [SEP] mean", "[CLS] a [SEP] b </s> <s> c <|endoftext|> d: tokens of [MASK] and <mask>."),
    ("7", "?"),
)


def compile_checkpoint(checkpoint: Checkpoint, origin: Origin, folder: Path) -> None:
    """Write the compiled model of a checkpoint, with its manifest, into an empty folder.

    Loads torch. Raises UnavailableError if no engine can use the model, CannotCompileError if it is not what
    its configuration says or its graph cannot be converted, and OSError if the folder cannot be written.
    """
    model = load_model(checkpoint)
    if model.facts.activation not in ACTIVATIONS:
        raise CannotCompileError(f"its activation is {model.facts.activation}")
    with quiet_libraries():
        # The reference scores are those of sentence-transformers in float32, one pair at a time.
        pairs = [pair for pair in GOLDEN_TEXTS if model.tokenizer.document_room(pair[0]) > 0]
        rows = model.tokenizer.encode(pairs)
        golden = tuple(GoldenPair(*pair, model.reference(row)) for pair, row in zip(pairs, rows, strict=True))
        (folder / TOKENIZER_NAME).write_text(model.tokenizer_json, encoding="utf-8")
        _convert(model, rows[-2:], folder / GRAPH_NAME)
        Manifest(origin, model.facts, golden, {}).write(folder)
        del model
    gc.collect()  # frees the weights: the compiled model has its own


class _Float32Score(torch.nn.Module):
    """The layer from a vector to one number, without a matrix product, which would be run in bf16."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        logits = (vectors * self.weight).sum(-1, keepdim=True)
        return logits if self.bias is None else logits + self.bias


def _convert(model: Model, rows: Sequence[PairTokens], path: Path) -> None:
    """Write the graph of a model, which is traced with rows of different lengths."""
    # Without padding, the trace could leave out the mask.
    example = model.tensors(pad_rows(rows, model.facts.padding))
    # With other attention, a row whose window has only padding (ModernBERT) becomes NaN.
    model.cross_encoder[0].model.set_attn_implementation("eager")
    if name := find_score_layer(model.network):
        layer: Any = model.network.get_submodule(name)
        model.network.set_submodule(name, _Float32Score(layer))
    convert_model = load_converter()
    try:
        with torch.inference_mode():
            graph = convert_model(model.network, example_input=example)
        keep_pooled_token(graph)
    except Exception as error:  # whatever OpenVINO raises: torch then runs the model
        reason = f"OpenVINO cannot convert it ({first_line(error)})"
        raise CannotCompileError(reason, passing=says_out_of_memory(error)) from error
    if tuple(name for entry in graph.inputs for name in entry.get_names()) != model.facts.inputs:
        raise CannotCompileError("its graph takes other inputs than it is fed")
    save_graph(graph, path)
