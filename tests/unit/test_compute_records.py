"""Records: the edges of windows and rings, one by one; the properties try all of them at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.accumulators import EventColumns, FieldColumn
from streamfti.compute.layout import RecordLayout
from streamfti.compute.records import load_records, read_features
from streamfti.compute.tiles import build_tiles
from streamfti.compute.values import FeatureColumn, Status
from streamfti.compute.window_reader import WindowReader
from streamfti.errors import CorruptRecord
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.online_table import OnlineTable

MINUTE_US = 60_000_000
T0 = 1_767_225_600_000_000


class Payment(fti.Event):
    card_id: str
    cents: int
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment, max_future_skew="30s")


@fti.feature_group(source=payments, entity="card_id")
class Card:
    n = fti.count().over("12m")
    spend = fti.sum(Payment.cents).over("12m", default=-1)
    least = fti.min(Payment.cents).over("12m")


card: Any = Card  # mypy ignores what class decorators return


def table_of(*times_us: int) -> OnlineTable:
    table = OnlineTable(card)
    for offset, at_us in enumerate(times_us):
        payment = Payment(card_id="c1", cents=offset + 1, at=from_us(at_us))
        table.apply(event_frame(payments.schema, [PlacedEvent(payment, 0, offset)]))
    return table


def read(table: OnlineTable, at_us: int, key: str | None = "c1") -> dict[str, FeatureColumn]:
    return table.read(card.features, [key], np.array([at_us], np.int64))


def count(table: OnlineTable, at_us: int) -> int:
    return int(read(table, at_us)["Card.n_12m"].values[0])


def test_the_window_of_the_test_has_minutes_for_hops() -> None:
    assert card.n_12m.window.hop_us == MINUTE_US
    assert RecordLayout.of(card).rings[0].n_slots == 12 + 1 + 1


@pytest.mark.parametrize(
    ("after_us", "expected"),
    [(1, 1), (12 * MINUTE_US, 1), (13 * MINUTE_US - 1, 1), (13 * MINUTE_US, 0), (10**12, 0)],
)
def test_an_event_on_the_hop_stays_until_the_tail_passes_its_tile(after_us: int, expected: int) -> None:
    assert count(table_of(T0), T0 + after_us) == expected


@pytest.mark.parametrize(("at_us", "expected"), [(T0 + 13 * MINUTE_US - 1, 1), (T0 + 13 * MINUTE_US, 0)])
def test_an_event_just_before_the_hop_leaves_with_its_tile(at_us: int, expected: int) -> None:
    assert count(table_of(T0 + MINUTE_US - 1), at_us) == expected


def test_an_idle_entity_decays_to_nothing() -> None:
    columns = read(table_of(T0), T0 + 60 * MINUTE_US)
    assert {n: (c.values.tolist(), c.status.tolist()) for n, c in columns.items()} == {
        "Card.n_12m": ([0], [Status.PRESENT]),
        "Card.spend_12m": ([-1], [Status.DEFAULTED]),
        "Card.least_12m": ([0], [Status.MISSING]),
    }
    assert np.isnan(columns["Card.least_12m"].as_float64()).tolist() == [True]
    assert columns["Card.spend_12m"].as_float64().tolist() == [-1.0]


def test_an_entity_never_seen_reads_as_one_without_events() -> None:
    statuses = {n: c.status.tolist() for n, c in read(table_of(T0), T0 + 1, "c2").items()}
    assert statuses == {"Card.n_12m": [1], "Card.spend_12m": [2], "Card.least_12m": [4]}


def test_no_entity_is_missing_through_and_through() -> None:
    columns = read(table_of(T0), T0 + 1, None)
    assert {tuple(c.status) for c in columns.values()} == {(Status.MISSING,)}
    assert {tuple(c.values) for c in columns.values()} == {(0,)}


@pytest.mark.parametrize("at_us", [1, MINUTE_US, 12 * MINUTE_US - 1])
def test_slots_never_written_do_not_count_in_windows_that_begin_before_the_epoch(at_us: int) -> None:
    columns = read(table_of(0), at_us)
    assert [columns[f"Card.{n}_12m"].values.item() for n in ("n", "spend", "least")] == [1, 1, 1]
    assert read(table_of(0), at_us, "c2")["Card.least_12m"].status.tolist() == [Status.MISSING]


def test_a_late_event_is_merged_into_its_tile() -> None:
    table = table_of(T0 + 5 * MINUTE_US, T0, T0 + 1)
    assert count(table, T0 + 6 * MINUTE_US) == 3
    assert table.too_late == 0


def test_an_event_whose_slot_holds_a_newer_tile_is_too_late_and_in_no_window() -> None:
    table = table_of(T0 + 14 * MINUTE_US, T0)
    assert table.too_late == 1
    assert count(table, T0 + 14 * MINUTE_US + 1) == 1


def test_an_event_as_old_whose_slot_is_free_disturbs_nothing() -> None:
    table = table_of(T0 + 14 * MINUTE_US, T0 + MINUTE_US)
    assert table.too_late == 0
    assert count(table, T0 + 14 * MINUTE_US + 1) == 1


def test_a_jump_over_many_rings_leaves_only_the_new() -> None:
    table = table_of(*range(T0, T0 + 14 * MINUTE_US, MINUTE_US), T0 + 10**12)
    assert count(table, T0 + 10**12 + 1) == 1


def test_one_batch_longer_than_the_ring_keeps_the_newest_of_each_slot() -> None:
    events = [PlacedEvent(Payment(card_id="c1", cents=1, at=from_us(T0 + i * MINUTE_US)), 0, i) for i in range(40)]
    table = OnlineTable(card)
    table.apply(event_frame(payments.schema, events))
    assert count(table, T0 + 39 * MINUTE_US + 1) == 13
    split = table_of(*(T0 + i * MINUTE_US for i in range(40)))
    assert count(split, T0 + 39 * MINUTE_US + 1) == 13


def test_a_batch_has_one_tile_for_each_entity_and_slot() -> None:
    (ring,) = RecordLayout.of(card).rings
    times_us = T0 + np.arange(0, 40 * MINUTE_US, MINUTE_US)
    entity = np.repeat(np.arange(2), 40)
    cents = FieldColumn(np.ones(80, np.int64))
    tiles = build_tiles(EventColumns(entity, np.tile(times_us, 2), np.arange(80), {"cents": cents}), ring)
    slots = (tiles.ends_us // MINUTE_US - 1) % ring.n_slots
    assert len(set(zip(tiles.rows.tolist(), slots.tolist(), strict=True))) == len(tiles.rows) == 2 * ring.n_slots
    assert set(tiles.ends_us.tolist()) == set((times_us[-ring.n_slots :] + MINUTE_US).tolist())


def test_many_rows_keep_their_order_and_their_own_query_times() -> None:
    table = table_of(T0)
    at_us = np.array([T0 + 1, T0 + 1, T0 + 10**9, T0 + 1], np.int64)
    column = table.read([card.n_12m], ["c1", "c2", "c1", None], at_us)["Card.n_12m"]
    assert column.values.tolist() == [1, 0, 0, 0]
    assert column.status.tolist() == [1, 1, 1, 4]


def test_a_short_record_reads_as_zero_padded() -> None:
    layout = RecordLayout.of(card)
    (full,) = table_of(T0 + MINUTE_US).records(["c1"])
    assert full is not None
    assert len(full) < layout.record_bytes
    at_us = np.array([T0 + 2 * MINUTE_US, T0 + 2 * MINUTE_US], np.int64)
    padded = full.ljust(layout.record_bytes, b"\0")
    columns = read_features(layout, card.features, load_records(layout, [full, padded]), at_us)
    assert {len(set(c.values.tolist())) for c in columns.values()} == {1}


def test_a_record_that_is_too_long_is_corrupt() -> None:
    layout = RecordLayout.of(card)
    with pytest.raises(CorruptRecord, match=rf"at most {layout.record_bytes} bytes by its definition, got .*version"):
        load_records(layout, [bytes(layout.record_bytes + 1)])


def test_the_newest_event_time_is_of_all_that_was_applied() -> None:
    table = table_of(T0 + 5, T0 + 9, T0)
    reader = WindowReader([(table.layout, card.features)])
    rows = reader.load(table.records(["c1", "c2"]), 2)
    assert reader.newest_event_time_us(rows).tolist() == [[T0 + 9], [-1]]


def test_no_records_read_as_no_rows() -> None:
    layout = RecordLayout.of(card)
    columns = read_features(layout, card.features, load_records(layout, []), np.zeros(0, np.int64))
    assert {len(c.values) for c in columns.values()} == {0}
