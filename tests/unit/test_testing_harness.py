"""The harness is what users test their features with: it says what the pipelines would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamfti as fti
from streamfti.compute.values import Status
from streamfti.errors import ContractError, DefinitionError, ServingError, TrainingError
from streamfti.testing.harness import Harness

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Payment(fti.Event):
    card_id: str
    shop: int | None
    amount: float
    cents: int
    at: fti.EventTime


class Visit(fti.Event):
    shop: int
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment, max_future_skew="30s")
visits = fti.KafkaSource("visits", Visit)


@fti.feature_group(source=payments, entity="card_id")
class CardSpend:
    n = fti.count().over("5m", "1h")
    spend = fti.sum(Payment.cents).over("1h", default=0)
    usual = fti.mean(Payment.amount).over("1h")


@fti.feature_group(source=payments, entity="shop")
class ShopSpend:
    spend = fti.sum(Payment.cents).over("1h")


@fti.feature_group(source=visits, entity="shop")
class ShopVisits:
    visits = fti.count().over("1h")


card_spend: Any = CardSpend  # mypy ignores what class decorators return
groups: list[Any] = [CardSpend, ShopSpend, ShopVisits]


def payment(at: datetime, card_id: str = "c1", shop: int | None = 1, cents: int = 10) -> Payment:
    return Payment(card_id=card_id, shop=shop, amount=cents / 100, cents=cents, at=at)


def test_spend_counts_late_payment() -> None:
    h = Harness(fti.FeatureService("fraud", [card_spend]), now="2026-01-01T12:00Z")
    h.push(payment(h.now - timedelta(minutes=4), cents=10))
    h.push(payment(h.now - timedelta(minutes=50), cents=5))  # late, and still counted
    assert h.online(card_id="c1").spend_1h == h.offline(card_id="c1").spend_1h == 15


def test_values_decay_as_the_clock_moves() -> None:
    h = Harness(card_spend, now=NOON)
    h.push(payment(NOON - timedelta(seconds=1)))
    assert (h.online(card_id="c1").n_5m, h.online(card_id="c1").usual_1h) == (1, 0.1)
    h.advance("6m")
    assert h.now == NOON + timedelta(minutes=6)
    assert (h.online(card_id="c1").n_5m, h.online(card_id="c1").n_1h) == (0, 1)
    h.advance(timedelta(hours=2))
    online, offline = h.online(card_id="c1"), h.offline(card_id="c1")
    assert dict(online) == dict(offline) == {
        "CardSpend.n_5m": 0, "CardSpend.n_1h": 0, "CardSpend.spend_1h": 0, "CardSpend.usual_1h": None,
    }  # fmt: skip
    assert online.status("n_1h") is Status.PRESENT
    assert online.status("CardSpend.spend_1h") is Status.DEFAULTED
    assert online.status("usual_1h") is Status.MISSING


def test_integer_features_are_integers() -> None:
    h = Harness(card_spend, now=NOON)
    h.push(payment(NOON - timedelta(seconds=1)))
    assert [type(v) for v in h.online(card_id="c1").values()] == [int, int, int, float]


def test_an_event_ahead_counts_online_at_once_and_offline_when_now_has_passed_it() -> None:
    h = Harness(card_spend, now=NOON)
    assert h.push(payment(NOON + timedelta(seconds=30))) == ()
    assert (h.online(card_id="c1").n_1h, h.offline(card_id="c1").n_1h) == (1, 0)
    h.advance("30s")
    assert (h.online(card_id="c1").n_1h, h.offline(card_id="c1").n_1h) == (1, 0)
    h.advance("1s")
    assert (h.online(card_id="c1").n_1h, h.offline(card_id="c1").n_1h) == (1, 1)


def test_an_event_too_far_ahead_is_a_dead_letter_with_the_reason() -> None:
    h = Harness(card_spend, now=NOON)
    good, bad = payment(NOON), payment(NOON + timedelta(seconds=30, microseconds=1))
    (letter,) = h.push(good, bad)
    assert letter.event == bad
    assert letter.reason == ("Payment.at must be at most 30000000 us ahead of the broker's time, got 30000001 us")
    assert h.dead_letters == [letter]
    assert h.online(card_id="c1").n_1h == 1


def test_history_can_be_asked_at_any_time() -> None:
    h = Harness(card_spend, now=NOON)
    h.push(*(payment(NOON - timedelta(minutes=m)) for m in (30, 20, 10)))
    assert [h.offline(at=NOON - timedelta(minutes=m), card_id="c1").n_1h for m in (31, 30, 29, 15, 0)] == [
        0,
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(ValueError, match="must be aware"):
        h.offline(at=NOON.replace(tzinfo=None), card_id="c1")


def test_events_beyond_the_ring_are_counted_as_too_late() -> None:
    h = Harness(card_spend, now=NOON)
    hops = timedelta(seconds=10) * 34  # the ring of the 5 minutes: 30 + 1 + 3 slots
    h.push(payment(NOON))
    h.push(payment(NOON - hops))
    assert h.too_late == 1
    assert h.online(card_id="c1").n_1h == 2


def test_groups_of_many_sources_and_entities_live_side_by_side() -> None:
    h = Harness(groups, now=NOON)
    h.push(payment(NOON, shop=None), payment(NOON, shop=1), Visit(shop=1, at=NOON))
    values = h.online(card_id="c1", shop=1)
    assert (values["CardSpend.spend_1h"], values["ShopSpend.spend_1h"], values.visits_1h) == (20, 10, 1)


def test_a_key_that_is_left_out_or_none_is_no_entity() -> None:
    h = Harness(groups, now=NOON)
    h.push(payment(NOON, shop=None))
    for values in (h.online(card_id="c1"), h.online(card_id="c1", shop=None), h.offline(card_id="c1", shop=None)):
        assert values["ShopSpend.spend_1h"] is None
        assert values.status("ShopVisits.visits_1h") is Status.MISSING


def test_a_name_of_two_groups_must_be_qualified() -> None:
    values = Harness(groups, now=NOON).online(card_id="c1")
    with pytest.raises(KeyError, match=r"'spend_1h' must name one feature, got 2: use one of 'CardSpend.spend_1h', "):
        values["spend_1h"]
    with pytest.raises(AttributeError, match="must name one feature"):
        _ = values.spend_1h


def test_an_unknown_name_offers_the_nearest() -> None:
    values = Harness(card_spend, now=NOON).online(card_id="c1")
    with pytest.raises(AttributeError, match=r"no feature is named 'spend_1hr'; did you mean 'spend_1h'\?"):
        _ = values.spend_1hr
    assert "spend_1hr" not in values
    assert "spend_1h" in values


def test_a_service_shows_the_features_that_it_uses() -> None:
    service = fti.FeatureService("s", [card_spend.spend_1h], groups=[card_spend])
    assert list(Harness(service, now=NOON).online(card_id="c1")) == ["CardSpend.spend_1h"]


def test_a_wrong_key_is_refused_by_name_and_by_type() -> None:
    h = Harness(groups, now=NOON)
    with pytest.raises(ContractError, match=r"'card' is not a field of an entity key \(did you mean 'card_id'"):
        h.online(card="c1")
    with pytest.raises(ContractError, match=r"entity key Payment\.shop must be int64, got '1'|entity key Visit\.shop"):
        h.offline(shop="1")


def test_an_event_of_another_kind_is_refused() -> None:
    with pytest.raises(ContractError, match=r"must be one that the features are computed from \(Payment\), got Visit"):
        Harness(card_spend, now=NOON).push(Visit(shop=1, at=NOON))


def test_two_topics_of_one_event_class_must_be_told_apart() -> None:
    replayed = fti.KafkaSource("replayed", Payment)
    other = fti.feature_group(source=replayed, entity="card_id")(type("Replayed", (), {"n": fti.count().over("1h")}))
    h = Harness([card_spend, other], now=NOON)
    with pytest.raises(DefinitionError, match=r"sources \['payments', 'replayed'\]: one must be named"):
        h.push(payment(NOON))
    h.push(payment(NOON), source=replayed)
    values = h.online(card_id="c1")
    assert (values["CardSpend.n_1h"], values["Replayed.n_1h"]) == (0, 1)


@pytest.mark.parametrize("given", [[], [card_spend, card_spend]])
def test_a_harness_has_groups_of_different_names(given: list[Any]) -> None:
    with pytest.raises(DefinitionError, match="must be given feature groups of different names, got"):
        Harness(given, now=NOON)


def test_a_harness_starts_at_an_aware_time() -> None:
    with pytest.raises(ValueError, match="must be aware"):
        Harness(card_spend, now="2026-01-01T12:00")
    with pytest.raises(DefinitionError, match="a step of the clock must be longer than zero"):
        Harness(card_spend, now=NOON).advance("0s")


@fti.on_demand(amount=fti.request("amount", float), spend=card_spend.spend["1h"], n=card_spend.n["1h"], dtype=float)
def times_usual(amount: fti.Column, spend: fti.Column, n: fti.Column) -> fti.Column:
    if (amount < 0).any():
        msg = "no amount"
        raise ValueError(msg)
    return amount / (spend / n)


@fti.on_demand(times=times_usual, at=fti.query_time, word=fti.request("word", str), dtype=str, default="?")
def told(times: fti.Column, at: fti.Column, word: fti.Column) -> NDArray[np.object_]:
    rows = zip(times, at, word, strict=True)
    return np.array([None if w is None else f"{w} {t:g} at {a % 86_400:g}" for t, a, w in rows], np.object_)


computed = fti.FeatureService("computed", [told, card_spend.n["5m"], times_usual], groups=[card_spend])


def test_on_demand_features_are_computed_online_and_offline() -> None:
    h = Harness(computed, now=NOON)
    h.push(payment(NOON - timedelta(minutes=9), cents=10), payment(NOON - timedelta(minutes=1), cents=30))
    online, offline = (ask(card_id="c1", amount=50, word="x") for ask in (h.online, h.offline))
    assert dict(online) == dict(offline) == {"told": "x 2.5 at 43200", "CardSpend.n_5m": 1, "times_usual": 2.5}
    assert h.offline(at=NOON - timedelta(minutes=5), card_id="c1", amount=50.0, word="y").told == "y 5 at 42900"
    assert online.times_usual == 2.5


def test_an_on_demand_feature_without_its_request_features_is_missing() -> None:
    h = Harness(computed, now=NOON)
    found = h.online(card_id="c1", word=None)
    assert (found.status("told"), found.status("times_usual")) == (Status.MISSING, Status.MISSING)
    assert h.online(card_id="c1", amount=None, word=None).status("told") is Status.DEFAULTED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"amonut": 1.0}, "'amonut' is not a field of an entity key or a request feature .did you mean 'amount'"),
        ({"amount": "1"}, "request feature 'amount' must be float64, got '1'"),
        ({"word": 1}, "request feature 'word' must be string, got 1"),
    ],
)
def test_wrong_request_features_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Harness(computed, now=NOON).online(card_id="c1", **given)


def test_a_function_that_fails_is_an_error_of_its_side() -> None:
    h = Harness(computed, now=NOON)
    with pytest.raises(ServingError, match="'times_usual' must not fail, got ValueError: no amount"):
        h.online(card_id="c1", amount=-1.0)
    with pytest.raises(TrainingError, match="'times_usual' must not fail, got ValueError: no amount"):
        h.offline(card_id="c1", amount=-1.0)
