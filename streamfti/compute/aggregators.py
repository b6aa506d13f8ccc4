"""Aggregators: from the partial state of a window to a feature's value. One class a kind of aggregation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import Accumulator, Count, Last, Max, Min, State, Sum
from streamfti.definitions.aggregations import Aggregation, AggregationKind
from streamfti.definitions.events import Field
from streamfti.errors import DefinitionError

__all__ = ["AGGREGATORS", "Aggregator", "aggregator"]

Result = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values (int64 or float64, of the shape of the state) and where there is one."""


class Aggregator(ABC):
    """One kind of aggregation of one field."""

    @property
    @abstractmethod
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The partial state that it needs."""

    @property
    def alike(self) -> Hashable:
        """Equal for aggregators that differ in the names of their columns alone: one of them may work for all."""
        return type(self)

    @abstractmethod
    def result(self, state: State) -> Result:
        """Return the values of windows from their states: the columns of all its accumulators, by name, any shape."""


class _Counting(Aggregator):
    def __init__(self, field: Field | None) -> None:
        self._count = Count(field)

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._count,)

    def result(self, state: State) -> Result:
        values = state[self._count.name]
        return values, np.ones(values.shape, np.bool_)


class _OfField(Aggregator):
    """An aggregation that has no value when no event of the window carries one."""

    def __init__(self, field: Field | None) -> None:
        if field is None:
            msg = f"{type(self).__name__} must be given a field"
            raise DefinitionError(msg)
        self._field = field
        self._count = Count.of(field)

    def _present(self, state: State) -> NDArray[np.bool_]:
        return np.asarray(state[self._count.name] > 0)


class _Folding(_OfField):
    """The value of one folded accumulator."""

    folded: type[Sum | Min | Max]

    def __init__(self, field: Field | None) -> None:
        super().__init__(field)
        self._folded = self.folded(self._field)

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._count, self._folded)

    def result(self, state: State) -> Result:
        return state[self._folded.name], self._present(state)


class _Summing(_Folding):
    folded = Sum


class _Least(_Folding):
    folded = Min


class _Greatest(_Folding):
    folded = Max


class _Averaging(_Folding):
    folded = Sum

    def result(self, state: State) -> Result:
        present = self._present(state)
        n = np.where(present, state[self._count.name], 1)
        return state[self._folded.name] / n, present


class _Latest(Aggregator):
    def __init__(self, field: Field | None) -> None:
        if field is None:
            msg = "last() must be given a field"
            raise DefinitionError(msg)
        self._last = Last(field)

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (self._last,)

    def result(self, state: State) -> Result:
        return state[self._last.name], self._last.is_present(state)


AGGREGATORS: Mapping[AggregationKind, type[Aggregator]] = {
    "count": _Counting,
    "sum": _Summing,
    "mean": _Averaging,
    "min": _Least,
    "max": _Greatest,
    "last": _Latest,
}
"""Every kind of aggregation that a definition may name."""


def aggregator(aggregation: Aggregation) -> Aggregator:
    """Return what computes an aggregation."""
    built: Aggregator = AGGREGATORS[aggregation.kind](aggregation.field)  # type: ignore[call-arg]  # every kind is built from its field
    return built
