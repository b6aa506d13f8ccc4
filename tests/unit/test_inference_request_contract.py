"""What a request must carry: every wrong field is named, with what it must be and what came."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

import streamfti as fti
from streamfti.clock import ManualClock, to_us
from streamfti.definitions.dtypes import DType
from streamfti.errors import InvalidRequest
from streamfti.inference_pipeline.request_contract import MAX_ROWS, QueryTime, RequestContract
from streamfti.inference_pipeline.tables import InputColumn, RequestField

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Payment(fti.Event):
    card_id: str
    shop: int | None
    cents: int
    at: fti.EventTime


class Order(fti.Event):
    order_id: str
    card_id: str | None
    shop: int
    amount: float
    night: bool
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)
orders = fti.KafkaSource("orders", Order)


@fti.feature_group(source=payments, entity="card_id")
class Card:
    n = fti.count().over("1h")


@fti.feature_group(source=payments, entity="shop")
class Shop:
    n = fti.count().over("1h")


groups: list[Any] = [Card, Shop]  # mypy ignores what class decorators return
service = fti.FeatureService(
    "fraud", [fti.request("amount", float), fti.request("night", bool), fti.request("shop", int), *groups]
)
own_keys = fti.FeatureService("own", groups)
model = RequestContract.of_model("fraud", service, orders)
stored = RequestContract.of_service(own_keys)

GOOD: dict[str, list[Any]] = {"card_id": ["c1"], "amount": [1.5], "night": [True], "shop": [7]}


def columns(**changed: list[Any] | None) -> dict[str, InputColumn]:
    rows = {name: values for name, values in {**GOOD, **changed}.items() if values is not None}
    return {name: InputColumn.of(name, values) for name, values in rows.items()}


def test_a_model_wants_entity_keys_then_request_features() -> None:
    assert model.fields == (
        RequestField("card_id", DType.STRING, nullable=True, optional=True),  # the spine may have it null
        RequestField("shop", DType.INT64, nullable=True, optional=False),  # a request feature too
        RequestField("amount", DType.FLOAT64, nullable=True, optional=False),
        RequestField("night", DType.BOOL, nullable=True, optional=False),
    )


def test_a_read_of_stored_features_wants_entity_keys_alone() -> None:
    assert stored.fields == (
        RequestField("card_id", DType.STRING, nullable=False, optional=False),
        RequestField("shop", DType.INT64, nullable=True, optional=True),
    )


def test_a_good_request_is_complete_and_typed() -> None:
    table = model.check(columns(card_id=None, amount=[3], night=[None]))
    assert table.n_rows == 1
    assert {name: column.values for name, column in table.columns.items()} == {
        "card_id": [None],
        "shop": [7],
        "amount": [3.0],
        "night": [None],
    }
    assert type(table.columns["amount"].values[0]) is float
    assert table.columns["night"].dtype is DType.BOOL


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"amonut": [1.0]}, "model 'fraud' has no field 'amonut' (did you mean 'amount'?)"),
        ({"amount": None}, "field 'amount' of model 'fraud' must be float64 or null, got nothing (it must be sent"),
        ({"amount": ["1.5"]}, "field 'amount' of model 'fraud' must be float64 or null, got string '1.5'"),
        ({"amount": [True]}, "field 'amount' of model 'fraud' must be float64 or null, got bool True"),
        ({"shop": [7.0]}, "field 'shop' of model 'fraud' must be int64 or null, got float64 7.0"),
        ({"card_id": [7]}, "field 'card_id' of model 'fraud' must be string or null, got int64 7"),
        ({"night": [0]}, "field 'night' of model 'fraud' must be bool or null, got int64 0"),
        ({"amount": [float("nan")]}, "field 'amount' of model 'fraud' must be finite, got nan in row 0"),
        ({"amount": [float("inf")]}, "must be finite, got inf in row 0 (a value that is not known is null)"),
        ({"amount": [-3.5e38]}, "field 'amount' of model 'fraud' must fit a float32, got -3.5e+38 in row 0"),
        ({"amount": [2**53 + 1]}, "must be float64 or null, got the integer 9007199254740993 (an integer beyond"),
        ({"amount": [1.0, 2.0]}, "field 'amount' must have 1 rows as 'card_id' has, got 2"),
        ({"card_id": ["x" * 10_000], "amount": ["y" * 10_000]}, "got string 'yyy"),
    ],
)
def test_a_wrong_field_is_named(changed: dict[str, list[Any] | None], message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
        model.check(columns(**changed))
    assert len(str(caught.value)) < 300


def test_a_key_that_may_not_be_null_is_refused_where_it_is() -> None:
    keys = {"card_id": InputColumn.of("card_id", ["c1", None])}
    with pytest.raises(
        InvalidRequest, match="field 'card_id' of feature service 'own' must be string, got null in row 1"
    ):
        stored.check(keys)


def test_a_request_feature_is_no_field_of_a_read_of_stored_features() -> None:
    keys = {"card_id": InputColumn.of("card_id", ["c1"]), "amount": InputColumn.of("amount", [1.0])}
    with pytest.raises(InvalidRequest, match=r"feature service 'own' has no field 'amount' \(known: card_id, shop"):
        stored.check(keys)


@pytest.mark.parametrize("n_rows", [0, MAX_ROWS + 1])
def test_the_number_of_rows_is_bounded(n_rows: int) -> None:
    with pytest.raises(InvalidRequest, match=f"must have 1 to {MAX_ROWS} rows, got {n_rows}"):
        stored.check({"card_id": InputColumn(DType.STRING, ["c"] * n_rows)})


def test_an_empty_request_says_what_is_missing() -> None:
    with pytest.raises(InvalidRequest, match="field 'shop' of model 'fraud' must be int64 or null, got nothing"):
        model.check({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([NOW], "field 'f' must hold str, int, float, bool or None, got datetime"),
        (["a", 1], "field 'f' must hold values of one type, got int and str"),
        ([2**63], "field 'f' must hold integers of 64 bits, got 9223372036854775808"),
    ],
)
def test_values_that_no_request_can_carry_are_refused(values: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        InputColumn.of("f", values)


def test_integers_among_floats_are_floats() -> None:
    assert InputColumn.of("f", [1, 2.5, None]) == InputColumn(DType.FLOAT64, [1.0, 2.5, None])


def test_the_query_time_is_the_clock_or_what_the_caller_says() -> None:
    clock = ManualClock(NOW)
    assert QueryTime.of(None, clock) == QueryTime(to_us(NOW), explicit=False, asked_at_us=to_us(NOW))
    assert QueryTime.of(5, clock) == QueryTime(5, explicit=True, asked_at_us=to_us(NOW))


@pytest.mark.parametrize("as_of_us", [2**62, -(2**62)])
def test_a_query_time_that_no_calendar_has_is_refused(as_of_us: int) -> None:
    with pytest.raises(InvalidRequest, match=r"as_of_us must lie between .* got .* \(it is in microseconds"):
        QueryTime.of(as_of_us, ManualClock(NOW))


@fti.on_demand(amount=fti.request("amount", float), usual=fti.request("usual", float), dtype=float)
def ratio(amount: fti.Column, usual: fti.Column) -> fti.Column:
    return amount / usual


def test_only_what_a_model_is_given_must_fit_a_float32() -> None:
    asked = fti.FeatureService("asked", [fti.request("amount", float), ratio])
    contract = RequestContract.of_model("m", asked, orders)
    large, usual = InputColumn.of("x", [1e300]), InputColumn.of("x", [1.0])
    assert contract.check({"amount": usual, "usual": large}).columns["usual"].values == [1e300]
    with pytest.raises(InvalidRequest, match="field 'amount' of model 'm' must fit a float32, got 1e"):
        contract.check({"amount": large, "usual": usual})
    with pytest.raises(InvalidRequest, match="field 'usual' of model 'm' must be finite, got inf"):
        contract.check({"amount": usual, "usual": InputColumn.of("x", [float("inf")])})
    with pytest.raises(InvalidRequest, match="field 'usual' of model 'm' must be float64 or null, got nothing"):
        contract.check({"amount": usual})


def test_a_read_of_features_may_leave_out_what_on_demand_features_need_and_takes_no_other() -> None:
    asked = fti.FeatureService("asked", [fti.request("unused", float), ratio, *groups])
    fields = RequestContract.of_service(asked).fields
    assert [(f.name, f.nullable, f.optional) for f in fields] == [
        ("card_id", False, False), ("shop", True, True), ("amount", True, True), ("usual", True, True),
    ]  # fmt: skip
