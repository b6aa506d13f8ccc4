"""The laws of every accumulator, found by introspection: a new one is under them before it has a test of its own."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfti.compute.accumulators import (
    Accumulator,
    Count,
    EventColumns,
    FieldColumn,
    FloatSum,
    State,
    numpy_dtype,
)
from streamfti.compute.aggregators import AGGREGATORS, aggregator
from streamfti.compute.layout import Ring
from streamfti.compute.moments import Moments
from streamfti.compute.ordered import First, Last, LastN
from streamfti.definitions.aggregations import Aggregation
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field
from streamfti.errors import DefinitionError

_INT64 = st.integers(-(2**63), 2**63 - 1)
_WHOLE = st.integers(-5, 5) | st.integers(-(2**52), 2**52)
_SMALL = st.floats(-1e6, 1e6)
_FLOATS = st.floats(-1e6, 1e6) | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)


def concrete_subclasses(cls: type[Accumulator]) -> Iterator[type[Accumulator]]:
    for sub in cls.__subclasses__():
        if not inspect.isabstract(sub):
            yield sub
        yield from concrete_subclasses(sub)


def examples_of(cls: type[Accumulator]) -> list[Accumulator]:
    """Every accumulator of a class: one for each way in which values are accumulated, and the one without an operand.

    To an accumulator booleans and decimals are the integers that they come as.
    """
    fields = [
        Field("E", f"{dtype.value}{'_or_null' if nullable else ''}", ValueType(dtype, nullable))
        for dtype in (DType.INT64, DType.FLOAT64, DType.STRING)
        if dtype in cls.dtypes
        for nullable in (False, True)
    ]
    build: Callable[..., Accumulator] = cls
    built = [build(field) for field in fields]
    parameter = inspect.signature(cls).parameters["operand"]
    return [*built, build()] if parameter.default is None else built


CLASSES = sorted(
    set(concrete_subclasses(Accumulator)),  # type: ignore[type-abstract]  # only what stands below it is built
    key=lambda cls: cls.__name__,
)
EXAMPLES = [example for cls in CLASSES for example in examples_of(cls)]
every_accumulator = pytest.mark.parametrize("accumulator", EXAMPLES, ids=lambda a: a.name)


def field_of(accumulator: Accumulator) -> Field | None:
    found: Field | None = getattr(accumulator, "operand", None)
    return found


def value_strategy(accumulator: Accumulator, dtype: DType) -> st.SearchStrategy[int | float]:
    if isinstance(accumulator, Moments):  # squares: the tolerance of the comparison is for such numbers
        return _SMALL if dtype is DType.FLOAT64 else st.integers(0, 1)
    return _FLOATS if dtype is DType.FLOAT64 else _WHOLE


@st.composite
def event_columns(draw: st.DrawFn, accumulator: Accumulator, min_size: int = 1, max_size: int = 12) -> EventColumns:
    """Sorted events of one entity; times tie often, positions never; nothing may write to the arrays."""
    n = draw(st.integers(min_size, max_size))
    times = sorted(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    positions = draw(st.permutations(range(n)))
    order = sorted(range(n), key=lambda i: (times[i], positions[i]))
    field = field_of(accumulator)
    fields: dict[str, FieldColumn] = {}
    if field is not None:
        values = draw(st.lists(value_strategy(accumulator, field.type.dtype), min_size=n, max_size=n))
        valid = draw(st.lists(st.booleans(), min_size=n, max_size=n)) if field.type.nullable else None
        mask = None if valid is None else frozen(np.array(valid, np.bool_))
        fields[field.name] = FieldColumn(frozen(np.array(values, numpy_dtype(field))), mask)
    return EventColumns(
        frozen(np.zeros(n, np.int64)),
        frozen(np.array([times[i] for i in order], np.int64)),
        frozen(np.array([positions[i] for i in order], np.int64)),
        fields,
    )


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def frozen_state(state: State) -> State:
    return {name: frozen(np.array(column)) for name, column in state.items()}


def add_all(accumulator: Accumulator, events: EventColumns, starts: list[int]) -> State:
    return frozen_state(accumulator.add(events, frozen(np.array(starts, np.int64))))


@st.composite
def states(draw: st.DrawFn, accumulator: Accumulator, n: int) -> list[State]:
    """N states of one row, disjoint parts of one entity's events; some are of no event at all."""
    events = draw(event_columns(accumulator))
    runs = add_all(accumulator, events, list(range(len(events))))
    single = [{name: column[i : i + 1] for name, column in runs.items()} for i in range(len(events))]
    owner = draw(st.lists(st.integers(0, n - 1), min_size=len(single), max_size=len(single)))
    found: list[State] = [accumulator.zero(1)] * n
    for state, i in zip(single, owner, strict=True):
        found[i] = accumulator.merge(found[i], state)
    return [frozen_state(state) for state in found]


