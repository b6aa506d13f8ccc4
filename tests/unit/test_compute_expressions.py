from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

import streamfti as fti
from streamfti.compute.expressions import evaluate

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SMALLEST, LARGEST = -(2**63), 2**63 - 1


class Flight(fti.Event):
    carrier: str | None
    delay: int | None
    share: float
    late: bool | None
    at: fti.EventTime


FLIGHTS: Any = Flight  # fields are expressions at run time
COLUMNS = {
    "carrier": pl.String(),
    "delay": pl.Int64(),
    "share": pl.Float64(),
    "late": pl.Boolean(),
    "at": pl.Datetime("us", "UTC"),
}


def values(expression: Any, **columns: Sequence[object]) -> list[object]:  # noqa: ANN401  # an expression, or a field's type
    """The values of an expression over as many events as the columns have."""
    n = len(next(iter(columns.values())))
    given: dict[str, list[object]] = {"carrier": ["AA"], "delay": [0], "share": [0.0], "late": [True], "at": [NOON]}
    frame = pl.DataFrame({name: columns.get(name, one * n) for name, one in given.items()}, schema=COLUMNS)
    return evaluate(expression, frame).to_list()


def test_a_field_is_its_own_value() -> None:
    assert values(Flight.late, late=[True, None, False]) == [True, None, False]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (FLIGHTS.delay < 15, [False, False, None]), (FLIGHTS.delay <= 15, [False, True, None]),
        (FLIGHTS.delay > 15, [True, False, None]), (FLIGHTS.delay >= 15, [True, True, None]),
        (FLIGHTS.delay == 15, [False, True, None]), (FLIGHTS.delay != 15, [True, False, None]),
    ],
)  # fmt: skip
def test_a_comparison_is_null_where_its_field_is(condition: object, expected: list[bool | None]) -> None:
    assert values(condition, delay=[20, 15, None]) == expected


def test_texts_booleans_and_times_are_compared_too() -> None:
    assert values(FLIGHTS.carrier == "AA", carrier=["AA", "B6", None]) == [True, False, None]
    assert values(FLIGHTS.late == True, late=[True, None, False]) == [True, None, False]  # noqa: E712  # what is tested
    assert values(FLIGHTS.at < NOON, at=[NOON, NOON - dt.timedelta(microseconds=1)]) == [False, True]


