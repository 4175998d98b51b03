"""A drop-in for `pymilvus.model.reranker.CrossEncoderRerankFunction`, without its faults.

The arguments, defaults and shapes are those of milvus-model's class. Where that one crashes on an empty model
name or device, drops the last result for `top_k=-1`, ranks a bare string letter by letter, ignores further
arguments and gives scores that `json.dumps` refuses, this one works or says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .inputs import as_candidates
from .ranking import select_top
from .reranker import Reranker
from .types import require_whole_number

if TYPE_CHECKING:
    import torch


@dataclass
class RerankResult:
    """A document with its score; `index` is its place among the documents given, from 0."""

    text: str
    score: float
    index: int

    def to_dict(self) -> dict[str, Any]:
        """Return `text`, `score` and `index` as a dictionary that `json.dumps` takes."""
        return {"text": self.text, "score": self.score, "index": self.index}


class CrossEncoderRerankFunction:
    """Reranks documents for a query, with the interface of milvus-model's class of this name.

    An empty `model_name` or `device` leaves the choice to `Reranker`. `activation_fct` takes the logits as a
    torch tensor of shape (documents,) and returns the scores; without it scores are on the model's own scale.
    `batch_size` has no effect: batches are cut by tokens (`batch_tokens`). All further arguments are those of
    `Reranker`. The attribute `model` is the `Reranker`.
    """

    def __init__(
        self,
        model_name: str = "",
        device: str = "",
        batch_size: int = 32,
        activation_fct: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}.", hint="Give at least 1.")
        self.model_name = model_name
        self.device = device
        self.batch_size = batch_size
        self.activation_fct = activation_fct
        self.model = Reranker(model_name or None, device=device or "auto", **kwargs)

    def __call__(self, query: str, documents: Sequence[str], top_k: int | None = 5) -> list[RerankResult]:
        """Return the `top_k` best documents, best first; equal scores keep the order of the documents.

        A `top_k` of 0 or None returns all. Raises UsageError for a negative `top_k`, for a single string as
        documents, and for an activation that does not return a number for each document.
        """
        require_whole_number("top_k", top_k or None)
        candidates = as_candidates(query, documents)
        texts = [document.text for document in candidates.documents]
        pairs = [(candidates.query.text, text) for text in texts]
        scores = self.model.score(pairs, scores="logit" if self.activation_fct else "model").tolist()
        if self.activation_fct is not None:
            import torch

            logits = torch.tensor(scores, dtype=torch.float32)
            scores = torch.as_tensor(self.activation_fct(logits)).reshape(-1).tolist()
            if len(scores) != len(texts) or not all(map(math.isfinite, scores)):
                raise UsageError(
                    f"activation_fct made {scores} of the logits {logits.tolist()}.",
                    hint="Give one that takes a tensor of shape (documents,) and gives a number for each.",
                )
        places = select_top(scores, top_k=top_k or None)
        return [RerankResult(texts[place], scores[place], place) for place in places]
