"""Proving zero skew: features as they were served against the same features recomputed from the offline log.

A served value is a function of the events that had been applied when it was read, and the read says which: the
progress of the group, from the same atomic command as the tiles. So the comparison knows no tolerance for delay: an
event in flight is left out on both sides, and what differs without another explanation is a bug.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.aggregators import aggregator
from streamfti.compute.layout import RecordLayout
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Aggregation, Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.groups import FeatureGroup
from streamfti.monitoring.approximate import within_error
from streamfti.monitoring.recompute import READ, applied_events, coverage, recompute, recompute_over
from streamfti.monitoring.served_vectors import ServedFeatures

__all__ = ["Comparison", "SkewRow", "Verdict", "verify_group"]

RELATIVE_TOLERANCE = 1e-9
"""For floats, whose sums round differently in another order: of the sum of the magnitudes that were added, as what is
left of a refund beside its payment is nothing but rounding. Integers must be equal."""


class Verdict(IntEnum):
    """What became of one served value."""

    EQUAL = 0
    """It is what the log says."""
    IN_FLIGHT = 1
    """It is what the log says of the events applied; some of its entity arrived after the read."""
    TOO_LATE = 2
    """It is what is left where the online store does not keep that past: tiles overwritten by newer ones of their
    ring, or a record that was idle for longer than its retention."""
    UNLOGGED = 3
    """It differs, and the log does not hold all events that had been applied; nothing can be said."""
    VERSION = 4
    """It was served by another definition, and not compared."""
    BUG = 5
    """It differs, and nothing explains it."""


@dataclass(frozen=True, slots=True)
class SkewRow:
    """One value that differs without an explanation."""

    feature: str
    entity: Mapping[str, object]
    query_time_us: int
    served: float | str
    recomputed: float | str
    served_status: int
    recomputed_status: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found of n reads of k features of one group.

    Attributes:
        served: the reads.
        recomputed: the features by qualified name, each [n]: what the log says.
        verdicts: by qualified name, uint8[n] of `Verdict`.
    """

    served: ServedFeatures
    recomputed: Mapping[str, FeatureColumn]
    verdicts: Mapping[str, NDArray[np.uint8]]

    @property
    def probes(self) -> int:
        """The number of reads."""
        return len(self.served)

    @property
    def values(self) -> int:
        """The number of values."""
        return sum(map(len, self.verdicts.values()))

    @property
    def skew_rows(self) -> int:
        """Reads with at least one BUG."""
        return self._rows_with(Verdict.BUG)

    @property
    def in_flight(self) -> int:
        """Reads with at least one value that was IN_FLIGHT."""
        return self._rows_with(Verdict.IN_FLIGHT)

    def _rows_with(self, verdict: Verdict) -> int:
        found = [verdicts == verdict for verdicts in self.verdicts.values()]
        return int(np.logical_or.reduce(found).sum()) if found else 0

    def counts(self) -> dict[str, dict[Verdict, int]]:
        """Return, by feature, how many values have each verdict; only those that occur."""
        counted = {name: np.bincount(v, minlength=len(Verdict)).tolist() for name, v in self.verdicts.items()}
        return {name: {Verdict(i): n for i, n in enumerate(ns) if n} for name, ns in counted.items()}

    def bugs(self) -> Iterator[SkewRow]:
        """Iterate over the values that differ, feature by feature."""
        for name, verdicts in self.verdicts.items():
            ours, theirs = self.served.columns[name], self.recomputed[name]
            for row in np.flatnonzero(verdicts == Verdict.BUG).tolist():
                yield SkewRow(
                    name,
                    self.served.keys.row(row, named=True),
                    int(self.served.query_time_us[row]),
                    ours.values[row : row + 1].tolist()[0],
                    theirs.values[row : row + 1].tolist()[0],
                    int(ours.status[row]),
                    int(theirs.status[row]),
                )


def verify_group(
    group: FeatureGroup,
    features: Sequence[Feature],
    events: pl.DataFrame,
    served: ServedFeatures,
    *,
    log_positions: Mapping[int, int] | None = None,
    stored_since_us: int | None = None,
) -> Comparison:
    """Compare what was served with what the log says.

    Args:
        group: the features' group.
        features: which of its features were served.
        events: the events of the group's stream (`transformed`): of the entities of the reads, all that the log holds.
        served: the reads.
        log_positions: by partition, how far the log reaches; by default, as far as anything that was read.
        stored_since_us: no record of the group was written before; so it cannot have expired within the retention
            from then on.
    """
    covered = coverage(group, events, served)
    recomputed = recompute(group, features, events, served, covered)
    verdicts = {f.qualified_name: np.full(len(served), Verdict.EQUAL, np.uint8) for f in features}
    differing: dict[str, NDArray[np.int64]] = {}
    for feature in features:
        name = feature.qualified_name
        verdicts[name][covered.lacking] = Verdict.IN_FLIGHT
        differs = ~_alike(served.columns[name], recomputed[name])
        if served.is_comparable is not None:
            verdicts[name][~served.is_comparable] = Verdict.VERSION
            differs &= served.is_comparable
        differing[name] = np.flatnonzero(differs)
    judge = _Judge(group, events, served, _unlogged(served, log_positions), stored_since_us)
    for feature in features:
        name = feature.qualified_name
        if len(differing[name]):
            judge.explain(feature, differing[name], recomputed[name], verdicts[name])
    return Comparison(served, recomputed, verdicts)


def _unlogged(served: ServedFeatures, log_positions: Mapping[int, int] | None) -> NDArray[np.bool_]:
    """Return bool[n]: where events had been applied that the log does not hold yet."""
    unlogged = np.zeros(len(served), np.bool_)
    if log_positions is not None:
        for partition, offsets in served.applied.items():
            unlogged |= offsets > log_positions.get(partition, 0)
    return unlogged