def test_integers_that_do_not_fit_are_null_and_never_wrap_around() -> None:
    assert values(FLIGHTS.delay + 1, delay=[LARGEST - 1, LARGEST]) == [LARGEST, None]
    assert values(FLIGHTS.delay - 1, delay=[SMALLEST + 1, SMALLEST]) == [SMALLEST, None]
    assert values(FLIGHTS.delay * 3037000500, delay=[3037000499, 3037000500]) == [9223372033963249500, None]
    assert values(FLIGHTS.delay * SMALLEST, delay=[1, -1]) == [SMALLEST, None]
    assert values(-FLIGHTS.delay, delay=[LARGEST, SMALLEST]) == [-LARGEST, None]
    assert values(abs(FLIGHTS.delay), delay=[-LARGEST, SMALLEST]) == [LARGEST, None]
    assert values(FLIGHTS.delay // -1, delay=[LARGEST, SMALLEST]) == [-LARGEST, None]


def test_division_by_zero_is_null() -> None:
    for quotient in (1 / FLIGHTS.delay, 1 // FLIGHTS.delay, 1 % FLIGHTS.delay, FLIGHTS.share / FLIGHTS.delay):
        assert values(quotient, delay=[0]) == [None]


def test_integers_are_divided_downwards() -> None:
    assert values(FLIGHTS.delay // 2, delay=[7, -7]) == [3, -4]
    assert values(FLIGHTS.delay % 3, delay=[7, -7]) == [1, 2]
    assert values(FLIGHTS.delay / 2, delay=[7, -7]) == [3.5, -3.5]


def test_a_float_that_is_not_finite_is_null() -> None:
    assert values(FLIGHTS.share * 10.0, share=[1e308, 1.0]) == [None, 10.0]


def test_logic_has_three_values() -> None:
    late = [True, None, False]
    assert values(FLIGHTS.late & (FLIGHTS.delay == 0), late=late) == [True, None, False]
    assert values(FLIGHTS.late & (FLIGHTS.delay == 1), late=late) == [False, False, False]
    assert values(FLIGHTS.late | (FLIGHTS.delay == 0), late=late) == [True, True, True]
    assert values(~FLIGHTS.late, late=late) == [False, None, True]


def test_when_a_condition_is_null_it_does_not_hold() -> None:
    chosen = fti.when(Flight.late, Flight.delay, -1)
    assert values(chosen, late=[True, None, False], delay=[5, 5, 5]) == [5, -1, -1]
    assert values(fti.when(Flight.late, 1), late=[True, None, False]) == [1, None, None]


def test_texts_become_numbers_only_if_they_are_such() -> None:
    texts: list[object] = ["-12", "+7", " 7", "7 ", "1_0", "٣", "", "9223372036854775808", "1.5", None]
    assert values(FLIGHTS.carrier.cast(int), carrier=texts) == [-12, 7, *[None] * 8]
    assert values(FLIGHTS.carrier.cast(float), carrier=["1.5e3", "-.5", "1e999", "nan", "inf"]) == [
        *(1500.0, -0.5),
        *[None] * 3,
    ]


def test_white_space_is_that_of_ascii() -> None:
    assert values(FLIGHTS.carrier.strip(), carrier=[" a b\t\n", "\xa0a", "\x1ca"]) == ["a b", "\xa0a", "\x1ca"]


def test_a_part_of_a_text_is_literal() -> None:
    assert values(FLIGHTS.carrier.contains("."), carrier=["a.b", "ab"]) == [True, False]


def test_times_are_in_utc() -> None:
    tokyo = dt.timezone(dt.timedelta(hours=9))
    monday = dt.datetime(2026, 1, 5, 3, tzinfo=tokyo)  # still Sunday in UTC
    assert values(FLIGHTS.at.hour(), at=[monday]) == [18]
    assert values(FLIGHTS.at.weekday(), at=[monday]) == [6]
    assert values(FLIGHTS.at.seconds_since(monday), at=[monday + dt.timedelta(microseconds=1)]) == [1e-06]


def test_a_list_of_constants_is_looked_up() -> None:
    assert values(FLIGHTS.carrier.is_in(["AA", "B6"]), carrier=["B6", "b6", None]) == [True, False, None]
    assert values(FLIGHTS.delay.is_in([0.5, 1]), delay=[0, 1]) == [False, True]


def test_what_is_missing_can_be_filled() -> None:
    assert values(FLIGHTS.delay.fill_null(0.5), delay=[None, 2]) == [0.5, 2.0]
    assert values(FLIGHTS.carrier.coalesce(Flight.carrier, "?"), carrier=[None, "a"]) == ["?", "a"]
    assert values(FLIGHTS.carrier.concat("-", Flight.carrier), carrier=[None, "a"]) == [None, "a-a"]


@pytest.mark.parametrize("n", [1, 2, 100])
def test_a_quotient_is_the_nearest_float_however_many_events_come_together(n: int) -> None:
    """Dividing by a constant must not become multiplying by its inverse, which is off by a bit."""
    assert values(FLIGHTS.delay / 7.0, delay=[999_999] * n) == [999_999 / 7.0] * n
    assert values(FLIGHTS.share / 1e6, share=[71.0] * n) == [71.0 / 1e6] * n
    later = NOON + dt.timedelta(microseconds=71)
    assert values(FLIGHTS.at.seconds_since(NOON), at=[later] * n) == [71.0 / 1e6] * n
