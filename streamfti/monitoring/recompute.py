"""Recomputing served features from the offline log, over just the events that had been applied at each read.

Most reads saw all events of their entity before the query time and none after it: for them the log as of the query
time is what had been applied. The others, where something was in flight, are computed over events of their own: what
is read of one entity with one and the same progress is an entity of its own then (`_read`), so that all of them go
through one vectorised pass. One by one, as it was at first, they took 1.9 ms each: half an hour for a million.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.joins import members, of_each_member
from streamfti.compute.point_in_time import EventIndex, point_in_time
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup
from streamfti.monitoring.served_vectors import ServedFeatures

__all__ = ["Coverage", "applied_events", "coverage", "recompute", "recompute_over"]

READ = "_read"
"""Tells apart, in events and keys, what was read of an entity with different progress."""

_EVENTS_AT_ONCE = 2_000_000
_EVERYTHING = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the events applied at each of n reads compare with those before its query time.

    Attributes:
        lacking: bool[n]: an event of the entity before the query time had not been applied.
        ahead: bool[n]: one at or after it had.
    """

    lacking: NDArray[np.bool_]
    ahead: NDArray[np.bool_]


def coverage(group: FeatureGroup, events: pl.DataFrame, served: ServedFeatures) -> Coverage:
    """Compare them.

    For each partition, whose offsets are ranked from 1 on: the running maximum of the ranks up to the query time must
    have been applied, the minimum of those after it must not. Both run within an entity, which is the higher digit.
    """
    found = [_member_coverage(group, member, served) for member in of_each_member(events)]
    # A pair has been applied when both of its events have. That one has says too much, which only costs time.
    lacking = np.logical_or.reduce([of_member.lacking for of_member in found])
    ahead = np.logical_or.reduce([of_member.ahead for of_member in found])
    return Coverage(lacking, ahead)


def _member_coverage(group: FeatureGroup, events: pl.DataFrame, served: ServedFeatures) -> Coverage:
    """Compare the events, or one member of all pairs."""
    index = EventIndex.of(group, events, served.keys)
    sorted_events, n = index.events, len(index.events)
    at = index.first_not_before(served.query_time_us)
    partition, offset = sorted_events.position >> 48, sorted_events.position & ((1 << 48) - 1)
    lacking, ahead = np.zeros(len(at), np.bool_), np.zeros(len(at), np.bool_)
    for number, next_offset in _all_partitions(partition, served).items():
        mine = partition == number
        offsets = np.sort(offset[mine])
        rank, applied = np.searchsorted(offsets, offset) + 1, np.searchsorted(offsets, next_offset)
        base, own = sorted_events.entity * (n + 2), index.entity * (n + 2)
        before = np.maximum.accumulate(np.where(mine, base + rank, base))
        after = np.minimum.accumulate(np.where(mine, base + rank, base + n + 1)[::-1])[::-1]
        newest = np.where(at > 0, before[at - 1], -1) - own
        oldest_later = np.where(at < n, after[np.minimum(at, n - 1)], own + n + 1) - own
        lacking |= newest > applied
        ahead |= oldest_later <= applied
    return Coverage(lacking & index.has_entity, ahead & index.has_entity)


def _all_partitions(partition: NDArray[np.int64], served: ServedFeatures) -> dict[int, NDArray[np.int64]]:
    """Return the applied offsets of every partition in the log; one that no read had seen had applied nothing."""
    nothing = np.zeros(len(served), np.int64)
    return {int(p): served.applied.get(int(p), nothing) for p in np.unique(partition)}


def recompute(
    group: FeatureGroup,
    features: Sequence[Feature],
    events: pl.DataFrame,
    served: ServedFeatures,
    covered: Coverage,
) -> dict[str, FeatureColumn]:
    """Return the features of all reads, by qualified name, over just the events that had been applied.

    Args:
        group: the group.
        features: which of its features.
        events: those of the group's stream: the log, as far as any of the windows reaches back, later events too.
        served: the reads.
        covered: from `coverage`.
    """
    if not features:
        return {}
    recomputed = point_in_time(group, features, events, served.keys, served.query_time_us)
    for rows, applied, keys in applied_events(group, events, served, np.flatnonzero(covered.lacking | covered.ahead)):
        found = recompute_over(group, features, applied, keys, served.query_time_us[rows])
        for name, column in found.items():
            recomputed[name].values[rows] = column.values
            recomputed[name].status[rows] = column.status
    return recomputed


def recompute_over(
    group: FeatureGroup,
    features: Sequence[Feature],
    applied: pl.DataFrame,
    keys: pl.DataFrame,
    query_time_us: NDArray[np.int64],
) -> dict[str, FeatureColumn]:
    """Return features over events and keys of `applied_events`: every one of them counts, whenever it happened."""
    head_us = np.full(len(keys), _EVERYTHING)
    return point_in_time(group, features, applied, keys, query_time_us, head_us=head_us, also_by=[READ])


def applied_events(
    group: FeatureGroup, events: pl.DataFrame, served: ServedFeatures, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], pl.DataFrame, pl.DataFrame]]:
    """Iterate over some of the rows, some at a time, with just the events that each of their reads had applied.

    Yields:
        Rows; events with the column `_read`; the keys of the rows with the same.
    """
    if not len(rows):
        return
    names = list(group.entity)
    applied = {f"_applied_{p}": offsets for p, offsets in served.applied.items()}
    asked = served.keys.select(names)[rows].with_columns(
        *(pl.Series(name, offsets[rows]) for name, offsets in applied.items())
    )
    reads = asked.unique(maintain_order=True).with_row_index(READ)
    number = asked.join(reads, on=asked.columns, how="left", maintain_order="left", nulls_equal=True)[READ]
    read_of_row = number.to_numpy()
    for first, stop in _parts(reads, events, names):
        own = reads[first:stop]
        mine = events.join(own, on=names, how="inner")
        seen = mine.filter(_was_applied(served.applied, member) for member in members(events)).drop(applied)
        part = np.flatnonzero((read_of_row >= first) & (read_of_row < stop))
        yield rows[part], seen, asked[part].select(names).with_columns(number.gather(part))


def _was_applied(applied: Mapping[int, object], member: tuple[str, str]) -> pl.Expr:
    partition, offset = map(pl.col, member)
    tests = [(partition == p) & (offset < pl.col(f"_applied_{p}")) for p in applied]
    return pl.any_horizontal(tests) if tests else pl.lit(value=False)


def _parts(reads: pl.DataFrame, events: pl.DataFrame, names: list[str]) -> Iterator[tuple[int, int]]:
    """Cut reads into runs that have at most so many events together, or are single ones."""
    n_events = events.group_by(names).len("_n")
    counts = reads.join(n_events, on=names, how="left", maintain_order="left")["_n"].fill_null(0).to_numpy()
    total = np.cumsum(counts.astype(np.int64))
    first = 0
    while first < len(reads):
        before = total[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(total, before + _EVENTS_AT_ONCE, side="right")))
        yield first, stop
        first = stop
