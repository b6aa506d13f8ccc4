"""Card payments: how a card, a user and a merchant have been used lately. What benchmarks and live trials run on."""

from __future__ import annotations

import streamfti as fti


class Payment(fti.Event):
    """A card payment, as the payment gateway publishes it."""

    at: fti.EventTime
    payment_id: str
    user_id: str
    card_id: str
    merchant_id: str
    amount_cents: int
    latitude: float
    longitude: float
    is_online: bool


payments = fti.KafkaSource("payments", Payment, max_future_skew="30s")


@fti.feature_group(source=payments, entity="card_id")
class CardSpend:
    """How a card has been used lately; a stolen one is used fast."""

    payments = fti.count().over("1m", "5m", "1h", "24h")
    spend_cents = fti.sum(Payment.amount_cents).over("1h", "24h", default=0)
    highest_cents = fti.max(Payment.amount_cents).over("24h")
    last_cents = fti.last(Payment.amount_cents).over("24h")
    online_share = fti.mean(Payment.is_online).over("24h")


@fti.feature_group(source=payments, entity="card_id")
class CardHabits:
    """What is usual for a card; a group of its own, as strings, sketches and lifetimes take more room than numbers."""

    large = fti.count(where=payments["amount_cents"] >= 10_000).over("1h", "24h")
    spread_cents = fti.stddev(Payment.amount_cents).over("24h", expires_after="12h")
    recent_cents = fti.last_n(Payment.amount_cents, 3).over("24h", default=0)
    merchants = fti.approx_distinct(Payment.merchant_id).over("24h")
    last_merchant = fti.last(Payment.merchant_id).over("24h", default="none")
    total_cents = fti.sum(Payment.amount_cents).lifetime()
    idle_seconds = fti.time_since_last(expires_after="90d")


@fti.feature_group(source=payments, entity="user_id")
class UserSpend:
    """A user's habits over a month, over all their cards."""

    payments = fti.count().over("24h", "30d")
    usual_cents = fti.mean(Payment.amount_cents).over("30d")


@fti.feature_group(source=payments, entity="merchant_id")
class MerchantTraffic:
    """How busy a merchant is."""

    payments = fti.count().over("5m", "1h")
    mean_cents = fti.mean(Payment.amount_cents).over("1h", "24h")
    smallest_cents = fti.min(Payment.amount_cents).over("1h")


payment_features = fti.FeatureService(
    "payment_features",
    [
        fti.request("amount_cents", int),
        fti.request("is_online", bool),
        CardSpend,
        CardHabits,
        UserSpend,
        MerchantTraffic,
    ],
)
