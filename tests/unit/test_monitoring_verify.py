"""`verify` against the naive evaluator: reads that saw any part of the events, on any partitions, are proven right;
and one event too many or too few is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import from_us, to_us
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.dtypes import DType
from streamfti.monitoring.served_vectors import ServedFeatures
from streamfti.monitoring.verify import Comparison, verify_group
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent, naive_feature

START_US = to_us(datetime(2026, 5, 1, 12, tzinfo=UTC))
MINUTE_US = 60_000_000


class Payment(fti.Event):
    at: fti.EventTime
    card: str | None
    shop: str
    cents: int
    amount: float


SOURCE = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=SOURCE, entity=("card", "shop"))
class Spend:
    n = fti.count().over("5m", "1h")
    cents = fti.sum(Payment.cents).over("1h", default=0)
    amount = fti.sum(Payment.amount).over("1h")
    mean = fti.mean(Payment.amount).over("5m")
    least = fti.min(Payment.amount).over("1h")
    last = fti.last(Payment.cents).over("1h")


SPEND = fti.Catalog.of([SOURCE, Spend]).group("Spend")


def placed(rng: np.random.Generator, n: int, n_partitions: int, first_offset: int = 0) -> list[PlacedEvent]:
    """Events of two hours on any partitions, a few entities, nulls in the key, ties, offsets with gaps."""
    next_offset = [first_offset] * n_partitions
    events = []
    for _ in range(n):
        partition = int(rng.integers(n_partitions))
        next_offset[partition] += int(rng.integers(1, 4))
        event = Payment(
            at=from_us(START_US + int(rng.integers(120)) * MINUTE_US // 2),
            card=None if rng.random() < 0.1 else f"c{rng.integers(3)}",
            shop=f"s{rng.integers(2)}",
            cents=int(rng.integers(-9, 10)),
            amount=float(rng.choice([0.1, 0.2, 0.3, -0.1, -0.2, 1e6, -1e6])),
        )
        events.append(PlacedEvent(event, partition, next_offset[partition]))
    return events


Query = tuple[str | None, str, int, Mapping[int, int]]
"""Card, shop, query time, and by partition the offset after the last event applied."""


def queries(rng: np.random.Generator, n: int, events: Sequence[PlacedEvent], n_seen: int) -> list[Query]:
    """Reads of any entity, also of those without events, at any time, with any part of the partitions applied."""
    highest = [max((e.offset for e in events if e.partition == p), default=0) for p in range(n_seen)]
    found: list[Query] = []
    for _ in range(n):
        card = None if rng.random() < 0.1 else f"c{rng.integers(4)}"
        query_us = START_US + int(rng.integers(-5, 130)) * MINUTE_US // 2
        complete = rng.random() < 0.4
        applied = {p: high + 2 if complete else int(rng.integers(high + 3)) for p, high in enumerate(highest)}
        found.append((card, f"s{rng.integers(3)}", query_us, applied))
    return found


def served(events: Sequence[PlacedEvent], asked: Sequence[Query]) -> ServedFeatures:
    """Answer as the online store would: over whatever has been applied."""
    columns: dict[str, FeatureColumn] = {}
    for feature in SPEND.features:
        values, status = [], []
        for card, shop, query_us, applied in asked:
            seen = [e for e in events if e.offset < applied.get(e.partition, 0)]
            key = {"card": card, "shop": shop}
            value = naive_feature(feature, SPEND, seen, key, query_us, head="applied")
            is_default = (
                value is not None and feature.default is not None and not any(counts(e, key, query_us) for e in seen)
            )
            missing = Status.DEFAULTED if is_default else Status.PRESENT
            values.append(0 if value is None else value)
            status.append(Status.MISSING if value is None else missing)
        dtype = np.float64 if feature.dtype is DType.FLOAT64 else np.int64
        columns[feature.qualified_name] = FeatureColumn(np.array(values, dtype), np.array(status, np.uint8))
    partitions = sorted({p for *_, applied in asked for p in applied})
    return ServedFeatures(
        pl.DataFrame(
            {"card": [q[0] for q in asked], "shop": [q[1] for q in asked]}, {"card": pl.String, "shop": pl.String}
        ),
        np.array([q[2] for q in asked], np.int64),
        columns,
        {p: np.array([q[3].get(p, 0) for q in asked], np.int64) for p in partitions},
    )


def counts(placed_event: PlacedEvent, key: Mapping[str, object], query_us: int) -> bool:
    """Return whether an event is of an entity and not older than an hour, with its hop of five minutes."""
    values = placed_event.event.values()
    tail_us = (query_us - 60 * MINUTE_US) // (5 * MINUTE_US) * (5 * MINUTE_US)
    return values["card"] == key["card"] and values["shop"] == key["shop"] and to_us(values["at"]) >= tail_us


def verified(events: Sequence[PlacedEvent], answers: ServedFeatures) -> Comparison:
    return verify_group(SPEND, SPEND.features, event_frame(SOURCE.schema, events), answers)


def lacks_events(events: Sequence[PlacedEvent], query: Query) -> bool:
    """Return whether an event of the entity before the query time had not been applied."""
    card, shop, query_us, applied = query
    own = [e for e in events if (e.event.values()["card"], e.event.values()["shop"]) == (card, shop)]
    return card is not None and any(
        to_us(e.event.values()["at"]) < query_us and e.offset >= applied.get(e.partition, 0) for e in own
    )


@pytest.mark.parametrize("n_partitions", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_reads_of_any_part_of_the_events_are_right_and_one_wrong_answer_is_found(n_partitions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    events = placed(rng, 80, n_partitions)
    n_seen = n_partitions if seed % 2 else max(1, n_partitions - 1)  # a partition that no read has seen
    asked = queries(rng, 60, events, n_seen)
    answers = served(events, asked)
    report = verified(events, answers)
    assert list(report.bugs()) == []
    assert (report.probes, report.values, report.skew_rows) == (60, 60 * len(SPEND.features), 0)
    assert report.in_flight == sum(lacks_events(events, query) for query in asked)
    row, column = int(rng.integers(60)), answers.columns["Spend.cents_1h"]
    column.values[row] += 1
    found = verified(events, answers)
    (bug,) = found.bugs()
    assert (found.skew_rows, bug.feature) == (1, "Spend.cents_1h")
    assert (bug.served, bug.recomputed) == (column.values[row], column.values[row] - 1)


def test_event_that_was_lost_and_one_that_was_counted_twice_are_found() -> None:
    rng = np.random.default_rng(5)
    events = placed(rng, 60, 2)
    entity = {"card": "c1", "shop": "s1"}
    own = [e for e in events if e.event.values()["card"] == "c1" and e.event.values()["shop"] == "s1"]
    query: Query = ("c1", "s1", START_US + 60 * MINUTE_US, {0: 1000, 1: 1000})
    inside = next(e for e in own if counts(e, entity, query[2]))
    without = [e for e in events if e is not inside]
    twice = [*events, PlacedEvent(inside.event, inside.partition, inside.offset)]
    assert verified(events, served(events, [query])).skew_rows == 0
    assert verified(events, served(without, [query])).skew_rows == 1
    assert verified(events, served(twice, [query])).skew_rows == 1


def test_many_entities_and_high_offsets_and_partitions_do_not_run_into_each_other() -> None:
    """Entity, partition and offset are packed into one number somewhere; none may reach into the next."""
    n = 40_000
    at, offsets = np.full(n, START_US), (1 << 47) + np.arange(n)
    frame = pl.DataFrame(
        {
            "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
            "card": [f"c{i}" for i in range(n)],
            "shop": ["s"] * n,
            "cents": [1] * n,
            "amount": [0.5] * n,
            "_partition": pl.Series([30_000] * n, dtype=pl.Int32),
            "_offset": offsets,
            "_ingest_time_us": at,
            "_schema_id": pl.Series([1] * n, dtype=pl.Int32),
        }
    )
    missing = n - 1  # all have been applied at the time of the read, but for the one with the highest offset
    n_5m, one = np.ones(n, np.int64), np.full(n, Status.PRESENT, np.uint8)
    n_5m[missing] = 0
    answers = ServedFeatures(
        frame.select("card", "shop"),
        at + 1,
        {"Spend.n_5m": FeatureColumn(n_5m, one)},
        {30_000: np.full(n, offsets[missing])},
    )
    report = verify_group(SPEND, [f for f in SPEND.features if f.qualified_name == "Spend.n_5m"], frame, answers)
    assert (report.skew_rows, report.in_flight) == (0, 1)


def test_rounding_that_is_left_of_amounts_that_cancel_is_no_skew_and_a_cent_is() -> None:
    amounts = [0.1, 0.2, -0.3]
    events = [
        PlacedEvent(Payment(at=from_us(START_US + i), card="c", shop="s", cents=0, amount=amount), 0, i)
        for i, amount in enumerate(amounts)
    ]
    answers = served(events, [("c", "s", START_US + 10, {0: 3})])
    for value, skew_rows in ((0.0, 0), (0.1 + 0.2 - 0.3, 0), (0.01, 1)):
        answers.columns["Spend.amount_1h"].values[0] = value
        assert verified(events, answers).skew_rows == skew_rows


def test_no_events_and_no_reads_are_no_skew() -> None:
    nobody = served([], [("c", "s", START_US, {}), (None, "s", START_US, {0: 7})])
    assert verified([], nobody).skew_rows == 0
    assert verified(placed(np.random.default_rng(0), 5, 1), served([], [])).probes == 0
