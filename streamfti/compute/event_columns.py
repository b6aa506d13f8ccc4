"""From an event frame (polars) to sorted numpy columns. The only place where compute meets a table library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns, FieldColumn, numpy_dtype
from streamfti.compute.expressions import evaluate
from streamfti.compute.joins import POSITION
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.expressions import Expression
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import source_fields

__all__ = [
    "CHANGE",
    "EventArrays",
    "event_columns",
    "event_times_us",
    "fields_read",
    "key_expression",
    "operands_of",
    "positions",
]

CHANGE = "_change"
"""The column of event frames of changes of a table's rows: int8 of `Change`."""

_PARTITION_SHIFT = 48  # offsets below 2**48, partitions below 2**15


def event_times_us(frame: pl.DataFrame, schema: EventSchema) -> NDArray[np.int64]:
    """Return int64[n]: the event times of an event frame."""
    times: NDArray[np.int64] = frame[schema.event_time].to_physical().to_numpy()
    return times


def positions(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return int64[n]: partition and offset in one number, in that order; of pairs, their own."""
    if POSITION in frame.columns:
        position: NDArray[np.int64] = frame[POSITION].to_numpy()
        return position
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


def operands_of(features: Iterable[Feature]) -> dict[str, Expression]:
    """Return what the aggregations of some features aggregate, by name."""
    operands = (f.aggregation.operand for f in features)
    return {operand.name: operand for operand in operands if operand is not None}


def fields_read(group: FeatureGroup) -> set[str]:
    """Return the columns of its origin that a group's features are made of: key, time, operands, steps, `_change`."""
    operands = operands_of(group.features).values()
    wanted = {*group.entity, group.stream.schema.event_time, *(f.name for o in operands for f in o.fields)}
    fields = source_fields(group.stream, wanted)
    return fields | {CHANGE} if group.source.schema.is_of_changes else fields


@dataclass(frozen=True, slots=True)
class EventArrays:
    """n events as arrays, in the order of their frame.

    Attributes:
        event_time_us: int64[n].
        position: int64[n].
        fields: the operands that were asked for, by name.
        change: int8[n], what each is, if they are changes of a table's rows.
    """

    event_time_us: NDArray[np.int64]
    position: NDArray[np.int64]
    fields: Mapping[str, FieldColumn]
    change: NDArray[np.int8] | None = None

    @classmethod
    def of(cls, frame: pl.DataFrame, schema: EventSchema, operands: Iterable[Expression]) -> EventArrays:
        """Take an event frame apart."""
        columns = {operand.name: _column(evaluate(operand, frame), operand) for operand in operands}
        change = frame[CHANGE].to_numpy() if schema.is_of_changes else None
        return cls(event_times_us(frame, schema), positions(frame), columns, change)

    def sorted_by(self, entity: NDArray[np.int64], places: NDArray[np.int64], names: Iterable[str]) -> EventColumns:
        """Return some of the events, sorted by (entity, event time, position).

        Args:
            entity: int64[m], the number of the entity of each event at `places`.
            places: int64[m], which events.
            names: which operands to carry along.
        """
        time_us, position = self.event_time_us[places], self.position[places]
        order = np.lexsort((position, time_us, entity))
        at = places[order]
        fields = {name: self.fields[name].take(at) for name in names}
        change = None if self.change is None else self.change[at]
        return EventColumns(entity[order], time_us[order], position[order], fields, change)


def event_columns(
    frame: pl.DataFrame, schema: EventSchema, operands: Iterable[Expression], entity: NDArray[np.int64]
) -> EventColumns:
    """Return the events sorted by (entity, event time, position).

    Args:
        frame: an event frame of n rows, in any order.
        schema: its schema.
        operands: what to carry along.
        entity: int64[n], the number of each row's entity.
    """
    operands = list(operands)
    arrays = EventArrays.of(frame, schema, operands)
    return arrays.sorted_by(entity, np.arange(len(entity)), [operand.name for operand in operands])


def _column(series: pl.Series, operand: Expression) -> FieldColumn:
    if operand.type.dtype is DType.DECIMAL:
        series = series.to_physical().cast(pl.Int64)  # unscaled; a precision of 18 digits fits
    dtype = numpy_dtype(operand)
    if series.null_count() == 0:
        return FieldColumn(series.to_numpy().astype(dtype, copy=False))
    nothing = "" if operand.type.dtype is DType.STRING else False if operand.type.dtype is DType.BOOL else 0
    filled: NDArray[Any] = series.fill_null(nothing).to_numpy().astype(dtype, copy=False)
    return FieldColumn(filled, series.is_not_null().to_numpy())
