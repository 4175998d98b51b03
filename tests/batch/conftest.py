"""What the tests of batches need."""

from __future__ import annotations

import pytest
from batch_fakes import FEW_TOKENS


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.reranker.POOL_TOKENS", FEW_TOKENS)
