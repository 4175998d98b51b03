"""What the tests of models share: a hub on loopback, and processes with caches of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import LocalHub, Resolver, serve_hub


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A hub on loopback that holds nothing yet."""
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def resolve(tmp_path: Path) -> Resolver:
    """Resolve names in processes of their own, with caches of the test's own and no hub."""
    return Resolver.with_own_caches(tmp_path)
