"""Accumulators that keep values by the order of their events: the first, last, latest, last n. numpy only, columnar.

The order is (event time, position). The position is kept with each value: without it, the winner of a tie would
depend on the order of merging.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import Accumulator, Change, EventColumns, State, numpy_dtype
from streamfti.definitions.expressions import Expression

__all__ = ["First", "Last", "LastN", "Latest"]

AnyArray = NDArray[Any]

_NO_TIME = np.iinfo(np.int64).min
"""The event time of a place that holds no value; no event has it."""


@dataclass(frozen=True)
class _Edge(Accumulator):
    """One value, with the time and the position of its event."""

    operand: Expression

    @property
    @override
    def name(self) -> str:
        return f"{type(self).__name__.lower()}({self.operand.name})"

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self._time: np.dtype("<i8"), self._position: np.dtype("<i8"), self.name: numpy_dtype(self.operand)}

    @property
    def _time(self) -> str:
        return f"{self.name}.event_time_us"

    @property
    def _position(self) -> str:
        return f"{self.name}.position"

    @abstractmethod
    def _edge_of_runs(self, index: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each run the place of its value among indices, of which those of nulls are negative."""

    @abstractmethod
    def _wins(self, one: AnyArray, other: AnyArray) -> NDArray[np.bool_]:
        """Return where a time or a position goes before another."""

    @abstractmethod
    def _extreme(self, values: AnyArray, *, among: NDArray[np.bool_]) -> AnyArray:
        """Return the winner of the last axis among those where a mask is true, with that axis kept."""

    @override
    def zero(self, n: int) -> State:
        return self._state(np.full(n, _NO_TIME), np.full(n, _NO_TIME), np.zeros(n, numpy_dtype(self.operand)))

    def _state(self, time_us: AnyArray, position: AnyArray, values: AnyArray) -> State:
        return {self._time: time_us, self._position: position, self.name: values}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        index = np.arange(len(events))
        if column.valid is not None:
            index = np.where(column.valid, index, -1)
        edge = self._edge_of_runs(index, starts)
        found = edge >= 0
        return self._state(
            np.where(found, events.event_time_us[edge], _NO_TIME),
            np.where(found, events.position[edge], _NO_TIME),
            np.where(found, column.values[edge], numpy_dtype(self.operand).type(0)),
        )

    @override
    def merge(self, left: State, right: State) -> State:
        tied = right[self._time] == left[self._time]
        before = self._wins(right[self._time], left[self._time])
        before |= tied & self._wins(right[self._position], left[self._position])
        take_right = self.is_present(right) & (before | ~self.is_present(left))
        return {name: np.where(take_right, right[name], left[name]) for name in self.columns}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        there = mask & self.is_present(state)
        candidate = there & (state[self._time] == self._extreme(state[self._time], among=there))
        winner = candidate & (state[self._position] == self._extreme(state[self._position], among=candidate))
        slot = winner.argmax(axis=-1)
        row = np.arange(slot.size)

        def at_slot(column: AnyArray) -> AnyArray:
            picked: AnyArray = column.reshape(slot.size, -1)[row, slot.ravel()]
            return picked.reshape(slot.shape)

        found = at_slot(winner)
        return {name: np.where(found, at_slot(state[name]), none) for name, none in self.zero(1).items()}

    def is_present(self, state: State) -> NDArray[np.bool_]:
        """Return where there is a value at all."""
        return np.asarray(state[self._time] > _NO_TIME)


