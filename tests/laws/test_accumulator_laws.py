"""The laws of every accumulator, found by introspection: a new one is under them before it has a test of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfti.compute.accumulators import Accumulator, Count, EventColumns, FieldColumn, Last, State, Sum, numpy_dtype
from streamfti.compute.aggregators import AGGREGATORS, aggregator
from streamfti.compute.layout import Ring
from streamfti.definitions.aggregations import Aggregation, AggregationKind
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field

_INT64 = st.integers(-(2**63), 2**63 - 1)
_WHOLE = st.integers(-5, 5) | st.integers(-(2**52), 2**52)
_FLOATS = st.floats(-1e6, 1e6) | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)


def concrete_subclasses(cls: type[Accumulator]) -> Iterator[type[Accumulator]]:
    for sub in cls.__subclasses__():
        if not inspect.isabstract(sub):
            yield sub
        yield from concrete_subclasses(sub)


def examples_of(cls: Callable[..., Accumulator]) -> list[Accumulator]:
    """Every accumulator of a class: one for each numeric dtype and nullability, and the one without a field."""
    fields = [
        Field(
            "E",
            f"{dtype.value}{'_or_null' if nullable else ''}",
            ValueType(dtype, nullable, *(18, 2) if dtype is DType.DECIMAL else ()),
        )
        for dtype in DType
        if dtype.is_numeric
        for nullable in (False, True)
    ]
    built = [cls(field) for field in fields]
    parameter = inspect.signature(cls).parameters["field"]
    return [*built, cls()] if parameter.default is None else built


CLASSES = sorted(
    set(concrete_subclasses(Accumulator)),  # type: ignore[type-abstract]  # only what stands below it is built
    key=lambda cls: cls.__name__,
)
EXAMPLES = [example for cls in CLASSES for example in examples_of(cls)]
every_accumulator = pytest.mark.parametrize("accumulator", EXAMPLES, ids=lambda a: a.name)


def field_of(accumulator: Accumulator) -> Field | None:
    found: Field | None = getattr(accumulator, "field", None)
    return found


def value_strategy(dtype: DType) -> st.SearchStrategy[int | float]:
    return {DType.FLOAT64: _FLOATS, DType.BOOL: st.integers(0, 1)}.get(dtype, _WHOLE)


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
        values = draw(st.lists(value_strategy(field.type.dtype), min_size=n, max_size=n))
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


def stacked(accumulator: Accumulator, parts: list[State]) -> State:
    return {name: frozen(np.stack([p[name] for p in parts], axis=1)) for name in accumulator.columns}


def test_every_accumulator_has_examples() -> None:
    assert CLASSES
    assert {type(example) for example in EXAMPLES} == set(CLASSES)
    assert {cls.__name__ for cls in CLASSES} >= {"Count", "Sum", "Min", "Max", "Last"}


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


def _column_of(accumulator: Accumulator, values: list[int] | list[float]) -> EventColumns:
    field = field_of(accumulator)
    assert field is not None
    n = len(values)
    column = FieldColumn(np.array(values, numpy_dtype(field)))
    return EventColumns(np.zeros(n, np.int64), np.arange(n), np.arange(n), {field.name: column})


_WHOLE_FIELD = Field("E", "whole", ValueType(DType.INT64))
_PART_FIELD = Field("E", "part", ValueType(DType.FLOAT64))
_MAYBE_FIELD = Field("E", "maybe", ValueType(DType.INT64, nullable=True))


@given(st.lists(_INT64, min_size=1, max_size=8).filter(lambda values: -(2**63) <= sum(values) < 2**63))
def test_integer_sums_are_exact_while_they_fit(values: list[int]) -> None:
    accumulator = Sum(_WHOLE_FIELD)
    state = accumulator.add(_column_of(accumulator, values), np.zeros(1, np.int64))
    assert state[accumulator.name].item() == sum(values)


def test_integer_sums_do_not_pass_through_floats() -> None:
    accumulator = Sum(_WHOLE_FIELD)
    values = [2**62 - 1, 2**61 + 1, 1]
    state = accumulator.add(_column_of(accumulator, values), np.zeros(1, np.int64))
    assert state[accumulator.name].item() == 2**62 + 2**61 + 1


def test_a_float_sum_of_close_numbers_far_from_zero_keeps_their_differences() -> None:
    accumulator = Sum(_PART_FIELD)
    values = [1e9 + i / 8 for i in range(64)]
    state = accumulator.add(_column_of(accumulator, values), np.zeros(1, np.int64))
    assert state[accumulator.name].item() == sum(values)  # eighths of 1e9 are exact in 53 bits


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, 0])
def test_last_tells_any_value_from_none(value: int) -> None:
    last = Last(_WHOLE_FIELD)
    state = last.add(_column_of(last, [value]), np.zeros(1, np.int64))
    assert last.is_present(state).tolist() == [True]
    assert state[last.name].item() == value
    assert last.is_present(last.zero(1)).tolist() == [False]


def test_last_of_a_tie_is_the_highest_position_whichever_comes_first() -> None:
    last = Last(_WHOLE_FIELD)
    low = {last.name: [1], f"{last.name}.event_time_us": [5], f"{last.name}.position": [(1 << 48) | 9]}
    high = {last.name: [2], f"{last.name}.event_time_us": [5], f"{last.name}.position": [(2 << 48) | 3]}
    one, other = ({k: np.array(v, np.int64) for k, v in s.items()} for s in (low, high))
    assert last.merge(one, other)[last.name].item() == last.merge(other, one)[last.name].item() == 2


@pytest.mark.parametrize(("field", "name"), [(_WHOLE_FIELD, "count"), (_MAYBE_FIELD, "count(maybe)")])
def test_the_count_of_a_field_that_cannot_be_null_is_that_of_events(field: Field, name: str) -> None:
    assert Count.of(field).name == name


def test_every_kind_of_aggregation_has_an_aggregator() -> None:
    assert set(AGGREGATORS) == set(get_args(AggregationKind))


@pytest.mark.parametrize("kind", get_args(AggregationKind))
def test_no_state_is_no_value_but_for_counts(kind: AggregationKind) -> None:
    built = aggregator(Aggregation(kind, None if kind == "count" else _WHOLE_FIELD))
    zero: Mapping[str, NDArray[Any]] = {k: v for a in built.accumulators for k, v in a.zero(2).items()}
    values, present = built.result(zero)
    assert present.tolist() == [kind == "count"] * 2
    assert np.isfinite(values).all()


_OTHER_WHOLE_FIELD = Field("E", "other", ValueType(DType.INT64))


@pytest.mark.parametrize("kind", get_args(AggregationKind))
def test_an_aggregator_works_for_all_that_are_alike_in_any_shape(kind: AggregationKind) -> None:
    one, other = (
        aggregator(Aggregation(kind, None if kind == "count" else f)) for f in (_WHOLE_FIELD, _OTHER_WHOLE_FIELD)
    )
    assert one.alike == other.alike
    names = [[column for a in built.accumulators for column in a.columns] for built in (one, other)]
    numbers = {name: np.arange(i, i + 6) for i, name in enumerate(names[0])}
    flat, present = one.result(numbers)
    renamed = {new: numbers[old].reshape(2, 3) for old, new in zip(*names, strict=True)}
    values, has_value = other.result(renamed)
    assert values.tolist() == flat.reshape(2, 3).tolist()
    assert has_value.tolist() == present.reshape(2, 3).tolist()


@dataclass(frozen=True)
class Case:
    kind: AggregationKind
    expected: float


CASES = [Case("count", 4), Case("sum", 11), Case("mean", 2.75), Case("min", -3), Case("max", 9), Case("last", 4)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_the_value_of_each_kind(case: Case) -> None:
    built = aggregator(Aggregation(case.kind, None if case.kind == "count" else _WHOLE_FIELD))
    column = FieldColumn(np.array([1, 9, -3, 4]))
    events = EventColumns(np.zeros(4, np.int64), np.arange(4), np.arange(4), {"whole": column})
    state = {k: v for a in built.accumulators for k, v in a.add(events, np.zeros(1, np.int64)).items()}
    values, present = built.result(state)
    assert (values.tolist(), present.tolist()) == ([case.expected], [True])


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES} == set(get_args(AggregationKind))
