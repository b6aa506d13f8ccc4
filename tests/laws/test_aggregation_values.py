"""What aggregations are worth, kind by kind, against what Python says; the laws of all are in test_laws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfti.compute.accumulators import Accumulator, Count, EventColumns, FieldColumn, FloatSum, State, numpy_dtype
from streamfti.compute.aggregators import _LOADED_WHEN_NEEDED, AGGREGATORS, aggregator
from streamfti.compute.moments import Moments
from streamfti.compute.ordered import First, Last, LastN
from streamfti.definitions.aggregations import Aggregation
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field
from streamfti.errors import DefinitionError

_INT64 = st.integers(-(2**63), 2**63 - 1)


def stacked(accumulator: Accumulator, parts: Sequence[State]) -> State:
    return {name: np.stack([p[name] for p in parts], axis=1) for name in accumulator.columns}


def _column_of(field: Field, values: list[int] | list[float]) -> EventColumns:
    n = len(values)
    column = FieldColumn(np.array(values, numpy_dtype(field)))
    return EventColumns(np.zeros(n, np.int64), np.arange(n), np.arange(n), {field.name: column})


_WHOLE_FIELD = Field("E", "whole", ValueType(DType.INT64))
_PART_FIELD = Field("E", "part", ValueType(DType.FLOAT64))
_MONEY_FIELD = Field("E", "money", ValueType(DType.DECIMAL, precision=12, scale=2))
_MAYBE_FIELD = Field("E", "maybe", ValueType(DType.INT64, nullable=True))


def _value_of(aggregation: Aggregation, events: EventColumns, query_time_us: int = 0) -> tuple[list[Any], list[bool]]:
    built = aggregator(aggregation)
    state = {k: v for a in built.accumulators for k, v in a.add(events, np.zeros(1, np.int64)).items()}
    values, present = built.result(state, np.array([query_time_us]))
    return values.tolist(), present.tolist()


@given(st.lists(_INT64 | st.integers(-5, 5), min_size=1, max_size=8))
def test_integer_sums_are_exact_or_missing_and_never_wrap(values: list[int]) -> None:
    events = _column_of(_WHOLE_FIELD, values)
    fits = -(2**63) <= sum(values) < 2**63
    got, present = _value_of(Aggregation("sum", DType.INT64, _WHOLE_FIELD), events)
    assert present == [fits]
    assert got == [sum(values)] or not fits


def test_a_sum_that_was_beyond_64_bits_comes_back() -> None:
    values = [2**63 - 1, 2**63 - 1, 2**63 - 1, -(2**63), -(2**63)]
    assert _value_of(Aggregation("sum", DType.INT64, _WHOLE_FIELD), _column_of(_WHOLE_FIELD, values)) == (
        [sum(values)],
        [True],
    )


@given(st.lists(st.integers(-(10**12) + 1, 10**12 - 1), min_size=1, max_size=8))
def test_sums_of_decimals_are_the_nearest_doubles(values: list[int]) -> None:
    events = _column_of(_MONEY_FIELD, values)
    got, _ = _value_of(Aggregation("sum", DType.FLOAT64, _MONEY_FIELD), events)
    assert got == [float(Decimal(sum(values)).scaleb(-2))]


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=20), st.sampled_from([0.0, 1e9, -1e12]), st.integers(1, 19)
)
def test_the_variance_of_close_numbers_far_from_zero_is_theirs(values: list[int], offset: float, cut: int) -> None:
    """However they are cut into tiles: by merge and by reduce."""
    numbers = [offset + value / 8 for value in values]
    exact = float(statistics.variance(map(Fraction, numbers)))
    of_means = 4 * np.spacing(abs(offset))  # the mean is a number of 53 bits, however near the values are
    moments, built = Moments(_PART_FIELD), aggregator(Aggregation("variance", DType.FLOAT64, _PART_FIELD))
    starts = [0, cut] if cut < len(numbers) else [0]
    state = moments.add(_column_of(_PART_FIELD, numbers), np.array(starts))
    parts = [{name: column[i : i + 1] for name, column in state.items()} for i in range(len(starts))]
    merged = moments.merge(*parts) if len(parts) == 2 else parts[0]
    reduced = moments.reduce(stacked(moments, parts), np.ones((1, len(parts)), np.bool_))
    for found in (merged, reduced):
        values_, present = built.result(found, np.zeros(1, np.int64))
        assert present.tolist() == [True]
        assert values_[0] == pytest.approx(exact, rel=1e-9, abs=max(1e-9, of_means * np.ptp(numbers)))


def test_one_value_has_no_variance() -> None:
    assert _value_of(Aggregation("variance", DType.FLOAT64, _PART_FIELD), _column_of(_PART_FIELD, [4.0]))[1] == [False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_the_result(bad: float) -> None:
    """Events are checked to be finite; an accumulator that is given something else hides it from nobody."""
    for kind, expected in (("sum", bad), ("mean", bad), ("last", bad)):
        (value,), _ = _value_of(Aggregation(kind, DType.FLOAT64, _PART_FIELD), _column_of(_PART_FIELD, [1.0, bad]))
        assert value == pytest.approx(expected, nan_ok=True), kind
    (value,), _ = _value_of(Aggregation("variance", DType.FLOAT64, _PART_FIELD), _column_of(_PART_FIELD, [1.0, bad]))
    assert math.isnan(value)


def test_a_float_sum_of_close_numbers_far_from_zero_keeps_their_differences() -> None:
    accumulator = FloatSum(_PART_FIELD)
    values = [1e9 + i / 8 for i in range(64)]
    state = accumulator.add(_column_of(_PART_FIELD, values), np.zeros(1, np.int64))
    assert state[accumulator.name].item() == sum(values)  # eighths of 1e9 are exact in 53 bits


@pytest.mark.parametrize("edge", [First(_WHOLE_FIELD), Last(_WHOLE_FIELD)], ids=lambda edge: edge.name)
@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, 0])
def test_an_edge_tells_any_value_from_none(edge: First | Last, value: int) -> None:
    state = edge.add(_column_of(_WHOLE_FIELD, [value]), np.zeros(1, np.int64))
    assert edge.is_present(state).tolist() == [True]
    assert state[edge.name].item() == value
    assert edge.is_present(edge.zero(1)).tolist() == [False]


@pytest.mark.parametrize(("edge", "winner"), [(First(_WHOLE_FIELD), 1), (Last(_WHOLE_FIELD), 2)], ids=["first", "last"])
def test_a_tie_goes_by_position_whichever_comes_first(edge: First | Last, winner: int) -> None:
    low = {f"{edge.name}.event_time_us": [5], f"{edge.name}.position": [(1 << 48) | 9], edge.name: [1]}
    high = {f"{edge.name}.event_time_us": [5], f"{edge.name}.position": [(2 << 48) | 3], edge.name: [2]}
    one, other = ({k: np.array(v, np.int64) for k, v in s.items()} for s in (low, high))
    assert edge.merge(one, other)[edge.name].item() == edge.merge(other, one)[edge.name].item() == winner


def test_the_last_n_are_the_newest_first_and_nulls_are_none_of_them() -> None:
    last = LastN(_MAYBE_FIELD, 3)
    column = FieldColumn(np.array([1, 2, 3, 4, 5]), np.array([True, True, False, True, True]))
    events = EventColumns(np.zeros(5, np.int64), np.arange(5), np.arange(5), {"maybe": column})
    state = last.add(events, np.array([0, 3]))
    assert [state[name].tolist() for name in last.values] == [[2, 5], [1, 4], [0, 0]]
    merged = last.merge(*({k: v[i : i + 1] for k, v in state.items()} for i in (1, 0)))
    assert [merged[name].tolist() for name in last.values] == [[5], [4], [2]]


@pytest.mark.parametrize(("field", "name"), [(_WHOLE_FIELD, "count"), (_MAYBE_FIELD, "count(maybe)")])
def test_the_count_of_a_field_that_cannot_be_null_is_that_of_events(field: Field, name: str) -> None:
    assert Count.of(field).name == name


_KINDS = sorted(
    {*_LOADED_WHEN_NEEDED, *(k for k, found in AGGREGATORS.items() if found.__module__.startswith("streamfti."))}
)


_PARAMETERS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "last_n": (("n", 2),),
    "approx_distinct": (("lg_k", 11),),
    "quantiles": (("k", 200), ("rank", 0.5)),
    "top_k": (("map_size", 256),),
}


def _aggregation(kind: str, operand: Field) -> Aggregation:
    bare = kind in {"count", "time_since_last"}
    output = "2" if kind in {"last_n", "top_k"} else ""
    return Aggregation(kind, DType.FLOAT64, None if bare else operand, _PARAMETERS.get(kind, ()), output)


@pytest.mark.parametrize("kind", _KINDS)
def test_no_state_is_no_value_but_for_counts(kind: str) -> None:
    built = aggregator(_aggregation(kind, _WHOLE_FIELD))
    zero: Mapping[str, NDArray[Any]] = {k: v for a in built.accumulators for k, v in a.zero(2).items()}
    values, present = built.result(zero, np.array([5, 2**62]))
    assert present.tolist() == [kind in {"count", "approx_distinct"}] * 2
    assert np.isfinite(values).all()


CASES: dict[str, float] = {
    "count": 4,
    "sum": 11,
    "mean": 2.75,
    "min": -3,
    "max": 9,
    "variance": 25.583333333333332,
    "stddev": 5.057996968497839,
    "first": 1,
    "last": 4,
    "last_n": -3,
    "latest": 4,
    "time_since_last": 2,
    "approx_distinct": 4,
    "quantiles": 1,
    "top_k": 1,
}


@pytest.mark.parametrize("kind", _KINDS)
def test_the_value_of_each_kind(kind: str) -> None:
    events = _column_of(_WHOLE_FIELD, [1, 9, -3, 4])
    values, present = _value_of(_aggregation(kind, _WHOLE_FIELD), events, query_time_us=2_000_003)
    assert present == [True]
    assert values == pytest.approx([CASES[kind]])


def test_the_newest_event_may_be_ahead_of_the_clock() -> None:
    events = _column_of(_WHOLE_FIELD, [1, 1])
    assert _value_of(_aggregation("time_since_last", _WHOLE_FIELD), events, query_time_us=0) == ([0.0], [True])


def test_an_unknown_kind_offers_the_nearest() -> None:
    with pytest.raises(DefinitionError, match=r"kind 'sun'.*did you mean 'sum'"):
        aggregator(Aggregation("sun", DType.INT64, _WHOLE_FIELD))
