from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import Stream
from streamfti.errors import DefinitionError
from streamfti.project.plan import build_plan


class Payment(fti.Event):
    customer_id: str | None
    cents: int
    at: fti.EventTime


class Customer(fti.Event):
    customer_id: str
    country: str
    cents: int
    at: fti.EventTime


class Other(fti.Event):
    customer_id: int
    at: fti.EventTime


P: Any = Payment  # fields are expressions at run time
payments = fti.KafkaSource("payments", Payment)
customers = fti.KafkaSource("customers", Customer)
others = fti.KafkaSource("others", Other)
rows = fti.KafkaSource("rows", Customer, changes="upsert", key="customer_id")
enriched = payments.enrich(customers, on="customer_id", fields=["country"])


def group_of(stream: Stream, entity: str = "customer_id") -> FeatureGroup:
    class Spend:
        n = fti.count().over("1h")

    return fti.feature_group(source=stream, entity=entity)(Spend)


def test_an_enriched_event_has_fields_of_the_row_that_may_be_null() -> None:
    assert [field.name for field in enriched.schema.fields] == ["customer_id", "cents", "at", "country"]
    assert enriched.schema.event_time == "at"
    assert enriched["country"].type.nullable
    assert enriched["cents"] == P.cents
    assert group_of(enriched.where(enriched["country"] == "NL"), "country").entity == ("country",)


def test_both_sources_are_read_and_counted() -> None:
    stream = enriched.derive(at_home=enriched["country"] == "NL")
    assert stream.sources == (payments, customers)
    assert Catalog.of([group_of(stream)]).sources == {"payments": payments, "customers": customers}
    assert [stream.lane(source, p) for source in (payments, customers) for p in (0, 1)] == [0, 2, 1, 3]


def test_what_an_enrichment_is_made_of_is_part_of_what_a_group_means() -> None:
    variants = [
        enriched,
        payments,
        payments.enrich(customers, on="customer_id", fields=["country"], prefix="x_"),
        payments.enrich(customers, on="customer_id", fields=["cents"], prefix="x_"),
        payments.enrich(customers.where(customers["cents"] > 1), on="customer_id", fields=["country"]),
        payments.where(P.cents > 1).enrich(customers, on="customer_id", fields=["country"]),
    ]
    prints = [group_fingerprint(group_of(stream)) for stream in variants]
    assert len(set(prints)) == len(prints)


def test_plan_says_what_is_added() -> None:
    table = customers.where(customers["cents"] > 1)
    stream = payments.where(P.cents > 1).enrich(table, on="customer_id", fields=["country"], prefix="their_")
    (group,) = build_plan(Catalog.of([group_of(stream)]), partitions=None, stored=None).groups
    added = "enrich with their_country = country of customers, where Customer.cents > 1 on customer_id"
    assert group.steps == ["where Payment.cents > 1", added]


IMPOSSIBLE: list[tuple[Any, str]] = [
    (lambda: payments.enrich(P, on="customer_id", fields=["country"]), "an enrichment of .* must be given a stream"),
    (lambda: payments.enrich(others, on="customer_id", fields=["at"]), "'customer_id' is string and int64"),
    (lambda: payments.enrich(payments, on="customer_id", fields=["cents"], prefix="x"), "must be of two sources"),
    (lambda: payments.enrich(customers, on="customer_id", fields=["contry"]), "'Customer' has no field 'contry'"),
    (lambda: payments.enrich(customers, on="customer_id", fields=["cents"]), "names of their own.* 'cents'"),
    (lambda: payments.enrich(customers, on="customer_id", fields=["country"], prefix="_"), "names of their own"),
    (lambda: payments.enrich(customers, on="customer_id", fields=["country", "country"]), "names of their own"),
    (lambda: payments.enrich(customers, on="customer_id", fields=[]), "must be one or more"),
    (
        lambda: rows.enrich(customers, on="customer_id", fields=["country"], prefix="x"),
        "must be of events, got source 'rows'",
    ),
    (lambda: payments.join(rows, on="customer_id", within="1m"), "must be of events, got source 'rows'"),
    (
        lambda: payments.enrich(rows.where(rows["cents"] > 1), on="customer_id", fields=["country"]),
        "must be of events, got source 'rows', whose messages",
    ),
    (lambda: enriched.enrich(customers, on="customer_id", fields=["country"]), "two streams of one source each"),
    (lambda: enriched.join(others, on="customer_id", within="1m"), "two streams of one source each"),
]


@pytest.mark.parametrize(("build", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_an_impossible_enrichment_is_refused(build: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        build()
