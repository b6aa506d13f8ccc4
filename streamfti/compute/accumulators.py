"""Accumulators: the partial state that tiles hold and windows merge. numpy only, columnar.

An accumulator is a commutative monoid over the events of one entity: `zero` is its identity, `add` makes states
from runs of events, `merge` combines two states, and `reduce` folds the states of many tiles. Nothing else in the
package adds events up. A state is a mapping from column name to array; every column is 8 bytes wide, as its slots
in the online store are. Several features share an accumulator: `mean` needs the `sum` and `count` that others keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Field

__all__ = [
    "Accumulator",
    "Count",
    "EventColumns",
    "FieldColumn",
    "Last",
    "Max",
    "Min",
    "State",
    "Sum",
    "numpy_dtype",
]

AnyArray = NDArray[Any]
State = Mapping[str, AnyArray]
"""Columns of partial state by name, all of one length (or one shape `[n_rows, n_slots]`)."""

_INT64_MIN = np.iinfo(np.int64).min
_INT64_MAX = np.iinfo(np.int64).max


def numpy_dtype(event_field: Field) -> np.dtype[Any]:
    """Return the little-endian type in which values of a field are accumulated: booleans count as 0 and 1."""
    return np.dtype("<f8" if event_field.type.dtype is DType.FLOAT64 else "<i8")


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """The values of one field over n events.

    Attributes:
        values: int64[n] or float64[n]; anything where null.
        valid: bool[n], or None if no value is null.
    """

    values: AnyArray
    valid: NDArray[np.bool_] | None = None

    def take(self, places: NDArray[np.int64]) -> FieldColumn:
        """Return the values at some places, in their order."""
        return FieldColumn(self.values[places], None if self.valid is None else self.valid[places])


@dataclass(frozen=True, slots=True)
class EventColumns:
    """n events, sorted by (entity, event time, position).

    Attributes:
        entity: int64[n], a dense number for each entity.
        event_time_us: int64[n].
        position: int64[n], `partition << 48 | offset`: breaks ties of event time.
        fields: the aggregated fields by name.
    """

    entity: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    position: NDArray[np.int64]
    fields: Mapping[str, FieldColumn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entity)


@dataclass(frozen=True)
class Accumulator(ABC):
    """One kind of partial state. Subclasses are frozen values: equal ones are shared.

    Laws, which the law suite checks on every subclass: `merge` is associative and commutative, `zero` is its
    identity, `add` of a run equals the merge of `add` of its parts, `reduce` equals folding `merge`, and no
    argument is changed. For float sums they hold up to rounding.
    """

    is_exact: ClassVar[bool] = True
    """Whether the laws hold bit for bit on every dtype."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique among accumulators over one event class."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        """Names and 8-byte types of the state's columns, in stored order."""

    @property
    def alike(self) -> Hashable:
        """Equal for accumulators that differ in the names of their columns alone: one of them may work for all."""
        return type(self), *self.columns.values()

    @abstractmethod
    def zero(self, n: int) -> State:
        """Return n states of no events."""

    @abstractmethod
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        """Return one state for each run of events.

        Args:
            events: sorted events, at least one.
            starts: int64[n_runs], ascending from 0: where each run begins; it ends where the next one begins.
        """

    @abstractmethod
    def merge(self, left: State, right: State) -> State:
        """Return the states of both together, element by element."""

    @abstractmethod
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        """Return states `[...]` from states `[..., n_slots]`: the merge of the slots where the mask is true."""


@dataclass(frozen=True)
class _Folded(Accumulator):
    """An accumulator of one column whose merge is a numpy ufunc."""

    ufunc: ClassVar[np.ufunc]

    @property
    @abstractmethod
    def _dtype(self) -> np.dtype[Any]: ...

    @property
    @abstractmethod
    def _identity(self) -> int | float: ...

    @property
    @override
    def alike(self) -> Hashable:
        return self.ufunc, self._dtype, self._identity

    @abstractmethod
    def _inputs(self, events: EventColumns) -> AnyArray:
        """Return what each event contributes; the identity where its value is null."""

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self.name: self._dtype}

    @override
    def zero(self, n: int) -> State:
        return {self.name: np.full(n, self._identity, self._dtype)}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        return {self.name: self.ufunc.reduceat(self._inputs(events), starts)}

    @override
    def merge(self, left: State, right: State) -> State:
        return {self.name: self.ufunc(left[self.name], right[self.name])}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        masked = np.where(mask, state[self.name], self._dtype.type(self._identity))  # twice as fast as `where=`
        return {self.name: self.ufunc.reduce(masked, axis=-1)}


