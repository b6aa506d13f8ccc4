"""From an event frame (polars) to sorted numpy columns. The only place where compute meets a table library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns, FieldColumn, numpy_dtype
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.groups import FeatureGroup

__all__ = ["aggregated_fields", "event_columns", "event_times_us", "key_expression", "positions"]

_PARTITION_SHIFT = 48  # offsets below 2**48, partitions below 2**15


def event_times_us(frame: pl.DataFrame, schema: EventSchema) -> NDArray[np.int64]:
    """Return int64[n]: the event times of an event frame."""
    times: NDArray[np.int64] = frame[schema.event_time].to_physical().to_numpy()
    return times


def positions(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return int64[n]: partition and offset in one number, in that order."""
    partition = frame["_partition"].to_numpy().astype(np.int64)
    offset: NDArray[np.int64] = frame["_offset"].to_numpy()
    return (partition << _PARTITION_SHIFT) | offset


def key_expression(fields: Iterable[Field]) -> pl.Expr:
    """Return the expression of `entity_keys.encode_key` over the columns of a frame; null where a field is null."""
    texts = [pl.col(f.name).cast(pl.String) for f in fields]
    if len(texts) == 1:
        return texts[0]
    parts = [part for t in texts for part in (t.str.len_bytes().cast(pl.String), pl.lit(":"), t)]
    return pl.concat_str(parts)


def aggregated_fields(group: FeatureGroup) -> dict[str, Field]:
    """Return the fields that a group's aggregations read, by name."""
    return {f.aggregation.field.name: f.aggregation.field for f in group.features if f.aggregation.field is not None}


def event_columns(
    frame: pl.DataFrame, schema: EventSchema, fields: Iterable[Field], entity: NDArray[np.int64]
) -> EventColumns:
    """Return the events sorted by (entity, event time, position).

    Args:
        frame: an event frame of n rows, in any order.
        schema: its schema.
        fields: those to carry along.
        entity: int64[n], the number of each row's entity.
    """
    time_us, position = event_times_us(frame, schema), positions(frame)
    order = np.lexsort((position, time_us, entity))
    columns = {f.name: _column(frame[f.name], f, order) for f in fields}
    return EventColumns(entity[order], time_us[order], position[order], columns)


def _column(series: pl.Series, field: Field, order: NDArray[np.int64]) -> FieldColumn:
    valid: NDArray[np.bool_] | None = None
    if series.null_count():
        valid = series.is_not_null().to_numpy()[order]
    filled = series.fill_null(False if field.type.dtype is DType.BOOL else 0)
    values: NDArray[Any] = filled.to_numpy().astype(numpy_dtype(field), copy=False)
    return FieldColumn(values[order], valid)
