"""Is a difference real: the paired randomisation test, and Holm's correction. Pure: numbers in, numbers out.

The test follows Smucker, Allan and Carterette, "A comparison of statistical significance tests for
information retrieval evaluation", CIKM 2007: were the two runs equally good, each query's difference could
as well have had the other sign, so the signs are flipped at random, many times, and counted is how often the
sum of differences is at least as far from 0 as the one that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS = 10_000
SEED = 42

# Signs that are held at a time, 8 bytes each: memory stays the same however many queries there are.
_SIGNS_AT_ONCE = 4_000_000


def randomisation_p_values(
    differences: NDArray[np.float64], *, permutations: int = PERMUTATIONS, seed: int = SEED
) -> NDArray[np.float64]:
    """Give the two-sided p-value of every column of `differences` (queries x comparisons).

    A p-value is (hits + 1) / (permutations + 1), so never 0, and exactly 1 where nothing differs. The same
    flips serve all columns: a column's p-value depends on its own differences and the seed, not on what else
    is compared.
    """
    import numpy as np

    queries, columns = differences.shape
    total = differences.sum(axis=0)
    # Sums of the same numbers in another order differ in the last bits; such ties are hits.
    least = np.abs(total) - 1e-9 * np.abs(differences).sum(axis=0)
    hits = np.zeros(columns, dtype=np.int64)
    random = np.random.default_rng(seed)
    rows_at_once = max(1, _SIGNS_AT_ONCE // max(1, queries))
    for start in range(0, permutations, rows_at_once):
        rows = min(rows_at_once, permutations - start)
        coins = random.integers(0, 256, size=(rows, -(-queries // 8)), dtype=np.uint8)
        flipped = np.unpackbits(coins, axis=1, count=queries).astype(np.float64)
        hits += (np.abs(total - 2 * (flipped @ differences)) >= least).sum(axis=0)
    return (hits + 1) / (permutations + 1)


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several comparisons for their number, after Holm (1979), in the order given.

    The smallest is multiplied by how many there are, the next by one less, and so on; none falls below a
    smaller one, none exceeds 1. A single p-value stays as it is.
    """
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = floor
    return corrected