@dataclass(frozen=True)
class Count(_Folded):
    """The number of events, or of those whose field is not null."""

    field: Field | None = None
    ufunc: ClassVar[np.ufunc] = np.add

    @classmethod
    def of(cls, event_field: Field) -> Count:
        """Count the values of a field; where it cannot be null, that is the count of events, which is shared."""
        return cls(event_field if event_field.type.nullable else None)

    @property
    @override
    def name(self) -> str:
        return "count" if self.field is None else f"count({self.field.name})"

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<i8")

    @property
    def _identity(self) -> int:
        return 0

    def _inputs(self, events: EventColumns) -> AnyArray:
        valid = None if self.field is None else events.fields[self.field.name].valid
        return np.ones(len(events), np.int64) if valid is None else valid.astype(np.int64)


@dataclass(frozen=True)
class _FoldedField(_Folded):
    """A folded accumulator of one field."""

    field: Field

    @property
    @override
    def name(self) -> str:
        return f"{type(self).__name__.lower()}({self.field.name})"

    @property
    def _dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.field)

    def _inputs(self, events: EventColumns) -> AnyArray:
        column = events.fields[self.field.name]
        if column.valid is None:
            return column.values
        return np.where(column.valid, column.values, self._dtype.type(self._identity))

    def _extreme(self, of_int: int, of_float: float) -> int | float:
        return of_float if self._dtype.kind == "f" else of_int


@dataclass(frozen=True)
class Sum(_FoldedField):
    """The sum of a field: exact for integers while it fits 64 bits; for floats, rounded as the merges come."""

    ufunc: ClassVar[np.ufunc] = np.add
    is_exact: ClassVar[bool] = False

    @property
    def _identity(self) -> int | float:
        return self._extreme(0, 0.0)


@dataclass(frozen=True)
class Min(_FoldedField):
    """The least value of a field."""

    ufunc: ClassVar[np.ufunc] = np.minimum

    @property
    def _identity(self) -> int | float:
        return self._extreme(_INT64_MAX, np.inf)


@dataclass(frozen=True)
class Max(_FoldedField):
    """The greatest value of a field."""

    ufunc: ClassVar[np.ufunc] = np.maximum

    @property
    def _identity(self) -> int | float:
        return self._extreme(_INT64_MIN, -np.inf)


@dataclass(frozen=True)
class Last(Accumulator):
    """The value with the highest event time; ties go to the highest partition, then offset.

    The position is kept with the value: without it, the winner of a tie would depend on the order of merging.
    """

    field: Field

    @property
    @override
    def name(self) -> str:
        return f"last({self.field.name})"

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self._time: np.dtype("<i8"), self._position: np.dtype("<i8"), self.name: numpy_dtype(self.field)}

    @property
    def _time(self) -> str:
        return f"{self.name}.event_time_us"

    @property
    def _position(self) -> str:
        return f"{self.name}.position"

    @override
    def zero(self, n: int) -> State:
        return self._state(np.full(n, _INT64_MIN), np.full(n, _INT64_MIN), np.zeros(n, numpy_dtype(self.field)))

    def _state(self, time_us: AnyArray, position: AnyArray, values: AnyArray) -> State:
        return {self._time: time_us, self._position: position, self.name: values}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.field.name]
        index = np.arange(len(events))
        if column.valid is not None:
            index = np.where(column.valid, index, -1)
        last = np.maximum.reduceat(index, starts)
        found = last >= 0
        return self._state(
            np.where(found, events.event_time_us[last], _INT64_MIN),
            np.where(found, events.position[last], _INT64_MIN),
            np.where(found, column.values[last], numpy_dtype(self.field).type(0)),
        )

    @override
    def merge(self, left: State, right: State) -> State:
        later = right[self._time] > left[self._time]
        tied = right[self._time] == left[self._time]
        take_right = later | (tied & (right[self._position] > left[self._position]))
        return {name: np.where(take_right, right[name], left[name]) for name in self.columns}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        time_us = np.where(mask, state[self._time], _INT64_MIN)
        newest = time_us.max(axis=-1, keepdims=True)
        candidate = (time_us == newest) & (newest > _INT64_MIN)
        position = np.where(candidate, state[self._position], _INT64_MIN)
        slot = position.argmax(axis=-1)
        row = np.arange(slot.size)

        def at_slot(column: AnyArray) -> AnyArray:
            picked: AnyArray = column.reshape(slot.size, -1)[row, slot.ravel()]
            return picked.reshape(slot.shape)

        found = at_slot(candidate)
        return {name: np.where(found, at_slot(state[name]), none) for name, none in self.zero(1).items()}

    def is_present(self, state: State) -> NDArray[np.bool_]:
        """Return where there was a value at all."""
        return np.asarray(state[self._time] > _INT64_MIN)
