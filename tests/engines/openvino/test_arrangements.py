from __future__ import annotations

import pytest

from ce_rerank.engines.openvino.arrangements import choose_batch_tokens


@pytest.mark.parametrize(("threads", "tokens"), [(1, 512), (2, 1024), (4, 2048), (16, 2048)])
def test_a_batch_grows_with_the_threads_that_share_it(threads: int, tokens: int) -> None:
    assert choose_batch_tokens(threads, with_tiles=False) == tokens


@pytest.mark.parametrize("threads", [1, 16])
def test_a_cpu_with_tiles_gets_large_batches(threads: int) -> None:
    assert choose_batch_tokens(threads, with_tiles=True) == 2048
