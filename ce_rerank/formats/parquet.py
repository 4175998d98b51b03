"""Parquet, by pyarrow (extra `parquet`)."""

from __future__ import annotations

import decimal
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError
from .fields import INPUT_NAME, choose_columns
from .json import encode_cell, encode_json
from .source import LookAhead, Row

BATCH_ROWS = 1024
GROUP_ROWS = 8192

_OWN_TYPES = {
    **dict.fromkeys(("index", "rank", "tokens", "start", "end", "line"), pa.int64()),
    "score": pa.float32(),
    "truncated": pa.bool_(),
}
"""Our own columns that are never strings."""


def read_parquet_rows(stream: LookAhead, name: str) -> Iterator[Row]:
    """Read rows as objects with the types of JSON; a row's origin is its number, from 1.

    Bytes are read as UTF-8, decimals become numbers, times and other types become text. NaN, which pandas
    writes for a missing number, and infinities become null. A file is read in batches of rows, a stream as a
    whole.
    """
    try:
        if stream.file:
            stream.file.seek(0)
        file = pq.ParquetFile(stream.file or io.BytesIO(b"".join(stream)))
        names = file.schema_arrow.names
        if twice := next((column for column in names if names.count(column) > 1), None):
            problem = f'{name}: the column "{twice}" is there twice.'
            raise InputError(problem, hint="Rename one of the columns.")
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = [_plain_column(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(dict(zip(names, values, strict=True)), f"{name}: row {number}")
    except pa.ArrowException as error:
        raise InputError(f"{name}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from None


class ParquetTable:
    """Writes a table in groups of some thousands of rows.

    The columns are those of `choose_columns` for the rows of the first group. A column has integers, floats
    or booleans if all its values in that group are of one of these types; otherwise it has strings, which are
    JSON if the value is no string. A field of a later row that has no column, or another type, goes into
    `input`, as JSON.
    """

    def __init__(self, stream: BinaryIO, own_names: Sequence[str]) -> None:
        self._stream = stream
        self._own_names = own_names
        self._rows: list[dict[str, Any]] = []
        self._types: dict[str, pa.DataType] = {}
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Collect rows, and write a group when there are enough."""
        for row in rows:
            self._rows.append(row)
            if len(self._rows) >= GROUP_ROWS:
                self._write_group()

    def close(self) -> None:
        """Write the last group and the table's end."""
        if self._rows or self._writer is None:
            self._write_group()
        if self._writer is not None:
            self._writer.close()

    def _write_group(self) -> None:
        if self._writer is None:
            columns = choose_columns(self._own_names, self._rows)
            for name in columns:
                kinds = {_simple_type(row[name]) for row in self._rows if row.get(name) is not None}
                self._types[name] = _OWN_TYPES.get(name, kinds.pop() if len(kinds) == 1 else pa.string())
            self._writer = pq.ParquetWriter(self._stream, pa.schema(self._types.items()))
        table = pa.Table.from_pylist(list(map(self._fit, self._rows)), schema=self._writer.schema)
        self._writer.write_table(table)
        self._rows = []

    def _fit(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with values of its columns' types, and what does not fit in `input`."""
        fitted: dict[str, Any] = {}
        others = dict(row.get(INPUT_NAME, {}))
        for name, value in row.items():
            kind = self._types.get(name)
            if value is None or name in _OWN_TYPES:
                fitted[name] = value
            elif kind == pa.string():
                fitted[name] = encode_cell(value)
            elif kind == _simple_type(value):
                fitted[name] = value
            else:
                others[name] = value
        fitted[INPUT_NAME] = encode_json(others) if others else None
        return fitted


def _simple_type(value: Any) -> pa.DataType:
    """Return the type of an integer, a float or a boolean; any other value is written as a string."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return pa.int64()
    return pa.float64() if isinstance(value, float) else pa.string()


def _plain_column(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # As text, since Python's datetime has no nanoseconds.
        column = pc.cast(column, pa.string())
    values: list[Any] = column.to_pylist()
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return values
    plain: list[Any] = json.loads(json.dumps(values, default=_plain), parse_constant=lambda constant: None)
    return plain


def _plain(value: Any) -> Any:
    """Return a value that JSON does not have as one that it has."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