@dataclass(frozen=True)
class Last(_Edge):
    """The value with the highest event time; ties go to the highest partition, then offset."""

    def _edge_of_runs(self, index: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.maximum.reduceat(index, starts)

    def _wins(self, one: AnyArray, other: AnyArray) -> NDArray[np.bool_]:
        return np.asarray(one > other)

    def _extreme(self, values: AnyArray, *, among: NDArray[np.bool_]) -> AnyArray:
        highest: AnyArray = np.where(among, values, _NO_TIME).max(axis=-1, keepdims=True)
        return highest


@dataclass(frozen=True)
class Latest(Last):
    """What the newest event says, also if that is nothing: null, or that the row is gone."""

    passes_over_nulls: ClassVar[bool] = False

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {**super().columns, self.there: np.dtype("<i8")}

    @property
    def there(self) -> str:
        """The column that is 1 where the newest event has a value, 0 where it has none or there is no event."""
        return f"{self.name}.there"

    @override
    def zero(self, n: int) -> State:
        return {**super().zero(n), self.there: np.zeros(n, np.int64)}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        index = np.arange(len(events))
        there = np.ones(len(events), np.bool_) if column.valid is None else column.valid
        if events.change is not None:
            index = np.where(events.change == Change.WAS, -1, index)
            there = there & (events.change == Change.IS)
        edge = self._edge_of_runs(index, starts)
        found = edge >= 0
        there = found & there[edge]
        state = self._state(
            np.where(found, events.event_time_us[edge], _NO_TIME),
            np.where(found, events.position[edge], _NO_TIME),
            np.where(there, column.values[edge], numpy_dtype(self.operand).type(0)),
        )
        return {**state, self.there: there.astype(np.int64)}


@dataclass(frozen=True)
class First(_Edge):
    """The value with the lowest event time; ties go to the lowest partition, then offset."""

    def _edge_of_runs(self, index: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        beyond = len(index)
        first = np.minimum.reduceat(np.where(index < 0, beyond, index), starts)
        return np.where(first < beyond, first, -1)

    def _wins(self, one: AnyArray, other: AnyArray) -> NDArray[np.bool_]:
        return np.asarray(one < other)

    def _extreme(self, values: AnyArray, *, among: NDArray[np.bool_]) -> AnyArray:
        lowest: AnyArray = np.where(among, values, np.iinfo(np.int64).max).min(axis=-1, keepdims=True)
        return lowest


@dataclass(frozen=True)
class LastN(Accumulator):
    """The last n values, the newest first, each with the time and the position of its event."""

    operand: Expression
    n: int = 3

    @property
    @override
    def name(self) -> str:
        return f"last_{self.n}({self.operand.name})"

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        whole = np.dtype("<i8")
        found: dict[str, np.dtype[Any]] = {}
        for names, dtype in ((self.times, whole), (self._positions, whole), (self.values, numpy_dtype(self.operand))):
            found |= dict.fromkeys(names, dtype)
        return found

    @property
    def times(self) -> list[str]:
        """The columns of the event times, the newest first; the least int64 where there is no value."""
        return [f"{self.name}.{i}.event_time_us" for i in range(1, self.n + 1)]

    @property
    def _positions(self) -> list[str]:
        return [f"{self.name}.{i}.position" for i in range(1, self.n + 1)]

    @property
    def values(self) -> list[str]:
        """The columns of the values, the newest first."""
        return [f"{self.name}.{i}" for i in range(1, self.n + 1)]

    @override
    def zero(self, n: int) -> State:
        return {name: np.full(n, 0 if name in self.values else _NO_TIME, dtype) for name, dtype in self.columns.items()}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        valid = np.ones(len(events), np.bool_) if column.valid is None else column.valid
        there = np.flatnonzero(valid)  # in their order, so that the last n of a run are its last n places in here
        begin, end = np.searchsorted(there, starts), np.searchsorted(there, np.append(starts[1:], len(events)))
        place = end[:, np.newaxis] - 1 - np.arange(self.n)
        found = place >= begin[:, np.newaxis]
        at = there[np.where(found, place, 0)] if len(there) else np.zeros(place.shape, np.int64)
        return self._state(
            np.where(found, events.event_time_us[at], _NO_TIME),
            np.where(found, events.position[at], _NO_TIME),
            np.where(found, column.values[at], numpy_dtype(self.operand).type(0)),
        )

    @override
    def merge(self, left: State, right: State) -> State:
        both = (self._stacked(left, names) for names in self._groups)
        other = (self._stacked(right, names) for names in self._groups)
        return self._newest(*(np.concatenate(pair, axis=-1) for pair in zip(both, other, strict=True)))

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        shape = (*mask.shape[:-1], -1)
        time_us, position, values = (self._stacked(state, names) for names in self._groups)
        time_us = np.where(mask[..., np.newaxis], time_us, _NO_TIME)
        return self._newest(time_us.reshape(shape), position.reshape(shape), values.reshape(shape))

    @property
    def _groups(self) -> tuple[list[str], list[str], list[str]]:
        return self.times, self._positions, self.values

    def _stacked(self, state: State, names: list[str]) -> AnyArray:
        return np.stack([state[name] for name in names], axis=-1)

    def _newest(self, time_us: AnyArray, position: AnyArray, values: AnyArray) -> State:
        """Return the n newest of the last axis; places without a value sort last, and are made alike."""
        place = np.lexsort((position, time_us), axis=-1)[..., ::-1][..., : self.n]
        time_us, position, values = (np.take_along_axis(a, place, axis=-1) for a in (time_us, position, values))
        found = time_us > _NO_TIME
        return self._state(time_us, np.where(found, position, _NO_TIME), np.where(found, values, values.dtype.type(0)))

    def _state(self, time_us: AnyArray, position: AnyArray, values: AnyArray) -> State:
        columns = zip(self._groups, (time_us, position, values), strict=True)
        return {name: column[..., i] for names, column in columns for i, name in enumerate(names)}
