"""Accumulators: the partial state that tiles hold and windows merge; here those whose merge is a numpy ufunc.

numpy only, columnar. Those that need more than a ufunc are in `ordered`, `moments` and the like.

An accumulator is a commutative monoid over the events of one entity: `zero` is its identity, `add` makes states
from runs of events, `merge` combines two states, and `reduce` folds the states of many tiles. Nothing else in the
package adds events up. A state is a mapping from column name to array; every column is 8 bytes wide, as its slots
in the online store are, or of bytes of any length (`serialized`). Several features share an accumulator: `mean` needs
the `sum` and `count` that others keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.agreement import columns_agree, rounding
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression

__all__ = [
    "Accumulator",
    "Change",
    "Count",
    "EventColumns",
    "FieldColumn",
    "FloatSum",
    "HighSum",
    "LowSum",
    "Max",
    "Min",
    "Newest",
    "State",
    "numpy_dtype",
]

AnyArray = NDArray[Any]
Number = int | float
State = Mapping[str, AnyArray]
"""Columns of partial state by name, all of one length (or one shape `[n_rows, n_slots]`)."""

_INT64_MIN = np.iinfo(np.int64).min
_INT64_MAX = np.iinfo(np.int64).max


def numpy_dtype(operand: Expression) -> np.dtype[Any]:
    """Return the little-endian type in which values are accumulated: booleans as 0 and 1, decimals unscaled.

    Strings are objects: `str` among the operands of events.
    """
    if operand.type.dtype is DType.STRING:
        return np.dtype(np.object_)
    return np.dtype("<f8" if operand.type.dtype is DType.FLOAT64 else "<i8")


class Change(IntEnum):
    """What one row of an event frame says of a row of a table that changes."""

    IS = 1
    """This is how it is from then on."""
    WAS = -1
    """This is how it was until then: what it had added to sums is taken back."""
    GONE = -2
    """It is gone; beside its key, its former state if that is known."""


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """The values of one operand over n events.

    Attributes:
        values: int64[n], float64[n] or, of strings, object[n]; anything where null.
        valid: bool[n], or None if no value is null.
    """

    values: AnyArray
    valid: NDArray[np.bool_] | None = None

    def take(self, places: NDArray[np.int64]) -> FieldColumn:
        """Return the values at some places, in their order."""
        return FieldColumn(self.values[places], None if self.valid is None else self.valid[places])

    def between(self, start: int, stop: int) -> FieldColumn:
        """Return a run of the values; they share their memory."""
        return FieldColumn(self.values[start:stop], None if self.valid is None else self.valid[start:stop])


@dataclass(frozen=True, slots=True)
class EventColumns:
    """n events, sorted by (entity, event time, position).

    Attributes:
        entity: int64[n], a dense number for each entity.
        event_time_us: int64[n].
        position: int64[n], `partition << 48 | offset`: breaks ties of event time.
        fields: the aggregated operands by name.
        change: int8[n], of the changes of a table's rows, what each is: see `Change`. None: they are events.
    """

    entity: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    position: NDArray[np.int64]
    fields: Mapping[str, FieldColumn] = field(default_factory=dict)
    change: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.entity)

    def between(self, start: int, stop: int) -> EventColumns:
        """Return a run of the events; they share their memory."""
        return EventColumns(
            self.entity[start:stop],
            self.event_time_us[start:stop],
            self.position[start:stop],
            {name: column.between(start, stop) for name, column in self.fields.items()},
            None if self.change is None else self.change[start:stop],
        )


@dataclass(frozen=True)
class Accumulator(ABC):
    """One kind of partial state. Subclasses are frozen values: equal ones are shared.

    Laws, which the law suite checks on every subclass: `merge` is associative and commutative, `zero` is its
    identity, `add` of a run equals the merge of `add` of its parts, `reduce` equals folding `merge`, and no
    argument is changed. For float sums they hold up to rounding.
    """

    is_exact: ClassVar[bool] = True
    """Whether the laws hold bit for bit on every dtype."""

    passes_over_nulls: ClassVar[bool] = True
    """Whether an event without a value leaves the state as it is."""

    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.INT64, DType.FLOAT64, DType.BOOL, DType.DECIMAL})
    """The types of operands that it takes."""

    def agree(self, one: State, other: State, values: AnyArray) -> bool:
        """Return whether two states of the same events, reached by different ways, are the same by its laws.

        Bit for bit, or, if it is not `is_exact`, floats up to what rounding makes of a sum of its values. One that
        keeps something else (an approximation, say) says here what its laws hold up to.

        Args:
            one: a state.
            other: another one, of the same shape.
            values: what has been accumulated, without nulls; of any length.
        """
        pairs = [(one[name], other[name]) for name in self.columns]
        return all(columns_agree(a, b, 0.0 if self.is_exact else rounding(values, a, b)) for a, b in pairs)

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique among accumulators over one event class."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        """Names and types of the state's columns, in stored order: of 8 bytes each, or all of them objects."""

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
    is_invertible: ClassVar[bool] = False
    """Whether an event can be taken back: its contribution negated does that."""

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

    def _unless_null(self, events: EventColumns, operand: Expression, values: AnyArray) -> AnyArray:
        valid = events.fields[operand.name].valid
        return values if valid is None else np.where(valid, values, self._dtype.type(self._identity))

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self.name: self._dtype}

    @override
    def zero(self, n: int) -> State:
        return {self.name: np.full(n, self._identity, self._dtype)}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        inputs = self._inputs(events)
        if events.change is not None and self.is_invertible:
            inputs = np.where(events.change > 0, inputs, -inputs)
        return {self.name: self.ufunc.reduceat(inputs, starts)}

    @override
    def merge(self, left: State, right: State) -> State:
        return {self.name: self.ufunc(left[self.name], right[self.name])}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        masked = np.where(mask, state[self.name], self._dtype.type(self._identity))  # twice as fast as `where=`
        return {self.name: self.ufunc.reduce(masked, axis=-1)}


