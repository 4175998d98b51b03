from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ce_rerank.engines.batching import Padding, PairTokens, pad_rows, plan_batches


def rows_of(lengths: list[int]) -> list[PairTokens]:
    return [PairTokens([5] * length, b"", False, 1) for length in lengths]


def plan(lengths: list[int], batch_tokens: int, companions: Any = "any") -> list[list[int]]:
    return [batch.tolist() for batch in plan_batches(rows_of(lengths), batch_tokens, companions)]


@pytest.mark.parametrize(
    ("lengths", "budget", "companions", "batches"),
    [
        ([3, 9, 3, 5], 9, "any", [[1], [3], [0, 2]]),
        ([10, 2, 2, 2], 30, "any", [[0, 1, 2], [3]]),
        ([10, 2, 2, 2], 15, "packed", [[0, 1, 2], [3]]),
        ([500, 400], 100, "any", [[0], [1]]),
        ([500, 400], 100, "packed", [[0], [1]]),
        ([3, 5, 3, 5, 5, 4], 10, "equal", [[1, 3], [4], [5], [0, 2]]),
        ([3, 3], 10, "none", [[0], [1]]),
        ([], 100, "any", []),
    ],
)
def test_the_longest_come_first_and_a_batch_keeps_to_its_budget_unless_it_is_one_row(
    lengths: list[int], budget: int, companions: str, batches: list[list[int]]
) -> None:
    assert plan(lengths, budget, companions) == batches


def test_padding_is_a_few_hundredths_on_lengths_like_those_of_passages() -> None:
    lengths = np.random.default_rng(7).normal(95, 35, 1000).clip(12, 512).astype(int)
    fed = sum(len(batch) * lengths[batch].max() for batch in plan(lengths.tolist(), 2048))
    assert fed / lengths.sum() < 1.03


def test_rows_are_padded_on_the_right_to_the_longest() -> None:
    batch = pad_rows(
        [PairTokens([5, 6, 7], bytes([0, 0, 1]), False, 1), PairTokens([8], bytes(1), False, 1)], Padding()
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch["input_ids"].dtype == np.int64


def test_rows_are_padded_on_the_left_for_models_that_read_the_last_token() -> None:
    padding = Padding(token_id=9, left=True)
    batch = pad_rows([PairTokens([5, 6], b"", False, 1), PairTokens([8], b"", False, 1)], padding)
    assert batch["input_ids"].tolist() == [[5, 6], [9, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert "token_type_ids" not in batch


@pytest.mark.parametrize(
    ("padding", "widths"),
    [
        (Padding(multiple=16, most=40), {1: 16, 16: 16, 17: 32, 33: 40, 40: 40}),
        (Padding(multiple=16, most=40, companions="equal"), {3: 3}),
        (Padding(multiple=0, most=512), {1: 32, 33: 64, 65: 96, 130: 192, 257: 384, 400: 512, 512: 512}),
    ],
)
def test_rows_are_padded_to_a_multiple_or_few_lengths_within_what_the_model_has_positions_for(
    padding: Padding, widths: dict[int, int]
) -> None:
    shapes = {tokens: pad_rows(rows_of([tokens]), padding)["input_ids"].shape for tokens in widths}
    assert shapes == {tokens: (1, width) for tokens, width in widths.items()}