def assert_equal(accumulator: Accumulator, one: State, other: State) -> None:
    assert list(one) == list(other) == list(accumulator.columns)
    for name, dtype in accumulator.columns.items():
        assert one[name].dtype == other[name].dtype == dtype, name
        if accumulator.is_exact or dtype.kind == "i":
            np.testing.assert_array_equal(one[name], other[name])
        else:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12, atol=0.1)  # of terms up to 1e15


def stacked(accumulator: Accumulator, parts: Sequence[State]) -> State:
    return {name: frozen(np.stack([p[name] for p in parts], axis=1)) for name in accumulator.columns}


def test_every_accumulator_has_examples() -> None:
    assert CLASSES
    assert {type(example) for example in EXAMPLES} == set(CLASSES)
    assert {cls.__name__ for cls in CLASSES} >= {"Count", "FloatSum", "Min", "Max", "Last"}


def test_names_tell_accumulators_apart() -> None:
    names = [example.name for example in EXAMPLES]
    assert len(set(names)) == len(names)
    columns = [column for example in EXAMPLES for column in example.columns]
    assert len(set(columns)) == len(columns)


@every_accumulator
def test_every_column_is_eight_little_endian_bytes(accumulator: Accumulator) -> None:
    assert {dtype.str for dtype in accumulator.columns.values()} <= {"<i8", "<f8"}


@every_accumulator
@given(data=st.data())
def test_merge_is_commutative(accumulator: Accumulator, data: st.DataObject) -> None:
    a, b = data.draw(states(accumulator, 2))
    assert_equal(accumulator, accumulator.merge(a, b), accumulator.merge(b, a))


@every_accumulator
@given(data=st.data())
def test_merge_is_associative(accumulator: Accumulator, data: st.DataObject) -> None:
    a, b, c = data.draw(states(accumulator, 3))
    left = accumulator.merge(accumulator.merge(a, b), c)
    right = accumulator.merge(a, accumulator.merge(b, c))
    assert_equal(accumulator, left, right)


@every_accumulator
@given(data=st.data())
def test_zero_is_the_identity(accumulator: Accumulator, data: st.DataObject) -> None:
    (a,) = data.draw(states(accumulator, 1))
    zero = frozen_state(accumulator.zero(1))
    assert_equal(accumulator, accumulator.merge(zero, a), a)
    assert_equal(accumulator, accumulator.merge(a, zero), a)
    assert_equal(accumulator, accumulator.merge(zero, zero), zero)


@every_accumulator
@given(data=st.data())
def test_adding_a_run_equals_merging_its_parts(accumulator: Accumulator, data: st.DataObject) -> None:
    events = data.draw(event_columns(accumulator))
    inner = data.draw(st.sets(st.integers(1, len(events) - 1) if len(events) > 1 else st.nothing()))
    parts = add_all(accumulator, events, [0, *sorted(inner)])
    merged = accumulator.zero(1)
    for i in range(len(inner) + 1):
        merged = accumulator.merge(merged, {name: column[i : i + 1] for name, column in parts.items()})
    assert_equal(accumulator, merged, add_all(accumulator, events, [0]))


@every_accumulator
@given(data=st.data())
def test_reduce_equals_folding_merge_over_the_mask(accumulator: Accumulator, data: st.DataObject) -> None:
    n_slots = data.draw(st.integers(1, 6))
    parts = data.draw(states(accumulator, n_slots))
    mask = data.draw(st.lists(st.booleans(), min_size=n_slots, max_size=n_slots))
    folded = accumulator.zero(1)
    for inside, part in zip(mask, parts, strict=True):
        folded = accumulator.merge(folded, part) if inside else folded
    reduced = accumulator.reduce(stacked(accumulator, parts), frozen(np.array([mask], np.bool_)))
    assert_equal(accumulator, reduced, folded)


@every_accumulator
@given(data=st.data())
def test_one_reduces_a_stack_of_all_that_are_alike_as_each_does_its_own(
    accumulator: Accumulator, data: st.DataObject
) -> None:
    """The read path reduces windows of many accumulators in one call of one of them: states `[n, k, n_slots]`."""
    members = [example for example in EXAMPLES if example.alike == accumulator.alike]
    parts = [stacked(member, data.draw(states(member, 3))) for member in members]
    masks = [data.draw(st.lists(st.booleans(), min_size=3, max_size=3)) for _ in members]
    names = [list(member.columns) for member in members]
    stack = {
        own: frozen(np.stack([part[columns[i]] for part, columns in zip(parts, names, strict=True)], axis=1))
        for i, own in enumerate(accumulator.columns)
    }
    together = accumulator.reduce(stack, frozen(np.array([masks], np.bool_)))
    for k, (member, part, mask) in enumerate(zip(members, parts, masks, strict=True)):
        alone = member.reduce(part, np.array([mask], np.bool_))
        renamed = {own: together[column][:, k] for own, column in zip(member.columns, together, strict=True)}
        assert_equal(member, renamed, alone)


