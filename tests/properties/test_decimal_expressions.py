"""Decimals in expressions: exact, whatever the digits, or null where there are too many of them."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

import streamfti as fti
from streamfti.compute.expressions import evaluate
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import event_schema
from streamfti.definitions.expressions import Expression
from streamfti.errors import DefinitionError
from streamfti.testing.event_frames import frame_schema
from streamfti.testing.naive_expressions import naive_value


class Bill(fti.Event):
    euros: Annotated[decimal.Decimal, fti.Decimal(12, 2)]
    tip: Annotated[decimal.Decimal, fti.Decimal(9, 2)] | None
    rate: Annotated[decimal.Decimal, fti.Decimal(18, 9)]
    fine: Annotated[decimal.Decimal, fti.Decimal(18, 18)]
    large: Annotated[decimal.Decimal, fti.Decimal(18, 0)]
    n: int
    paid: bool | None
    at: fti.EventTime


B: Any = Bill  # fields are expressions at run time
SCHEMA = event_schema(Bill)
FIELDS = {field.name: field for field in SCHEMA.fields if field.name != "at"}


def values_of(name: str) -> st.SearchStrategy[object]:
    value_type = FIELDS[name].type
    if value_type.dtype is DType.DECIMAL:
        largest = 10**value_type.precision - 1
        unscaled = st.integers(-3, 3) | st.integers(-largest, largest) | st.sampled_from([largest, -largest])
        values: st.SearchStrategy[object] = unscaled.map(lambda number: from_unscaled(number, value_type.scale))
    elif value_type.dtype is DType.INT64:
        values = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
    else:
        values = st.booleans()
    return st.none() | values if value_type.nullable else values


rows = st.lists(st.fixed_dictionaries({name: values_of(name) for name in FIELDS}), max_size=6)
constants = st.sampled_from(["0", "0.1", "-0.010", "1.5", "123456789.000000001", "999999999999999999", "1E+3"]).map(
    decimal.Decimal
) | st.integers(-5, 5)
leaves: st.SearchStrategy[Any] = st.sampled_from(list(FIELDS.values()))

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b, "==": lambda a, b: a == b, "turned": lambda a, b: b - a,
    "least": lambda a, b: a.least(b), "fill": lambda a, b: a.fill_null(b), "in": lambda a, b: a.is_in([b, 1]),
    "when": lambda a, b: fti.when(B.paid, a, b), "negative": lambda a, _: -a, "abs": lambda a, _: abs(a),
    "float": lambda a, _: a.cast(float), "null": lambda a, _: a.is_null(),
}  # fmt: skip


@st.composite
def expressions(draw: st.DrawFn) -> Expression:
    """One operation, or two of them, that decimals take."""
    try:
        expression = BINARY[draw(st.sampled_from(list(BINARY)))](draw(leaves), draw(leaves | constants))
        if draw(st.booleans()):
            expression = BINARY[draw(st.sampled_from(list(BINARY)))](expression, draw(leaves | constants))
    except DefinitionError:
        reject()
    if not isinstance(expression, Expression):
        reject()
    return expression


def frame_of(found: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    columns = {name: dtype for name, dtype in frame_schema(SCHEMA).items() if not name.startswith("_")}
    return pl.DataFrame([{**row, "at": at} for row in found], schema=columns)


@given(expression=expressions(), found=rows)
def test_columns_equal_plain_python_event_by_event(expression: Expression, found: list[dict[str, object]]) -> None:
    values = evaluate(expression, frame_of(found))
    assert values.to_list() == [naive_value(expression, row) for row in found]
    assert expression.type.nullable or values.null_count() == 0


def test_products_and_sums_keep_every_digit() -> None:
    row = {"euros": decimal.Decimal("0.10"), "tip": None, "rate": decimal.Decimal("0.000000001"), "n": 3, "paid": None}
    frame = frame_of([{**row, "fine": decimal.Decimal(0), "large": decimal.Decimal(10**17)}])
    assert evaluate(B.euros * B.rate, frame).item() == decimal.Decimal("0.00000000010")
    assert evaluate(B.euros + B.rate, frame).item() == decimal.Decimal("0.100000001")
    assert evaluate(B.large * 10, frame).item() is None
    assert evaluate(B.euros * 3 == decimal.Decimal("0.3"), frame).item() is True


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: B.euros * 0.5,
            r"`\*` must be given two numbers, got Bill.euros, which is decimal\(12, 2\)",
        ),
        (lambda: B.euros > 0.5, r"`>` must be given .*cast\(float\)"),
        (lambda: B.euros / 2, r"`/` must be given two numbers.*cast\(float\)"),
        (lambda: B.rate * B.fine, r"`\*` must be given two numbers"),
        (lambda: B.euros.fill_null(B.rate), r"decimals of one scale"),
        (lambda: B.euros.cast(int), r"`int` must be given a number but no decimal"),
        (lambda: B.euros > decimal.Decimal("NaN"), r"a decimal of 18 digits"),
        (lambda: B.euros > decimal.Decimal("1E+18"), r"a decimal of 18 digits"),
    ],
)
def test_what_would_not_be_exact_is_refused(build: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        build()
