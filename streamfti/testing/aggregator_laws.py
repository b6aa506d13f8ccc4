"""The laws of aggregators: a value is the same however its state came about. No hypothesis in here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import State
from streamfti.compute.aggregators import Aggregator, Result
from streamfti.definitions.dtypes import DType
from streamfti.testing.law_cases import N_PARTS, BrokenLaw, Case, gathered, raise_first, unchanged

__all__ = ["AGGREGATOR_LAWS", "Expected", "check_aggregator"]

Expected = Callable[[list[Any]], float | str | None]
"""What a value must be, from those that are aggregated in their order, without nulls; None: there is none."""

_QUERY_TIME_US = 2_000_000
_TYPES = {DType.INT64: "iu", DType.FLOAT64: "iuf", DType.STRING: "O"}

Pairs = Iterator[tuple[Result, Result]]


@dataclass(frozen=True)
class _Trial:
    """An aggregator, the state of all events, and those of each part."""

    it: Aggregator
    twin: Aggregator
    bulk: State
    parts: Sequence[State]

    @classmethod
    def of(cls, aggregator: Aggregator, twin: Aggregator, case: Case) -> _Trial:
        parts = [_added(aggregator, case, case.part(i)) for i in range(N_PARTS)]
        return cls(aggregator, twin, _added(aggregator, case, range(len(case.values))), parts)

    def result(self, state: State, *, times: int = 1) -> Result:
        at_us = np.full((times, *(1,) * (next(iter(state.values())).ndim - 1)), _QUERY_TIME_US, np.int64)
        return unchanged("no argument is changed", self.it.aggregation, self.it.result, state, at_us)


def _added(aggregator: Aggregator, case: Case, places: Sequence[int]) -> State:
    events, starts = case.columns(places), np.zeros(1, np.int64)
    states = (a.add(events, starts) if len(events) else a.zero(1) for a in aggregator.accumulators)
    return {name: column for state in states for name, column in state.items()}


def _merged(aggregator: Aggregator, left: State, right: State) -> State:
    found: dict[str, NDArray[Any]] = {}
    for accumulator in aggregator.accumulators:
        one, other = ({name: state[name] for name in accumulator.columns} for state in (left, right))
        found |= accumulator.merge(one, other)
    return found


def _parts_give_the_value(t: _Trial) -> Pairs:
    for order in (t.parts, [*reversed(t.parts)]):
        yield t.result(functools.reduce(functools.partial(_merged, t.it), order)), t.result(t.bulk)


def _slots_give_the_value(t: _Trial) -> Pairs:
    reduced: dict[str, NDArray[Any]] = {}
    for accumulator in t.it.accumulators:
        slots = {name: np.stack([p[name] for p in t.parts], axis=-1) for name in accumulator.columns}
        reduced |= accumulator.reduce(slots, np.ones((1, N_PARTS), np.bool_))
    yield t.result(reduced), t.result(t.bulk)


def _rows(t: _Trial) -> Pairs:
    """Whatever the shape: one row, many rows, or many windows of many rows."""
    states = [t.bulk, *t.parts]
    rows = {name: np.concatenate([state[name] for state in states]) for name in t.bulk}
    square = {name: column.reshape(2, 2) for name, column in rows.items()}
    flat, shaped = t.result(rows, times=len(states)), t.result(square, times=2)
    for i, state in enumerate(states):
        alone = t.result(state)
        yield (flat[0][[i]], flat[1][[i]]), alone
        yield (shaped[0].reshape(-1)[[i]], shaped[1].reshape(-1)[[i]]), alone


def _alike(t: _Trial) -> Pairs:
    if t.it.alike != t.twin.alike:
        law = "aggregators that differ in their operand's name alone are alike"
        raise BrokenLaw(law, t.it.aggregation, f"{t.it.alike} != {t.twin.alike}")
    names = [name for accumulator in t.twin.accumulators for name in accumulator.columns]
    renamed = dict(zip(names, t.bulk.values(), strict=True))
    yield t.twin.result(renamed, np.array([_QUERY_TIME_US])), t.result(t.bulk)


def _same_accumulators(t: _Trial) -> Pairs:
    again = type(t.it)(t.it.aggregation)
    if not t.it.accumulators or t.it.accumulators != again.accumulators:
        law = "accumulators are equal values each time they are asked for"
        raise BrokenLaw(law, t.it.aggregation, f"one: {t.it.accumulators}\nother: {again.accumulators}")
    yield again.result(t.bulk, np.array([_QUERY_TIME_US])), t.result(t.bulk)


AGGREGATOR_LAWS: Mapping[str, Callable[[_Trial], Pairs]] = {
    "the value of merged parts is that of all events": _parts_give_the_value,
    "the value of reduced slots is that of all events": _slots_give_the_value,
    "rows do not touch each other, in any shape": _rows,
    "one works for all that are alike": _alike,
    "an aggregator is made from its aggregation alone": _same_accumulators,
}
"""By their names; and of every result: no argument is changed, and values are of the promised type and finite."""


def check_aggregator(aggregator: Aggregator, twin: Aggregator, case: Case, expected: Expected | None = None) -> None:
    """Check all laws on one case, of which all values are finite.

    Args:
        aggregator: what is under test.
        twin: the same over another operand of the same type.
        case: the case.
        expected: what its values must be, if that is known.

    Raises:
        BrokenLaw: if a law does not hold.
    """
    trial = _Trial.of(aggregator, twin, case)
    values = case.aggregated()
    broken: list[BrokenLaw] = []
    for law, pairs in AGGREGATOR_LAWS.items():
        with gathered(broken):
            for one, other in pairs(trial):
                _check_pair(law, aggregator, one, other, values)
    if expected is not None:
        with gathered(broken):
            _check_value(aggregator, trial.result(trial.bulk), values, expected)
    raise_first(broken)


def _check_pair(law: str, aggregator: Aggregator, one: Result, other: Result, values: NDArray[Any]) -> None:
    _check_result(aggregator, one)
    if not aggregator.agree(one, other, values):
        raise BrokenLaw(law, aggregator.aggregation, f"one:   {_told(one)}\nother: {_told(other)}")


def _check_result(aggregator: Aggregator, result: Result) -> None:
    values, present = result
    found = f"values {values!r}\npresent {present!r}"
    if values.shape != present.shape or present.dtype != np.bool_ or values.dtype.kind not in _kinds(aggregator):
        law = f"a result is values of {aggregator.aggregation.dtype.value} and, of the same shape, where there is one"
        raise BrokenLaw(law, aggregator.aggregation, found)
    if values.dtype.kind == "f" and not np.isfinite(values[present]).all():
        law = "a value of finite events is finite"
        raise BrokenLaw(law, aggregator.aggregation, found)


def _kinds(aggregator: Aggregator) -> str:
    return _TYPES[aggregator.aggregation.dtype]


def _check_value(aggregator: Aggregator, result: Result, values: NDArray[Any], expected: Expected) -> None:
    want = expected(values.tolist())
    truth = np.array([0 if want is None else want], result[0].dtype), np.array([want is not None])
    if not aggregator.agree(result, truth, values):
        law = "the value is the expected one"
        raise BrokenLaw(law, aggregator.aggregation, f"expected {want!r} of {values.tolist()}, got {_told(result)}")


def _told(result: Result) -> list[Any]:
    values, present = result
    pairs = zip(values.ravel().tolist(), present.ravel().tolist(), strict=True)
    return [value if there else None for value, there in pairs]
