from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, cast

import pytest

import streamfti as fti
from streamfti.definitions.dtypes import DType
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import DefinitionError

DAY_US = 86_400_000_000


class Payment(fti.Event):
    card_id: str
    shop: int | None
    online: bool
    cents: int
    amount: float
    at: fti.EventTime


class Refund(fti.Event):
    card_id: str
    cents: int
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment, max_future_skew="5s")


def group_of(body: dict[str, object] | None = None, **options: Any) -> FeatureGroup:  # noqa: ANN401  # what is tested
    cls = type("Spend", (), {"n": fti.count().over("1h")} if body is None else body)
    return fti.feature_group(**{"source": payments, "entity": "card_id", **options})(cls)


@fti.feature_group(source=payments, entity=("shop", "card_id"), version=3)
class ShopSpend:
    """How a card is used in a shop."""

    n = fti.count().over("5m", timedelta(hours=24))
    spend = fti.sum(Payment.cents).over("1h", default=0)
    usual = fti.mean(Payment.cents).over("30d")


shop_spend = cast("FeatureGroup", ShopSpend)


def test_a_class_becomes_a_group() -> None:
    assert (shop_spend.name, shop_spend.version, shop_spend.entity) == ("ShopSpend", 3, ("shop", "card_id"))
    assert shop_spend.doc == "How a card is used in a shop."
    assert [f.name for f in shop_spend.features] == ["n_5m", "n_1d", "spend_1h", "usual_30d"]
    assert [str(f) for f in shop_spend.entity_fields] == ["Payment.shop", "Payment.card_id"]


def test_a_feature_is_an_attribute() -> None:
    spend = shop_spend.spend_1h
    assert spend is shop_spend.feature("spend_1h")
    assert (spend.qualified_name, spend.dtype, spend.default) == ("ShopSpend.spend_1h", DType.INT64, 0)
    assert (spend.window.length_us, spend.window.hop_us) == (3_600_000_000, 300_000_000)
    assert shop_spend.usual_30d.dtype is DType.FLOAT64


@pytest.mark.parametrize("error", [DefinitionError, AttributeError])
def test_an_unknown_feature_offers_the_nearest(error: type[Exception]) -> None:
    with pytest.raises(error, match=r"group 'ShopSpend' has no feature 'spend_1hr'.*did you mean 'spend_1h'\?"):
        _ = shop_spend.feature("spend_1hr") if error is DefinitionError else shop_spend.spend_1hr


def test_names_far_from_any_list_the_known_ones() -> None:
    with pytest.raises(DefinitionError, match=r"known: n_1d, n_5m, spend_1h, usual_30d"):
        shop_spend.feature("xyz")


@pytest.mark.parametrize(
    ("kind", "field", "dtype"),
    [
        (fti.sum, Payment.cents, DType.INT64), (fti.sum, Payment.amount, DType.FLOAT64),
        (fti.sum, Payment.online, DType.INT64), (fti.mean, Payment.cents, DType.FLOAT64),
        (fti.min, Payment.amount, DType.FLOAT64), (fti.last, Payment.cents, DType.INT64),
        (fti.max, Payment.shop, DType.INT64),
    ],
)  # fmt: skip
def test_the_type_of_a_result(kind: Any, field: object, dtype: DType) -> None:  # noqa: ANN401  # any of the functions
    assert [aggregation.dtype for aggregation in kind(field).aggregations] == [dtype]


@pytest.mark.parametrize("kind", ["sum", "mean", "min", "max", "variance", "stddev"])
def test_an_aggregation_is_of_a_field_of_numbers(kind: str) -> None:
    of_number = getattr(fti, kind)
    with pytest.raises(DefinitionError, match=rf"{kind}\(\) must be given a field of an event class.*got 3"):
        of_number(3)
    with pytest.raises(DefinitionError, match=rf"{kind}\(\) must be given a field of numbers, got Payment.card_id"):
        of_number(Payment.card_id)
    with pytest.raises(DefinitionError, match=rf"{kind}\(\) must be given a field of numbers, got Payment.at"):
        of_number(Payment.at)


