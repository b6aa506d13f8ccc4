"""Aggregations: what a feature says about the events in its window. Specifications only; the maths is in `compute`.

The functions that users write (`fti.sum(Transaction.amount)`) are in `aggregation_kinds`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.expressions import Expression, when
from streamfti.definitions.windows import LIFETIME, Window
from streamfti.errors import DefinitionError, did_you_mean

__all__ = [
    "Aggregation",
    "AggregationSet",
    "Default",
    "Feature",
    "Parameter",
    "WindowedAggregation",
    "checked_condition",
    "checked_operand",
]

Default = int | float | str | None
"""What is served where a window holds no value; None: nothing is."""

Parameter = int | float | str
"""What a parameter of an aggregation may be: a plain JSON value."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One value about the events of a window: a kind of aggregation of one operand.

    Attributes:
        kind: names the aggregator of `compute` that computes it.
        dtype: the type of its values.
        operand: what is aggregated, one value an event; None: the events themselves.
        parameters: what else its meaning depends on, by name.
        output: which of the values that the aggregator has, where it has several: the last but one, the 95th
            percentile. Part of the feature's name.
        invertible: whether an event can be taken back, so that it may be taken over changes of rows.
    """

    kind: str
    dtype: DType
    operand: Expression | None = None
    parameters: tuple[tuple[str, Parameter], ...] = ()
    output: str = ""
    invertible: bool = False

    def parameter(self, name: str) -> Parameter:
        """Return a parameter by its name."""
        return dict(self.parameters)[name]

    def __str__(self) -> str:
        operand = [] if self.operand is None else [self.operand.name]
        given = [*operand, *(f"{name}={value}" for name, value in self.parameters)]
        return f"{self.kind}({', '.join(given)})" + (f"[{self.output}]" if self.output else "")


@dataclass(frozen=True, slots=True)
class AggregationSet:
    """What one call such as `fti.sum(Transaction.amount)` stands for: one aggregation, or one for each output."""

    aggregations: tuple[Aggregation, ...]

    @property
    def kind(self) -> str:
        """The kind of all of them."""
        return self.aggregations[0].kind

    def over(
        self,
        *windows: Duration,
        hop: Duration | None = None,
        default: float | str | None = None,
        expires_after: Duration | None = None,
    ) -> WindowedAggregation:
        """Take it over one or more windows: one feature each, named `<attribute>_<window>`.

        Args:
            windows: lengths such as `"5m"` or `timedelta(hours=1)`.
            hop: how the tail moves, for all these windows; by default each window gets the largest hop of the
                ladder that is at most a twelfth of it.
            default: the value served, with status DEFAULTED, when the window holds no value.
            expires_after: a value is served as EXPIRED when the entity's newest event is that old, or it has none.

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
        return self._windowed(built, default, expires_after)

    def lifetime(
        self, *, default: float | str | None = None, expires_after: Duration | None = None
    ) -> WindowedAggregation:
        """Take it over all events that the entity has ever had: a feature named `<attribute>`.

        A record with such a feature stays in the online store for ever.

        Args:
            default: the value served, with status DEFAULTED, when there is none.
            expires_after: a value is served as EXPIRED when the entity's newest event is that old, or it has none.
        """
        return self._windowed((LIFETIME,), default, expires_after)

    def _windowed(
        self, windows: tuple[Window, ...], default: float | str | None, expires_after: Duration | None
    ) -> WindowedAggregation:
        subject = f"expires_after of {self.kind}()"
        expires_us = None if expires_after is None else duration_us(expires_after, subject=subject)
        return WindowedAggregation(
            self.aggregations, windows, _checked_default(self.aggregations[0], default), expires_us
        )


