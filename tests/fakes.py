"""A stand-in at the lowest seam there is: an engine that is real but for its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ce_rerank.engines.base import EngineInfo
from ce_rerank.engines.batching import Float32s, Padding, PairTokens, TokenBatch, pad_rows, score_in_batches
from ce_rerank.engines.tokenizer import PairTokenizer

_SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_WORDS = [*_NUMBERS, "red", "green", "blue", "cat", "dog", "fish", "nan", "inf"]


def word_tokenizer() -> Tokenizer:
    """A tokenizer with a handful of whole words, and the template of BERT."""
    vocabulary = {**_SPECIAL, **{word: number for number, word in enumerate(_WORDS, start=len(_SPECIAL))}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


class CountingEngine:
    """An engine whose logit is the sum of the number words in the document ("two three" gives 5).

    The word `nan` makes it NaN and `inf` infinite. `batch_shapes` tells what it was fed.
    """

    batch_tokens = 64

    def __init__(self, max_length: int = 32, activation: str = "identity") -> None:
        self.tokenizer = PairTokenizer(word_tokenizer(), max_length=max_length, with_type_ids=True)
        self.info = EngineInfo("counting", "cpu", "fp32", "counting", None, max_length, activation)
        self.batch_shapes: list[tuple[int, ...]] = []

    def score_rows(
        self,
        rows: Sequence[PairTokens],
        batch_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Float32s:
        def score(batches: Iterable[Sequence[PairTokens]]) -> Iterator[Float32s]:
            return self.infer(pad_rows(batch, Padding()) for batch in batches)

        return score_in_batches(rows, score, batch_tokens or self.batch_tokens, "any", on_progress)

    def infer(self, batches: Iterable[TokenBatch]) -> Iterator[Float32s]:
        values = np.zeros(len(_SPECIAL) + len(_WORDS), dtype=np.float32)
        values[len(_SPECIAL) : len(_SPECIAL) + 10] = range(10)
        values[-2:] = np.nan, np.inf
        for batch in batches:
            self.batch_shapes.append(batch["input_ids"].shape)
            of_document = (batch["token_type_ids"] == 1) & (batch["attention_mask"] == 1)
            yield np.where(of_document, values[batch["input_ids"]], np.float32(0)).sum(
                axis=1, dtype=np.float32
            )

    def activate(self, logits: Float32s) -> Float32s:
        return logits / np.float32(2)
