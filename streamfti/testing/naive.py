"""The naive evaluator: what a feature's value is, by the definition of windows and nothing else. The oracle of tests.

Plain loops over Python values. It shares no code with `streamfti.compute` and may not import it: it is what that
package is held against.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from streamfti.clock import to_us
from streamfti.definitions.aggregations import Aggregation, Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, EventSchema
from streamfti.definitions.groups import FeatureGroup
from streamfti.testing.naive_expressions import naive_row, naive_value

__all__ = ["NAIVE_KINDS", "GoneRow", "Head", "Placed", "PlacedEvent", "naive_feature"]

Value = int | float | str

Head = Literal["query_time", "applied"]
"""Where a window ends: at the query time (excluded), or with whatever has been applied, also ahead of the clock."""


class Placed(Protocol):
    """What is counted: an event, or a pair of two, as `naive_pairs` gives them."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """Its fields by name, before any step."""
        ...

    @property
    def order(self) -> tuple[int, ...]:
        """What breaks ties of event time."""
        ...

    @property
    def change(self) -> int:
        """What it says of a row that changes, as in `PlacedEvent`; 1 of what is no change."""
        ...


@dataclass(frozen=True, slots=True)
class GoneRow:
    """A row of a table that is gone, of which only the key is known."""

    schema: EventSchema
    key: Mapping[str, object]
    at: datetime

    def values(self) -> dict[str, Any]:
        """Return the key and the time; None for all other fields."""
        known = {**self.key, self.schema.event_time: self.at}
        return {field.name: known.get(field.name) for field in self.schema.fields}


@dataclass(frozen=True, slots=True)
class PlacedEvent:
    """An event and its place in the topic, which breaks ties of event time.

    Attributes:
        change: of the changes of a table, what it says of the row: 1, it is so from then on; -1, it was so until then;
            -2, it is gone.
    """

    event: Event | GoneRow
    partition: int = 0
    offset: int = 0
    change: int = 1

    @property
    def fields(self) -> Mapping[str, Any]:
        """Those of the event."""
        return self.event.values()

    @property
    def order(self) -> tuple[int, ...]:
        """Partition and offset."""
        return self.partition, self.offset


def naive_feature(
    feature: Feature,
    group: FeatureGroup,
    events: Iterable[Placed],
    entity_key: Mapping[str, object],
    query_time_us: int,
    *,
    head: Head = "query_time",
) -> Value | None:
    """Return a feature of one entity as of one query time; None where it is missing or expired.

    The window is `[floor(q - W, h), q)`. Sums of integers are exact; those of floats are rounded once (`math.fsum`).
    What is approximate elsewhere is exact here.

    Args:
        feature: the feature.
        group: its group, which says what the entity is.
        events: all events of the origin of the group's stream (its source, or the pairs of a join), in any order.
        entity_key: the entity's key fields by name. If one is None there is no entity, and no value.
        query_time_us: q, microseconds since the epoch.
        head: `"applied"` gives what serving answers by its own clock: the given events count also at and after q.
    """
    key = tuple(entity_key[name] for name in group.entity)
    if None in key:
        return None
    own = sorted(
        (
            row
            for row in map(partial(_row, group), events)
            if row is not None and row.key == key and (head == "applied" or row.at_us < query_time_us)
        ),
        key=lambda row: row[:2],
    )
    hop_us = feature.window.hop_us
    start_us = (query_time_us - feature.window.length_us) // hop_us * hop_us
    value = _value(feature, group, [row for row in own if row.at_us >= start_us], query_time_us)
    if value is None:
        return feature.default
    is_old = not own or query_time_us - own[-1].at_us >= (feature.expires_after_us or math.inf)
    return None if feature.expires_after_us is not None and is_old else value


class _Row(NamedTuple):
    at_us: int
    order: tuple[int, ...]
    key: tuple[object, ...]
    values: Mapping[str, object]
    change: int


def _row(group: FeatureGroup, placed: Placed) -> _Row | None:
    """Return an event of the group's stream; None if the stream leaves it out."""
    values = naive_row(group.stream, placed.fields)
    if values is None:
        return None
    at_us = to_us(values[group.stream.schema.event_time])
    return _Row(at_us, placed.order, tuple(values[name] for name in group.entity), values, placed.change)


