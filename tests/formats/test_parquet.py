from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ce_rerank.errors import InputError, UnavailableError
from ce_rerank.formats.documents import ReadOptions, read_as, read_documents
from ce_rerank.formats.json import encode_json
from ce_rerank.formats.source import Row, Source
from ce_rerank.formats.writers import ResultWriter, WriteOptions
from ce_rerank.types import Document, Query, RankedDocument, Ranking

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table_bytes(table: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def piped(data: bytes) -> Source:
    return Source.from_stream(io.BytesIO(data))


TABLE = pa.table({"id": ["a", "b"], "text": ["one", "two"], "n": [1, None]})


@pytest.mark.parametrize("name", ["h.parquet", "h.parquet.gz", "h"])
def test_rows_are_read_with_their_number_as_origin(tmp_path: Path, name: str) -> None:
    data = table_bytes(TABLE)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert list(read_documents(Source.from_path(path))) == [
        Document("one", "a", {"id": "a", "text": "one", "n": 1}, ("text",), f"{path}: row 1"),
        Document("two", "b", {"id": "b", "text": "two", "n": None}, ("text",), f"{path}: row 2"),
    ]


def test_values_that_json_lacks_become_what_it_has() -> None:
    row = {
        "when": pa.array([1700000000123456789], pa.timestamp("ns")),
        "day": pa.array([datetime.date(2024, 2, 29)]),
        "price": pa.array([decimal.Decimal("1.10")]),
        "big": pa.array([decimal.Decimal(2**70)]),
        "missing": pa.array([float("nan")]),
        "endless": pa.array([[float("inf")]]),
        "utf8": pa.array(["é".encode()]),
        "raw": pa.array([b"\xff\x00"]),
        "nested": pa.array([{"a": [1.5, None], "b": b"x"}]),
        "words": pa.array(["x"]).dictionary_encode(),
    }
    (read,) = read_as(Row, piped(table_bytes(pa.table(row))), ReadOptions())
    assert json.loads(encode_json(read.value)) == {
        "when": "2023-11-14 22:13:20.123456789",
        "day": "2024-02-29",
        "price": 1.1,
        "big": 2**70,
        "missing": None,
        "endless": [None],
        "utf8": "é",
        "raw": "\\xff\0",
        "nested": {"a": [1.5, None], "b": "x"},
        "words": "x",
    }


TWICE = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PAR1 and nothing more", "stdin: cannot be read as Parquet ("),
        (table_bytes(TABLE)[:-20], "stdin: cannot be read as Parquet ("),
        (table_bytes(TWICE), 'stdin: the column "text" is there twice. Rename one'),
    ],
)
def test_a_damaged_file_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_documents(piped(data)))
    assert str(caught.value).startswith(message)


def rank(*documents: Document, query: Query) -> Ranking:
    results = (
        RankedDocument(document, index=place, rank=place + 1, score=6.688289642333984 - place)
        for place, document in enumerate(documents)
    )
    return Ranking(query, tuple(results))


def written(*rankings: Ranking, options: WriteOptions) -> Any:
    stream = io.BytesIO()
    writer = ResultWriter("parquet", stream, options, many=True)
    for ranking in rankings:
        writer.write(ranking)
    writer.close()
    return pq.read_table(stream)


def test_results_are_a_table_with_typed_columns() -> None:
    fields = {"n": 1, "x": 1.5, "ok": True, "tags": ["é"], "big": 2**70}
    documents = Document("a", 7, fields), Document("b", "d", {"n": 2})
    table = written(rank(*documents, query=Query("why", 3)), options=WriteOptions())
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("query_id", "int64"), ("query", "string"), ("index", "int64"), ("score", "float"),
        ("text", "string"), ("id", "string"), ("n", "int64"), ("x", "double"),
        ("ok", "bool"), ("tags", "string"), ("big", "string"), ("input", "string"),
    ]  # fmt: skip
    own, score = {"query_id": 3, "query": "why", "input": None}, 6.688289642333984
    first = {**own, "index": 0, "score": score, "text": "a", "id": "7", **fields}
    second = {**own, "index": 1, "score": score - 1, "text": "b", "id": "d", **dict.fromkeys(fields), "n": 2}
    assert table.to_pylist() == [first | {"tags": '["é"]', "big": f"{2**70}"}, second]


def test_what_does_not_fit_a_column_goes_into_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ce_rerank.formats.parquet.GROUP_ROWS", 1)
    first = rank(Document("a", fields={"n": 1, "null": None}), query=Query("why"))
    fields = {"n": "two", "new": [1], "score": 3, "null": None}
    table = written(first, rank(Document("b", fields=fields), query=Query("why")), options=WriteOptions())
    assert table.column("n").to_pylist() == [1, None]
    assert table.column("input").to_pylist() == [None, '{"score": 3, "n": "two", "new": [1]}']


def test_a_table_without_results_has_its_columns() -> None:
    assert written(options=WriteOptions(details=True, with_text=False)).schema.names == [
        "query_id", "query", "index", "score", "id", "rank", "tokens", "truncated", "passage", "start", "end",
        "line", "input",
    ]  # fmt: skip


def test_parquet_without_pyarrow_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ce_rerank.formats.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    way_out = r"needs the pyarrow package\. Install it: pip install 'ce-rerank\[parquet\]'"
    with pytest.raises(UnavailableError, match=f"^Reading Parquet {way_out}"):
        list(read_documents(piped(b"PAR1")))
    with pytest.raises(UnavailableError, match=f"^Writing Parquet {way_out}"):
        ResultWriter("parquet", io.BytesIO(), WriteOptions())
