"""Aggregators: from the partial state of a window to a feature's value. One class a kind of aggregation.

An aggregation of your own is a subclass of `Aggregator` with a `kind`, made of the accumulators that there are or of
some of your own (subclasses of `Accumulator`, frozen dataclasses). `fti.aggregate(YourAggregator, Event.field)` uses
it, and one line in a test file, `test_mine = laws_of(fti.aggregate(YourAggregator, Event.field))`, holds it and its
accumulators to the same laws as those here: see `streamfti.testing.laws`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import (
    Accumulator,
    Count,
    FloatSum,
    HighSum,
    LowSum,
    Max,
    Min,
    Newest,
    State,
    numpy_dtype,
)
from streamfti.compute.agreement import columns_agree, rounding, spread
from streamfti.compute.moments import Moments
from streamfti.compute.ordered import First, Last, LastN, Latest
from streamfti.compute.ordered_texts import FirstText, LastNText, LastText, LatestText
from streamfti.compute.unscaled import nearest_float64
from streamfti.definitions.aggregations import Aggregation
from streamfti.definitions.change_rules import LATEST, NET
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["AGGREGATORS", "Aggregator", "Result", "aggregator"]

Times = NDArray[np.int64]
Result = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values (int64, float64, or object of str; of the shape of the state) and where there is one."""

AGGREGATORS: dict[str, type[Aggregator]] = {}
"""Every kind of aggregation that a definition may name, of those that have been loaded."""

_LOADED_WHEN_NEEDED: Mapping[str, str] = dict.fromkeys(
    ("approx_distinct", "quantiles", "top_k"), "streamfti.compute.sketches"
)
"""The modules of kinds that need a library which nothing else does."""


class Aggregator(ABC):
    """One kind of aggregation of one operand.

    Subclasses that have a `kind` are found by it. One is made for each aggregation, from it alone.

    Attributes:
        kind: the word for it, which goes into fingerprints.
        version: raise it when the same kind comes to mean something else.
        depends_on_order: whether it may give other values, by more than rounding, for the same events in other tiles.
        invertible: whether an event can be taken back, so that it may be taken over changes of a table's rows: all its
            accumulators can do that, and `result` makes sense of states to which more was taken back than added.
        aggregation: what is computed.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    depends_on_order: ClassVar[bool] = False
    invertible: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        kind = cls.__dict__.get("kind")
        if kind is None:
            return
        known = AGGREGATORS.setdefault(kind, cls)
        if known.__qualname__ != cls.__qualname__:
            msg = f"an aggregator must have a kind of its own, got {kind!r} of {known.__qualname__}"
            raise DefinitionError(msg)
        AGGREGATORS[kind] = cls  # a definition file that is run again defines its classes anew

    def __init__(self, aggregation: Aggregation) -> None:
        self.aggregation = aggregation

    @property
    def operand(self) -> Expression:
        """What is aggregated.

        Raises:
            DefinitionError: if the aggregation has none.
        """
        if self.aggregation.operand is None:
            msg = f"{self.kind}() must be given a field"
            raise DefinitionError(msg)
        return self.aggregation.operand

    @property
    @abstractmethod
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The partial state that it needs."""

    @property
    def alike(self) -> Hashable:
        """Equal for aggregators that differ in the names of their columns alone: one of them may work for all."""
        operand = self.aggregation.operand
        unit = None if operand is None else (operand.type.dtype, operand.type.scale)
        return type(self), self.aggregation.parameters, self.aggregation.output, unit

    @abstractmethod
    def result(self, state: State, query_time_us: Times) -> Result:
        """Return the values of windows from their states.

        Args:
            state: the columns of all its accumulators, by name, of any shape.
            query_time_us: the query times, of a shape that numpy stretches to that of the state.
        """

    def accepts(self, operands: NDArray[Any], value: float | str | None) -> bool:  # noqa: ARG002  # one exact value
        """Return whether a value of a window is within the stated error of what is approximate; false if nothing is.

        Args:
            operands: the operand of the window's events, as they are accumulated, without nulls.
            value: the value; None if there was none.
        """
        return False

    def agree(self, one: Result, other: Result, values: NDArray[Any]) -> bool:
        """Return whether two results of the same events, reached by different ways, are the same by its laws.

        Exactly, if all its accumulators are exact, else floats up to what rounding makes of a sum of its values.

        Args:
            one: a result.
            other: another one, of the same shape.
            values: what has been aggregated, without nulls, decimals as floats; of any length.
        """
        is_exact = all(accumulator.is_exact for accumulator in self.accumulators)
        return self._agree_within(0.0 if is_exact else rounding(values, one[0], other[0]), one, other)

    def _agree_within(self, within: float, one: Result, other: Result) -> bool:
        (values, present), (other_values, other_present) = one, other
        is_same = np.array_equal(present, other_present)
        return is_same and columns_agree(values[present], other_values[other_present], within)