def _checked_default(aggregation: Aggregation, default: float | str | None) -> Default:
    """Return the default as a value of the aggregation's type."""
    if default is None:
        return None
    kind = aggregation.kind
    if kind in {"count", "approx_distinct"}:
        msg = f"{kind}() of an empty window is 0 and takes no default"
        raise DefinitionError(msg)
    if aggregation.dtype is DType.STRING or isinstance(default, str):
        if aggregation.dtype is not DType.STRING or not isinstance(default, str):
            msg = f"the default of {kind}() must be a {aggregation.dtype.value}, got {default!r}"
            raise DefinitionError(msg)
        return default
    if not math.isfinite(default):
        msg = f"the default of {kind}() must be finite, got {default!r}"
        raise DefinitionError(msg)
    if aggregation.dtype is DType.FLOAT64:
        return float(default)
    if default != int(default) or not -(2**63) <= default < 2**63:
        msg = f"the default of {kind}() of an integer must be an integer of 64 bits, got {default!r}"
        raise DefinitionError(msg)
    return int(default)


@dataclass(frozen=True, slots=True)
class Feature:
    """One windowed value of an entity. Its name is unique within its group."""

    group: str
    name: str
    aggregation: Aggregation
    window: Window
    default: Default
    expires_after_us: int | None = None

    @property
    def dtype(self) -> DType:
        """The type of its values."""
        return self.aggregation.dtype

    @property
    def qualified_name(self) -> str:
        """`<group>.<name>`: unique in a catalog, and the column's name in training sets and requests' answers."""
        return f"{self.group}.{self.name}"

    @property
    def label(self) -> str:
        """What tells it from the other features of its attribute: window and output; empty if it is the only one."""
        return "_".join(filter(None, (self.window.label, self.aggregation.output)))

    @property
    def attribute(self) -> str:
        """The name under which it stands in the body of its group, without window and output."""
        return self.name.removesuffix(f"_{self.label}") if self.label else self.name

    @property
    def reach_us(self) -> int | None:
        """How far before the query time an event can still matter, at most; None: there is no bound."""
        if self.window.is_lifetime:
            return None
        return max(self.window.length_us + self.window.hop_us, self.expires_after_us or 0)


@dataclass(frozen=True, slots=True)
class WindowedAggregation:
    """Aggregations over windows, as they stand in the body of a feature group.

    As an attribute of the finished group it gives single features by their label, which is the window and, where
    there are several outputs, the output: `CardSpend.spend["24h"]`, `CardSpend.recent["24h_1"]`.
    """

    aggregations: tuple[Aggregation, ...]
    windows: tuple[Window, ...]
    default: Default
    expires_after_us: int | None = None
    features: tuple[Feature, ...] = ()
    """One for each window and output, once the group is built."""

    def build_features(self, group: str, attribute: str) -> tuple[Feature, ...]:
        """Return the features that it stands for under a name of a group."""
        return tuple(
            Feature(
                group, _name(attribute, window, aggregation), aggregation, window, self.default, self.expires_after_us
            )
            for window in self.windows
            for aggregation in self.aggregations
        )

    def __getitem__(self, label: str) -> Feature:
        """Return the feature of a window (and output), by its label.

        Raises:
            DefinitionError: if there is no such feature.
        """
        for feature in self.features:
            if feature.label == label:
                return feature
        labels = [feature.label for feature in self.features]
        msg = f"{self.aggregations[0].kind}() must be taken over the window {label!r}, got {labels}"
        raise DefinitionError(msg, hint=did_you_mean(label, labels))


def _name(attribute: str, window: Window, aggregation: Aggregation) -> str:
    return "_".join(filter(None, (attribute, window.label, aggregation.output)))


def checked_operand(kind: str, operand: Any, where: object = None) -> Expression:  # noqa: ANN401  # a value to the checker, a Field at run time
    """Return what a user gave to an aggregation as its operand: null where a condition does not hold, if there is one.

    Raises:
        DefinitionError: if it is not made of fields of an event.
    """
    if not isinstance(operand, Expression) or not operand.fields:
        msg = f"{kind}() must be given a field of an event class, such as Transaction.amount, got {operand!r}"
        raise DefinitionError(msg)
    return operand if where is None else cast("Expression", when(where, operand))


def checked_condition(where: object) -> Expression | None:
    """Return an operand that is null for just the events that do not count; None if all do.

    Raises:
        DefinitionError: if the condition is none.
    """
    return None if where is None else cast("Expression", when(where, 1))
