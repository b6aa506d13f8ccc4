"""Whether the sides of one feature group agree: its online bytes, its history, and the definition itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from typing_extensions import override

from streamfti.clock import to_us
from streamfti.compute.aggregators import aggregator
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.expressions import evaluate
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.transformations import transformed
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.aggregations import Feature
from streamfti.monitoring.approximate import within_error
from streamfti.testing.feature_values import Value
from streamfti.testing.naive import NAIVE_KINDS, Head, Placed, naive_feature
from streamfti.testing.online_table import OnlineTable

__all__ = ["differences"]

_SAID: Mapping[Head, str] = {"query_time": "by definition", "applied": "by definition, with what is ahead"}
_RELATIVE = 1e-9
_ABSOLUTE = 1e-7
"""Of the largest number aggregated: the square root, which a standard deviation is, of what sums are off by."""


def differences(
    table: OnlineTable, features: Sequence[Feature], history: pl.DataFrame, events: Sequence[Placed], now_us: int
) -> Iterator[str]:
    """Iterate over the values on which the sides do not agree, each as a line that says what each side says.

    Args:
        table: the online side.
        features: of its group.
        history: all events applied, as a frame of the group's source.
        events: the same events, in the same order.
        now_us: the query time.
    """
    group = table.group
    seen = transformed(group.stream, history)
    keys = seen.select(group.entity).drop_nulls().unique(maintain_order=True)
    if keys.is_empty():
        return
    at_us = np.full(keys.height, now_us, np.int64)
    online = table.read(features, [encode_key(key) for key in keys.iter_rows()], at_us)
    offline = point_in_time(group, features, seen, keys, at_us)
    largest = {feature.name: _largest(feature, seen) for feature in features}
    is_settled = all(to_us(e.fields[group.stream.origin.schema.event_time]) < now_us for e in events)
    for row, key in enumerate(keys.iter_rows(named=True)):
        for feature in features:
            sides = [_Side.of("online", online, feature, row), _Side.of("offline", offline, feature, row)]
            heads: list[Head] = ["query_time"] if is_settled else ["applied", "query_time"]
            if feature.aggregation.kind in NAIVE_KINDS:
                sides += [_Side(_SAID[h], naive_feature(feature, group, events, key, now_us, head=h)) for h in heads]
            if not _do_agree(feature, sides, largest[feature.name], is_settled=is_settled):
                may_differ = aggregator(feature.aggregation).depends_on_order or not is_settled
                pair = [_row_of(side[feature.qualified_name], row) for side in (online, offline)]
                if _are_within_error(table, feature, seen, keys[row], now_us, *pair, may_differ=may_differ):
                    continue
                told = ", ".join(map(str, sides))
                yield f"{feature.qualified_name} of {', '.join(f'{k}={v!r}' for k, v in key.items())}: {told}"


@dataclass(frozen=True, slots=True)
class _Side:
    """What one side says of a value; without a status, that it is as good as the others'."""

    name: str
    value: Value
    status: Status | None = None

    @classmethod
    def of(cls, name: str, columns: Mapping[str, FeatureColumn], feature: Feature, row: int) -> _Side:
        column = columns[feature.qualified_name]
        value, status = column.values[row : row + 1].tolist()[0], Status(int(column.status[row]))
        return cls(name, None if status >= Status.EXPIRED else value, status)

    @override
    def __str__(self) -> str:
        how = "" if self.status is None or self.status is Status.PRESENT else f" ({self.status.name})"
        return f"{self.name} {self.value!r}{how}"


def _row_of(column: FeatureColumn, row: int) -> FeatureColumn:
    return FeatureColumn(column.values[row : row + 1], column.status[row : row + 1])


def _are_within_error(
    table: OnlineTable,
    feature: Feature,
    seen: pl.DataFrame,
    key: pl.DataFrame,
    now_us: int,
    online: FeatureColumn,
    offline: FeatureColumn,
    *,
    may_differ: bool,
) -> bool:
    """Return whether both sides, a row each, are within the stated error of a sketch, and alike unless they may differ.

    Online, what is ahead of now counts; offline it does not.
    """
    at_us = np.full(1, now_us, np.int64)
    found = within_error(table.group, feature, seen, key, at_us, online)
    found &= within_error(table.group, feature, seen, key, at_us, offline, head_us=at_us)
    one, other = ((side.values.tolist(), side.status.tolist()) for side in (online, offline))
    return bool(found[0]) and (may_differ or one == other)


def _do_agree(feature: Feature, sides: Sequence[_Side], largest: float, *, is_settled: bool) -> bool:
    online, offline, *naive = sides
    pairs = [(offline, side) for side in naive[-1:]]
    pairs.append((online, offline) if is_settled else (online, naive[0] if naive else online))
    within = _ABSOLUTE * (largest**2 if feature.aggregation.kind == "variance" else largest)
    is_same_status = online.status is offline.status or not is_settled
    return is_same_status and all(_are_equal(one.value, other.value, within) for one, other in pairs)


def _are_equal(one: Value, other: Value, within: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=within)
    return type(one) is type(other) and one == other


def _largest(feature: Feature, events: pl.DataFrame) -> float:
    """Return the largest number that is aggregated: what rounding is relative to."""
    operand = feature.aggregation.operand
    if operand is None or not operand.type.dtype.is_numeric:
        return 0.0
    largest = evaluate(operand, events).cast(pl.Float64).abs().max()
    return largest if isinstance(largest, float) else 0.0
