"""A batch waits for the rows that the broker took before it, and for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

import streamfti as fti
from streamfti.clock import to_us
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.batches import EventBatch, MessageBatch
from streamfti.feature_pipeline.kafka_source import Partition, Reached
from streamfti.feature_pipeline.row_finder import RowFinder, WaitingBatch
from streamfti.stores.offline.log import OfflineLog
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_US = to_us(NOON)


class Payment(fti.Event):
    customer: str
    at: fti.EventTime


class Customer(fti.Event):
    customer: str
    limit: int
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)
customers = fti.KafkaSource("customers", Customer)
stream = payments.enrich(customers, on="customer", fields=["limit"])


@fti.feature_group(source=stream, entity="customer")
class Spend:
    n = fti.count().over("1h")


SPEND: Any = Spend  # mypy ignores what class decorators return


class Ends:
    """A reader that tells only where the table ends and how far it has been read; it counts the questions."""

    def __init__(self, ends: dict[int, int], reached: dict[int, Reached]) -> None:
        self.now, self.read, self.asked = ends, reached, 0

    def end_offsets(self, topic: str) -> Mapping[int, int]:
        assert topic == "customers"
        self.asked += 1
        return dict(self.now)

    def reached(self, topic: str) -> Mapping[int, Reached]:
        assert topic == "customers"
        return self.read

    def poll(self, timeout_s: float) -> list[MessageBatch]:
        raise AssertionError(timeout_s)

    @property
    def caught_up(self) -> bool:
        return False

    def lags(self) -> Mapping[Partition, int]:
        return {}

    def ends(self) -> Mapping[Partition, int]:
        return {}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        raise AssertionError(offsets)

    def close(self) -> None:
        """Nothing to leave."""


def batch(source: KafkaSource, *values: dict[str, Any], first: int = 0, taken_us: int = NOON_US) -> EventBatch:
    events = [PlacedEvent(source.event(**of), 0, first + i) for i, of in enumerate(values)]
    frame = event_frame(source.schema, events, ingest_time_us=taken_us)
    return EventBatch(source, frame, [], {0: first + len(events)})


def row(limit: int, minutes: float = 0) -> dict[str, Any]:
    return {"customer": "a", "limit": limit, "at": NOON + timedelta(minutes=minutes)}


def test_a_batch_waits_for_what_was_there_when_it_was_first_asked(tmp_path: Path) -> None:
    rows, reader = RowFinder([SPEND], OfflineLog(tmp_path)), Ends({0: 2, 1: 0}, {0: Reached(0, 0), 1: Reached(0, 0)})
    waiting = WaitingBatch(batch(payments, {"customer": "a", "at": NOON}))
    assert not rows.is_ready(stream, waiting, reader)
    rows.take(batch(customers, row(1)))
    reader.now = {0: 9, 1: 9}  # what comes later is not waited for
    assert not rows.is_ready(stream, waiting, reader)
    rows.take(batch(customers, row(2), first=1))
    assert rows.is_ready(stream, waiting, reader)
    assert reader.asked == 1


def test_what_is_no_message_is_not_waited_for(tmp_path: Path) -> None:
    """A transaction's marker at the end of a partition is never given out: the end has been reached nevertheless."""
    rows, reader = RowFinder([SPEND], OfflineLog(tmp_path)), Ends({0: 2}, {0: Reached(1, 2)})
    waiting = WaitingBatch(batch(payments, {"customer": "a", "at": NOON}))
    assert not rows.is_ready(stream, waiting, reader)  # the message before it was given out, and not taken yet
    rows.take(batch(customers, row(1)))
    assert rows.is_ready(stream, waiting, reader)


def test_the_row_is_the_newest_that_the_broker_had_before(tmp_path: Path) -> None:
    rows = RowFinder([SPEND], OfflineLog(tmp_path))
    rows.take(batch(customers, row(1, -60), row(2, -30), taken_us=NOON_US - 9))
    rows.take(batch(customers, row(3, -10), row(4, 5), first=2, taken_us=NOON_US))
    times = [NOON + timedelta(minutes=minutes) for minutes in (-61, -60, -20, 0, 9)]
    events = batch(payments, *({"customer": "a", "at": at} for at in times))
    assert rows.enriched(stream, events)["limit"].to_list() == [None, 1, 2, 2, 2]
    later = batch(payments, *({"customer": "a", "at": at} for at in times), taken_us=NOON_US + 1)
    assert rows.enriched(stream, later)["limit"].to_list() == [None, 1, 2, 3, 4]
    assert rows.enriched(stream, batch(customers, row(5), first=4)).is_empty()


def test_a_new_process_knows_the_rows_of_the_log(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path)
    writer, taken = log.writer(customers), batch(customers, row(1, -60), row(2, -30), taken_us=NOON_US - 9)
    writer.append(taken.frame.with_columns(pl.lit(value=False).alias("_too_late")), taken.next_offsets)
    writer.flush()
    rows = RowFinder([SPEND], log)
    rows.take(taken)  # Kafka may give them again
    found = rows.enriched(stream, batch(payments, {"customer": "a", "at": NOON}, {"customer": "b", "at": NOON}))
    assert found["limit"].to_list() == [2, None]
    assert found["_partition"].to_list() == [0, 0]


def test_a_row_that_is_gone_gives_nothing(tmp_path: Path) -> None:
    changing = fti.KafkaSource("changing", Customer, changes="upsert", key="customer")
    limits = payments.enrich(changing, on="customer", fields=["limit"])

    @fti.feature_group(source=limits, entity="customer")
    class Limits:
        n = fti.count().over("1h")

    limits_group: Any = Limits  # mypy ignores what class decorators return
    rows = RowFinder([limits_group], OfflineLog(tmp_path))
    known = batch(changing, row(1, -60), row(2, -30), row(3, -10), taken_us=NOON_US - 9)
    gone = pl.col("_offset") == 1
    frame = known.frame.with_columns(
        pl.when(~gone).then("limit").alias("limit"),
        pl.when(gone).then(pl.lit(-2, pl.Int8)).otherwise(pl.lit(1, pl.Int8)).alias("_change"),
    )
    rows.take(EventBatch(changing, frame, [], known.next_offsets))
    times = [NOON + timedelta(minutes=minutes) for minutes in (-59, -29, 0)]
    events = batch(payments, *({"customer": "a", "at": at} for at in times))
    assert rows.enriched(limits, events)["limit"].to_list() == [1, None, 3]
    writer = OfflineLog(tmp_path).writer(changing)
    writer.append(frame.with_columns(pl.lit(value=False).alias("_too_late")), known.next_offsets)
    writer.flush()
    again = RowFinder([limits_group], OfflineLog(tmp_path))
    assert again.enriched(limits, events)["limit"].to_list() == [1, None, 3]
