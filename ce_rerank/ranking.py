"""The arithmetic of a ranking: order, scales, pooling and blending of scores. Numbers in, numbers out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from .types import Coverage, PoolName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scored: TypeAlias = "NDArray[np.void]"
"""What a model gave for documents: a table with the columns SCORED and a row for each document."""
SCORED = [
    ("logit", "f4"),  # -inf where the document was not scored
    ("tokens", "i8"),  # that the model read, query included; 0 where the document was not scored
    ("characters", "i8"),  # of the document
    ("characters_read", "i8"),  # the offset in the document at which reading stopped
    ("truncated", "?"),  # whether a part was not read
    ("unknown", "?"),  # whether no word of it is in the model's vocabulary
    ("start", "i8"),  # of the best passage, in characters
    ("end", "i8"),
    ("line", "i8"),  # of the best passage, from 1; 0 where there are no passages
]
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def unscored(texts: Sequence[str]) -> Scored:
    """Return the table of documents that are not scored."""
    import numpy as np

    scored = np.zeros(len(texts), SCORED)
    scored["logit"] = -np.inf
    scored["characters"] = scored["characters_read"] = [len(text) for text in texts]
    return scored


def measure_coverage(scored: Scored) -> Coverage:
    """Return how much of the documents was read."""
    cut = scored[scored["truncated"]]
    return Coverage(
        documents=len(scored),
        truncated=len(cut),
        cut_characters=int(cut["characters"].sum()),
        read_characters=int(cut["characters_read"].sum()),
        blank=int((scored["tokens"] == 0).sum()),
        tokens=int(scored["tokens"].sum()),
        unknown=int(scored["unknown"].sum()),
    )


def is_blank(text: str) -> bool:
    """Whether a text has no letter, digit or symbol (Unicode categories L, N and S)."""
    if _LETTER_OR_DIGIT.search(text):
        return False
    return not any(unicodedata.category(character)[0] in "LNS" for character in text)


def select_top(
    scores: Sequence[float] | NDArray[np.float32], *, top_k: int | None = None, min_score: float | None = None
) -> list[int]:
    """Return the places of the best scores, best first: at most `top_k`, none below `min_score`.

    Equal scores keep their order. Scores are float32, and `min_score` is rounded to float32, so that a score
    that was printed selects the document again. With a `min_score`, blank documents (-inf) are left out.
    """
    import numpy as np

    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    if min_score is not None:
        with np.errstate(over="ignore"):
            least = np.float32(min_score)
        order = order[(values[order] >= least) & (values[order] > -np.inf)]
    places: list[int] = order[:top_k].tolist()
    return places


def pool_passages(
    logits: NDArray[np.float32], counts: NDArray[np.intp], pool: PoolName
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return each document's score, and the place of its best passage, from the scores of passages.

    `logits`, shape (passages,), has the scores of each document's passages one after another, without NaN;
    `counts`, shape (documents,), is how many passages each document has, 1 or more. `max` is the best
    passage's score. `mean-top3` is the mean of the three best, or of all if there are fewer. `first` is the
    first passage's score, and the first passage counts as the best. Of equal passages the earlier is the
    best.
    """
    import numpy as np

    starts = np.cumsum(counts) - counts
    if pool == "first":
        return logits[starts], starts
    documents = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-logits, documents))
    best = order[starts]
    if pool == "max":
        return logits[best], best
    among_best = np.arange(len(logits)) - starts[documents] < 3
    sums = np.bincount(documents[among_best], weights=logits[order[among_best]], minlength=len(counts))
    return (sums / np.minimum(counts, 3)).astype(np.float32), best


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map logits to scores from 0 to 1 as torch does: 1 / (1 + exp(-x)), float32 in and out."""
    import numpy as np

    # exp of a large number is infinite, and 1 / (1 + infinity) is 0, as it should be.
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


Activation: TypeAlias = "Callable[[NDArray[np.float32]], NDArray[np.float32]]"
ACTIVATIONS: dict[str, Activation] = {"identity": lambda logits: logits, "sigmoid": sigmoid}
"""The activations of models that need no torch, by the names that `EngineInfo` has for them."""


def blend(logits: NDArray[np.float32], first_scores: Sequence[float], weight: float) -> NDArray[np.float32]:
    """Mix the model's scores with a first stage's: (1 - weight) * model + weight * first.

    Both are standardised over the documents first (mean 0, deviation 1); a deviation of 0 gives 0. Documents
    that were not scored (a logit of -inf) are left aside and keep -inf. Arrays have the shape (documents,).
    """
    import numpy as np

    blended = np.full(len(logits), -np.inf, np.float32)
    is_scored = ~np.isneginf(logits)
    if is_scored.any():
        mixed = np.zeros(int(is_scored.sum()), np.float64)
        for scores, share in ((logits, 1 - weight), (first_scores, weight)):
            of_scored = np.asarray(scores, np.float64)[is_scored]
            centred = of_scored - of_scored.mean()
            if centred.std() > 0:
                mixed += share * centred / centred.std()
        blended[is_scored] = mixed
    return blended


def shortest_float32(score: float) -> float:
    """Return the float with the fewest digits that is the same float32 as `score`."""
    import numpy as np

    return float(str(np.float32(score)))


def separate_ties(scores: Iterable[float]) -> Iterator[float]:
    """Lower falling scores, as little as possible, so that each float32 is less than the one before.

    trec_eval sorts by scores as float32 and orders equal ones by document id, so an order without ties is
    kept. -inf, the score of blank documents, becomes the lowest score minus 1.
    """
    import numpy as np

    falling = np.array(list(scores), np.float32)
    scored = falling[falling > -np.inf]
    falling[falling == -np.inf] = (scored.min() if len(scored) else 0) - 1
    previous = np.float32("inf")
    for score in falling:
        if score >= previous:
            with np.errstate(over="ignore"):  # below the lowest float32 is -inf
                score = np.nextafter(previous, np.float32("-inf"))
        yield float(score)
        previous = score