def test_an_aggregation_names_a_window() -> None:
    with pytest.raises(DefinitionError, match=r"count\(\)\.over\(\) must name at least one window.*for example"):
        fti.count().over()


def test_a_window_stands_once() -> None:
    with pytest.raises(DefinitionError, match=r"must not name a window twice, got \['1d', '1d'\]"):
        fti.count().over("1d", timedelta(days=1))


def test_a_count_takes_no_default() -> None:
    with pytest.raises(DefinitionError, match=r"count\(\) of an empty window is 0 and takes no default"):
        fti.count().over("1h", default=1)


@pytest.mark.parametrize("default", [0.5, float("nan"), float("inf"), 2**63])
def test_a_default_is_a_value_of_the_feature(default: float) -> None:
    """An integer feature would serve 0 for 0.5, and raise for the others when it is read."""
    with pytest.raises(DefinitionError, match=r"default"):
        fti.sum(Payment.cents).over("1h", default=default)


@pytest.mark.parametrize("version", [0, -1])
def test_versions_begin_at_one(version: int) -> None:
    with pytest.raises(DefinitionError, match=f"group 'Spend' must have a version from 1 up, got {version}"):
        group_of(version=version)


def test_a_group_has_a_feature() -> None:
    with pytest.raises(DefinitionError, match=r"group 'Spend' must have at least one feature.*add a line"):
        group_of({})


@pytest.mark.parametrize("body", [{"n": fti.count()}, {"n": 3}, {"n": len}])
def test_a_group_is_made_of_windowed_aggregations(body: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match=r"Spend.n must be an aggregation over windows, got.*forget .over"):
        group_of(body)


def test_a_feature_uses_a_field_of_its_own_source() -> None:
    with pytest.raises(DefinitionError, match=r"feature 'Spend.n_1h' must use a field of Payment, got Refund.cents"):
        group_of({"n": fti.sum(Refund.cents).over("1h")})


def test_two_attributes_cannot_give_one_feature_name() -> None:
    body: dict[str, object] = {"n": fti.count().over("1h"), "m": fti.count().over("1h")}
    assert len(group_of(body).features) == 2
    features = group_of().features * 2
    with pytest.raises(DefinitionError, match=r"group 'Spend' must not have two features named 'n_1h'"):
        FeatureGroup("Spend", 1, payments, ("card_id",), features, 1)


def test_an_entity_key_is_a_field() -> None:
    with pytest.raises(DefinitionError, match=r"event 'Payment' has no field 'card'.*did you mean 'card_id'\?"):
        group_of(entity="card")


@pytest.mark.parametrize("name", ["amount", "at"])
def test_an_entity_key_is_exact(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"entity key Payment.{name} must be str, int or bool, got"):
        group_of(entity=name)


@pytest.mark.parametrize("entity", [(), ("card_id", "card_id")])
def test_an_entity_key_has_fields_and_each_once(entity: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError, match=r"feature group 'Spend'.*entity"):
        group_of(entity=entity)


def test_how_fresh_a_group_must_be_is_no_part_of_what_it_means() -> None:
    assert group_of().max_staleness_us is None
    assert group_of(max_staleness="3s").max_staleness_us == 3_000_000
    assert group_fingerprint(group_of(max_staleness="1m")) == group_fingerprint(group_of())


@pytest.mark.parametrize("max_staleness", ["2s", timedelta(milliseconds=2_999)])
def test_a_group_cannot_be_fresher_than_is_told(max_staleness: str | timedelta) -> None:
    with pytest.raises(DefinitionError, match=r"max_staleness of feature group 'Spend' must be at least 3s, got"):
        group_of(max_staleness=max_staleness)


@pytest.mark.parametrize("max_staleness", ["soon", 60])
def test_how_fresh_a_group_must_be_is_a_duration(max_staleness: object) -> None:
    with pytest.raises(DefinitionError, match=r"max_staleness of feature group 'Spend' must be"):
        group_of(max_staleness=max_staleness)


