"""What many tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import CountingEngine

from ce_rerank import Reranker


@pytest.fixture
def counting_engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def counting_reranker(counting_engine: CountingEngine) -> Reranker:
    return Reranker.from_engine(counting_engine)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample input that the README's commands use."""
    return Path(__file__).parent.parent / "samples"
