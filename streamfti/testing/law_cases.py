"""What laws are tried on: a few events of one entity, drawn to hurt, and ways to take them apart.

Needs the package hypothesis. Only `laws` and its parts import this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns, FieldColumn, numpy_dtype
from streamfti.compute.unscaled import nearest_float64
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression

__all__ = ["N_PARTS", "BrokenLaw", "Case", "cases", "gathered", "raise_first", "unchanged"]

T = TypeVar("T")

N_PARTS = 3
_MAX_EVENTS = 8
_TIMES = 5
_SHAPES = _TIMES * N_PARTS * 2 * 2
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class BrokenLaw(AssertionError):
    """What is under test does not obey a law.

    Args:
        law: the law, a sentence.
        subject: what broke it.
        found: how.
    """

    def __init__(self, law: str, subject: object, found: str) -> None:
        super().__init__(f"{subject} breaks the law: {law}\n{found}")
        self.law = law
        self.laws = [law]
        """All laws that the same case breaks, this one first."""


@contextmanager
def gathered(broken: list[BrokenLaw]) -> Iterator[None]:
    """Put a broken law into a list and go on, so that a case is held to all laws."""
    try:
        yield
    except BrokenLaw as error:
        broken.append(error)


def raise_first(broken: Sequence[BrokenLaw]) -> None:
    """Raise the first of several broken laws, which says all of them.

    Raises:
        BrokenLaw: if there is one.
    """
    if broken:
        broken[0].laws = [error.law for error in broken]
        raise broken[0]


@dataclass(frozen=True)
class Case:
    """Events of one entity, in the order of (time, position); times tie often, positions never.

    Attributes:
        times_us: of each event.
        positions: of each event.
        values: the operand of each event; None where it is null.
        owners: which of `N_PARTS` parts each event belongs to, at random.
        cuts: whether a run begins with the event; the first one always does.
        mask: which of the parts are looked at.
    """

    operand: Expression | None = field(repr=False)
    times_us: Sequence[int]
    positions: Sequence[int] = field(repr=False)
    values: Sequence[Any]
    owners: Sequence[int]
    cuts: Sequence[bool]
    mask: Sequence[bool]

    @property
    def is_finite(self) -> bool:
        """Whether all values are numbers; events from a topic always are."""
        return all(math.isfinite(v) for v in self.values if isinstance(v, float))

    @property
    def starts(self) -> list[int]:
        """Where the runs begin."""
        return [i for i, cut in enumerate(self.cuts) if cut or i == 0]

    def part(self, number: int) -> list[int]:
        """Return the places of the events of a part."""
        return [i for i, owner in enumerate(self.owners) if owner == number]

    def accumulated(self) -> NDArray[Any]:
        """Return the values that are not null, as accumulators see them."""
        return self._column([value for value in self.values if value is not None])

    def aggregated(self) -> NDArray[Any]:
        """Return the values that are not null, decimals as floats."""
        values = self.accumulated()
        if self.operand is None or self.operand.type.dtype is not DType.DECIMAL:
            return values
        return nearest_float64(values, self.operand.type.scale)

    def columns(self, places: Sequence[int] | None = None, *, beneath_nulls: Any = 0) -> EventColumns:  # noqa: ANN401
        """Return some of the events, in their order, by default all.

        Args:
            places: which.
            beneath_nulls: what stands where a value is null, which may be anything.
        """
        at = range(len(self.values)) if places is None else places
        fields: dict[str, FieldColumn] = {}
        if self.operand is not None:
            given = [self.values[i] for i in at]
            valid = np.array([value is not None for value in given], np.bool_)
            column = self._column([beneath_nulls if value is None else value for value in given])
            fields[self.operand.name] = FieldColumn(column, None if valid.all() else valid)
        times, positions = ([numbers[i] for i in at] for numbers in (self.times_us, self.positions))
        return EventColumns(
            np.zeros(len(at), np.int64), np.array(times, np.int64), np.array(positions, np.int64), fields
        )

    def _column(self, values: Sequence[Any]) -> NDArray[Any]:
        if self.operand is None:
            return np.zeros(len(values))
        if self.operand.type.dtype is DType.STRING:
            return np.array(values, np.object_)
        return np.array(values, numpy_dtype(self.operand))


def cases(operand: Expression | None, values: st.SearchStrategy[Any] | None) -> st.SearchStrategy[Case]:
    """Return cases of an operand.

    Args:
        operand: what is aggregated; nulls come if its type has them. None: the events themselves.
        values: what values may be; None: whatever its type can hold.
    """
    pools = [values] if values is not None else _pools(operand)
    can_be_null = operand is not None and operand.type.nullable
    return st.one_of(*(_cases_of(operand, st.none() | pool if can_be_null else pool) for pool in pools))


def _cases_of(operand: Expression | None, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    # One number for all that is drawn of an event but its value: drawing is what trying laws costs.
    events = st.lists(st.tuples(st.integers(0, _SHAPES - 1), values), min_size=1, max_size=_MAX_EVENTS)
    return st.builds(_case, st.just(operand), events, st.integers(0, 2**N_PARTS - 1))


def _case(operand: Expression | None, drawn: Sequence[tuple[int, Any]], inside: int) -> Case:
    placed = []
    for offset, (shape, value) in enumerate(drawn):
        rest, time = divmod(shape, _TIMES)
        rest, owner = divmod(rest, N_PARTS)
        partition, cut = divmod(rest, 2)
        placed.append((time, partition << 48 | offset, value, owner, bool(cut)))
    times, positions, values, owners, cuts = zip(*sorted(placed, key=lambda event: event[:2]), strict=True)
    return Case(operand, times, positions, values, owners, cuts, [bool(inside >> i & 1) for i in range(N_PARTS)])


def _pools(operand: Expression | None) -> list[st.SearchStrategy[Any]]:
    """Return kinds of values that go wrong together: small ones, close ones far from zero, the widest, what is none."""
    if operand is None:
        return [st.just(1)]
    dtype = operand.type.dtype
    if dtype is DType.STRING:
        return [st.text("ab\0é😀", max_size=3) | st.text(max_size=20), st.sampled_from(("", "a", "b" * 300))]
    if dtype is DType.BOOL:
        return [st.integers(0, 1)]
    if dtype is DType.FLOAT64:
        eighths = st.integers(-1000, 1000)
        odd = st.sampled_from((math.nan, math.inf, -math.inf))
        far = [eighths.map(partial(_eighths_from, offset)) for offset in (0.0, 1e9, -1e12)]
        return [*far, st.floats(-1e6, 1e6), st.floats(-1e15, 1e15) | st.just(-0.0), st.floats(-9, 9) | odd]
    most = 10**operand.type.precision - 1 if dtype is DType.DECIMAL else _INT64_MAX
    least = -most if dtype is DType.DECIMAL else _INT64_MIN
    return [st.integers(-5, 5), st.integers(most - 9, most), st.integers(least, least + 9), st.integers(least, most)]


def _eighths_from(offset: float, n: int) -> float:
    return offset + n / 8


def unchanged(law: str, subject: object, call: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
    """Call something and return what it returns.

    Raises:
        BrokenLaw: if it has changed an argument.
    """
    before = [dict(_bytes(argument)) for argument in arguments]
    returned = call(*arguments)
    for i, (argument, was) in enumerate(zip(arguments, before, strict=True), start=1):
        now = dict(_bytes(argument))
        if now != was:
            changed = sorted(name for name in now.keys() | was.keys() if now.get(name) != was.get(name))
            raise BrokenLaw(law, subject, f"{call.__name__}() changed {changed} of its argument {i}: {argument}")
    return returned


def _bytes(argument: object) -> Iterator[tuple[str, object]]:
    """Iterate over all arrays of an argument, by name, as something that does not change with them."""
    if isinstance(argument, np.ndarray):
        yield "the array", argument.tolist() if argument.dtype == np.object_ else (argument.shape, argument.tobytes())
    elif isinstance(argument, Mapping):
        for name, value in argument.items():
            yield from ((str(name), found) for _, found in _bytes(value))
    elif isinstance(argument, EventColumns):
        arrays: dict[str, object] = {"event_time_us": argument.event_time_us, "position": argument.position}
        for name, column in argument.fields.items():
            arrays |= {f"values of {name}": column.values, f"valid of {name}": column.valid}
        yield from _bytes(arrays)