class _Counting(Aggregator):
    kind = "count"
    invertible = True

    @property
    def _count(self) -> Count:
        return Count(self.aggregation.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._count,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        values = state[self._count.name]
        return values, np.ones(values.shape, np.bool_)


class _OfOperand(Aggregator):
    """An aggregation that has no value when no event of the window carries one."""

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._count = Count.of(self.operand)
        self._is_float = numpy_dtype(self.operand).kind == "f"

    def _present(self, state: State) -> NDArray[np.bool_]:
        return np.asarray(state[self._count.name] > 0)


def _unscaled(operand: Expression, values: NDArray[Any]) -> NDArray[Any]:
    """Return what was accumulated as the value of a feature: a decimal is divided by its scale."""
    if operand.type.dtype is not DType.DECIMAL:
        return values
    if values.dtype.kind == "f":
        return np.asarray(values / 10.0**operand.type.scale)
    return nearest_float64(values.ravel(), operand.type.scale).reshape(values.shape)


class _Total(_OfOperand):
    """The sum of an operand: of integers and decimals in two halves, which makes it exact."""

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._low, self._high, self._sum = LowSum(self.operand), HighSum(self.operand), FloatSum(self.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._count, self._sum) if self._is_float else (self._count, self._low, self._high)


class _Summing(_Total):
    kind = "sum"
    invertible = True

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        present = self._present(state)
        if NET in self.aggregation.parameters:
            present = np.ones(present.shape, np.bool_)
        if self._is_float:
            return state[self._sum.name], present
        low = state[self._low.name]
        high = state[self._high.name] + (low >> 32)
        fits = (high >= -(2**31)) & (high < 2**31)
        total = (high << 32) | (low & 0xFFFF_FFFF)
        return _unscaled(self.operand, total), present & fits


class _Averaging(_Total):
    kind = "mean"
    invertible = True

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        present = self._present(state)
        n = np.where(present, state[self._count.name], 1)
        if self._is_float:
            return state[self._sum.name] / n, present
        total = state[self._high.name] * 2.0**32 + state[self._low.name]
        return _unscaled(self.operand, total / n), present


class _Folding(_OfOperand):
    """The value of one folded accumulator."""

    folded: ClassVar[type[Min | Max]]

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._folded = self.folded(self.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._count, self._folded)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        return _unscaled(self.operand, state[self._folded.name]), self._present(state)


class _Least(_Folding):
    kind = "min"
    folded = Min


class _Greatest(_Folding):
    kind = "max"
    folded = Max


class _Spreading(Aggregator):
    kind = "variance"

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        self._moments = Moments(self.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._moments,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        count = state[self._moments.count]
        variance = state[self._moments.squares] / np.maximum(count - 1, 1)
        return _unscaled(self.operand, _unscaled(self.operand, variance)), np.asarray(count > 1)

    @override
    def agree(self, one: Result, other: Result, values: NDArray[Any]) -> bool:
        of_mean = rounding(values)
        return self._agree_within(len(values) * of_mean * (spread(values) + of_mean), one, other)


class _Deviating(_Spreading):
    kind = "stddev"

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        variance, present = super().result(state, query_time_us)
        return np.sqrt(variance), present

    @override
    def agree(self, one: Result, other: Result, values: NDArray[Any]) -> bool:
        return self._agree_within(len(values) * rounding(values), one, other)  # it is never far below the spread


class _OfEdge(Aggregator):
    """The first or the last value."""

    edge: ClassVar[type[First | Last]]
    text_edge: ClassVar[type[FirstText | LastText]]

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        is_text = self.operand.type.dtype is DType.STRING
        self._edge = self.text_edge(self.operand) if is_text else self.edge(self.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._edge,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        if isinstance(self._edge, FirstText | LastText):
            return self._edge.texts(state)
        return _unscaled(self.operand, state[self._edge.name]), self._edge.is_present(state)


class _Newest(_OfEdge):
    kind = "last"
    edge = Last
    text_edge = LastText


class _Oldest(_OfEdge):
    kind = "first"
    edge = First
    text_edge = FirstText


class _Attribute(Aggregator):
    kind = LATEST

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        is_text = self.operand.type.dtype is DType.STRING
        self._latest = LatestText(self.operand) if is_text else Latest(self.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._latest,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        if isinstance(self._latest, LatestText):
            return self._latest.texts(state)
        return _unscaled(self.operand, state[self._latest.name]), np.asarray(state[self._latest.there] == 1)


class _LatestOfSeveral(Aggregator):
    kind = "last_n"

    def __init__(self, aggregation: Aggregation) -> None:
        super().__init__(aggregation)
        n, is_text = int(aggregation.parameter("n")), self.operand.type.dtype is DType.STRING
        self._last_n = LastNText(self.operand, n) if is_text else LastN(self.operand, n)
        self._place = int(aggregation.output) - 1

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._last_n,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        if isinstance(self._last_n, LastNText):
            return self._last_n.texts(state, self._place)
        values = state[self._last_n.values[self._place]]
        present = state[self._last_n.times[self._place]] > np.iinfo(np.int64).min
        return _unscaled(self.operand, values), np.asarray(present)


class _Elapsed(Aggregator):
    kind = "time_since_last"

    @property
    def _newest(self) -> Newest:
        return Newest(self.aggregation.operand)

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._newest,)

    @override
    def result(self, state: State, query_time_us: Times) -> Result:
        newest_us = state[self._newest.name]
        present = newest_us > np.iinfo(np.int64).min
        elapsed_us = np.maximum(query_time_us - np.where(present, newest_us, 0), 0)
        return elapsed_us / 1e6, np.asarray(present)


def aggregator(aggregation: Aggregation) -> Aggregator:
    """Return what computes an aggregation.

    Raises:
        DefinitionError: if there is none of its kind, or it needs an operand.
    """
    if aggregation.kind not in AGGREGATORS and aggregation.kind in _LOADED_WHEN_NEEDED:
        importlib.import_module(_LOADED_WHEN_NEEDED[aggregation.kind])
    if aggregation.kind not in AGGREGATORS:
        msg = f"no aggregator has the kind {aggregation.kind!r}"
        raise DefinitionError(msg, hint=did_you_mean(aggregation.kind, [*AGGREGATORS, *_LOADED_WHEN_NEEDED]))
    return AGGREGATORS[aggregation.kind](aggregation)
