"""The columns of the offline log: what an event schema is in Polars and in Parquet. No I/O.

The columns of the user come first, in the order of the event class; then the framework's, all required.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import polars as pl
import pyarrow as pa

from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import EventSchema
from streamfti.errors import ContractError

__all__ = ["FRAMEWORK_COLUMNS", "checked_frame", "columns_fingerprint", "frame_schema", "log_schema", "polars_type"]

FRAMEWORK_COLUMNS: dict[str, pl.DataType] = {
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_ingest_time_us": pl.Int64(),
    "_schema_id": pl.Int32(),
    "_too_late": pl.Boolean(),
}
"""What the framework adds to an event: where it stood in the topic, when the broker took it, its writer's schema (0
where the message named none), and whether it was beyond the retention of the tiles when it came."""

_CHANGE_COLUMNS: dict[str, pl.DataType] = {"_change": pl.Int8()}
"""What it adds to a change of a table's row: 1, it is so from then on; -1, it was so until then; -2, it is gone."""

_POLARS: dict[DType, pl.DataType] = {
    DType.STRING: pl.String(),
    DType.INT64: pl.Int64(),
    DType.FLOAT64: pl.Float64(),
    DType.BOOL: pl.Boolean(),
    DType.DATETIME: pl.Datetime("us", "UTC"),
}

_ARROW: dict[pl.DataType, pa.DataType] = {
    pl.String(): pa.large_string(),
    pl.Int8(): pa.int8(),
    pl.Int32(): pa.int32(),
    pl.Int64(): pa.int64(),
    pl.Float64(): pa.float64(),
    pl.Boolean(): pa.bool_(),
    pl.Datetime("us", "UTC"): pa.timestamp("us", tz="UTC"),
}


def polars_type(value_type: ValueType) -> pl.DataType:
    """Return the type of the column that carries such values in event frames."""
    if value_type.dtype is DType.DECIMAL:
        return pl.Decimal(value_type.precision, value_type.scale)
    return _POLARS[value_type.dtype]


def _arrow_type(dtype: pl.DataType) -> pa.DataType:
    return pa.decimal128(dtype.precision, dtype.scale) if isinstance(dtype, pl.Decimal) else _ARROW[dtype]


def frame_schema(event: EventSchema) -> dict[str, pl.DataType]:
    """Return the column types of a frame of the log, in order."""
    return {field.name: polars_type(field.type) for field in event.fields} | _added(event)


def _added(event: EventSchema) -> dict[str, pl.DataType]:
    return FRAMEWORK_COLUMNS | _CHANGE_COLUMNS if event.is_of_changes else FRAMEWORK_COLUMNS


def _nullable(event: EventSchema) -> frozenset[str]:
    return frozenset(field.name for field in event.fields if event.may_be_null(field))


def log_schema(event: EventSchema) -> pa.Schema:
    """Return the schema that data files of an event are written with and read by, nullability included."""
    nullable = _nullable(event)
    columns = frame_schema(event).items()
    return pa.schema([pa.field(name, _arrow_type(dtype), nullable=name in nullable) for name, dtype in columns])


def columns_fingerprint(event: EventSchema) -> str:
    """Return the sha256 (hex) of the columns: names, types, nullability, order."""
    columns = [[field.name, str(replace(field.type, nullable=event.may_be_null(field)))] for field in event.fields]
    columns += [[name, str(dtype)] for name, dtype in _added(event).items()]
    return hashlib.sha256(json.dumps(columns, separators=(",", ":")).encode()).hexdigest()


def checked_frame(event: EventSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with its columns in the order of the log, or refuse it.

    Raises:
        ContractError: if a column is missing, unknown, of another type, or null where it must not be.
    """
    expected = frame_schema(event)
    for name in [*expected, *frame.columns]:
        wanted, got = expected.get(name), frame.schema.get(name)
        if wanted != got:
            msg = f"column {name!r} of a frame of {event.name!r} must be {_said(wanted)}, got {_said(got)}"
            raise ContractError(msg)
    nullable = _nullable(event)
    for name in expected:
        if name not in nullable and (nulls := frame[name].null_count()):
            msg = f"column {name!r} of a frame of {event.name!r} must have no nulls, got {nulls} in {frame.height} rows"
            raise ContractError(msg)
    return frame.select(list(expected))


def _said(dtype: pl.DataType | None) -> str:
    return "absent" if dtype is None else str(dtype)