@every_accumulator
@given(data=st.data())
def test_an_empty_mask_reduces_to_zero(accumulator: Accumulator, data: st.DataObject) -> None:
    parts = data.draw(states(accumulator, 3))
    reduced = accumulator.reduce(stacked(accumulator, parts), np.zeros((1, 3), np.bool_))
    assert_equal(accumulator, reduced, accumulator.zero(1))


@every_accumulator
def test_reduce_ignores_what_the_mask_hides_be_it_zeros(accumulator: Accumulator) -> None:
    """Slots that were never written hold zero bytes, not the identity."""
    unwritten = {name: np.zeros((2, 3), dtype) for name, dtype in accumulator.columns.items()}
    reduced = accumulator.reduce(unwritten, np.zeros((2, 3), np.bool_))
    assert_equal(accumulator, reduced, accumulator.zero(2))


@every_accumulator
@given(data=st.data())
def test_rows_do_not_touch_each_other(accumulator: Accumulator, data: st.DataObject) -> None:
    one, other = data.draw(states(accumulator, 2)), data.draw(states(accumulator, 2))
    both = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(one, other, strict=True)]
    merged = accumulator.merge(*both)
    for row, pair in enumerate((one, other)):
        assert_equal(accumulator, {k: v[row : row + 1] for k, v in merged.items()}, accumulator.merge(*pair))


@every_accumulator
@given(data=st.data())
def test_a_state_survives_its_slot(accumulator: Accumulator, data: st.DataObject) -> None:
    (state,) = data.draw(states(accumulator, 1))
    ring = Ring(1, 1, {accumulator.name: accumulator}, 0)
    slot = np.zeros(1, ring.slot_dtype)
    for name, column in state.items():
        slot[name] = column
    loaded = np.frombuffer(slot.tobytes(), ring.slot_dtype)
    assert ring.slot_bytes == 8 * (1 + len(accumulator.columns))
    assert_equal(accumulator, {name: loaded[name] for name in accumulator.columns}, state)


@every_accumulator
def test_a_run_of_nulls_alone_is_zero(accumulator: Accumulator) -> None:
    field = field_of(accumulator)
    if field is None or not field.type.nullable:
        return
    column = FieldColumn(np.full(2, 5, numpy_dtype(field)), np.zeros(2, np.bool_))
    events = EventColumns(np.zeros(2, np.int64), np.arange(2), np.arange(2), {field.name: column})
    assert_equal(accumulator, accumulator.add(events, np.zeros(1, np.int64)), accumulator.zero(1))


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
    moments, built = Moments(_PART_FIELD), aggregator(Aggregation("variance", DType.FLOAT64, _PART_FIELD))
    starts = [0, cut] if cut < len(numbers) else [0]
    state = moments.add(_column_of(_PART_FIELD, numbers), np.array(starts))
    parts = [{name: column[i : i + 1] for name, column in state.items()} for i in range(len(starts))]
    merged = moments.merge(*parts) if len(parts) == 2 else parts[0]
    reduced = moments.reduce(stacked(moments, parts), np.ones((1, len(parts)), np.bool_))
    for found in (merged, reduced):
        values_, present = built.result(found, np.zeros(1, np.int64))
        assert present.tolist() == [True]
        assert values_[0] == pytest.approx(exact, rel=1e-6 if abs(offset) > 1e10 else 1e-9, abs=1e-9)


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


_KINDS = sorted(AGGREGATORS)
_OTHER_WHOLE_FIELD = Field("E", "other", ValueType(DType.INT64))


def _aggregation(kind: str, operand: Field) -> Aggregation:
    n = (("n", 2),) if kind == "last_n" else ()
    bare = kind in {"count", "time_since_last"}
    return Aggregation(kind, DType.FLOAT64, None if bare else operand, n, "2" if n else "")


@pytest.mark.parametrize("kind", _KINDS)
def test_no_state_is_no_value_but_for_counts(kind: str) -> None:
    built = aggregator(_aggregation(kind, _WHOLE_FIELD))
    zero: Mapping[str, NDArray[Any]] = {k: v for a in built.accumulators for k, v in a.zero(2).items()}
    values, present = built.result(zero, np.array([5, 2**62]))
    assert present.tolist() == [kind == "count"] * 2
    assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", _KINDS)
def test_an_aggregator_works_for_all_that_are_alike_in_any_shape(kind: str) -> None:
    one, other = (aggregator(_aggregation(kind, f)) for f in (_WHOLE_FIELD, _OTHER_WHOLE_FIELD))
    assert one.alike == other.alike
    names = [[column for a in built.accumulators for column in a.columns] for built in (one, other)]
    numbers = {name: np.arange(i, i + 6) for i, name in enumerate(names[0])}
    flat, present = one.result(numbers, np.full(6, 9))
    renamed = {new: numbers[old].reshape(2, 3) for old, new in zip(*names, strict=True)}
    values, has_value = other.result(renamed, np.array([[9], [9]]))
    assert values.tolist() == flat.reshape(2, 3).tolist()
    assert has_value.tolist() == present.reshape(2, 3).tolist()


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
    "time_since_last": 2,
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
