"""The harness over changes of rows: it says what the pipelines would, and knows what a row was before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import streamfti as fti
from streamfti.compute.values import Status
from streamfti.errors import ContractError
from streamfti.testing.harness import Harness

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Customer(fti.Event):
    customer: str
    region: str
    limit: int | None
    at: fti.EventTime


upserts = fti.KafkaSource("customers", Customer, changes="upsert", key="customer")
tables = fti.KafkaSource("tables", Customer, changes="debezium", key="customer", before_images=True)


@fti.feature_group(source=upserts, entity="customer")
class Attributes:
    limit = fti.latest(Customer.limit)
    known = fti.latest(Customer.limit, default=100)
    region = fti.latest(Customer.region)
    fresh = fti.latest(Customer.limit, expires_after="90d")


@fti.feature_group(source=tables, entity="region")
class Regions:
    customers = fti.count().lifetime()
    limits = fti.sum(Customer.limit).lifetime()
    more = fti.count().over("1h")


attributes: Any = Attributes  # mypy ignores what class decorators return
regions: Any = Regions


def customer(minutes: int, limit: int | None = 5, region: str = "eu", name: str = "c1") -> Customer:
    return Customer(customer=name, region=region, limit=limit, at=NOON + timedelta(minutes=minutes))


def both(h: Harness, name: str, **key: Any) -> Any:  # noqa: ANN401  # of any type
    online, offline = h.online(**key), h.offline(**key)
    assert (online[name], online.status(name)) == (offline[name], offline.status(name))
    return online[name], online.status(name)


def test_the_newest_row_counts_whatever_order_they_come_in() -> None:
    h = Harness(attributes, now=NOON)
    h.push(customer(-1, 7), customer(-5, 6))
    assert both(h, "limit", customer="c1") == (7, Status.PRESENT)
    h.push(customer(-2, 9))  # late
    assert both(h, "limit", customer="c1") == (7, Status.PRESENT)
    h.push(customer(-1, 8))  # a tie: the later place in the topic
    assert both(h, "limit", customer="c1") == (8, Status.PRESENT)


def test_a_deletion_is_remembered_and_ends_with_a_newer_row() -> None:
    h = Harness(attributes, now=NOON)
    h.push(customer(-9, 7))
    h.delete(upserts, "c1", at=NOON - timedelta(minutes=3))
    assert both(h, "limit", customer="c1") == (None, Status.MISSING)
    assert both(h, "known", customer="c1") == (100, Status.DEFAULTED)
    h.push(customer(-5, 6))  # late: it was so before it was deleted
    assert both(h, "limit", customer="c1") == (None, Status.MISSING)
    assert h.offline(at=NOON - timedelta(minutes=4), customer="c1").limit == 6
    assert both(h, "region", customer="c1") == (None, Status.MISSING)
    h.push(customer(-1, 4))
    assert both(h, "region", customer="c1") == ("eu", Status.PRESENT)
    assert both(h, "limit", customer="c1") == (4, Status.PRESENT)


def test_a_row_that_comes_to_have_no_value_has_none() -> None:
    h = Harness(attributes, now=NOON)
    h.push(customer(-9, 7), customer(-1, None))
    assert both(h, "limit", customer="c1") == (None, Status.MISSING)
    assert both(h, "known", customer="c1") == (100, Status.DEFAULTED)


def test_attributes_expire_and_what_is_gone_stays_missing() -> None:
    h = Harness(attributes, now=NOON)
    h.push(customer(-1), customer(-1, name="c2"))
    h.delete(upserts, "c2")
    h.advance("90d")
    assert both(h, "fresh", customer="c1") == (None, Status.EXPIRED)
    assert both(h, "limit", customer="c1") == (5, Status.PRESENT)
    assert both(h, "fresh", customer="c2") == (None, Status.MISSING)


def test_counts_and_sums_follow_the_rows_that_are_there() -> None:
    h = Harness(regions, now=NOON)
    h.push(customer(-120, 5), customer(-120, 7, name="c2"))
    assert both(h, "customers", region="eu") == (2, Status.PRESENT)
    assert both(h, "limits", region="eu") == (12, Status.PRESENT)
    h.push(customer(-10, 6, region="us"))  # moved
    assert both(h, "customers", region="eu") == (1, Status.PRESENT)
    assert both(h, "more_1h", region="eu") == (-1, Status.PRESENT)
    assert both(h, "limits", region="us") == (6, Status.PRESENT)
    h.delete(tables, "c2", at=NOON - timedelta(minutes=1))
    assert both(h, "customers", region="eu") == (0, Status.PRESENT)
    assert both(h, "limits", region="eu") == (None, Status.MISSING)


def test_a_deletion_must_be_of_a_row_of_a_source_that_there_is() -> None:
    h = Harness([attributes, regions], now=NOON)
    with pytest.raises(ContractError, match=r"must be of a source of changes of the features \(customers, tables\)"):
        h.delete(fti.KafkaSource("others", Customer, changes="upsert", key="customer"), "c1")
    with pytest.raises(ContractError, match=r"the key of a row of .customers. must be .*, got .*a., .b"):
        h.delete(upserts, "a", "b")
    with pytest.raises(ContractError, match=r"must be customer \(string\), got \(7,\)"):
        h.delete(upserts, 7)
    with pytest.raises(ContractError, match="a row of 'tables' must be there to be deleted"):
        h.delete(tables, "c1")
