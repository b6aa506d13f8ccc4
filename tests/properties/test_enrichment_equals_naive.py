"""An event has the row that was known when it came: in columns, in any batches, as plain Python finds it."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfti as fti
from streamfti.compute.enrichment import enriched
from streamfti.compute.transformations import stream_events
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import EnrichedStream
from streamfti.definitions.windows import Window
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.naive_enrichment import naive_enriched
from streamfti.testing.strategies import event_times_us, placed_streams

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ORIGIN_US = 1_767_225_600_000_000  # 2026-01-01


class Payment(fti.Event):
    customer: str | None
    sure: bool
    cents: int
    at: fti.EventTime


class Customer(fti.Event):
    customer: str
    sure: bool
    country: str | None
    limit: int
    at: fti.EventTime


P: Any = Payment  # fields are expressions at run time
R: Any = Customer
payments = fti.KafkaSource("payments", Payment)
customers = fti.KafkaSource("customers", Customer)
STREAMS = {
    "plain": payments.enrich(customers, on="customer", fields=["country", "limit"]),
    "stepped": payments.where(P.cents > 0).enrich(
        customers.where(R.limit > -2).derive(twice=R.limit * 2), on="customer", fields=["twice", "at"], prefix="their_"
    ),
    "two keys": payments.enrich(customers, on=("customer", "sure"), fields=["limit"]),
}

Taken = list[tuple[PlacedEvent, int]]


@st.composite
def taken(draw: st.DrawFn, event: type[fti.Event]) -> Taken:
    """Messages, and when the broker took them: near in time, often at one time, in any order."""
    times = event_times_us(ORIGIN_US, [Window.of("12s", None)])
    placed = draw(placed_streams(event, times, max_size=25))
    came = st.sampled_from([-1, *range(ORIGIN_US, ORIGIN_US + 6)])
    return [(one, draw(came)) for one in placed]


def frame_of(source: KafkaSource, events: Taken) -> pl.DataFrame:
    frames = [event_frame(source.schema, [one], ingest_time_us=us) for one, us in events]
    return pl.concat([frame_schema(source.schema).to_frame(), *frames])


def as_rows(stream: EnrichedStream, frame: pl.DataFrame) -> list[tuple[object, ...]]:
    columns = [f.name for f in stream.schema.fields]
    return frame.select(pl.col("_partition") // 2, "_offset", *columns).rows()


@pytest.mark.parametrize("stream", STREAMS.values(), ids=list(STREAMS))
@EXAMPLES
@given(events=taken(Payment), rows=taken(Customer), cut=st.integers(1, 9))
def test_events_have_the_rows_of_the_rule(stream: EnrichedStream, events: Taken, rows: Taken, cut: int) -> None:
    frames = {payments: frame_of(payments, events), customers: frame_of(customers, rows)}
    names = [f.name for f in stream.schema.fields]
    expected = [(*one.order, *(one.fields[name] for name in names)) for one in naive_enriched(stream, events, rows)]
    whole = stream_events(stream, names, lambda source, *_: frames[source])
    assert as_rows(stream, whole) == expected

    parts = [
        enriched(
            stream,
            stream_events(stream.base, [], lambda *_, part=part: part),
            stream_events(stream.table, [], lambda *_: frames[customers]),
        )
        for part in frames[payments].iter_slices(cut)
    ]
    assert [row for part in parts for row in as_rows(stream, part)] == expected