def _value(feature: Feature, group: FeatureGroup, rows: list[_Row], query_time_us: int) -> Value | None:
    """Return the value of the rows of a window, which come in their order; None where there is none."""
    aggregation = feature.aggregation
    given = [(row, 1 if aggregation.operand is None else naive_value(aggregation.operand, row.values)) for row in rows]
    found = [(row, _plain(value)) for row, value in given if value is not None]
    if aggregation.kind == "latest" or group.source.changes is not None:
        return _of_changes(feature, rows, found)
    if aggregation.kind == "count":
        return len(found)
    if aggregation.kind == "approx_distinct":
        return len({value for _, value in found})
    if not found:
        return None
    if aggregation.kind == "time_since_last":
        return max(0, query_time_us - found[-1][0].at_us) / 1e6
    value: Any = _RESULTS[aggregation.kind](aggregation, [value for _, value in found])
    return float(value) if isinstance(value, Fraction | Decimal) else value


def _of_changes(feature: Feature, rows: list[_Row], found: list[tuple[_Row, Any]]) -> Value | None:
    if feature.aggregation.kind == "latest":
        return _latest(feature.aggregation, [row for row in rows if row.change != -1])
    return _signed(feature, [(1 if row.change > 0 else -1, value) for row, value in found])


def _latest(aggregation: Aggregation, rows: list[_Row]) -> Value | None:
    """Return what the newest row says; None where that is nothing."""
    if not rows or rows[-1].change == -2 or aggregation.operand is None:
        return None
    value = _plain(naive_value(aggregation.operand, rows[-1].values))
    return float(value) if isinstance(value, Decimal) else value


def _signed(feature: Feature, found: list[tuple[int, Any]]) -> Value | None:
    """Return a count, sum or mean of what the changes of a window have added and taken back."""
    kind, count = feature.aggregation.kind, sum(sign for sign, _ in found)
    if kind == "count":
        return count
    if count <= 0 and (kind == "mean" or feature.window.is_lifetime):
        return None
    total = sum((Fraction(value) * sign for sign, value in found), Fraction())
    if kind == "mean":
        return float(total / count)
    if feature.dtype is not DType.INT64:
        return float(total)
    return int(total) if -(2**63) <= total < 2**63 else None


def _plain(value: object) -> Any:  # noqa: ANN401  # of whatever type the field has
    return int(value) if isinstance(value, bool) else value


def _sum(_: Aggregation, numbers: list[Any]) -> Any:  # noqa: ANN401
    if any(isinstance(n, float) for n in numbers):
        return math.fsum(numbers)
    total = sum(numbers)
    return None if isinstance(total, int) and not -(2**63) <= total < 2**63 else total


def _mean(_: Aggregation, numbers: list[Any]) -> Fraction:
    return sum(map(Fraction, numbers), Fraction()) / len(numbers)


def _variance(_: Aggregation, numbers: list[Any]) -> Fraction | None:
    return statistics.variance(list(map(Fraction, numbers))) if len(numbers) > 1 else None


def _stddev(aggregation: Aggregation, numbers: list[Any]) -> float | None:
    variance = _variance(aggregation, numbers)
    return None if variance is None else math.sqrt(variance)


def _last_n(aggregation: Aggregation, values: list[Any]) -> Any:  # noqa: ANN401
    place = int(aggregation.output)
    return values[-place] if place <= len(values) else None


def _quantile(aggregation: Aggregation, numbers: list[Any]) -> Any:  # noqa: ANN401
    """Return the least value that at least the share of all values do not exceed."""
    rank = float(aggregation.parameter("rank"))
    return float(sorted(numbers)[max(0, math.ceil(rank * len(numbers)) - 1)])


def _top_k(aggregation: Aggregation, values: list[Any]) -> Any:  # noqa: ANN401
    by_count = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
    place = int(aggregation.output)
    return by_count[place - 1][0] if place <= len(by_count) else None


_RESULTS: Mapping[str, Callable[[Aggregation, list[Any]], Any]] = {
    "sum": _sum,
    "mean": _mean,
    "min": lambda _, numbers: min(numbers),
    "max": lambda _, numbers: max(numbers),
    "variance": _variance,
    "stddev": _stddev,
    "first": lambda _, values: values[0],
    "last": lambda _, values: values[-1],
    "last_n": _last_n,
    "quantiles": _quantile,
    "top_k": _top_k,
}

NAIVE_KINDS = frozenset({"approx_distinct", "count", "latest", "time_since_last", *_RESULTS})
"""The kinds of aggregation that it knows; those of users are not among them."""
