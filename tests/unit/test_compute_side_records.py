"""The side record: its bytes, which tile stays, and what is refused. And features of strings on the way to a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.serialized import objects
from streamfti.compute.side_records import RingTiles, load_side_record, merge_side_records
from streamfti.compute.tiles import Tiles
from streamfti.compute.values import Status
from streamfti.compute.window_reader import WindowReader
from streamfti.errors import CorruptRecord
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.online_table import OnlineTable

T0 = 1_767_225_600_000_000
MINUTE_US = 60_000_000


class Visit(fti.Event):
    card: str
    city: str | None
    shop: str
    cents: int
    at: fti.EventTime


visits = fti.KafkaSource("visits", Visit, max_future_skew="1m")
city: Any = Visit.city


@fti.feature_group(source=visits, entity="card")
class Cities:
    n = fti.count().over("12m")
    last = fti.last(city).over("12m", default="nowhere")
    old = fti.first(Visit.shop).over("12m", expires_after="2m")
    shops = fti.last_n(Visit.shop, 2).over("4m", hop="1m")


@fti.feature_group(source=visits, entity="shop")
class Shop:
    cents = fti.sum(Visit.cents).over("12m")


@fti.feature_group(source=visits, entity="shop")
class ByShop:
    card = fti.last(Visit.card).lifetime()


cities: Any = Cities
LAYOUT = RecordLayout.of(cities)
(RING,) = LAYOUT.rings


def ordered(at_us: int, position: int, text: str) -> bytes:
    return (at_us + 2**63).to_bytes(8, "big") + (position + 2**63).to_bytes(8, "big") + text.encode()


def tiles(*made: tuple[int, int, bytes], kept: bool = True) -> RingTiles:
    """Tiles of (row, end in minutes after T0, the state of `last(city)`)."""
    names = list(RING.serialized)
    state = {name: objects([made[i][2] if name == "last(city)" else b"" for i in range(len(made))]) for name in names}
    rows = np.array([row for row, _, _ in made], np.int64)
    ends_us = np.array([T0 + end * MINUTE_US for _, end, _ in made], np.int64)
    of_ring = Tiles(rows, ends_us, np.ones(len(made), np.int64), state)
    return RingTiles(0, of_ring, np.full(len(made), kept, np.bool_))


def merged(stored: bytes | None, *batches: RingTiles) -> bytes:
    for batch in batches:
        stored = merge_side_records(LAYOUT, {0: stored}.get, [batch]).get(0, stored)
    return stored or b""


def visit(card: str, minutes: float, city: str | None, shop: str = "s") -> Visit:
    return Visit(card=card, city=city, shop=shop, cents=5, at=from_us(T0 + int(minutes * MINUTE_US)))


def table(group: Any, *events: Visit) -> OnlineTable:  # noqa: ANN401  # what class decorators return
    built = OnlineTable(group)
    built.apply(event_frame(visits.schema, [PlacedEvent(event, 0, i) for i, event in enumerate(events)]))
    return built


def test_the_bytes_of_a_known_record_are_those_in_stores_already() -> None:
    """A change here means that every side record in every online store is read wrongly: raise versions instead."""
    assert (RING.n_slots, list(RING.serialized)) == (14, ["first(shop)", "last(city)", "last_2(shop)"])
    stored = table(cities, visit("a", 0, "rome", "x"), visit("a", 0.5, None, "yy"), visit("a", 1, "")).side_records(
        ["a"]
    )

    def entry(end: int, *states: bytes) -> bytes:
        parts = [b"\0\0", (T0 + end * MINUTE_US).to_bytes(8, "little")]
        return b"".join([*parts, *(part for s in states for part in (len(s).to_bytes(4, "little"), s))])

    half = T0 + MINUTE_US // 2
    newest_first = ordered(half, 1, "") + b"\2\0\0\0yy" + ordered(T0, 0, "") + b"\1\0\0\0x"
    one = T0 + MINUTE_US
    assert stored == [
        entry(1, ordered(T0, 0, "x"), ordered(T0, 0, "rome"), newest_first)
        + entry(2, ordered(one, 2, "s"), ordered(one, 2, ""), ordered(one, 2, "") + b"\1\0\0\0s")
    ]


def test_a_tile_takes_its_slot_from_the_one_that_had_it() -> None:
    old, new = ordered(1, 0, "old"), ordered(2, 0, "new")
    assert merged(None, tiles((0, 1, old)), tiles((0, 15, new))) == merged(None, tiles((0, 15, new)))


def test_a_tile_without_state_takes_its_slot_too() -> None:
    assert merged(None, tiles((0, 1, b"x" * 16)), tiles((0, 15, b""))) == b""


def test_what_has_left_the_span_of_its_ring_goes_when_another_is_written() -> None:
    kept = merged(None, tiles((0, 2, b"x" * 16)), tiles((0, 15, b"y" * 16)))
    assert list(load_side_record(LAYOUT, kept)[0]) == [T0 + 2 * MINUTE_US, T0 + 15 * MINUTE_US]
    gone = merged(None, tiles((0, 2, b"x" * 16)), tiles((0, 17, b"y" * 16)))
    assert list(load_side_record(LAYOUT, gone)[0]) == [T0 + 17 * MINUTE_US]
    late = merged(gone, tiles((0, 2, b"x" * 16)))
    assert late == gone


def test_a_tile_that_was_too_late_changes_nothing() -> None:
    assert merge_side_records(LAYOUT, {0: None}.get, [tiles((0, 1, b"x" * 16), kept=False)]) == {}


def test_only_records_that_changed_are_returned() -> None:
    stored = {0: merged(None, tiles((0, 1, ordered(5, 0, "b")))), 1: None, 2: None}
    batch = tiles((0, 1, ordered(4, 0, "a")), (1, 1, ordered(4, 0, "a")), (2, 1, b""))
    assert list(merge_side_records(LAYOUT, stored.get, [batch])) == [1]


@pytest.mark.parametrize("cut", [1, 9, 12, 30])
def test_a_record_that_is_cut_off_is_corrupt(cut: int) -> None:
    whole = merged(None, tiles((0, 1, ordered(5, 0, "city"))))
    with pytest.raises(CorruptRecord, match=rf"must be made as its definition says, got {len(whole) - cut} bytes"):
        load_side_record(LAYOUT, whole[:-cut])


def test_a_record_of_a_ring_that_is_not_there_is_corrupt() -> None:
    with pytest.raises(CorruptRecord, match="must be made as its definition says"):
        load_side_record(LAYOUT, b"\x07\0" + bytes(8))


def test_strings_of_several_groups_are_read_with_numbers_row_by_row() -> None:
    events = [visit("a", 0, "rome", "x"), visit("a", 3, None, "y"), visit("b", 1, "", "x"), visit("b", 3, "bonn", "x")]
    tables = [table(group, *events) for group in (cities, Shop, ByShop)]
    reader = WindowReader([(t.layout, t.group.features) for t in tables])
    assert reader.side_parts == (0, 2)
    keys: list[tuple[str | None, ...]] = [("a", "x", "x"), (None, "y", "y"), ("b", "z", None), ("new", "x", "z")] * 600
    records = [t.records([key])[0] for row in keys for t, key in zip(tables, row, strict=True)]
    side = [tables[i].side_records([row[i]])[0] for row in keys for i in reader.side_parts]
    has_entity = np.array([[key is not None for key in row] for row in keys])
    matrix = reader.read(reader.load(records, len(keys)), np.array([T0 + 4 * MINUTE_US]), has_entity, side)
    assert len(matrix) == 2400
    found = {name: (c.values.tolist()[-4:], c.status.tolist()[-4:]) for name, c in matrix.by_name().items()}
    present, default, missing = (int(s) for s in (Status.PRESENT, Status.DEFAULTED, Status.MISSING))
    assert found == {
        "Cities.n_12m": ([2, 0, 2, 0], [present, missing, present, present]),
        "Cities.last_12m": (["rome", "", "bonn", "nowhere"], [present, missing, present, default]),
        "Cities.old_12m": (["x", "", "x", ""], [present, missing, present, missing]),
        "Cities.shops_4m_1": (["y", "", "x", ""], [present, missing, present, missing]),
        "Cities.shops_4m_2": (["x", "", "x", ""], [present, missing, present, missing]),
        "Shop.cents_12m": ([15, 5, 0, 15], [present, present, missing, present]),
        "ByShop.card": (["b", "a", "", ""], [present, present, missing, missing]),
    }
    columns = matrix.model_columns()
    assert columns["Cities.last_12m"].tolist()[-4:] == ["rome", None, "bonn", "nowhere"]
    assert columns["Shop.cents_12m"].dtype == np.float64
    assert matrix.by_name()["Cities.old_12m"].model_column().tolist()[-4:] == ["x", None, "x", None]


def test_a_string_expires_as_a_number_does() -> None:
    built = table(cities, visit("a", 0, "rome", "x"))
    for minutes, value, status in ((1.9, "x", Status.PRESENT), (2, "", Status.EXPIRED)):
        at_us = np.array([T0 + int(minutes * MINUTE_US)])
        column = built.read(cities.features, ["a"], at_us)["Cities.old_12m"]
        assert (column.values.tolist(), column.status.tolist()) == ([value], [status])


def test_a_group_without_state_of_any_length_has_no_side_record() -> None:
    built = table(Shop, visit("a", 0, "rome", "x"))
    assert not built.layout.has_side_record
    assert built.side_records(["x"]) == [None]
    assert WindowReader([(built.layout, built.group.features)]).side_parts == ()
