"""Parquet, by pyarrow (extra `parquet`)."""

from __future__ import annotations

import decimal
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError
from ..types import Ranking
from .json import encode_json
from .rows import INPUT_NAME, RowsOf
from .source import LookAhead, Reject, Row

BATCH_ROWS = 1024
GROUP_ROWS = 8192

_OWN_TYPES = {
    **dict.fromkeys(("index", "rank", "tokens", "start", "end", "line"), pa.int64()),
    "score": pa.float32(),
    "truncated": pa.bool_(),
}
"""Our own columns that are never strings. Ids are integers if all in the first group are."""


def read_parquet_rows(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read rows as objects with the types of JSON; a row's origin is its number, from 1.

    Bytes are read as UTF-8, decimals become numbers, times and other types become text. NaN, which pandas
    writes for a missing number, and infinities become null. A file is read in batches of rows, a stream as a
    whole.
    """
    try:
        if stream.file:
            stream.file.seek(0)
        file = pq.ParquetFile(stream.file or io.BytesIO(b"".join(iter(stream.take, b""))))
        names = file.schema_arrow.names
        if twice := [column for column, times in Counter(names).items() if times > 1]:
            problem = f'{name}: the column "{twice[0]}" is there twice.'
            raise InputError(problem, hint="Rename one of the columns.")
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = [_plain_column(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(dict(zip(names, values, strict=True)), f"{name}: row {number}")
    except pa.ArrowException as error:
        raise InputError(f"{name}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from None


class ParquetWriter:
    """Writes a table, in row groups of some thousands of rows.

    The columns are `own_names`, then the other fields of the first row group, and last `input`. A column has
    strings, integers, floats or booleans if all values of the first row group are of that type; otherwise it
    has JSON, or strings if it is for ids. `input` has, as JSON, the fields that have no column or do not fit.
    """

    def __init__(self, stream: BinaryIO, rows_of: RowsOf, own_names: Sequence[str]) -> None:
        self._stream = stream
        self._rows_of = rows_of
        self._own_names = own_names
        self._rows: list[dict[str, Any]] = []
        self._types: dict[str, pa.DataType | None] = {}
        self._table: pq.ParquetWriter | None = None

    def write(self, ranking: Ranking) -> None:
        """Write the ranking's rows."""
        self.write_rows(self._rows_of(ranking))

    def write_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Collect rows, and write a row group when there are enough."""
        for row in rows:
            self._rows.append(row)
            if len(self._rows) >= GROUP_ROWS:
                self._write_group()

    def close(self) -> None:
        """Write the last row group and the table's end."""
        if self._rows or self._table is None:
            self._write_group()
        if self._table is not None:
            self._table.close()

    def _write_group(self) -> None:
        if self._table is None:
            names = dict.fromkeys((*self._own_names, *(name for row in self._rows for name in row)))
            self._types = {name: self._find_type(name) for name in names if name != INPUT_NAME}
            columns = [(name, kind or pa.string()) for name, kind in self._types.items()]
            self._table = pq.ParquetWriter(self._stream, pa.schema([*columns, (INPUT_NAME, pa.string())]))
        rows = [self._fitted(row) for row in self._rows]
        self._table.write_table(pa.Table.from_pylist(rows, schema=self._table.schema))
        self._rows = []

    def _find_type(self, name: str) -> pa.DataType | None:
        """Return the type of a column; None means JSON."""
        if name in _OWN_TYPES:
            return _OWN_TYPES[name]
        found = _common_type([row[name] for row in self._rows if name in row])
        return found or pa.string() if name in self._own_names else found

    def _fitted(self, row: dict[str, Any]) -> dict[str, Any]:
        fitted: dict[str, Any] = {}
        homeless = dict(row.get(INPUT_NAME, {}))
        for name, value in row.items():
            kind = self._types.get(name)
            if value is None or name in _OWN_TYPES:
                fitted[name] = value
            elif name in self._types and kind is None:
                fitted[name] = encode_json(value)
            elif name in self._own_names and kind == pa.string():
                fitted[name] = str(value)
            elif kind is not None and _common_type([value]) == kind:
                fitted[name] = value
            elif name != INPUT_NAME:
                homeless[name] = value
        fitted[INPUT_NAME] = encode_json(homeless) if homeless else None
        return fitted


def _common_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the one simple type of all values that are not null; None if there is no such type."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {int} and any(not -(2**63) <= value < 2**63 for value in present):
        return None
    simple = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return simple.get(kinds.pop()) if len(kinds) == 1 else None


def _plain_column(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # As text, since Python's datetime has no nanoseconds.
        column = pc.cast(column, pa.string())
    values: list[Any] = column.to_pylist()
    is_plain = pa.types.is_string(column.type) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return values if is_plain else [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
