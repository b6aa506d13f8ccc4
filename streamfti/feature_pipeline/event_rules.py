"""What makes an event valid, once it could be read: required values, finite numbers, exact decimals, possible times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from streamfti.clock import from_us, to_us
from streamfti.compute.accumulators import Change
from streamfti.compute.event_columns import CHANGE
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.batches import DeadLetter, MessageBatch
from streamfti.feature_pipeline.decimal_columns import NOT_EXACT, decimal_series
from streamfti.feature_pipeline.decoded import shown

__all__ = ["finished", "validated"]

_PLACE = ["_partition", "_offset"]
_FIRST_TIME_US = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_TIME_US = to_us(datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class _Rule:
    broken: pl.Expr
    reason: str
    field: str
    must: str
    said: Callable[[Any], str]


def validated(frame: pl.DataFrame, batch: MessageBatch, dead: list[DeadLetter]) -> pl.DataFrame:
    """Return the rows of a physical frame that break no rule; the first rule that a row breaks is its reason.

    Of a message that gave several rows, all go if one does.
    """
    rules = _rules(batch.source)
    reason = pl.coalesce([pl.when(rule.broken).then(pl.lit(i)) for i, rule in enumerate(rules)])
    judged = frame.select(reason.alias("_reason")).to_series()
    if judged.null_count() == judged.len():
        return frame
    by_place = {(m.partition, m.offset): m for m in batch.messages}
    judged_frame = frame.with_columns(judged).filter(judged.is_not_null())
    broken = judged_frame.unique(_PLACE, keep="first", maintain_order=True)
    for row in broken.iter_rows(named=True):
        rule = rules[row["_reason"]]
        detail = f"{rule.must}, got {rule.said(row[rule.field])}"
        message = by_place[row["_partition"], row["_offset"]]
        dead.append(DeadLetter(message, rule.reason, detail, row["_schema_id"] or None, f"$.{rule.field}"))
    return frame.join(broken, on=_PLACE, how="anti", maintain_order="left")


def finished(schema: EventSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a physical frame of valid events with the column types of event frames."""
    times = [pl.col(f.name).cast(pl.Datetime("us", "UTC")) for f in schema.fields if f.type.dtype is DType.DATETIME]
    decimals = [f for f in schema.fields if f.type.dtype is DType.DECIMAL]
    return frame.with_columns(times).with_columns(decimal_series(frame[f.name], f.type) for f in decimals)


def _rules(source: KafkaSource) -> list[_Rule]:
    schema, max_future_skew_us = source.schema, source.max_future_skew_us
    rules: list[_Rule] = []
    for field in schema.fields:
        column = pl.col(field.name)
        if not field.type.nullable:
            absent = column.is_null()
            if schema.may_be_null(field) and not source.before_images:
                absent &= pl.col(CHANGE) != Change.GONE
            rules.append(_Rule(absent, "invalid", field.name, f"{field} must be {field.type}", _null))
        if field.type.dtype is DType.FLOAT64:
            finite = column.is_finite().fill_null(True)  # noqa: FBT003  # a value, not a flag
            rules.append(_Rule(~finite, "invalid", field.name, f"{field} must be finite", shown))
        if field.type.dtype is DType.DECIMAL:
            rules.append(_decimal_rule(field))
    time_us, ingest_us = pl.col(schema.event_time), pl.col("_ingest_time_us")
    impossible = (time_us < 0) | (time_us > _LAST_TIME_US)
    span = f"the event time {schema.event_time!r} must be from 1970 on and before the year 10000"
    rules.append(_Rule(impossible, "invalid", schema.event_time, span, _time))
    ahead = (ingest_us >= 0) & (time_us - ingest_us > max_future_skew_us)
    most = f"the event time {schema.event_time!r} must be at most {max_future_skew_us / 1e6:g} s ahead of the broker"
    rules.append(_Rule(ahead, "future", schema.event_time, most, _time))
    return rules + [_time_rule(field) for field in schema.fields if field.type.dtype is DType.DATETIME]


def _time_rule(field: Field) -> _Rule:
    column = pl.col(field.name)
    impossible = (column < _FIRST_TIME_US) | (column > _LAST_TIME_US)
    return _Rule(impossible, "invalid", field.name, f"{field} must be a time of the years 1 to 9999", _time)


def _decimal_rule(field: Field) -> _Rule:
    def said(unscaled: int) -> str:
        return "more digits" if unscaled == NOT_EXACT else str(from_unscaled(unscaled, field.type.scale))

    limit = 10**field.type.precision
    too_long = (pl.col(field.name) >= limit) | (pl.col(field.name) <= -limit)
    return _Rule(too_long, "invalid", field.name, f"{field} must fit {field.type} exactly", said)


def _null(_: object) -> str:
    return "null"


def _time(time_us: int) -> str:
    return from_us(time_us).isoformat() if _FIRST_TIME_US <= time_us <= _LAST_TIME_US else f"{time_us} µs"
