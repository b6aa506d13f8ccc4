"""The shipped laws, on every accumulator and every kind of aggregation that there is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import pytest

import streamfti as fti
from streamfti.compute.accumulators import Accumulator
from streamfti.compute.aggregators import AGGREGATORS, aggregator
from streamfti.definitions.aggregations import AggregationSet, WindowedAggregation
from streamfti.definitions.dtypes import DType
from streamfti.testing.laws import laws_of


class Reading(fti.Event):
    at: fti.EventTime
    whole: int
    maybe_whole: int | None
    maybe_part: float | None
    maybe_word: str | None
    money: Annotated[Decimal, fti.Decimal(12, 2)]


NUMBERS: list[Any] = [Reading.maybe_whole, Reading.maybe_part]  # to accumulators, booleans and decimals are integers

EVERY_KIND: list[AggregationSet | WindowedAggregation] = [
    fti.count(),
    fti.count(where=Reading.whole > 0),
    fti.time_since_last(),
    fti.time_since_last(where=Reading.whole > 0),
    *(
        kind(field)
        for kind in (fti.sum, fti.mean, fti.min, fti.max, fti.variance, fti.stddev, fti.first, fti.last)
        for field in NUMBERS
    ),
    *(fti.last_n(field, 2) for field in NUMBERS),
    fti.first(Reading.maybe_word),
    fti.last(Reading.maybe_word),
    fti.last_n(Reading.maybe_word, 2),
    *(fti.approx_distinct(field) for field in (*NUMBERS, Reading.maybe_word, Reading.money)),
    *(fti.quantiles(field, 0, 0.5, 0.95) for field in (*NUMBERS, Reading.money)),
    fti.top_k(Reading.maybe_whole, 2),
    fti.top_k(Reading.maybe_word, 2),
    *(fti.latest(field) for field in (*NUMBERS, Reading.maybe_word)),
    fti.mean(Reading.money),
    fti.variance(Reading.money),
]
"""Each kind over an operand of each type that is accumulated in a way of its own."""

test_every_kind = laws_of(*EVERY_KIND)


def is_ours(cls: type) -> bool:
    return cls.__module__.startswith("streamfti.")


def concrete_subclasses(cls: type[Accumulator]) -> Iterator[type[Accumulator]]:
    for sub in cls.__subclasses__():
        if is_ours(sub) and not inspect.isabstract(sub):
            yield sub
        yield from concrete_subclasses(sub)


AGGREGATIONS = [aggregation for found in EVERY_KIND for aggregation in found.aggregations]
KINDS = sorted(kind for kind, found in AGGREGATORS.items() if is_ours(found))
ACCUMULATORS = sorted(
    set(concrete_subclasses(Accumulator)),  # type: ignore[type-abstract]  # only what stands below it is built
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_under_the_laws(kind: str) -> None:
    assert kind in {aggregation.kind for aggregation in AGGREGATIONS}


@pytest.mark.parametrize("cls", ACCUMULATORS, ids=lambda cls: cls.__name__)
def test_every_accumulator_is_under_the_laws_with_each_type_that_it_takes(cls: type[Accumulator]) -> None:
    operands = [
        a.operand for a in AGGREGATIONS for accumulator in aggregator(a).accumulators if type(accumulator) is cls
    ]
    assert operands
    wanted = {dtype for dtype in (DType.INT64, DType.FLOAT64, DType.STRING) if dtype in cls.dtypes}
    found = {operand.type.dtype for operand in operands if operand is not None}
    assert found >= wanted or None in operands  # those of events look at no value


def test_accumulators_of_one_event_class_have_names_and_columns_of_their_own() -> None:
    found = {accumulator for a in AGGREGATIONS for accumulator in aggregator(a).accumulators}
    assert len({accumulator.name for accumulator in found}) == len(found)
    columns = [column for accumulator in found for column in accumulator.columns]
    assert len(set(columns)) == len(columns)


def test_numbers_are_eight_little_endian_bytes() -> None:
    found = [accumulator for a in AGGREGATIONS for accumulator in aggregator(a).accumulators]
    dtypes = {dtype.str for accumulator in found for dtype in accumulator.columns.values()}
    assert dtypes - {"|O"} == {"<i8", "<f8"}
