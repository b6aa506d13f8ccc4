"""The naive evaluator: what a feature's value is, by the definition of windows and nothing else. The oracle of tests.

Plain loops over Python values. It shares no code with `streamfti.compute` and may not import it: it is what that
package is held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from streamfti.clock import to_us
from streamfti.definitions.aggregations import AggregationKind, Feature
from streamfti.definitions.events import Event, Field
from streamfti.definitions.groups import FeatureGroup

__all__ = ["Head", "PlacedEvent", "naive_feature"]

Number = int | float

Head = Literal["query_time", "applied"]
"""Where a window ends: at the query time (excluded), or with whatever has been applied, also ahead of the clock."""


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """An event and its place in the topic, which breaks ties of event time."""

    event: Event
    partition: int = 0
    offset: int = 0


def naive_feature(
    feature: Feature,
    group: FeatureGroup,
    events: Iterable[PlacedEvent],
    entity_key: Mapping[str, object],
    query_time_us: int,
    *,
    head: Head = "query_time",
) -> Number | None:
    """Return a feature of one entity as of one query time; None where it is missing.

    The window is `[floor(q - W, h), q)`. Sums of integers are exact; those of floats are rounded once (`math.fsum`).

    Args:
        feature: the feature.
        group: its group, which says what the entity is.
        events: all events of the group's source, in any order.
        entity_key: the entity's key fields by name. If one is None there is no entity, and no value.
        query_time_us: q, microseconds since the epoch.
        head: `"applied"` gives what serving answers by its own clock: the given events count also at and after q.
    """
    key = tuple(entity_key[name] for name in group.entity)
    if None in key:
        return None
    hop_us = feature.window.hop_us
    start_us = (query_time_us - feature.window.length_us) // hop_us * hop_us
    inside = []
    for placed in events:
        values = placed.event.values()
        at_us = to_us(values[group.source.schema.event_time])
        ahead = at_us >= query_time_us and head == "query_time"
        if tuple(values[name] for name in group.entity) == key and start_us <= at_us and not ahead:
            inside.append((at_us, placed.partition, placed.offset, values))
    inside.sort(key=lambda found: found[:3])
    return _value(feature, [values for *_, values in inside])


def _value(feature: Feature, rows: list[dict[str, object]]) -> Number | None:
    field = feature.aggregation.field
    if field is None:
        return len(rows)
    numbers = [_number(row, field) for row in rows if row[field.name] is not None]
    return _RESULTS[feature.aggregation.kind](numbers) if numbers else feature.default


def _number(row: Mapping[str, object], field: Field) -> Number:
    value = row[field.name]
    if not isinstance(value, int | float):
        msg = f"{field} must be a number, got {value!r}"
        raise TypeError(msg)
    return int(value) if isinstance(value, bool) else value


def _sum(numbers: list[Number]) -> Number:
    if all(isinstance(n, int) for n in numbers):
        return sum(numbers)
    return math.fsum(numbers)


def _mean(numbers: list[Number]) -> float:
    return float(sum(map(Fraction, numbers), Fraction()) / len(numbers))


_RESULTS: Mapping[AggregationKind, Callable[[list[Number]], Number]] = {
    "count": len,
    "sum": _sum,
    "mean": _mean,
    "min": min,
    "max": max,
    "last": lambda numbers: numbers[-1],
}
