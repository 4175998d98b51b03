"""What the tests of models share: processes with caches of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_hub import Resolver


@pytest.fixture
def resolve(tmp_path: Path) -> Resolver:
    """Resolve names in processes of their own, with caches of the test's own and no hub."""
    return Resolver.with_own_caches(tmp_path)
