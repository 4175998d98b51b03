from __future__ import annotations

from pathlib import Path

import pytest

from ce_rerank.formats.documents import read_documents
from ce_rerank.formats.source import Source


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "jsonl.gz", "parquet"])
def test_every_form_of_the_notes_holds_the_same_texts(samples: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    notes, others = (read_documents(Source.from_path(samples / f"notes.{one}")) for one in ("jsonl", suffix))
    assert [note.text for note in notes] == [other.text for other in others]
