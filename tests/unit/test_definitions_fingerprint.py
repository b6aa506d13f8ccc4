"""A fingerprint changes if and only if the meaning of a value does."""

from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.definitions.fingerprint import group_fingerprint, service_fingerprint
from streamfti.definitions.groups import FeatureGroup


class Payment(fti.Event):
    card_id: str
    shop: int | None
    cents: int
    amount: float
    at: fti.EventTime


def source_of(**options: Any) -> fti.KafkaSource:  # noqa: ANN401  # what is tested
    return fti.KafkaSource(**{"topic": "payments", "event": Payment, "max_future_skew": "30s", **options})


def group_of(
    body: dict[str, object] | None = None,
    *,
    name: str = "Card",
    doc: str = "",
    source: dict[str, Any] | None = None,
    **options: Any,  # noqa: ANN401  # what is tested
) -> FeatureGroup:
    standard = {"n": fti.count().over("1h"), "spend": fti.sum(Payment.cents).over("1h", "24h", default=0)}
    cls = type(name, (), {"__doc__": doc, **(body or standard)})
    return fti.feature_group(**{"source": source_of(**source or {}), "entity": "card_id", **options})(cls)


def service_of(group: FeatureGroup, name: str = "fraud", inputs: str = "all") -> fti.FeatureService:
    amount = fti.request("amount", float)
    members: dict[str, list[Any]] = {"all": [amount, group], "one": [amount, group.spend_1h], "turned": [group, amount]}
    return fti.FeatureService(name, members[inputs], groups=[group])


STANDARD = {"n": fti.count().over("1h"), "spend": fti.sum(Payment.cents).over("1h", "24h", default=0)}


def test_the_fingerprints_of_two_definitions_are_what_models_already_carry() -> None:
    """A change here means that every model in every registry is refused: raise versions instead."""
    assert group_fingerprint(group_of()) == GOLDEN_GROUP
    assert service_fingerprint(service_of(group_of())) == GOLDEN_SERVICE


GOLDEN_GROUP = "dd97aa9fbbee490b1f3ee960c377456b20341807da5031e21549a4d93ed3c507"
GOLDEN_SERVICE = "6450e62d6661df6f46bbfd3fa4f61017bd3798af33bfcb79ba6b5b415cc4b892"


class Renamed(fti.Event):
    """The same events, another class, more fields."""

    extra: bool
    amount: float
    cents: int
    shop: int | None
    card_id: str
    at: fti.EventTime


def renamed() -> FeatureGroup:
    body: dict[str, object] = {
        "n": fti.count().over("1h"),
        "spend": fti.sum(Renamed.cents).over("1h", "24h", default=0),
    }
    return group_of(body, source={"event": Renamed})


@pytest.mark.parametrize(
    "group",
    [
        group_of(doc="Another text."),
        group_of(retention="90d"),
        group_of(source={"max_future_skew": "0030s"}),
        group_of({"n": fti.count().over("1h", hop="5m"), "spend": STANDARD["spend"]}),
        group_of({"n": STANDARD["n"], "spend": fti.sum(Payment.cents).over("1h", "24h", default=0.0)}),
        renamed(),
    ],
    ids=["doc", "retention", "skew spelt otherwise", "hop spelt out", "default as a float", "event class"],
)
def test_what_does_not_change_a_value_changes_no_fingerprint(group: FeatureGroup) -> None:
    assert group_fingerprint(group) == group_fingerprint(group_of())
    assert service_fingerprint(service_of(group)) == service_fingerprint(service_of(group_of()))


@pytest.mark.parametrize(
    "group",
    [
        group_of(version=2),
        group_of(name="Cards"),
        group_of(entity="shop"),
        group_of(entity=("card_id", "shop")),
        group_of(source={"topic": "other"}),
        group_of(source={"max_future_skew": "31s"}),
        group_of({"n": fti.count().over("1h", hop="1m"), "spend": STANDARD["spend"]}),
        group_of({"m": STANDARD["n"], "spend": STANDARD["spend"]}),
        group_of({"n": STANDARD["n"], "spend": fti.sum(Payment.cents).over("1h", "24h")}),
        group_of({"n": STANDARD["n"], "spend": fti.sum(Payment.cents).over("1h", "24h", default=1)}),
        group_of({"n": STANDARD["n"], "spend": fti.sum(Payment.amount).over("1h", "24h", default=0)}),
        group_of({"n": STANDARD["n"], "spend": fti.mean(Payment.cents).over("1h", "24h", default=0)}),
        group_of({"spend": STANDARD["spend"], "n": STANDARD["n"]}),
    ],
    ids=[
        "version", "name", "entity", "composite", "topic", "skew", "hop", "feature name", "no default", "default",
        "field", "kind", "order",
    ],
)  # fmt: skip
def test_what_changes_a_value_changes_the_fingerprints(group: FeatureGroup) -> None:
    assert group_fingerprint(group) != group_fingerprint(group_of())
    assert service_fingerprint(service_of(group)) != service_fingerprint(service_of(group_of()))


def test_a_new_feature_in_a_group_does_not_disturb_models_on_the_others() -> None:
    more = group_of({**STANDARD, "more": fti.max(Payment.cents).over("1h")})
    assert group_fingerprint(more) != group_fingerprint(group_of())
    assert service_fingerprint(service_of(more, inputs="one")) == service_fingerprint(
        service_of(group_of(), inputs="one")
    )


def test_a_service_means_its_name_its_inputs_and_their_order() -> None:
    found = {
        service_fingerprint(service_of(group_of(), name, inputs))
        for name, inputs in [("fraud", "all"), ("spam", "all"), ("fraud", "one"), ("fraud", "turned")]
    }
    assert len(found) == 4
