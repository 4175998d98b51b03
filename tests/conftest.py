"""What many tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import CountingEngine
from hypothesis import settings

from ce_rerank import Reranker

# Nothing here is about time, of which a shared machine takes what it likes. And no change is let in or kept
# out by luck: with CI set, properties are tried on the same examples every time, elsewhere on new ones.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


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