@dataclass(frozen=True, slots=True)
class _Judge:
    """Looks for what explains values that differ; there are few of them, or something is broken."""

    group: FeatureGroup
    events: pl.DataFrame
    served: ServedFeatures
    unlogged: NDArray[np.bool_]
    stored_since_us: int | None

    def explain(
        self, feature: Feature, rows: NDArray[np.int64], recomputed: FeatureColumn, verdicts: NDArray[np.uint8]
    ) -> None:
        """Set the verdicts of some rows, in place; one that nothing explains is a BUG."""
        ours = self.served.columns[feature.qualified_name]
        for some, applied, keys in applied_events(self.group, self.events, self.served, rows):
            ours_here, at_us = _taken(ours, some), self.served.query_time_us[some]
            rounded = self._within_error(feature, applied, keys, at_us, ours_here)
            magnitude = _magnitude(feature)
            if magnitude is not None:
                scale = self._over(magnitude, some, applied, keys).values
                squared = feature.aggregation.kind == "stddev"
                rounded = _alike(ours_here, _taken(recomputed, some), scale, squared=squared)
            kept = _kept_tiles(self.group, feature, applied)
            too_late = _alike(ours_here, self._over(feature, some, kept, keys))
            too_late |= self._within_error(feature, kept, keys, at_us, ours_here)
            nothing = self._over(feature, some, applied.clear(), keys)
            too_late |= _alike(ours_here, nothing) & self._may_have_expired(some, applied, keys)
            found = np.where(too_late, Verdict.TOO_LATE, Verdict.BUG)
            found = np.where(self.unlogged[some], Verdict.UNLOGGED, found)
            verdicts[some] = np.where(rounded, verdicts[some], found)

    def _within_error(
        self,
        feature: Feature,
        events: pl.DataFrame,
        keys: pl.DataFrame,
        query_time_us: NDArray[np.int64],
        served: FeatureColumn,
    ) -> NDArray[np.bool_]:
        """Return bool[m]: where a value that depends on the order of merging is within its stated error."""
        if not aggregator(feature.aggregation).depends_on_order:
            return np.zeros(len(keys), np.bool_)
        return within_error(self.group, feature, events, keys, query_time_us, served, also_by=[READ])

    def _over(
        self, feature: Feature, rows: NDArray[np.int64], events: pl.DataFrame, keys: pl.DataFrame
    ) -> FeatureColumn:
        found = recompute_over(self.group, [feature], events, keys, self.served.query_time_us[rows])
        return found[feature.qualified_name]

    def _may_have_expired(
        self, rows: NDArray[np.int64], applied: pl.DataFrame, keys: pl.DataFrame
    ) -> NDArray[np.bool_]:
        """Return bool[m]: where the entity's last event, and the group, had been stored for the retention."""
        if self.served.read_at_us is None or self.group.retention_us is None:
            return np.zeros(len(rows), np.bool_)
        taken_us = pl.max_horizontal("_ingest_time_us", pl.col(self.group.stream.schema.event_time).to_physical())
        newest = applied.group_by(READ).agg(taken_us.max().alias("_newest_us"))
        newest_us = keys.join(newest, on=READ, how="left", maintain_order="left")["_newest_us"].fill_null(0).to_numpy()
        since_us = np.maximum(newest_us, self.stored_since_us or 0)
        return np.asarray(self.served.read_at_us[rows] - since_us >= self.group.retention_us)


_ROUNDED = {"sum", "mean", "variance", "stddev"}


def _magnitude(feature: Feature) -> Feature | None:
    """Return the feature whose value its rounding is in proportion to; None if it is not rounded."""
    aggregation = feature.aggregation
    operand = aggregation.operand
    if operand is None or aggregation.kind not in _ROUNDED:
        return None
    if aggregation.kind in {"sum", "mean"}:
        if operand.type.dtype is not DType.FLOAT64:
            return None
        return replace(feature, aggregation=replace(aggregation, operand=operand.abs()))
    number = operand.cast(float)
    return replace(feature, aggregation=Aggregation("mean", DType.FLOAT64, number * number))


def _kept_tiles(group: FeatureGroup, feature: Feature, applied: pl.DataFrame) -> pl.DataFrame:
    """Return the events whose tile is the newest of its slot: the others were overwritten, or came too late."""
    ring = RecordLayout.of(group).ring_of(feature)
    tile = pl.col(group.stream.schema.event_time).to_physical() // ring.hop_us
    return applied.filter(tile == tile.max().over([READ, tile % ring.n_slots]))


def _taken(column: FeatureColumn, rows: NDArray[np.int64]) -> FeatureColumn:
    return FeatureColumn(column.values[rows], column.status[rows])


def _alike(
    left: FeatureColumn, right: FeatureColumn, scale: NDArray[Any] | None = None, *, squared: bool = False
) -> NDArray[np.bool_]:
    """Return bool[n]: equal statuses, and values equal up to the rounding of sums; of `scale`, where it is given.

    With `squared`, the squares of the values are compared: it is those that were rounded in proportion to the scale.
    """
    if left.values.dtype.kind == "f" or right.values.dtype.kind == "f":
        of = right.values if scale is None else scale
        atol = RELATIVE_TOLERANCE * np.where(np.isfinite(of), np.abs(of), 0.0)
        one, other = (column.values**2 if squared else column.values for column in (left, right))
        same = np.isclose(one, other, rtol=RELATIVE_TOLERANCE, atol=atol, equal_nan=True)
    else:
        same = left.values == right.values
    return np.asarray(same & (left.status == right.status))
