"""History: a user's events of before the topic, from Parquet files, into the offline log of their source.

Training sets, `verify` and the online store must see one and the same past, so history is not read beside the log but
becomes part of it: as a partition of its own, which no topic has, with offsets in the order of event time, written in
one commit. A group that is filled from the log has applied it, and its progress there says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from streamfti.clock import Clock
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import HISTORY_PARTITION, KafkaSource
from streamfti.errors import ContractError, did_you_mean
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import polars_type

__all__ = ["import_history"]

_ACCEPTED: dict[DType, set[type[pl.DataType]]] = {
    DType.STRING: {pl.String, pl.Categorical, pl.Enum},
    DType.INT64: {pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64},
    DType.FLOAT64: {pl.Float32, pl.Float64},
    DType.BOOL: {pl.Boolean},
    DType.DATETIME: {pl.Datetime},
    DType.DECIMAL: {pl.Decimal},
}
"""What a column of a file may be; it is converted where that is exact."""


def import_history(
    source: KafkaSource,
    path: Path,
    log: OfflineLog,
    *,
    clock: Clock,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Add the events of a Parquet file, or of all Parquet files below a folder, to the log; return how many.

    Either all of them become part of the log, in one commit, or none. They are in memory until then. A log takes
    history once: doing it again, also after a death, is told from doing it twice.

    Args:
        source: whose events they are: every field of the event class must be a column, and no other column be there.
            None of them may be in the topic as well: it would count twice.
        path: the file or folder.
        log: the offline log.
        clock: an event may not be further ahead of it than one in the topic may be.
        on_progress: called after each file with the events read so far, and None.

    Raises:
        ContractError: if the source is of changes, the log has history already, or a file, a column or a value is not
            what it must be.
        FencedWriter: if somebody else imports history at the same time.
        StoreError: if the log cannot be written.
    """
    if source.changes is not None:
        msg = f"the history of source {source.name!r} must come through its topic, as its messages are changes of rows"
        raise ContractError(msg, hint="a snapshot of the table in the topic says all that there is")
    if HISTORY_PARTITION in log.positions(source):
        msg = f"the log of source {source.name!r} must not hold history yet, but it does"
        raise ContractError(msg, hint="leave --from out: what is in the log is filled into the group anyway")
    with log.writer(source) as writer:
        offset = 0
        for file in _files(path):
            frame = _events(source, file, clock.now_us() + source.max_future_skew_us)
            stop = offset + frame.height
            writer.append(_placed(source.schema, frame, offset), {HISTORY_PARTITION: stop})
            offset = stop
            if on_progress is not None:
                on_progress(offset, None)
        if not offset:
            msg = f"{path} must hold events of {source.schema.name!r}, got none"
            raise ContractError(msg)
        writer.flush()
    return offset


def _files(path: Path) -> Iterator[Path]:
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not found:
        msg = f"history must be a Parquet file, or a folder with some below it, got {path}"
        raise ContractError(msg)
    yield from found


def _events(source: KafkaSource, file: Path, latest_us: int) -> pl.DataFrame:
    """Return the events of a file with the columns of the event, in their order and types, sorted by event time."""
    schema = source.schema
    try:
        frame = pl.read_parquet(file, hive_partitioning=False)
        _check_columns(schema, file, frame)
        typed = frame.select(_typed(field, frame.schema[field.name]) for field in schema.fields)
    except (OSError, pl.exceptions.PolarsError) as exc:
        msg = f"{file} must hold events of {schema.name!r} in Parquet, got: {exc}"
        raise ContractError(msg) from exc
    for field in schema.fields:
        _check_values(file, field, typed[field.name])
    times_us = typed[schema.event_time].to_physical()
    if len(times_us) and not (times_us.min() >= 0 and times_us.max() <= latest_us):  # type: ignore[operator]  # of ints
        msg = f"the event times of {file} must be from 1970 on and not in the future, got one that is not"
        raise ContractError(msg)
    return typed.sort(schema.event_time, maintain_order=True)


def _check_columns(schema: EventSchema, file: Path, frame: pl.DataFrame) -> None:
    fields = {field.name: field for field in schema.fields}
    for name in frame.columns:
        if name not in fields:
            msg = f"the columns of {file} must be fields of {schema.name!r}, got {name!r}"
            raise ContractError(msg, hint=did_you_mean(name, fields))
    for name, field in fields.items():
        dtype = frame.schema.get(name)
        if dtype is None:
            msg = f"{file} must have a column for {field}, got {', '.join(frame.columns)}"
            raise ContractError(msg, hint=did_you_mean(name, frame.columns))
        naive = isinstance(dtype, pl.Datetime) and dtype.time_zone is None
        if type(dtype) not in _ACCEPTED[field.type.dtype] or naive:
            msg = f"column {name!r} of {file} must be {field.type}, got {dtype}"
            raise ContractError(msg, hint="a time needs a zone: .dt.replace_time_zone('UTC')" if naive else "")


def _typed(field: Field, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(field.name)
    if isinstance(dtype, pl.Datetime):
        return column.dt.convert_time_zone("UTC").cast(polars_type(field.type), strict=True)
    return column.cast(polars_type(field.type), strict=True)


def _check_values(file: Path, field: Field, column: pl.Series) -> None:
    if not field.type.nullable and column.null_count():
        msg = f"column {field.name!r} of {file} must have no nulls, got {column.null_count()} in {len(column)} rows"
        raise ContractError(msg)
    if field.type.dtype is DType.FLOAT64 and not column.drop_nulls().is_finite().all():
        msg = f"column {field.name!r} of {file} must be finite numbers, got NaN or an infinity"
        raise ContractError(msg)


def _placed(schema: EventSchema, frame: pl.DataFrame, first_offset: int) -> pl.DataFrame:
    """Return events with the framework's columns: the broker's time is the event time, there is no writer's schema."""
    return frame.with_columns(
        pl.lit(HISTORY_PARTITION, pl.Int32).alias("_partition"),
        pl.int_range(first_offset, first_offset + frame.height, dtype=pl.Int64).alias("_offset"),
        pl.col(schema.event_time).to_physical().alias("_ingest_time_us"),
        pl.lit(0, pl.Int32).alias("_schema_id"),
        pl.lit(value=False).alias("_too_late"),
    )