@dataclass(frozen=True)
class Count(_Folded):
    """The number of events, or of those whose operand is not null."""

    operand: Expression | None = None
    ufunc: ClassVar[np.ufunc] = np.add
    is_invertible: ClassVar[bool] = True

    @classmethod
    def of(cls, operand: Expression) -> Count:
        """Count the values of an operand; where it cannot be null, that is the count of events, which is shared."""
        return cls(operand if operand.type.nullable else None)

    @property
    @override
    def name(self) -> str:
        return "count" if self.operand is None else f"count({self.operand.name})"

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<i8")

    @property
    def _identity(self) -> int:
        return 0

    def _inputs(self, events: EventColumns) -> AnyArray:
        valid = None if self.operand is None else events.fields[self.operand.name].valid
        return np.ones(len(events), np.int64) if valid is None else valid.astype(np.int64)


@dataclass(frozen=True)
class Newest(_Folded):
    """The highest event time, of all events or of those whose operand is not null; the least int64 where none is."""

    operand: Expression | None = None
    ufunc: ClassVar[np.ufunc] = np.maximum

    @property
    @override
    def name(self) -> str:
        return "newest" if self.operand is None else f"newest({self.operand.name})"

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<i8")

    @property
    def _identity(self) -> int:
        return _INT64_MIN

    def _inputs(self, events: EventColumns) -> AnyArray:
        if self.operand is None:
            return events.event_time_us
        return self._unless_null(events, self.operand, events.event_time_us)


@dataclass(frozen=True)
class _FoldedOperand(_Folded):
    """A folded accumulator of one operand."""

    operand: Expression

    @property
    @override
    def name(self) -> str:
        return f"{type(self).__name__.lower()}({self.operand.name})"

    @property
    def _dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.operand)

    def _inputs(self, events: EventColumns) -> AnyArray:
        return self._unless_null(events, self.operand, self._values(events))

    def _values(self, events: EventColumns) -> AnyArray:
        return events.fields[self.operand.name].values

    def _extreme(self, of_int: int, of_float: float) -> Number:
        return of_float if self._dtype.kind == "f" else of_int


@dataclass(frozen=True)
class FloatSum(_FoldedOperand):
    """The sum of floats, rounded as the merges come."""

    ufunc: ClassVar[np.ufunc] = np.add
    is_invertible: ClassVar[bool] = True
    is_exact: ClassVar[bool] = False
    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.FLOAT64})

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<f8")

    @property
    def _identity(self) -> float:
        return 0.0


@dataclass(frozen=True)
class _SumOfHalves(_FoldedOperand):
    """Sums of one half of each integer, which 2**31 events cannot overflow, so that integer sums are exact."""

    ufunc: ClassVar[np.ufunc] = np.add
    is_invertible: ClassVar[bool] = True
    dtypes: ClassVar[frozenset[DType]] = frozenset({DType.INT64, DType.BOOL, DType.DECIMAL})

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<i8")

    @property
    def _identity(self) -> int:
        return 0

    @abstractmethod
    def _half(self, values: AnyArray) -> AnyArray: ...

    def _values(self, events: EventColumns) -> AnyArray:
        return self._half(super()._values(events))


@dataclass(frozen=True)
class LowSum(_SumOfHalves):
    """The sum of the lower 32 bits of integers, taken as unsigned."""

    def _half(self, values: AnyArray) -> AnyArray:
        return np.asarray(values & 0xFFFF_FFFF)


@dataclass(frozen=True)
class HighSum(_SumOfHalves):
    """The sum of integers shifted right by 32 bits, which keeps their sign."""

    def _half(self, values: AnyArray) -> AnyArray:
        return np.asarray(values >> 32)


@dataclass(frozen=True)
class Min(_FoldedOperand):
    """The least value of an operand."""

    ufunc: ClassVar[np.ufunc] = np.minimum

    @property
    def _identity(self) -> Number:
        return self._extreme(_INT64_MAX, np.inf)


@dataclass(frozen=True)
class Max(_FoldedOperand):
    """The greatest value of an operand."""

    ufunc: ClassVar[np.ufunc] = np.maximum

    @property
    def _identity(self) -> Number:
        return self._extreme(_INT64_MIN, -np.inf)
