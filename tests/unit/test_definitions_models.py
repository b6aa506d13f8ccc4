from __future__ import annotations

import decimal
from dataclasses import replace
from typing import Annotated, Any

import pytest

import streamfti as fti
from streamfti.definitions.models import Model, Task
from streamfti.errors import DefinitionError


class Order(fti.Event):
    order_id: int
    card_id: str
    amount: float
    at: fti.EventTime


class Chargeback(fti.Event):
    order_id: int
    cents: int
    fraud: bool
    reason: str
    at: fti.EventTime


class Anonymous(fti.Event):
    order_id: int
    amount: float
    at: fti.EventTime


class Mistyped(fti.Event):
    order_id: str
    card_id: str
    amount: int
    at: fti.EventTime


orders = fti.KafkaSource("orders", Order)
chargebacks = fti.KafkaSource("chargebacks", Chargeback)


@fti.feature_group(source=orders, entity="card_id")
class Card:
    n = fti.count().over("1h")


card: Any = Card  # mypy ignores what class decorators return
service = fti.FeatureService("fraud", [fti.request("amount", float), card])


def label_of(value: object, **options: Any) -> Any:  # noqa: ANN401  # what is tested
    return fti.label(value, **{"source": chargebacks, "on": "order_id", "within": "60d", **options})


def model_of(label: Any, spine: fti.KafkaSource = orders, task: Task = "binary") -> Model:  # noqa: ANN401  # as above
    @fti.model("fraud", features=service, spine=spine, label=label, task=task)
    def train(data: object) -> object:
        """Fit."""
        return data

    return train


def test_a_function_becomes_a_model() -> None:
    model = model_of(label_of(Chargeback.cents > 0))
    assert (model.name, model.task, model.doc, model.train(3)) == ("fraud", "binary", "Fit.", 3)
    assert (model.features, model.spine, model.label.within_us) == (service, orders, 60 * 86_400_000_000)
    assert [str(field) for field in model.label.fields] == ["Chargeback.cents"]


def test_a_label_may_be_a_bool_or_a_number() -> None:
    assert model_of(label_of(Chargeback.fraud)).task == "binary"
    assert model_of(label_of(Chargeback.cents), task="regression").task == "regression"


@pytest.mark.parametrize("value", [3, "cents", True])
def test_a_label_is_a_field_or_a_condition(value: object) -> None:
    with pytest.raises(
        DefinitionError, match=r"a label must be a field of Chargeback or an expression of its fields, got"
    ):
        label_of(value)


def test_a_label_is_a_number() -> None:
    with pytest.raises(
        DefinitionError, match=r"a label must be a number or a condition, got Chargeback\.reason.*compare"
    ):
        label_of(Chargeback.reason)


def test_a_label_is_of_its_source() -> None:
    with pytest.raises(DefinitionError, match=r"'chargebacks' must use fields of Chargeback, got Order\.order_id"):
        label_of(Order.order_id)
    with pytest.raises(DefinitionError, match=r"event 'Chargeback' has no field 'amount'"):
        label_of(Order.amount)


def test_a_label_is_found_by_a_field_of_both_events() -> None:
    with pytest.raises(DefinitionError, match=r"event 'Chargeback' has no field 'order'.*did you mean 'order_id'"):
        label_of(Chargeback.fraud, on="order")
    with pytest.raises(DefinitionError, match=r"event 'Order' has no field 'reason'"):
        model_of(label_of(Chargeback.fraud, on="reason"))


def test_a_label_is_bounded_in_time() -> None:
    with pytest.raises(DefinitionError, match=r"within of a label must be a duration"):
        label_of(Chargeback.fraud, within="soon")


def test_the_spine_has_every_field_that_requests_carry() -> None:
    with pytest.raises(DefinitionError, match=r"event 'Anonymous' has no field 'card_id'"):
        model_of(label_of(Chargeback.fraud), fti.KafkaSource("anonymous", Anonymous))


def test_the_spine_has_them_with_their_types() -> None:
    with pytest.raises(
        DefinitionError, match=r"field 'amount' of spine event Mistyped must be float64 as in.*got int64"
    ):
        model_of(label_of(Chargeback.fraud), fti.KafkaSource("mistyped", Mistyped))


class Exact(fti.Event):
    order_id: int
    card_id: str
    amount: Annotated[decimal.Decimal, fti.Decimal(12, 2)]
    at: fti.EventTime


def test_a_decimal_of_the_spine_is_asked_for_as_a_float() -> None:
    spine = fti.KafkaSource("exact", Exact)
    assert model_of(label_of(Chargeback.fraud), spine).spine is spine


class Reference(fti.Event):
    order_id: str
    fraud: bool
    at: fti.EventTime


def test_spine_and_label_agree_on_the_type_of_what_they_share() -> None:
    references = fti.KafkaSource("references", Reference)
    with pytest.raises(DefinitionError, match=r"order_id"):
        model_of(label_of(Reference.fraud, source=references))


def test_a_binary_label_is_a_condition_or_a_bool() -> None:
    with pytest.raises(DefinitionError, match=r"of binary model 'fraud' must be a condition or a bool, got int64"):
        model_of(label_of(Chargeback.cents))


@pytest.mark.parametrize(("field", "constant"), [(Chargeback.reason, 3), (Chargeback.cents, "many")])
def test_a_condition_compares_like_with_like(field: Any, constant: object) -> None:  # noqa: ANN401  # wrong on purpose
    with pytest.raises(DefinitionError, match=r"Chargeback"):
        label_of(field == constant)


def test_labels_are_not_found_by_an_on_demand_feature() -> None:
    @fti.on_demand(amount=fti.request("amount", float), dtype=float)
    def order_id(amount: fti.Column) -> fti.Column:
        return amount

    features = fti.FeatureService("fraud", [order_id, card])
    with pytest.raises(DefinitionError, match="model 'fraud' must not have an on-demand feature 'order_id'"):
        replace(model_of(label_of(Chargeback.fraud)), features=features)
