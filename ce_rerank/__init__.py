"""Rank documents against a query with a cross-encoder, at the shell and in Python.

    from ce_rerank import Reranker

    for hit in Reranker().rank("query", ["a", "b"], top_k=3):
        print(hit.index, hit.score, hit.text)

Importing this package loads nothing heavy; constructing a `Reranker` loads a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import CeRerankError, InputError, OutputError, UnavailableError, UsageError
    from .milvus import CrossEncoderRerankFunction, RerankResult
    from .reranker import Reranker
    from .types import Candidates, Document, Passage, Query, RankedDocument, Ranking, RankOptions

__all__ = [
    "Candidates",
    "CeRerankError",
    "CrossEncoderRerankFunction",
    "Document",
    "InputError",
    "OutputError",
    "Passage",
    "Query",
    "RankOptions",
    "RankedDocument",
    "Ranking",
    "RerankResult",
    "Reranker",
    "UnavailableError",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        for home in ("errors", "types", "reranker", "milvus"):
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
