"""Payments: what each card has spent lately. StreamFTI's commands read this file."""

from __future__ import annotations

import streamfti as fti


class Payment(fti.Event):
    """One message of the topic `payments`."""

    card: str
    merchant: str
    amount_cents: int
    """Money as a whole number of its smallest unit: sums are exact."""
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity="card")
class CardSpend:
    """The payments of a card."""

    payments = fti.count().over("5m", "24h")
    spend_cents = fti.sum(Payment.amount_cents).over("1h", "24h", default=0)
    largest_cents = fti.max(Payment.amount_cents).over("24h")
    last_cents = fti.last(Payment.amount_cents).over("24h")


amount_cents = fti.request("amount_cents", int)


@fti.on_demand(amount=amount_cents, spend=CardSpend.spend_cents["24h"], n=CardSpend.payments["24h"], dtype=float)
def times_usual(amount: fti.Column, spend: fti.Column, n: fti.Column) -> fti.Column:
    """How many times the card's mean payment of the last day; columns of numpy in, a column out."""
    return amount / (spend / n)


payment_risk = fti.FeatureService("payment_risk", [amount_cents, CardSpend, times_usual])
