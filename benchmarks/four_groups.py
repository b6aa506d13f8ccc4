"""Definitions that the ingestion benchmark runs on: payments, four groups of twelve features over three hops each."""

from __future__ import annotations

import streamfti as fti
from examples.payments.definitions import Payment, payments


@fti.feature_group(source=payments, entity="card_id")
class ByCard:
    """A card: some thousands of them."""

    n = fti.count().over("5m", "1h", "24h")
    spend = fti.sum(Payment.amount_cents).over("5m", "1h", "24h")
    usual = fti.mean(Payment.amount_cents).over("5m", "1h", "24h")
    most = fti.max(Payment.amount_cents).over("5m", "1h", "24h")


@fti.feature_group(source=payments, entity="user_id")
class ByUser:
    """A user: fewer than cards."""

    n = fti.count().over("5m", "1h", "24h")
    spend = fti.sum(Payment.amount_cents).over("5m", "1h", "24h")
    usual = fti.mean(Payment.amount_cents).over("5m", "1h", "24h")
    most = fti.max(Payment.amount_cents).over("5m", "1h", "24h")


@fti.feature_group(source=payments, entity="merchant_id")
class ByMerchant:
    """A merchant: a few have most of the payments."""

    n = fti.count().over("5m", "1h", "24h")
    turnover = fti.sum(Payment.amount_cents).over("5m", "1h", "24h")
    usual = fti.mean(Payment.amount_cents).over("5m", "1h", "24h")
    most = fti.max(Payment.amount_cents).over("5m", "1h", "24h")


@fti.feature_group(source=payments, entity=("card_id", "merchant_id"))
class ByPair:
    """A card at a merchant: nearly every payment is one of its own."""

    n = fti.count().over("5m", "1h", "24h")
    spend = fti.sum(Payment.amount_cents).over("5m", "1h", "24h")
    usual = fti.mean(Payment.amount_cents).over("5m", "1h", "24h")
    most = fti.max(Payment.amount_cents).over("5m", "1h", "24h")
