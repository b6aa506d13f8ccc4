"""Features of a service over history: what serving would have answered at each moment of a frame.

What training sets and backfills are made of. Not here: labels, and where the moments come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.clock import from_us
from streamfti.compute.decimals import as_float64
from streamfti.compute.event_columns import fields_read
from streamfti.compute.on_demand import OnDemandPlan
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.transformations import stream_events
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import TrainingError, did_you_mean
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import polars_type
from streamfti.stores.offline.snapshot import LogSnapshot

__all__ = ["PinnedLog", "backfill_features", "historical_columns", "input_frame"]


@dataclass(frozen=True, slots=True)
class PinnedLog:
    """Reads each source from one snapshot, taken when it is first read."""

    log: OfflineLog
    snapshots: dict[str, LogSnapshot] = field(default_factory=dict)

    def read(
        self,
        source: KafkaSource,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Collection[str] | None = None,
    ) -> pl.DataFrame:
        """Return the events of `[start, end)`, sorted by (event time, partition, offset); raises as the log does."""
        if source.name not in self.snapshots:
            self.snapshots[source.name] = self.log.snapshot(source)
        return self.log.read(source, self.snapshots[source.name], start=start, end=end, columns=columns)


def historical_columns(
    service: FeatureService,
    moments: pl.DataFrame,
    query_time_us: NDArray[np.int64],
    reader: PinnedLog,
    *,
    end: datetime,
    read: Callable[[int], None] | None = None,
) -> dict[str, AnyColumn]:
    """Return what a service reads, asks for and computes, by qualified name, as models take it: its inputs and more.

    Args:
        service: says which features.
        moments: n rows with the columns of the entity keys and the request features; at least one.
        query_time_us: int64[n]: the time of each. An event at exactly that time does not count.
        reader: reads the events of the groups' sources.
        end: events from this time on do not exist.
        read: called with the number of groups that are done, after each.

    Raises:
        TrainingError: if the function of an on-demand feature fails, or gives a row another value among others than
            alone.
        FunctionError: if a batch function of a stream fails, likewise.
    """
    columns = _request_columns(service, moments)
    for done, group in enumerate(service.groups, start=1):
        columns |= _stored_columns(service, group, moments, query_time_us, reader, end)
        if read is not None:
            read(done)
    plan = OnDemandPlan(service.on_demand, TrainingError)
    if plan.names:
        computed = plan.evaluate(columns, query_time_us)
        plan.check_row_wise(columns, computed, query_time_us)
        columns |= computed.columns
    return columns


def backfill_features(service: FeatureService, log: OfflineLog, moments: pl.DataFrame, *, at: str) -> pl.DataFrame:
    """Return the inputs of a service as of past moments: for scoring in batches and for analyses, without a model.

    The same code as for training sets; each source is pinned to one snapshot of the log.

    Args:
        service: says which features.
        log: holds the events of the groups' sources.
        moments: n rows with the columns of the entity keys and the request features, in any order; others are
            passed over.
        at: the column with the query times: aware datetimes, never null.

    Returns:
        n rows in the order of the moments: the columns of the entity keys, `_query_time`, and the inputs by
        qualified name, where numbers and booleans are Float64, null where there is no value.

    Raises:
        TrainingError: if there is no row, or a column is not there or of another type; also as
            `historical_columns` does.
    """
    _check_moments(service, moments, at)
    times = moments[at].cast(pl.Datetime("us", "UTC"))
    query_time_us = times.to_physical().to_numpy()
    columns = historical_columns(service, moments, query_time_us, PinnedLog(log), end=from_us(int(query_time_us.max())))
    keys = {name: moments[name] for name in service.entity_fields}
    return pl.DataFrame({**keys, "_query_time": times, **input_frame(service, columns).to_dict()})


def input_frame(service: FeatureService, columns: dict[str, AnyColumn]) -> pl.DataFrame:
    """Return the inputs of a service, in order, by qualified name: Float64 or String, null where there is no value."""
    return pl.DataFrame([_series(i.qualified_name, columns[i.qualified_name]) for i in service.inputs])


def _series(name: str, values: AnyColumn) -> pl.Series:
    if values.dtype == np.object_:
        return pl.Series(name, values.tolist(), dtype=pl.String)
    return pl.Series(name, values, nan_to_null=True)


def _check_moments(service: FeatureService, moments: pl.DataFrame, at: str) -> None:
    if moments.is_empty():
        msg = f"the moments of a backfill of feature service {service.name!r} must have rows, got none"
        raise TrainingError(msg)
    wanted = {name: polars_type(ValueType(dtype)) for name, dtype in service.request_fields.items()}
    for name in [at, *wanted]:
        if name not in moments.columns:
            msg = f"the moments of a backfill of feature service {service.name!r} must have the column {name!r}"
            raise TrainingError(msg, hint=did_you_mean(name, moments.columns))
    times = moments[at]
    if not isinstance(times.dtype, pl.Datetime) or times.dtype.time_zone is None or times.null_count():
        msg = f"the column {at!r} of the moments must be of aware datetimes without nulls, got {times.dtype}"
        raise TrainingError(msg, hint='for example .dt.replace_time_zone("UTC")')
    for name, dtype in wanted.items():
        found = moments[name].dtype
        if found != dtype and not (dtype == pl.Float64() and found.is_numeric()):
            msg = f"the column {name!r} of the moments must be {dtype}, got {found}"
            raise TrainingError(msg)


def _request_columns(service: FeatureService, moments: pl.DataFrame) -> dict[str, AnyColumn]:
    columns: dict[str, AnyColumn] = {}
    for feature in service.request_features:
        series = moments[feature.name]
        if feature.dtype is DType.STRING:
            columns[feature.name] = np.array(series.to_list(), dtype=np.object_)
        else:
            columns[feature.name] = as_float64(series).fill_null(float("nan")).to_numpy()
    return columns


def _stored_columns(
    service: FeatureService,
    group: FeatureGroup,
    moments: pl.DataFrame,
    query_time_us: NDArray[np.int64],
    reader: PinnedLog,
    end: datetime,
) -> dict[str, AnyColumn]:
    features = service.features_of(group)
    reaches_us = [f.reach_us for f in features]
    bounds_us = [reach_us for reach_us in reaches_us if reach_us is not None]
    start_us = int(query_time_us.min()) - max(bounds_us) if len(bounds_us) == len(reaches_us) else None

    def read(source: KafkaSource, columns: Collection[str], earlier_us: int | None) -> pl.DataFrame:
        start = None if start_us is None or earlier_us is None else from_us(start_us - earlier_us)
        return reader.read(source, start=start, end=end, columns=columns)

    events = stream_events(group.stream, fields_read(group), read)
    keys = moments.select(group.entity)
    found = point_in_time(group, features, events, keys, query_time_us)
    return {name: column.model_column() for name, column in found.items()}
