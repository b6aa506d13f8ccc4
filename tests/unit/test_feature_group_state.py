"""The cache of a group: whatever it forgets, and whatever the store expires, both hold the same records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import from_us, to_us
from streamfti.compute.layout import HEADER_BYTES
from streamfti.feature_pipeline.group_state import GroupChange, GroupState
from streamfti.stores.online.keys import record_key, side_key
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

START_US = to_us(datetime(2026, 5, 1, 12, tzinfo=UTC))
SECOND_US, HOUR_US = 1_000_000, 3_600_000_000


class Tick(fti.Event):
    at: fti.EventTime
    key: str | None
    value: int
    name: str | None


SOURCE = fti.KafkaSource("ticks", Tick, max_future_skew="10s")


@fti.feature_group(source=SOURCE, entity="key", retention="1h")
class Ticks:
    n = fti.count().over("1h", "1m")
    total = fti.sum(Tick.value).over("10m")


TICKS = fti.Catalog.of([SOURCE, Ticks]).group("Ticks")


class Store:
    """What a store of strings does with slots and expiries, by a clock that is handed in."""

    def __init__(self) -> None:
        self.now_us = START_US
        self.n_read = 0
        self._stored: dict[bytes, tuple[bytes, int]] = {}

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.n_read += len(keys)
        return [self.get(key) for key in keys]

    def get(self, key: bytes) -> bytes | None:
        stored, ends_us = self._stored.get(key, (b"", 0))
        return stored if ends_us > self.now_us else None

    def write(self, change: GroupChange) -> None:
        for key, offset, data in change.slots:
            found = (self.get(key) or b"").ljust(offset, b"\0")
            ends_us = self._stored[key][1] if self.get(key) is not None else 1 << 62
            self._stored[key] = found[:offset] + data + found[offset + len(data) :], ends_us
        for side in change.side:
            assert side.expiry_ms is not None
            self._stored[side.key] = side.data, self.now_us + side.expiry_ms * 1000
        for key, ms in change.expiries_ms.items():
            self._stored[key] = self._stored[key][0], self.now_us + ms * 1000

    def left_us(self, key: bytes) -> int:
        return self._stored[key][1] - self.now_us

    def records(self) -> dict[bytes, bytes]:
        return {key: stored for key, (stored, ends_us) in self._stored.items() if ends_us > self.now_us}


def frame(*ticks: tuple[int, str | None], first_offset: int = 0) -> pl.DataFrame:
    placed = [
        PlacedEvent(Tick(at=from_us(at_us), key=key, value=i + 1, name=f"n{i}" if i % 2 else None), 0, first_offset + i)
        for i, (at_us, key) in enumerate(ticks)
    ]
    return event_frame(SOURCE.schema, placed, ingest_time_us=START_US)


def apply(state: GroupState, store: Store, *ticks: tuple[int, str | None]) -> GroupChange:
    change = state.apply(frame(*ticks), store.now_us)
    store.write(change)
    return change


@pytest.mark.parametrize("cache_bytes", [1, 20_000, 1 << 30])
def test_the_size_of_the_cache_changes_nothing_that_is_stored(cache_bytes: int) -> None:
    """A cache smaller than a batch, one that is forgotten now and then, and one that holds everything."""
    rng = np.random.default_rng(3)
    store, oracle = Store(), Store()
    state = GroupState(TICKS, store.read, cache_bytes=cache_bytes)
    for _ in range(30):
        ticks = [
            (START_US - int(rng.integers(2 * HOUR_US)), None if rng.random() < 0.1 else f"k{rng.integers(30)}")
            for _ in range(int(rng.integers(0, 25)))
        ]
        apply(state, store, *ticks)
        apply(GroupState(TICKS, oracle.read), oracle, *ticks)
    assert store.records() == oracle.records()
    assert len(store.records()) == 30


def test_memory_of_the_cache_counts_keys_and_never_doubles_past_its_limit() -> None:
    store = Store()
    state = GroupState(TICKS, store.read, cache_bytes=2_000_000)
    for first in range(0, 2_000_000 // state.layout.record_bytes, 100):
        apply(state, store, *((START_US, f"k{first + i}") for i in range(100)))
        assert len(state._records) * state.layout.record_bytes <= 2_000_000
    n_read = store.n_read
    apply(state, store, (START_US, f"k{first}"))  # the newest is still there
    assert store.n_read == n_read


def test_record_that_the_store_has_expired_is_not_made_anew_from_the_cache_in_part() -> None:
    """A late event, older than the newest one of the record that is gone: its record must be whole."""
    store = Store()
    state = GroupState(TICKS, store.read)
    key = record_key(TICKS, "a")
    apply(state, store, (START_US, "a"), (START_US - 300 * SECOND_US, "a"))
    store.now_us += store.left_us(key)
    assert store.get(key) is None
    late_us = START_US - 300 * SECOND_US
    apply(state, store, (late_us, "a"))
    fresh = Store()
    apply(GroupState(TICKS, fresh.read), fresh, (late_us, "a"))
    assert store.get(key) == fresh.get(key)


def test_record_is_read_back_before_the_store_may_have_expired_it() -> None:
    store = Store()
    state = GroupState(TICKS, store.read)
    apply(state, store, (START_US, "a"))
    store.now_us += HOUR_US
    assert store.left_us(record_key(TICKS, "a")) > 0
    n_read = store.n_read
    apply(state, store, (START_US, "a"))
    assert store.n_read == n_read + 1
    apply(state, store, (START_US, "a"))
    assert store.n_read == n_read + 1


def test_record_that_expires_between_being_read_and_written_has_its_header() -> None:
    store = Store()
    apply(GroupState(TICKS, store.read), store, (START_US, "a"))
    key = record_key(TICKS, "a")
    store.now_us += store.left_us(key) - 1
    change = GroupState(TICKS, store.read).apply(frame((START_US - SECOND_US, "a")), store.now_us)
    store.now_us += 1
    store.write(change)
    stored = store.get(key)
    assert stored is not None
    assert int.from_bytes(stored[:HEADER_BYTES], "little") == START_US + 1


@pytest.mark.parametrize("step_us", [60 * SECOND_US, 440 * SECOND_US, 451 * SECOND_US, 3000 * SECOND_US])
def test_record_outlives_every_window_that_its_newest_event_is_in(step_us: int) -> None:
    """The retention is the longest window here: a late renewal, the hop and the skew must come on top."""
    store = Store()
    state = GroupState(TICKS, store.read)
    longest = max(TICKS.features, key=lambda f: f.window.length_us).window
    for _ in range(40):
        apply(state, store, (store.now_us + SOURCE.max_future_skew_us, "a"))
        in_a_window_us = SOURCE.max_future_skew_us + longest.length_us + longest.hop_us
        assert store.left_us(record_key(TICKS, "a")) >= in_a_window_us
        store.now_us += step_us


def test_clock_that_is_set_back_does_not_stop_renewals() -> None:
    store = Store()
    state = GroupState(TICKS, store.read)
    apply(state, store, (START_US, "a"))
    store.now_us -= 24 * HOUR_US
    assert apply(state, store, (START_US, "a")).expiries_ms


def test_batch_without_any_entity_changes_nothing_but_freshness() -> None:
    store = Store()
    change = apply(GroupState(TICKS, store.read), store, (START_US, None))
    assert (list(change.slots), change.expiries_ms, change.tiles) == ([], {}, 0)
    assert change.newest_event_time_us == {0: START_US}
    assert GroupState(TICKS, store.read).apply(frame(), START_US).newest_event_time_us == {}


@fti.feature_group(source=SOURCE, entity="key", retention="1h")
class Names:
    n = fti.count().over("10m")
    last = fti.last(Tick.name).over("1h")
    recent = fti.last_n(Tick.name, 3).over("10m")


NAMES = fti.Catalog.of([SOURCE, Names]).group("Names")


@pytest.mark.parametrize("cache_bytes", [1, 20_000, 1 << 30])
def test_the_size_of_the_cache_changes_no_side_record(cache_bytes: int) -> None:
    rng = np.random.default_rng(3)
    store, oracle = Store(), Store()
    state = GroupState(NAMES, store.read, cache_bytes=cache_bytes)
    for i in range(30):
        ticks = [(START_US - int(rng.integers(2 * HOUR_US)), f"k{rng.integers(30)}") for _ in range(20)]
        some = frame(*ticks, first_offset=20 * i)
        store.write(state.apply(some, store.now_us))
        oracle.write(GroupState(NAMES, oracle.read).apply(some, oracle.now_us))
    assert store.records() == oracle.records()
    assert sum(key.startswith(b"fti:{Names.1.0}:s:") for key in store.records()) > 20


def test_records_and_side_records_are_read_at_once() -> None:
    store = Store()
    reads: list[Sequence[bytes]] = []

    def read(keys: Sequence[bytes]) -> list[bytes | None]:
        reads.append(keys)
        return store.read(keys)

    store.write(GroupState(NAMES, read).apply(frame((START_US, "a"), (START_US, "b")), START_US))
    assert reads == [[*(record_key(NAMES, key) for key in "ab"), *(side_key(NAMES, key) for key in "ab")]]


def test_a_side_record_is_never_without_an_expiry_and_lasts_as_long_as_its_record() -> None:
    """The value is null at first, so that there is none yet when the record's expiry is set."""
    store = Store()
    state = GroupState(NAMES, store.read)
    apply(state, store, (START_US, "a"))
    record, side = record_key(NAMES, "a"), side_key(NAMES, "a")
    assert store.get(side) is None
    for step_us in (1, 60 * SECOND_US, 441 * SECOND_US, 60 * SECOND_US):
        store.now_us += step_us
        store.write(state.apply(frame((store.now_us, "a"), (store.now_us, "a")), store.now_us))
        assert store.left_us(side) >= store.left_us(record) - 60 * SECOND_US
        assert store.left_us(side) > HOUR_US
    quiet = frame((store.now_us + 451 * SECOND_US, "a"))  # a null alone: the record is renewed, and the other with it
    store.now_us += 451 * SECOND_US
    store.write(state.apply(quiet, store.now_us))
    assert store.left_us(side) == store.left_us(record)


