"""What the tests of models share: processes with caches of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_hub import Resolver
from shell import Shell


@pytest.fixture
def resolve(tmp_path: Path) -> Resolver:
    """Resolve names in processes of their own, with caches of the test's own and no hub."""
    return Resolver(Shell.below(tmp_path).environment)
