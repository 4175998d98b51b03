from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ce_rerank.errors import InputError
from ce_rerank.formats.source import Source
from ce_rerank.formats.trec import Judgement, RunLine, read_qrels, read_run

zstandard = pytest.importorskip("zstandard", reason="needs ce-rerank[zstd]")


def stdin(data: bytes) -> Source:
    return Source.from_stream(io.BytesIO(data))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_run_lines_are_read_in_the_order_of_the_file(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "run"
    path.write_bytes(compress(b"q1 Q0 d1 1 6.5 bm25\n\nq1\tQ0  d2 2 -1e-3 bm25\r\n"))
    assert list(read_run(path)) == [
        RunLine("q1", "d1", 1, 6.5, "bm25", 1),
        RunLine("q1", "d2", 2, -0.001, "bm25", 3),
    ]


@pytest.mark.parametrize(
    "line", ["q1 Q0 d1 1 6.5", "q1 Q0 d1 1 six bm25", "q1 Q0 d1 x 1 bm25", "q Q0 d 1 nan b"]
)
def test_a_broken_run_line_is_named(line: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_run(stdin(f"q1 Q0 d0 1 7 bm25\n{line}\n".encode())))
    assert str(caught.value) == (
        f'stdin:2: "{line}" is not: query_id Q0 doc_id rank score run_name, with a number for rank and score.'
    )


def test_broken_run_lines_can_be_rejected_and_the_rest_read() -> None:
    rejected: list[tuple[str, str]] = []
    data = b"q1 Q0 d1 1 7 bm25\n what is this\r\n\nq1 Q0 d\xe9 2 6 bm25\nq1 Q0 d3 3 5 bm25\n"
    rows = read_run(stdin(data), lambda error, line: rejected.append((error.message, line)))
    assert [(row.doc_id, row.line_number) for row in rows] == [("d1", 1), ("d3", 5)]
    assert rejected == [
        (
            'stdin:2: "what is this" is not: query_id Q0 doc_id rank score run_name, '
            "with a number for rank and score.",
            " what is this",
        ),
        ("stdin:4: not UTF-8 (0xE9).", "q1 Q0 d\ufffd 2 6 bm25"),
    ]


def test_a_run_that_is_not_utf8_is_named() -> None:
    with pytest.raises(InputError, match="stdin:1: not UTF-8"):
        list(read_run(stdin(b"q1 Q0 d\xe9 1 7 bm25\n")))


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (b"q1 0 d1 2\nq1 0 d2 0\n\nq2\t0\td1\t-1\n", (1, 2, 4)),
        (b"query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n", (2, 3, 4)),
        (b"\nq1\td1\t2\r\nq1\td2\t0\r\nq2\td1\t-1\r\n", (2, 3, 4)),
    ],
)
def test_judgements_are_read_in_trec_and_beir_form(data: bytes, numbers: Any) -> None:
    assert list(read_qrels(stdin(data))) == [
        Judgement("q1", "d1", 2, numbers[0]),
        Judgement("q1", "d2", 0, numbers[1]),
        Judgement("q2", "d1", -1, numbers[2]),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"q1 0 d1 1\nq1 d1 1\n",
            'stdin:2: "q1 d1 1" is not: query_id 0 doc_id relevance, with a whole number at the end.',
        ),
        (
            b"q1 0 d1 high\n",
            'stdin:1: "q1 0 d1 high" is not: query_id 0 doc_id relevance, with a whole number at the end.',
        ),
        (
            b"query-id\tcorpus-id\tscore\nq1\td1\n",
            'stdin:2: "q1\td1" is not: query-id corpus-id score, with a whole number at the end.',
        ),
    ],
)
def test_a_broken_judgement_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_qrels(stdin(data)))
    assert str(caught.value) == message
