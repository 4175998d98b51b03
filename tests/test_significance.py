from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ce_rerank import significance
from ce_rerank.significance import correct_holm, randomisation_p_values


def column(*differences: float) -> np.ndarray:
    return np.array([[difference] for difference in differences])


def exact_p_value(differences: list[float]) -> float:
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * difference for sign, difference in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)


def test_no_difference_at_all_gives_exactly_one() -> None:
    assert randomisation_p_values(np.zeros((50, 3))).tolist() == [1.0, 1.0, 1.0]


def test_no_queries_give_exactly_one() -> None:
    assert randomisation_p_values(np.zeros((0, 2))).tolist() == [1.0, 1.0]


def test_a_p_value_is_that_of_all_flips_within_the_sampling_error() -> None:
    differences = [0.3, -0.1, 0.25, 0.4, -0.05, 0.1, 0.0, 0.2, -0.2, 0.15]
    (p_value,) = randomisation_p_values(column(*differences))
    exact = exact_p_value(differences)
    # Three standard errors of a share that was sampled 10,000 times.
    assert p_value == pytest.approx(exact, abs=3 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_ties_with_what_was_seen_are_hits_whatever_the_order_of_summing() -> None:
    # Of 0.1 + 0.2 + 0.3 and its flips only two of eight sums are as far from 0; float sums of the same
    # numbers differ in their last bits.
    (p_value,) = randomisation_p_values(column(0.1, 0.2, 0.3), permutations=100_000)
    assert p_value == pytest.approx(0.25, abs=0.005)


def test_the_smallest_p_value_counts_what_was_seen_as_one_of_the_flips() -> None:
    (p_value,) = randomisation_p_values(np.full((200, 1), 0.1), permutations=10_000)
    assert p_value == 1 / 10_001


def test_the_test_is_two_sided() -> None:
    differences = np.random.default_rng(1).normal(0.1, 1, size=(80, 1))
    assert randomisation_p_values(differences) == randomisation_p_values(-differences)


def test_the_same_seed_gives_the_same_p_value_and_another_seed_nearly_the_same() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1, size=(80, 1))
    first, again, other = (randomisation_p_values(differences, seed=seed)[0] for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert first == pytest.approx(other, abs=0.03)


def test_a_p_value_does_not_depend_on_what_else_is_compared() -> None:
    differences = np.random.default_rng(3).normal(0.05, 1, size=(60, 3))
    together = randomisation_p_values(differences)
    alone = [randomisation_p_values(differences[:, [place]])[0] for place in range(3)]
    assert together.tolist() == alone


def test_many_queries_are_flipped_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_SIGNS_AT_ONCE", 100)
    (p_value,) = randomisation_p_values(np.full((1000, 1), 0.1), permutations=20)
    assert p_value == 1 / 21


def test_holm_multiplies_the_smallest_by_the_number_of_comparisons() -> None:
    assert correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_never_exceeds_one_and_leaves_a_single_p_value_alone() -> None:
    assert correct_holm([0.9, 0.8]) == [1.0, 1.0]
    assert correct_holm([0.2]) == [0.2]
    assert correct_holm([]) == []
