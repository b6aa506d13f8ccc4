"""Proving zero skew: features as they were served against the same features recomputed from the offline log.

A served value is a function of the events that had been applied when it was read, and the read says which: the
progress of the group, from the same atomic command as the tiles. So the comparison knows no tolerance for delay: an
event in flight is left out on both sides, and what differs is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.point_in_time import EventIndex, point_in_time
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.groups import FeatureGroup

__all__ = ["ServedFeatures", "SkewReport", "SkewRow", "verify_group"]

RELATIVE_TOLERANCE = 1e-9
"""For floats, whose sums round differently in another order: of the sum of the magnitudes that were added, as what is
left of a refund beside its payment is nothing but rounding. Integers must be equal."""

_KEPT_ROWS = 20


@dataclass(frozen=True, slots=True)
class ServedFeatures:
    """n reads of one group, as they were answered.

    Attributes:
        keys: n rows with the columns of the entity key; null where the request named no entity.
        query_time_us: int64[n].
        columns: the served features by qualified name, each [n].
        applied: by partition, int64[n]: the offset after the last event applied when the row was read.
    """

    keys: pl.DataFrame
    query_time_us: NDArray[np.int64]
    columns: Mapping[str, FeatureColumn]
    applied: Mapping[int, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class SkewRow:
    """One value that differs."""

    feature: str
    entity: Mapping[str, object]
    query_time_us: int
    served: float
    recomputed: float
    served_status: int
    recomputed_status: int


@dataclass(frozen=True, slots=True)
class SkewReport:
    """What a comparison found.

    Attributes:
        probes: reads that were compared: one entity of the group at one time.
        values: feature values that were compared.
        in_flight: probes for which the log holds events before the query time that had not been applied yet, or
            events at or after it that had; each was compared over just the events applied.
        skew_rows: probes with at least one value that differs.
        examples: the first of the values that differ.
    """

    probes: int
    values: int
    in_flight: int
    skew_rows: int
    examples: Sequence[SkewRow]


def verify_group(
    group: FeatureGroup, features: Sequence[Feature], events: pl.DataFrame, served: ServedFeatures
) -> SkewReport:
    """Compare what was served with what the log says.

    Args:
        group: the features' group.
        features: which of its features were served.
        events: event frame of the group's source: the whole log, later events too.
        served: the reads.
    """
    unlike = _applied_otherwise(group, events, served)
    recomputed = _recompute(group, features, events, served, unlike)
    summed = [feature for feature in features if _sums_floats(feature)]
    magnitudes = _recompute(group, summed, _magnitudes(summed, events), served, unlike)
    return _compare(features, served, recomputed, magnitudes, int(unlike.sum()))


def _sums_floats(feature: Feature) -> bool:
    field = feature.aggregation.field
    return feature.aggregation.kind in {"sum", "mean"} and field is not None and field.type.dtype is DType.FLOAT64


def _magnitudes(features: Sequence[Feature], events: pl.DataFrame) -> pl.DataFrame:
    """Return the events without the signs of what the features aggregate."""
    names = {f.aggregation.field.name for f in features if f.aggregation.field is not None}
    return events.with_columns(pl.col(name).abs() for name in names)


def _applied_otherwise(group: FeatureGroup, events: pl.DataFrame, served: ServedFeatures) -> NDArray[np.bool_]:
    """Return bool[n]: where the events applied are not just those of the entity before the query time.

    For each partition, whose offsets are ranked from 1 on: the running maximum of the ranks up to the query time must
    have been applied, the minimum of those after it must not. Both run within an entity, which is the higher digit.
    """
    index = EventIndex.of(group, events, served.keys)
    sorted_events, n = index.events, len(index.events)
    at = index.first_not_before(served.query_time_us)
    partition, offset = sorted_events.position >> 48, sorted_events.position & ((1 << 48) - 1)
    unlike = np.zeros(len(at), np.bool_)
    for number, next_offset in _all_partitions(partition, served).items():
        mine = partition == number
        offsets = np.sort(offset[mine])
        rank, applied = np.searchsorted(offsets, offset) + 1, np.searchsorted(offsets, next_offset)
        base, own = sorted_events.entity * (n + 2), index.entity * (n + 2)
        before = np.maximum.accumulate(np.where(mine, base + rank, base))
        after = np.minimum.accumulate(np.where(mine, base + rank, base + n + 1)[::-1])[::-1]
        newest = np.where(at > 0, before[at - 1], -1) - own
        oldest_later = np.where(at < n, after[np.minimum(at, n - 1)], own + n + 1) - own
        unlike |= (newest > applied) | (oldest_later <= applied)
    return unlike & index.has_entity


def _all_partitions(partition: NDArray[np.int64], served: ServedFeatures) -> dict[int, NDArray[np.int64]]:
    """Return the applied offsets of every partition in the log; one that no read had seen had applied nothing."""
    nothing = np.zeros(len(served.query_time_us), np.int64)
    return {int(p): served.applied.get(int(p), nothing) for p in np.unique(partition)}


def _recompute(
    group: FeatureGroup,
    features: Sequence[Feature],
    events: pl.DataFrame,
    served: ServedFeatures,
    unlike: NDArray[np.bool_],
) -> dict[str, FeatureColumn]:
    """Return the features of all reads; where `unlike`, over just the events that had been applied."""
    if not features:
        return {}
    recomputed = point_in_time(group, features, events, served.keys, served.query_time_us)
    theirs = events.join(served.keys.filter(pl.Series(unlike)), on=list(group.entity), how="semi")
    for row in np.flatnonzero(unlike).tolist():
        _recompute_row(group, features, theirs, served, row, recomputed)
    return recomputed


def _recompute_row(
    group: FeatureGroup,
    features: Sequence[Feature],
    events: pl.DataFrame,
    served: ServedFeatures,
    row: int,
    recomputed: dict[str, FeatureColumn],
) -> None:
    """Recompute one read over just the events that had been applied; every one of them counts."""
    applied = [
        (pl.col("_partition") == number) & (pl.col("_offset") < int(next_offset[row]))
        for number, next_offset in served.applied.items()
    ]
    seen = events.filter(pl.any_horizontal(applied)) if applied else events.clear()
    everything = np.array([np.iinfo(np.int64).max])
    key, query = served.keys[row], served.query_time_us[row : row + 1]
    for name, column in point_in_time(group, features, seen, key, query, head_us=everything).items():
        recomputed[name].values[row] = column.values[0]
        recomputed[name].status[row] = column.status[0]


def _compare(
    features: Sequence[Feature],
    served: ServedFeatures,
    recomputed: Mapping[str, FeatureColumn],
    magnitudes: Mapping[str, FeatureColumn],
    in_flight: int,
) -> SkewReport:
    n = len(served.query_time_us)
    skewed = np.zeros(n, np.bool_)
    examples: list[SkewRow] = []
    for feature in features:
        ours, theirs = served.columns[feature.qualified_name], recomputed[feature.qualified_name]
        scale = magnitudes.get(feature.qualified_name, theirs).values
        differs = (ours.status != theirs.status) | ~_equal(ours.values, theirs.values, scale)
        skewed |= differs
        examples += [
            SkewRow(
                feature.qualified_name,
                served.keys.row(row, named=True),
                int(served.query_time_us[row]),
                float(ours.values[row]),
                float(theirs.values[row]),
                int(ours.status[row]),
                int(theirs.status[row]),
            )
            for row in np.flatnonzero(differs)[: _KEPT_ROWS - len(examples)].tolist()
        ]
    return SkewReport(n, n * len(features), in_flight, int(skewed.sum()), examples)


def _equal(left: NDArray[Any], right: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.bool_]:
    if left.dtype.kind == "i" and right.dtype.kind == "i":
        return np.asarray(left == right)
    atol = RELATIVE_TOLERANCE * np.where(np.isfinite(scale), np.abs(scale), 0.0)
    return np.asarray(np.isclose(left, right, rtol=RELATIVE_TOLERANCE, atol=atol, equal_nan=True))
