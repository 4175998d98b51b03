"""Parquet, by pyarrow (extra `parquet`)."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError
from .source import LookAhead, Reject, Row
from .strict_json import ExactFloat

BATCH_ROWS = 1024


def read_parquet_rows(stream: LookAhead, name: str, reject: Reject) -> Iterator[Row]:
    """Read rows as objects of what JSON has; a row's origin is its number, from 1.

    Times become ISO text, decimals numbers with all their digits, bytes their UTF-8 text or, when they are
    not that, base64; NaN, with which pandas writes a missing number, becomes null. An infinite number is
    rejected. A file is read a batch of rows at a time; what is no file is held whole.
    """
    try:
        file = pq.ParquetFile(stream.file_beneath() or io.BytesIO(stream.readall()))
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = [_plain_column(column) for column in batch.columns]
            names = batch.schema.names
            for values in zip(*columns, strict=True) if columns else ():
                number += 1
                where = f"{name}: row {number}"
                row = dict(zip(names, values, strict=True))
                infinite = next((key for key, value in row.items() if _holds_infinity(value)), None)
                if infinite is None:
                    yield Row(row, where)
                else:
                    problem = f'{where}: the field "{infinite}" is infinite, which JSON cannot hold.'
                    reject(InputError(problem), str(row))
    except pa.ArrowException as error:
        raise InputError(f"{name}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from None


def _plain_column(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        # Python's datetime has no nanoseconds; text has them.
        column = pc.cast(column, pa.string())
    values: list[Any] = column.to_pylist()
    is_plain = pa.types.is_string(column.type) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return values if is_plain else [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, decimal.Decimal):
        return ExactFloat(str(value))
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _holds_infinity(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_infinity, value.values()))
    if isinstance(value, list):
        return any(map(_holds_infinity, value))
    return isinstance(value, float) and not isinstance(value, ExactFloat) and math.isinf(value)
