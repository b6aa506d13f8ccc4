"""Aggregations: what a feature says about the events in its window. Specifications only; the maths is in `compute`.

A user writes `sum(Transaction.amount).over("1h", "24h", default=0)`. To a type checker `Transaction.amount` is a
`float`; at run time it is a `Field`.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass
from typing import Any, Literal

from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import Duration
from streamfti.definitions.events import Field
from streamfti.definitions.windows import Window
from streamfti.errors import DefinitionError, did_you_mean

__all__ = [
    "Aggregation",
    "AggregationKind",
    "Feature",
    "WindowedAggregation",
    "count",
    "last",
    "max",
    "mean",
    "min",
    "sum",
]

AggregationKind = Literal["count", "sum", "mean", "min", "max", "last"]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One kind of aggregation over one field (over the events themselves for `count`)."""

    kind: AggregationKind
    field: Field | None = None

    def over(
        self, *windows: Duration, hop: Duration | None = None, default: float | None = None
    ) -> WindowedAggregation:
        """Take it over one or more windows: one feature each, named `<attribute>_<window>`.

        Args:
            windows: lengths such as `"5m"` or `timedelta(hours=1)`.
            hop: how the tail moves, for all these windows; by default each window gets the largest hop of the
                ladder that is at most a twelfth of it.
            default: the value served, with status DEFAULTED, when the window holds no value.

        Raises:
            DefinitionError: if there is no window, one stands twice, or a hop does not divide its window.
        """
        if not windows:
            msg = f"{self.kind}().over() must name at least one window, got none"
            raise DefinitionError(msg, hint="for example .over('1h', '24h')")
        built = tuple(Window.of(window, hop) for window in windows)
        if len({w.label for w in built}) < len(built):
            msg = f"{self.kind}().over() must not name a window twice, got {[w.label for w in built]}"
            raise DefinitionError(msg)
        return WindowedAggregation(self, built, self._checked_default(default))

    def _checked_default(self, default: float | None) -> float | None:
        """Return the default as a value of the feature's type."""
        if default is None:
            return None
        if self.kind == "count":
            msg = "count() of an empty window is 0 and takes no default"
            raise DefinitionError(msg)
        if not math.isfinite(default):
            msg = f"the default of {self.kind}() must be finite, got {default!r}"
            raise DefinitionError(msg)
        if self.dtype is DType.FLOAT64:
            return float(default)
        if default != int(default) or not -(2**63) <= default < 2**63:
            msg = f"the default of {self.kind}() of an integer must be an integer of 64 bits, got {default!r}"
            raise DefinitionError(msg)
        return int(default)

    @property
    def dtype(self) -> DType:
        """The type of its result."""
        if self.kind == "count":
            return DType.INT64
        if self.kind == "mean" or (self.field is not None and self.field.type.dtype is DType.FLOAT64):
            return DType.FLOAT64
        return DType.INT64


@dataclass(frozen=True, slots=True)
class Feature:
    """One windowed value of an entity. Its name is unique within its group."""

    group: str
    name: str
    aggregation: Aggregation
    window: Window
    default: float | None

    @property
    def dtype(self) -> DType:
        """The type of its values."""
        return self.aggregation.dtype

    @property
    def qualified_name(self) -> str:
        """`<group>.<name>`: unique in a catalog, and the column's name in training sets and requests' answers."""
        return f"{self.group}.{self.name}"

    @property
    def attribute(self) -> str:
        """The name under which it stands in the body of its group, without the window."""
        return self.name.removesuffix(f"_{self.window.label}")


@dataclass(frozen=True, slots=True)
class WindowedAggregation:
    """An aggregation over windows, as it stands in the body of a feature group.

    As an attribute of the finished group it gives single features by their window: `CardSpend.spend["24h"]`.
    """

    aggregation: Aggregation
    windows: tuple[Window, ...]
    default: float | None
    features: tuple[Feature, ...] = ()
    """One for each window, once the group is built."""

    def __getitem__(self, window: str) -> Feature:
        """Return the feature of a window, by the window's label.

        Raises:
            DefinitionError: if there is no such window.
        """
        for feature in self.features:
            if feature.window.label == window:
                return feature
        msg = (
            f"{self.aggregation.kind}() must be taken over the window {window!r}, got {[w.label for w in self.windows]}"
        )
        raise DefinitionError(msg, hint=did_you_mean(window, [w.label for w in self.windows]))


def _of_number(kind: AggregationKind, field: Any) -> Aggregation:  # noqa: ANN401  # a float to the checker, a Field at run time
    if not isinstance(field, Field):
        msg = f"{kind}() must be given a field of an event class, such as Transaction.amount, got {field!r}"
        raise DefinitionError(msg)
    if not field.type.dtype.is_numeric:
        msg = f"{kind}() must be given a field of numbers, got {field}, which is {field.type}"
        raise DefinitionError(msg)
    return Aggregation(kind, field)


def count() -> Aggregation:
    """Return the number of events: 0 where there are none."""
    return Aggregation("count")


def sum(field: float | decimal.Decimal | None) -> Aggregation:  # noqa: A001  # the field's word for it; users write fti.sum
    """Return the sum of a field: exact for integers; null values do not take part; missing if there is none."""
    return _of_number("sum", field)


def mean(field: float | decimal.Decimal | None) -> Aggregation:
    """Return the arithmetic mean of a field; null values do not take part; missing if there is none."""
    return _of_number("mean", field)


def min(field: float | decimal.Decimal | None) -> Aggregation:  # noqa: A001  # users write fti.min
    """Return the least value of a field; missing if there is none."""
    return _of_number("min", field)


def max(field: float | decimal.Decimal | None) -> Aggregation:  # noqa: A001  # users write fti.max
    """Return the greatest value of a field; missing if there is none."""
    return _of_number("max", field)


def last(field: float | decimal.Decimal | None) -> Aggregation:
    """Return the value with the highest event time (ties: highest partition, then offset); missing if none."""
    return _of_number("last", field)