def test_the_retention_is_twice_the_longest_window_and_a_day() -> None:
    assert shop_spend.retention_us == 61 * DAY_US
    assert group_of(retention="7d").retention_us == 7 * DAY_US


def test_the_retention_covers_the_longest_window() -> None:
    with pytest.raises(DefinitionError, match=r"retention of feature group 'Spend' must be at least its longest"):
        group_of(retention="5m")


def test_a_source_names_its_topic() -> None:
    with pytest.raises(DefinitionError, match=r"a KafkaSource must name its topic, got ''"):
        fti.KafkaSource("", Payment)


def test_a_source_reads_its_skew() -> None:
    assert payments.max_future_skew_us == 5_000_000
    assert fti.KafkaSource("p", Payment).max_future_skew_us == 30_000_000
    with pytest.raises(DefinitionError, match=r"max_future_skew of source 'p' must be a duration"):
        fti.KafkaSource("p", Payment, max_future_skew="soon")


def test_a_source_has_the_name_of_its_topic() -> None:
    assert (payments.name, payments.dead_letter_topic) == ("payments", "payments.dead-letters")
    assert payments.schema.name == "Payment"


def test_a_lifetime_has_no_label_and_keeps_the_record_for_ever() -> None:
    group = group_of({"n": fti.count().lifetime(), "seen": fti.time_since_last(expires_after="90d")})
    assert [f.name for f in group.features] == ["n", "seen"]
    assert group.retention_us is None
    assert group.n is group.feature("n")
    assert group.n.reach_us is None
    with pytest.raises(DefinitionError, match=r"retention.*must not be given.*'7d'"):
        group_of({"n": fti.count().lifetime()}, retention="7d")


def test_several_outputs_are_several_features() -> None:
    group = group_of(
        {"recent": fti.last_n(Payment.cents, 2).over("1h", "24h"), "old": fti.last_n(Payment.shop, 2).lifetime()}
    )
    assert [f.name for f in group.features] == [
        "recent_1h_1", "recent_1h_2", "recent_24h_1", "recent_24h_2", "old_1", "old_2",
    ]  # fmt: skip
    assert group.recent["24h_2"] is group.feature("recent_24h_2")
    assert group.old["2"] is group.feature("old_2")
    assert {f.attribute for f in group.features} == {"recent", "old"}
    with pytest.raises(DefinitionError, match=r"last_n\(\) must be taken over the window '24h_3'.*did you mean"):
        _ = group.recent["24h_3"]


@pytest.mark.parametrize("n", [0, 33])
def test_the_last_n_are_few(n: int) -> None:
    with pytest.raises(DefinitionError, match=rf"last_n\(\) must keep from 1 to 32 values, got {n}"):
        fti.last_n(Payment.cents, n)


def test_what_expires_is_kept_until_then() -> None:
    group = group_of({"n": fti.count().over("1h", expires_after="90d")})
    assert group.retention_us == 181 * DAY_US
    assert group.feature("n_1h").reach_us == 90 * DAY_US
    with pytest.raises(DefinitionError, match=r"at least its longest window and expires_after, got '30d'"):
        group_of({"n": fti.count().over("1h", expires_after="90d")}, retention="30d")


def test_there_are_no_features_of_datetimes() -> None:
    at: Any = Payment.at
    with pytest.raises(DefinitionError, match=r"Payment.at is a datetime.*time_since_last"):
        fti.last(at)


@pytest.mark.parametrize(("default", "got"), [("none", "'none'"), (math.nan, "nan"), (0.5, "0.5")])
def test_a_default_is_of_the_type_of_the_values(default: float | str, got: str) -> None:
    with pytest.raises(DefinitionError, match=rf"the default of sum\(\).*got {got}"):
        fti.sum(Payment.cents).over("1h", default=default)


def test_an_aggregation_of_ones_own_needs_a_kind() -> None:
    with pytest.raises(DefinitionError, match=r"must be given a subclass of Aggregator that has a kind, got 3"):
        fti.aggregate(3, Payment.cents)  # type: ignore[arg-type]
