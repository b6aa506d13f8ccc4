from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.definitions.dtypes import DType
from streamfti.errors import DefinitionError


class Payment(fti.Event):
    card_id: str
    shop: int
    cents: int
    at: fti.EventTime


class Visit(fti.Event):
    shop: str
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)
visits = fti.KafkaSource("visits", Visit)


@fti.feature_group(source=payments, entity="card_id")
class Card:
    n = fti.count().over("1h")
    spend = fti.sum(Payment.cents).over("1h", "24h")


@fti.feature_group(source=payments, entity=("shop", "card_id"))
class AtShop:
    n = fti.count().over("1h")


@fti.feature_group(source=visits, entity="shop")
class ShopVisits:
    n = fti.count().over("1h")


card: Any = Card  # mypy ignores what class decorators return
at_shop: Any = AtShop
shop_visits: Any = ShopVisits


def test_inputs_are_in_the_order_given_and_groups_unfold() -> None:
    service = fti.FeatureService("s", [fti.request("amount", float), card, at_shop.n_1h], groups=[at_shop])
    assert [i.qualified_name for i in service.inputs] == [
        "amount", "Card.n_1h", "Card.spend_1h", "Card.spend_24h", "AtShop.n_1h",
    ]  # fmt: skip
    assert service.groups == (card, at_shop)
    assert [f.name for f in service.features_of(card)] == ["n_1h", "spend_1h", "spend_24h"]
    assert list(service.entity_fields) == ["card_id", "shop"]
    assert service.request_fields == {"card_id": DType.STRING, "shop": DType.INT64, "amount": DType.FLOAT64}


def test_only_groups_in_use_belong_to_a_service() -> None:
    assert fti.FeatureService("s", [card.n_1h], groups=[card, at_shop]).groups == (card,)


@pytest.mark.parametrize(("kind", "dtype"), [(str, "string"), (int, "int64"), (float, "float64"), (bool, "bool")])
def test_the_types_of_request_features(kind: type, dtype: str) -> None:
    assert fti.request("x", kind).dtype.value == dtype


@pytest.mark.parametrize("kind", [bytes, list, None, "float"])
def test_a_request_feature_has_one_of_four_types(kind: Any) -> None:  # noqa: ANN401  # wrong on purpose
    with pytest.raises(DefinitionError, match="request feature 'x' must be of type str, int, float or bool, got"):
        fti.request("x", kind)


def test_an_input_stands_once() -> None:
    with pytest.raises(DefinitionError, match=r"service 's' must not have the input 'Card\.n_1h' twice"):
        fti.FeatureService("s", [card, card.n_1h])
    with pytest.raises(DefinitionError, match="service 's' must not have the input 'a' twice"):
        fti.FeatureService("s", [fti.request("a", int), fti.request("a", int)])


def test_a_service_has_an_input() -> None:
    with pytest.raises(DefinitionError, match="service 's' must have at least one input"):
        fti.FeatureService("s", [])


def test_a_service_is_made_of_three_kinds() -> None:
    with pytest.raises(
        DefinitionError,
        match="service 's' must be made of request features, groups, features and on-demand features, got 3",
    ):
        fti.FeatureService("s", [3])  # type: ignore[list-item]  # wrong on purpose


def test_a_single_feature_needs_its_group() -> None:
    with pytest.raises(DefinitionError, match=r"uses 'Card\.n_1h' and must be given its group.*groups=\[Card\]"):
        fti.FeatureService("s", [card.n_1h])


def test_a_request_field_has_one_type() -> None:
    with pytest.raises(DefinitionError, match="'shop' in feature service 's' must have one type, got int64 and string"):
        fti.FeatureService("s", [at_shop, shop_visits])
    with pytest.raises(DefinitionError, match="'card_id' in feature service 's' must have one type"):
        fti.FeatureService("s", [card, fti.request("card_id", int)])


def test_a_request_feature_may_be_an_entity_key_too() -> None:
    service = fti.FeatureService("s", [card, fti.request("card_id", str)])
    assert service.request_fields == {"card_id": DType.STRING}


def test_two_groups_of_one_name_are_not_confused() -> None:
    other = fti.feature_group(source=visits, entity="shop")(type("Card", (), {"n": fti.count().over("24h")}))
    with pytest.raises(DefinitionError, match="Card"):
        fti.FeatureService("s", [card, other])
