"""Unit tests of streaming features: no broker, no Redis, and a clock that the test moves.

The fixture `harness` comes with StreamFTI's plugin for pytest. When a test ends, it also checks that whatever the test
pushed has the same value online, offline and by the definition.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given, settings

import streamfti as fti
from examples.payments.definitions import CardSpend, MerchantTraffic, Payment, payments
from streamfti.compute.values import Status
from streamfti.testing.harness import Harness
from streamfti.testing.laws import laws_of
from streamfti.testing.pytest_plugin import MakeHarness
from streamfti.testing.strategies import group_streams

NOW = "2026-01-01T12:00+00:00"


def payment(at: datetime, *, amount_cents: int = 1_000, is_online: bool = False) -> Payment:
    """Return a payment with card c1 to merchant m1."""
    return Payment(
        at=at,
        payment_id="p",
        user_id="u1",
        card_id="c1",
        merchant_id="m1",
        amount_cents=amount_cents,
        latitude=52.1,
        longitude=5.1,
        is_online=is_online,
    )


def test_a_late_payment_counts(harness: MakeHarness) -> None:
    """It came after a newer one, and is in every window that covers when it happened."""
    h = harness(CardSpend, now=NOW)
    h.push(payment(h.now - timedelta(minutes=1), amount_cents=700))
    h.push(payment(h.now - timedelta(minutes=50), amount_cents=300))
    card = h.online(card_id="c1")
    assert (card.payments_5m, card.payments_1h, card.spend_cents_1h) == (1, 2, 1_000)
    assert card.last_cents_24h == 700  # the last one by when it happened, not by when it came


def test_a_window_decays_though_nothing_happens(harness: MakeHarness) -> None:
    """No event comes after the first one, and yet the answer changes."""
    h = harness(CardSpend, now=NOW)
    h.push(payment(h.now - timedelta(seconds=1)))
    assert h.online(card_id="c1").payments_5m == 1
    h.advance("6m")
    assert h.online(card_id="c1").payments_5m == 0
    assert h.online(card_id="c1").payments_1h == 1


def test_history_says_what_serving_would_have_said_then(harness: MakeHarness) -> None:
    """A training set asks as of the moment of each label."""
    h = harness(MerchantTraffic, now=NOW)
    h.push(*(payment(h.now - timedelta(minutes=m), amount_cents=100 * m) for m in (1, 2, 40)))
    assert h.offline(merchant_id="m1", at=h.now - timedelta(minutes=30)).mean_cents_1h == 4_000.0
    assert h.offline(merchant_id="m1").payments_1h == h.online(merchant_id="m1").payments_1h == 3


@fti.feature_group(source=payments, entity="card_id")
class CardHabits:
    """Features that are being tried out, before they go into the definitions."""

    online_cents = fti.sum(Payment.amount_cents, where=Payment.is_online).over("24h", default=0)
    last_merchant_cents = fti.last(Payment.amount_cents).lifetime(default=-1)
    idle = fti.time_since_last(expires_after="90d")


def test_a_filtered_sum_is_of_the_payments_that_pass(harness: MakeHarness) -> None:
    """Payments in shops are not in it."""
    h = harness(CardHabits, now=NOW)
    h.push(payment(h.now - timedelta(hours=1), amount_cents=5, is_online=True), payment(h.now - timedelta(hours=2)))
    assert h.online(card_id="c1").online_cents_24h == 5


def test_a_card_that_was_never_seen_has_defaults(harness: MakeHarness) -> None:
    """The status tells a default from a value."""
    card = harness(CardHabits, now=NOW).online(card_id="new")
    assert (card.last_merchant_cents, card.online_cents_24h, card.idle) == (-1, 0, None)
    assert card.status("last_merchant_cents") is Status.DEFAULTED


def test_what_is_too_old_expires(harness: MakeHarness) -> None:
    """An attribute stays for ever, but a card that nobody used for a season is not idle, it is gone."""
    h = harness(CardHabits, now=NOW)
    h.push(payment(h.now - timedelta(seconds=30)))
    assert h.online(card_id="c1").idle == 30.0
    h.advance("90d")
    assert h.online(card_id="c1").status("idle") is Status.EXPIRED


spend, n = CardSpend.spend_cents, CardSpend.payments


@fti.on_demand(amount=fti.request("amount_cents", int), spend=spend["24h"], n=n["24h"], dtype=float)
def times_usual(amount: fti.Column, spend: fti.Column, n: fti.Column) -> fti.Column:
    """Return how many times the card's mean payment of the last day."""
    return amount / (spend / n)


def test_an_on_demand_feature_joins_the_request_with_what_is_stored(harness: MakeHarness) -> None:
    """A model gets its inputs in the order of the service."""
    h = harness(fti.FeatureService("tried", [times_usual, spend["1h"]], groups=[CardSpend]), now=NOW)
    h.push(*(payment(h.now - timedelta(hours=hours), amount_cents=200) for hours in (2, 3)))
    assert list(h.vector(card_id="c1", amount_cents=600).values()) == [3.0, 0]
    assert h.online(card_id="new", amount_cents=600).times_usual is None


@settings(deadline=None)
@given(events=group_streams(CardSpend, now=NOW))
def test_no_payments_in_no_order_make_skew(events: list[Payment]) -> None:
    """Late, tied, on the edge of a window, of cards with odd names; with a restart in between."""
    h = Harness(CardSpend, now=NOW)
    h.push(*events[::2])
    h.restart()
    h.push(*events[1::2])
    h.assert_no_skew()


test_the_aggregations_obey_the_laws = laws_of(fti.sum(Payment.amount_cents), fti.mean(Payment.amount_cents))
