"""An aggregation of a user's is held to the laws by one line, and what is wrong is caught by the law that it breaks."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray
from typing_extensions import override

import streamfti as fti
from streamfti.compute.accumulators import Accumulator, Count, EventColumns, FloatSum, State
from streamfti.compute.aggregators import Aggregator, Result
from streamfti.definitions.expressions import Expression, Field
from streamfti.testing.accumulator_laws import check_accumulator
from streamfti.testing.laws import ACCUMULATOR_LAWS, AGGREGATOR_LAWS, BrokenLaw, Case, laws_of


class Payment(fti.Event):
    at: fti.EventTime
    amount: float
    tip: float | None


tip: Any = Payment.tip  # to a type checker it may be None


@dataclass(frozen=True)
class LogSum(Accumulator):
    """The sum of the logarithms of positive values."""

    operand: Expression
    is_exact: ClassVar[bool] = False

    @property
    @override
    def name(self) -> str:
        return f"log_sum({self.operand.name})"

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self.name: np.dtype("<f8")}

    @override
    def zero(self, n: int) -> State:
        return {self.name: np.zeros(n)}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        values = column.values if column.valid is None else np.where(column.valid, column.values, 1.0)
        return {self.name: np.add.reduceat(np.log(values), starts)}

    @override
    def merge(self, left: State, right: State) -> State:
        return {self.name: left[self.name] + right[self.name]}

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        return {self.name: np.where(mask, state[self.name], 0.0).sum(axis=-1)}


class GeometricMean(Aggregator):
    kind = "geometric_mean"
    logs: ClassVar[type[LogSum]] = LogSum

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (Count.of(self.operand), self.logs(self.operand))

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        count, logs = (a.name for a in self.accumulators)
        present = state[count] > 0
        return np.exp(state[logs] / np.maximum(state[count], 1)), np.asarray(present)


POSITIVE = st.floats(0.01, 1e6)

test_geometric_mean = laws_of(
    fti.aggregate(GeometricMean, Payment.amount).over("1h"),
    fti.aggregate(GeometricMean, tip),
    values=POSITIVE,
    expected=lambda values: statistics.geometric_mean(values) if values else None,
)


class LeftAlone(LogSum):
    @override
    def merge(self, left: State, right: State) -> State:
        return {self.name: np.where(right[self.name] == 0, left[self.name], right[self.name])}


class Halving(LogSum):
    @override
    def merge(self, left: State, right: State) -> State:
        one, other = left[self.name], right[self.name]
        return {self.name: np.where((one == 0) | (other == 0), one + other, (one + other) / 2)}


class FromOne(LogSum):
    @override
    def zero(self, n: int) -> State:
        return {self.name: np.ones(n)}


class InPlace(LogSum):
    @override
    def merge(self, left: State, right: State) -> State:
        left[self.name].__iadd__(right[self.name])
        return left


class OfTheLastRun(LogSum):
    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        whole = super().add(events, starts)[self.name]
        return {self.name: np.where(np.diff(starts, append=len(events)) > 1, 2 * whole, whole)}


class Unmasked(LogSum):
    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        return {self.name: state[self.name].sum(axis=-1)}


class AcrossRows(LogSum):
    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        kept = np.where(mask, state[self.name], 0.0)
        return {self.name: kept.sum(axis=-1) + (kept.mean() if len(kept) > 1 else 0.0)}


class Crowded(LogSum):
    @property
    @override
    def alike(self) -> str:
        return self.name


class SinglePrecision(LogSum):
    @override
    def zero(self, n: int) -> State:
        return {self.name: np.zeros(n, np.float32)}


class WithNulls(LogSum):
    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        values = np.abs(events.fields[self.operand.name].values)
        return {self.name: np.add.reduceat(np.log(values + 1), starts)}


@pytest.mark.parametrize(
    ("accumulator", "law"),
    [
        (LeftAlone, "merge is commutative"),
        (Halving, "merge is associative"),
        (FromOne, "zero is the identity of merge"),
        (InPlace, "no argument is changed"),
        (OfTheLastRun, "add of a run is the merge of its runs"),
        (Unmasked, "reduce folds merge over the mask"),
        (AcrossRows, "rows do not touch each other"),
        (Crowded, "accumulators that differ in their operand's name alone are alike"),
        (SinglePrecision, "a state has just the columns that are promised, in their order, one value a row"),
        (WithNulls, "nulls take no part, whatever stands beneath them"),
    ],
)
def test_what_is_wrong_is_caught_by_the_law_that_it_breaks(accumulator: type[LogSum], law: str) -> None:
    twin = Field("Other", "twin", tip.type)
    case = Case(
        tip,
        times_us=(0, 0, 1, 3, 3, 4),
        positions=(0, 1, 2, 3, 4, 5),
        values=(2.0, 3.0, None, 5.0, 7.0, None),
        owners=(0, 1, 1, 2, 0, 2),
        cuts=(True, False, True, True, True, False),
        mask=(True, False, True),
    )
    with pytest.raises(BrokenLaw, match=r"^log_sum\(tip\) breaks the law: ") as caught:
        check_accumulator(accumulator(tip), accumulator(twin), case)
    assert law in caught.value.laws
    check_accumulator(LogSum(tip), LogSum(twin), case)


def test_a_failure_tells_the_smallest_example_and_the_laws() -> None:
    own_kind: Any = type("Halving", (GeometricMean,), {"kind": "halving", "logs": Halving})
    test: Any = laws_of(fti.aggregate(own_kind, Payment.tip), values=POSITIVE)
    (mark,) = test.pytestmark
    with pytest.raises(BrokenLaw, match=r"^log_sum\(tip\) breaks the law: ") as caught:
        test(next(subject for subject in mark.args[1] if repr(subject) == "log_sum(tip)"))
    case, laws = caught.value.__notes__[0], caught.value.__notes__[-1]
    assert case.startswith("with the events of Case(times_us=")
    assert re.match(r"laws that some example breaks: .*'add of all events is the merge of any parts'", laws)


class OfTheNewest(GeometricMean):
    """Wrong: says what only the bulk of events can know."""

    kind = "of_the_newest"

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        values, present = super().result(state, query_time_us)
        return values + values.shape[0], present


class Unbounded(GeometricMean):
    kind = "unbounded"

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        values, present = super().result(state, query_time_us)
        return np.where(present, math.inf, values), present


class Wordy(GeometricMean):
    kind = "wordy"

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        values, present = super().result(state, query_time_us)
        return values.astype(str), present


class Writing(GeometricMean):
    kind = "writing"

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        found = super().result(state, query_time_us)
        next(iter(state.values())).__iadd__(1)
        return found


@pytest.mark.parametrize(
    ("aggregator", "law"),
    [
        (OfTheNewest, "rows do not touch each other, in any shape"),
        (Unbounded, "a value of finite events is finite"),
        (Wordy, "a result is values of float64 and, of the same shape, where there is one"),
        (Writing, "no argument is changed"),
    ],
)
def test_a_wrong_result_is_caught_by_the_law_that_it_breaks(aggregator: type[GeometricMean], law: str) -> None:
    test: Any = laws_of(fti.aggregate(aggregator, Payment.amount), values=POSITIVE)
    (mark,) = test.pytestmark
    with pytest.raises(BrokenLaw, match=rf"{aggregator.kind}\(amount, version=1\) breaks the law: ") as caught:
        test(mark.args[1][0])
    assert law in caught.value.__notes__[-1]


def test_a_value_that_is_not_the_expected_one_is_told() -> None:
    test: Any = laws_of(fti.aggregate(GeometricMean, Payment.amount), values=POSITIVE, expected=statistics.fmean)
    with pytest.raises(BrokenLaw, match=r"the value is the expected one\nexpected .* of \[.*\], got \["):
        test(test.pytestmark[0].args[1][0])


def test_the_ids_of_the_tests_name_what_is_tested() -> None:
    found: Any = test_geometric_mean
    (mark,) = found.pytestmark
    assert [repr(subject) for subject in mark.args[1]] == [
        "geometric_mean(amount, version=1)",
        "count",
        "log_sum(amount)",
        "geometric_mean(tip, version=1)",
        "count(tip)",
        "log_sum(tip)",
    ]


def test_laws_are_sentences() -> None:
    assert len({*ACCUMULATOR_LAWS, *AGGREGATOR_LAWS}) == len(ACCUMULATOR_LAWS) + len(AGGREGATOR_LAWS)


class SumOfSquares(FloatSum):
    """The sum of squares, in which the differences between large numbers drown."""

    @property
    @override
    def name(self) -> str:
        return f"sum_of_squares({self.operand.name})"

    @override
    def _values(self, events: EventColumns) -> NDArray[np.float64]:
        return np.square(super()._values(events))

    @override
    def agree(self, one: State, other: State, values: NDArray[Any]) -> bool:
        return super().agree(one, other, np.square(values))


class TextbookVariance(Aggregator):
    """Wrong: the mean of the squares less the square of the mean, which cancel."""

    kind = "textbook_variance"

    @property
    @override
    def accumulators(self) -> tuple[Accumulator, ...]:
        return (Count.of(self.operand), FloatSum(self.operand), SumOfSquares(self.operand))

    @override
    def result(self, state: State, query_time_us: NDArray[np.int64]) -> Result:
        count, total, squares = (state[accumulator.name] for accumulator in self.accumulators)
        n = np.maximum(count, 1)
        return squares / n - np.square(total / n), np.asarray(count > 0)


def test_a_value_that_drowns_in_rounding_is_caught_by_close_numbers_far_from_zero() -> None:
    test: Any = laws_of(fti.aggregate(TextbookVariance, Payment.amount))
    value, *accumulators = test.pytestmark[0].args[1]
    for accumulator in accumulators:
        test(accumulator)
    with pytest.raises(BrokenLaw, match="breaks the law: "):
        test(value)