def test_a_side_record_that_the_store_has_expired_is_not_made_anew_from_the_cache() -> None:
    store = Store()
    state = GroupState(NAMES, store.read)
    both = frame((START_US, "a"), (START_US, "a"))
    store.write(state.apply(both, store.now_us))
    store.now_us += 3 * HOUR_US
    assert store.get(side_key(NAMES, "a")) is None
    fresh = Store()
    store.write(state.apply(both, store.now_us))
    fresh.write(GroupState(NAMES, fresh.read).apply(both, fresh.now_us))
    assert store.get(side_key(NAMES, "a")) == fresh.get(side_key(NAMES, "a"))


def test_memory_of_the_cache_counts_side_records() -> None:
    store = Store()
    state = GroupState(NAMES, store.read, cache_bytes=200_000)
    assert state._side is not None

    def visit(i: int) -> None:
        tick = Tick(at=from_us(START_US), key=f"k{i}", value=i, name="long " * 1_000)
        store.write(state.apply(event_frame(SOURCE.schema, [PlacedEvent(tick, 0, i)]), store.now_us))

    for i in range(93):
        visit(i)
        assert sum(map(len, state._side._records.values())) <= 200_000 + 11_000  # and one batch's
    n_read = store.n_read
    visit(92)  # the newest is still there
    assert store.n_read == n_read
