from __future__ import annotations

import decimal
from datetime import UTC, datetime
from fractions import Fraction
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfti as fti
from streamfti.definitions.decimals import exact_unscaled, from_unscaled, parse_decimal
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import event_schema
from streamfti.errors import ContractError, DefinitionError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
D = decimal.Decimal


class Payment(fti.Event):
    at: fti.EventTime
    amount: fti.Decimal(5, 2)  # type: ignore[valid-type]  # the short form, which checkers do not know
    tip: fti.Decimal(18, 0) | None  # type: ignore[valid-type]
    rate: Annotated[decimal.Decimal, fti.Decimal(4, 4)]
    fee: Annotated[decimal.Decimal, fti.Decimal(4, 2)] | None


def payment(**changes: object) -> Payment:
    values: dict[str, Any] = {"at": NOON, "amount": D("1.50"), "rate": D("0.1"), **changes}
    return Payment(**values)


def test_both_forms_of_the_annotation_say_the_digits() -> None:
    assert {f.name: f.type for f in event_schema(Payment).fields} == {
        "at": ValueType(DType.DATETIME),
        "amount": ValueType(DType.DECIMAL, precision=5, scale=2),
        "tip": ValueType(DType.DECIMAL, nullable=True, precision=18, scale=0),
        "rate": ValueType(DType.DECIMAL, precision=4, scale=4),
        "fee": ValueType(DType.DECIMAL, nullable=True, precision=4, scale=2),
    }
    assert str(event_schema(Payment).field("fee").type) == "decimal(4, 2) or null"
    assert DType.DECIMAL.is_numeric


@pytest.mark.parametrize(
    ("digits", "complaint"),
    [
        ((0, 0), "precision of a Decimal must be a whole number from 1 to 18, got 0"),
        ((19, 2), "precision of a Decimal must be a whole number from 1 to 18, got 19"),
        ((5, 6), "scale of a Decimal must be a whole number from 0 to 5, got 6"),
        ((5, -1), "scale of a Decimal must be a whole number from 0 to 5, got -1"),
        ((True, 0), "precision of a Decimal must be a whole number from 1 to 18, got True"),
        ((5, 2.0), r"scale of a Decimal must be a whole number from 0 to 5, got 2\.0"),
    ],
)
def test_impossible_digits_are_a_definition_error(digits: tuple[Any, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        fti.Decimal(*digits)


def test_a_decimal_without_its_digits_is_a_definition_error() -> None:
    bad = type("Bad", (fti.Event,), {"__annotations__": {"amount": D, "at": fti.EventTime}, "__module__": __name__})
    with pytest.raises(DefinitionError, match=r"field Bad.amount must be .*Decimal\(12, 2\)"):
        event_schema(bad)
    with pytest.raises(DefinitionError, match="must have a precision"):
        ValueType(DType.DECIMAL)


def test_a_value_has_as_many_digits_as_its_field() -> None:
    made = payment(amount=7, tip=D("1E+3"), fee=D("-0.0"))
    assert [str(v) for v in (made.amount, made.tip, made.rate, made.fee)] == ["7.00", "1000", "0.1000", "0.00"]
    assert made == payment(amount=D("7.000"), tip=1000, fee=0)


@pytest.mark.parametrize(
    "value", ["1.501", "1000", "NaN", "sNaN", "Infinity", "-1000.00", "1E+400", "1E-400", "1E+999999999999"]
)
def test_a_value_that_does_not_fit_exactly_is_refused(value: str) -> None:
    with pytest.raises(ContractError, match=r"Payment.amount must fit decimal\(5, 2\) exactly, got"):
        payment(amount=D(value))


@pytest.mark.parametrize("value", ["1.50", True, b"1", 10**30])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(ContractError, match=r"Payment.amount must be decimal\(5, 2\), got"):
        payment(amount=value)


def test_a_float_is_refused_with_a_way_out() -> None:
    with pytest.raises(ContractError, match=r"got 1\.5 \(a float has been rounded already"):
        payment(amount=1.5)


DIGITS = st.integers(1, 18).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p)))


@given(DIGITS, st.decimals(allow_nan=True, allow_infinity=True) | st.decimals(-1000, 1000, places=3))
def test_the_unscaled_value_is_that_of_rational_arithmetic(digits: tuple[int, int], value: decimal.Decimal) -> None:
    precision, scale = digits
    scaled = Fraction(value) * 10**scale if value.is_finite() and abs(value.adjusted()) < 1000 else Fraction(1, 3)
    fits = scaled.denominator == 1 and abs(scaled) < 10**precision
    found = exact_unscaled(value, precision, scale)
    assert found == (int(scaled) if fits or value.is_zero() else None)
    if found is not None:
        assert from_unscaled(found, scale) == value
        assert -from_unscaled(found, scale).as_tuple().exponent == scale  # type: ignore[operator]  # finite


@pytest.mark.parametrize(
    "text", ["1_0", " 1", "1 ", "", ".", "NaN", "inf", "0x1", "٣", "1e", "--1", "1e99999999999999999999"]
)
def test_a_text_that_is_no_number_is_none(text: str) -> None:
    assert parse_decimal(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_it_stands(value: decimal.Decimal) -> None:
    found = parse_decimal(str(value))
    assert found is not None
    assert found.as_tuple() == value.as_tuple()
