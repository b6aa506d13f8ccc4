"""A long random stream, windows from a minute to a month: online, history and the definition give one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.testing.event_frames import frame_schema
from streamfti.testing.naive import PlacedEvent, naive_feature
from streamfti.testing.online_table import OnlineTable

N_EVENTS = 200_000
N_CARDS = 2000
N_BATCHES = 60
N_CHECKPOINTS = 6
N_NAIVE_PROBES = 300
ORIGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
SPAN_US = 70 * DAY_US


class Payment(fti.Event):
    card_id: str
    merchant_id: int
    cents: int
    amount: float
    tip: float | None
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment, max_future_skew="30s")


@fti.feature_group(source=payments, entity="card_id")
class CardSpend:
    n = fti.count().over("1m", "1h", "24h", "7d", "30d")
    cents = fti.sum(Payment.cents).over("1h", "24h", "30d", default=0)
    amount = fti.sum(Payment.amount).over("1h", "24h", "30d")
    usual = fti.mean(Payment.amount).over("24h", "30d")
    tip = fti.mean(Payment.tip).over("24h", "30d")
    least = fti.min(Payment.cents).over("24h")
    most = fti.max(Payment.amount).over("24h", "30d")
    previous = fti.last(Payment.cents).over("24h", "30d")
    previous_tip = fti.last(Payment.tip).over("30d")


@fti.feature_group(source=payments, entity=("card_id", "merchant_id"))
class CardAtMerchant:
    n = fti.count().over("24h", "30d")
    cents = fti.sum(Payment.cents).over("24h", "30d", hop="6h")
    previous = fti.last(Payment.amount).over("30d")


GROUPS: list[Any] = [CardSpend, CardAtMerchant]  # mypy ignores what class decorators return
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)


@dataclass(frozen=True)
class Stream:
    """Events in the order in which they come: a few minutes late as a rule, some by days, some on the hour."""

    frame: pl.DataFrame
    batch_ends: list[int]


@pytest.fixture(scope="module")
def stream() -> Stream:
    rng = np.random.default_rng(20260101)
    at_us = ORIGIN_US + np.sort(rng.integers(0, SPAN_US, N_EVENTS))
    on_the_hour = rng.random(N_EVENTS) < 0.1
    at_us[on_the_hour] -= at_us[on_the_hour] % (DAY_US // 24)
    late_us = rng.exponential(5 * 60e6, N_EVENTS) * (rng.random(N_EVENTS) < 0.5)
    late_us += rng.uniform(0, 40 * DAY_US, N_EVENTS) * (rng.random(N_EVENTS) < 0.02)  # some later than any window
    arrival = np.argsort(at_us + late_us, kind="stable")
    tip = rng.normal(2, 1, N_EVENTS)
    columns = {
        "card_id": np.char.add("c", (rng.zipf(1.3, N_EVENTS) % N_CARDS).astype(str)),
        "merchant_id": rng.integers(0, 20, N_EVENTS),
        "cents": rng.integers(-500, 100_000, N_EVENTS),
        "amount": np.round(rng.lognormal(3, 1, N_EVENTS), 2),
        "tip": tip,
        "at": at_us,
        "_partition": rng.integers(0, 4, N_EVENTS).astype(np.int32),
    }
    frame = pl.DataFrame({name: values[arrival] for name, values in columns.items()}).with_columns(
        pl.when(pl.col("tip") > 1).then("tip").alias("tip"),
        pl.int_range(pl.len()).over("_partition").alias("_offset"),
        pl.lit(0).alias("_ingest_time_us"),
        pl.lit(0).alias("_schema_id"),
    )
    cuts = np.sort(rng.choice(N_EVENTS, N_BATCHES - 1, replace=False)).tolist()
    return Stream(frame.cast(frame_schema(payments.schema)), [*cuts, N_EVENTS])


def keys_and_times(group: FeatureGroup, applied: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Every entity so far, at its newest event and a microsecond, or at the newest of all; shorter windows empty."""
    newest = applied.group_by(group.entity, maintain_order=True).agg(pl.col("at").max().to_physical())
    own = newest["at"].to_numpy() + 1
    return newest.select(group.entity), np.where(np.arange(len(own)) % 3 == 0, own.max(), own)


