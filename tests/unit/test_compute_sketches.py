"""Sketches past the sizes at which they are exact: how far off, what they do not depend on, and when they load."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfti.compute.accumulators import EventColumns, FieldColumn, numpy_dtype
from streamfti.compute.aggregators import Aggregator, aggregator
from streamfti.compute.sketches import DistinctSketch
from streamfti.definitions.aggregations import Aggregation
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field
from streamfti.definitions.expressions import Expression

WHOLE = Field("E", "whole", ValueType(DType.INT64))
PART = Field("E", "part", ValueType(DType.FLOAT64))
WORD = Field("E", "word", ValueType(DType.STRING))
MONEY = Field("E", "money", ValueType(DType.DECIMAL, precision=12, scale=2))


def columns(field: Expression, values: Sequence[Any]) -> EventColumns:
    n = len(values)
    column = FieldColumn(np.array(values, numpy_dtype(field)))
    return EventColumns(np.zeros(n, np.int64), np.arange(n), np.arange(n), {field.name: column})


def built(kind: str, field: Field, output: str = "", **parameters: float) -> Aggregator:
    return aggregator(Aggregation(kind, DType.INT64, field, tuple(parameters.items()), output))


def state_of(one: Aggregator, values: Sequence[Any], cuts: Sequence[int] = ()) -> dict[str, Any]:
    """The state of values that came in runs, merged from the last to the first."""
    (accumulator,) = one.accumulators
    runs = accumulator.add(columns(one.operand, values), np.array([0, *cuts], np.int64))[accumulator.name]
    merged = accumulator.reduce({accumulator.name: runs[::-1][np.newaxis]}, np.ones((1, len(runs)), np.bool_))
    return dict(merged)


def value_of(one: Aggregator, values: Sequence[Any], cuts: Sequence[int] = ()) -> Any:  # noqa: ANN401  # of any type
    found, present = one.result(state_of(one, values, cuts), np.zeros(1, np.int64))
    return found.tolist()[0] if present[0] else None


DISTINCT = built("approx_distinct", WHOLE, lg_k=11)


@settings(max_examples=25)
@given(
    n=st.sampled_from([7, 8, 9, 191, 192, 193, 194, 1000, 20_000]),
    seed=st.integers(0, 2**32 - 1),
    shares=st.lists(st.floats(0, 1), max_size=5),
)
def test_a_distinct_count_is_a_function_of_the_set_of_values(n: int, seed: int, shares: list[float]) -> None:
    """Whatever the order, the repetitions and the tiles: to the byte, in each way that a sketch keeps its values."""
    dice = np.random.default_rng(seed)
    values = dice.permutation(np.concatenate([np.arange(n), dice.integers(0, n, n // 2)])).tolist()
    cuts = sorted({min(len(values) - 1, max(1, int(share * len(values)))) for share in shares})
    name = DISTINCT.accumulators[0].name
    assert state_of(DISTINCT, values, cuts)[name].tolist() == state_of(DISTINCT, range(n))[name].tolist()


@pytest.mark.parametrize("n", [0, 1, 50, 150])
def test_few_distinct_values_are_counted_exactly(n: int) -> None:
    words = [f"w{i}" for i in range(n)] * 3
    assert value_of(built("approx_distinct", WORD, lg_k=11), words or ["w"]) == max(n, 1)
    assert value_of(DISTINCT, [*range(n), 0]) == max(n, 1)


def test_an_empty_string_and_a_zero_of_either_sign_are_values() -> None:
    assert value_of(built("approx_distinct", WORD, lg_k=11), ["", "a", ""]) == 2
    assert value_of(built("approx_distinct", PART, lg_k=11), [0.0, -0.0, 1.0]) == 2


@pytest.mark.parametrize("n", [1_000, 5_000, 100_000])
def test_many_distinct_values_are_counted_within_the_stated_error(n: int) -> None:
    """A standard error of 2.3 %: its root mean square over 30 sets is within a third more, no one beyond four times."""
    dice = np.random.default_rng(n)
    errors = [value_of(DISTINCT, dice.integers(-(2**62), 2**62, n).tolist(), [n // 2]) / n - 1 for _ in range(30)]
    assert math.sqrt(float(np.mean(np.square(errors)))) < 1.04 / math.sqrt(2**11) * 4 / 3
    assert max(map(abs, errors)) < 4 * 1.04 / math.sqrt(2**11)


def test_a_state_takes_the_bytes_that_are_stated() -> None:
    sketch = DistinctSketch(WHOLE, 9)
    states = sketch.add(columns(WHOLE, range(10_040)), np.array([0, 40]))[sketch.name].tolist()
    assert [len(state) for state in states] == [12 + 4 * 40, 40 + 2**9]


@pytest.mark.parametrize("rank", [0.01, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("draw", ["normal", "few"])
def test_quantiles_of_many_values_have_their_rank_within_the_stated_error(rank: float, draw: str) -> None:
    dice = np.random.default_rng(5)
    values = dice.normal(size=30_000) if draw == "normal" else dice.integers(0, 7, 30_000).astype(float)
    one = built("quantiles", PART, k=200, rank=rank)
    got = value_of(one, values.tolist(), [1, 100, 7_000, 7_001, 20_000])
    error = 3 * 2.296 / 200**0.9723
    assert (values < got).mean() - error <= rank <= (values <= got).mean() + error
    assert one.accepts(values, got)


def test_quantiles_of_few_values_are_exact_and_decimals_are_the_nearest_doubles() -> None:
    values = [round(1000 * math.sin(i)) for i in range(200)]
    cents = built("quantiles", MONEY, k=200, rank=0.95)
    assert value_of(cents, values, [3, 150]) == sorted(values)[math.ceil(0.95 * 200) - 1] / 100
    assert cents.accepts(np.array(values), sorted(values)[189] / 100)


def test_what_is_beyond_the_error_of_a_quantile_is_not_accepted() -> None:
    one = built("quantiles", PART, k=200, rank=0.5)
    values = np.arange(1000.0)
    assert [one.accepts(values, v) for v in (499.0, 530.0, 545.0, 499.5, None)] == [True, True, False, False, False]
    assert not one.accepts(values[:0], 1.0)


def zipf(n: int) -> list[int]:
    return [int(v) for v in np.random.default_rng(3).zipf(1.3, n) % 5000]


@pytest.mark.parametrize("place", [1, 2, 5])
def test_the_most_frequent_of_very_many_values_are_so_within_the_stated_error(place: int) -> None:
    values = zipf(40_000)
    counts = Counter(values)
    assert len(counts) > 2_000
    one = built("top_k", WHOLE, str(place), map_size=256)
    got = value_of(one, values, [5, 10_000, 33_000])
    least = counts.most_common(place)[-1][1] - 3.5 / 256 * len(values)
    assert counts[got] >= least
    assert one.accepts(np.array(values), got)
    rare = min(counts, key=counts.__getitem__)
    assert one.accepts(np.array(values), rare) == (counts[rare] >= least)


def test_a_value_in_a_place_that_is_not_its_own_is_not_accepted() -> None:
    values = np.array(["a"] * 50 + ["b"] * 30 + ["c"] * 20, np.object_)
    first, third, fourth = (built("top_k", WORD, place, map_size=256) for place in "134")
    assert [first.accepts(values, v) for v in ("a", "b", "z", None)] == [True, False, False, False]
    assert [third.accepts(values, v) for v in ("a", "c", None)] == [True, True, False]
    assert not fourth.accepts(values, "c")
    many = np.array([f"w{i}" for i in range(1000)], np.object_)
    assert first.accepts(many, None)  # none of them is more frequent than the error


def test_equally_frequent_values_stand_in_their_order() -> None:
    ties = [10, 9, -2, 9, 10, 100, -2]
    assert [value_of(built("top_k", WHOLE, str(i), map_size=256), ties) for i in range(1, 6)] == [-2, 9, 10, 100, None]
    words = ["b", "", "a", "", "a", "b"]
    assert [value_of(built("top_k", WORD, str(i), map_size=256), words, [3]) for i in (1, 2, 3)] == ["", "a", "b"]


def test_the_library_is_loaded_by_the_first_definition_that_needs_it() -> None:
    program = """
import sys
import streamfti as fti
from streamfti.compute.layout import RecordLayout

class Payment(fti.Event):
    card: str
    shop: str
    at: fti.EventTime

payments = fti.KafkaSource("payments", Payment)

@fti.feature_group(source=payments, entity="card")
class Plain:
    shop = fti.last(Payment.shop).over("1h")

@fti.feature_group(source=payments, entity="card")
class Sketched:
    shops = fti.approx_distinct(Payment.shop).over("1h")

RecordLayout.of(Plain)
before = "datasketches" in sys.modules
RecordLayout.of(Sketched)
print(before, "datasketches" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]
