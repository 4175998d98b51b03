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

_HOMES = {
    "Reranker": "reranker",
    "CrossEncoderRerankFunction": "milvus",
    "RerankResult": "milvus",
    "Candidates": "types",
    "Document": "types",
    "Passage": "types",
    "Query": "types",
    "RankedDocument": "types",
    "Ranking": "types",
    "RankOptions": "types",
    "CeRerankError": "errors",
    "InputError": "errors",
    "OutputError": "errors",
    "UnavailableError": "errors",
    "UsageError": "errors",
}

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
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