def texts(group: FeatureGroup, keys: pl.DataFrame) -> list[str | None]:
    if len(group.entity) == 1:
        return keys[group.entity[0]].to_list()
    return [f"{len(card)}:{card}{len(str(merchant))}:{merchant}" for card, merchant in keys.iter_rows()]


def assert_same(group: FeatureGroup, online: dict[str, FeatureColumn], history: dict[str, FeatureColumn]) -> None:
    for feature in group.features:
        one, other = online[feature.qualified_name], history[feature.qualified_name]
        np.testing.assert_array_equal(one.status, other.status, err_msg=feature.qualified_name)
        if feature.aggregation.kind in {"sum", "mean"} and one.values.dtype.kind == "f":
            np.testing.assert_allclose(one.values, other.values, rtol=1e-9, err_msg=feature.qualified_name)
        else:
            np.testing.assert_array_equal(one.values, other.values, err_msg=feature.qualified_name)


@every_group
def test_streaming_in_late_batches_equals_history(group: FeatureGroup, stream: Stream) -> None:
    table = OnlineTable(group)
    start = 0
    for i, end in enumerate(stream.batch_ends):
        table.apply(stream.frame[start:end])
        start = end
        if i % (N_BATCHES // N_CHECKPOINTS) and end < N_EVENTS:
            continue
        applied = stream.frame[:end]
        keys, at_us = keys_and_times(group, applied)
        online = table.read(group.features, texts(group, keys), at_us)
        assert_same(group, online, point_in_time(group, group.features, applied, keys, at_us))
    assert table.too_late > 0


@every_group
def test_history_equals_the_definition_at_random_past_times(group: FeatureGroup, stream: Stream) -> None:
    rng = np.random.default_rng(7)
    keys = stream.frame.select(group.entity).unique(maintain_order=True).sample(N_NAIVE_PROBES, seed=7)
    at_us = ORIGIN_US + rng.integers(0, SPAN_US, N_NAIVE_PROBES)
    on_the_hour = rng.random(N_NAIVE_PROBES) < 0.3
    at_us[on_the_hour] -= at_us[on_the_hour] % (DAY_US // 24)
    history = point_in_time(group, group.features, stream.frame, keys, at_us)
    own = events_of(stream.frame, keys)
    longest = history[f"{group.name}.n_30d"]
    assert (longest.values > 0).mean() > 0.15  # most probes of rare entities see nothing, and enough see something
    for row, key in enumerate(keys.iter_rows(named=True)):
        events = own[tuple(key.values())]
        for feature in group.features:
            column = history[feature.qualified_name]
            got = None if column.status[row] >= Status.EXPIRED else column.values[row].item()
            expected = naive_feature(feature, group, events, key, int(at_us[row]))
            assert got == (expected if expected is None else pytest.approx(expected, rel=1e-9)), feature.qualified_name


def events_of(frame: pl.DataFrame, keys: pl.DataFrame) -> dict[tuple[object, ...], list[PlacedEvent]]:
    wanted = frame.join(keys.unique(), on=keys.columns, how="semi")
    found: dict[tuple[object, ...], list[PlacedEvent]] = {}
    for row in wanted.with_columns(pl.col("at").to_physical()).iter_rows(named=True):
        values = {name: row[name] for name in frame.columns if not name.startswith("_")}
        event = Payment(**{**values, "at": from_us(row["at"])})
        place = PlacedEvent(event, row["_partition"], row["_offset"])
        found.setdefault(tuple(row[name] for name in keys.columns), []).append(place)
    return found
