"""Whatever the order of arrival, batches and restarts: a join has the pairs that plain Python finds, each once."""

from __future__ import annotations

import math
import random
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfti as fti
from streamfti.clock import to_us
from streamfti.compute.joins import MEMBERS, POSITION, joined
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.transformations import stream_events, transformed
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import JoinedStream
from streamfti.definitions.windows import Window
from streamfti.feature_pipeline import event_history
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.feature_pipeline.logged_pairs import logged_pairs
from streamfti.feature_pipeline.pair_finder import PairFinder
from streamfti.stores.offline.log import OfflineLog
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent, naive_feature
from streamfti.testing.naive_joins import PlacedPair, naive_pairs
from streamfti.testing.online_table import OnlineTable
from streamfti.testing.strategies import event_times_us, placed_streams

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ORIGIN_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
PARTITIONS = (0, 1)


class Click(fti.Event):
    ad: str | None
    cost: int
    sure: bool
    at: fti.EventTime


class View(fti.Event):
    ad: str | None
    sure: bool
    cost: int | None
    seen: fti.EventTime


C: Any = Click  # fields are expressions at run time
V: Any = View
clicks = fti.KafkaSource("clicks", Click)
views = fti.KafkaSource("views", View, max_future_skew="3s")

plain = clicks.join(views, on="ad", within="12s")
stepped = clicks.where(C.cost > -2).derive(half=C.cost // 2).join(views.where(V.cost.is_null()), on="ad", within="5s")
two_keys = clicks.join(views, on=("ad", "sure"), within="1m", prefix="of_view_")
itself = clicks.where(C.sure).join(clicks, on="ad", within="12s")
JOINS = {"plain": plain, "stepped": stepped, "two keys": two_keys, "itself": itself}
later = plain.where(plain["at"] >= plain["seen"]).derive(paid=plain["cost"] - plain["view_cost"].fill_null(0))


@fti.feature_group(source=later, entity="ad")
class Ads:
    n = fti.count().over("12s", "1m")
    paid = fti.sum(later["paid"]).over("1m")
    last = fti.last(later["view_cost"]).over("1m")
    first = fti.first(later["paid"]).over("12s")


ADS: Any = Ads  # mypy ignores what class decorators return


@pytest.fixture(autouse=True, scope="module")
def small_memory() -> Iterator[None]:
    """Little time and few events are kept, so that the log is read and memory is sorted anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_history, "_LATE_US", 2_000_000)
        patch.setattr(event_history, "_TAIL_ROWS", 2)
        yield


def group_of(join: JoinedStream) -> FeatureGroup:
    class Pairs:
        n = fti.count().over("1h")

    return fti.feature_group(source=join, entity="ad")(Pairs)


def topics() -> st.SearchStrategy[dict[str, list[PlacedEvent]]]:
    """What happens in two topics: near in time, but for some that lie days away."""
    near = event_times_us(ORIGIN_US, [Window.of("12s", None), Window.of("1m", None)])
    times = near | near.map(lambda us: us + 2 * DAY_US)
    return st.fixed_dictionaries(
        {"clicks": placed_streams(Click, times, max_size=25), "views": placed_streams(View, times, max_size=25)}
    )


def frame_of(source: KafkaSource, events: list[PlacedEvent]) -> pl.DataFrame:
    return event_frame(source.schema, events, ingest_time_us=ORIGIN_US)


def expected_pairs(join: JoinedStream, events: dict[str, list[PlacedEvent]]) -> list[PlacedPair]:
    return list(naive_pairs(join, events[join.left.source.name], events[join.right.source.name]))


def as_rows(join: JoinedStream, pairs: pl.DataFrame) -> list[tuple[object, ...]]:
    names = [*(field.name for field in join.schema.fields), POSITION, *(name for member in MEMBERS for name in member)]
    return sorted(pairs.select(names).rows(), key=repr)


def naive_rows(join: JoinedStream, pairs: list[PlacedPair]) -> list[tuple[object, ...]]:
    return sorted(
        (
            (
                *(pair.fields[field.name] for field in join.schema.fields),
                *pair.order,
                join.lane(join.left.source, pair.left.partition),
                pair.left.offset,
                join.lane(join.right.source, pair.right.partition),
                pair.right.offset,
            )
            for pair in pairs
        ),
        key=repr,
    )


@pytest.mark.parametrize("join", JOINS.values(), ids=list(JOINS))
@EXAMPLES
@given(events=topics())
def test_history_has_the_pairs_of_the_rule(join: JoinedStream, events: dict[str, list[PlacedEvent]]) -> None:
    frames = {source: frame_of(source, events[source.name]) for source in (clicks, views)}
    found = stream_events(join, [f.name for f in join.schema.fields], lambda source, *_: frames[source])
    assert as_rows(join, found) == naive_rows(join, expected_pairs(join, events))


class Process:
    """A feature pipeline without Redis: `applied`, `emitted` and the log outlive it."""

    def __init__(
        self, join: JoinedStream, log: OfflineLog, applied: dict[int, int], emitted: list[pl.DataFrame]
    ) -> None:
        self.join, self.applied, self.emitted = join, applied, emitted
        self.writers = {source: log.writer(source) for source in join.sources}
        self.pairs = PairFinder([group_of(join)], log)
        self.waiting: deque[EventBatch] = deque()
        self.positions = {
            (source, p): min(self.writers[source].positions.get(p, 0), applied.get(join.lane(source, p), 0))
            for source in join.sources
            for p in PARTITIONS
        }

    def read(self, source: KafkaSource, events: list[PlacedEvent], n: dict[int, int]) -> None:
        """Take up to so many messages of each partition as one batch."""
        batch: list[PlacedEvent] = []
        for partition, count in n.items():
            at = self.positions[source, partition]
            batch += [e for e in events if e.partition == partition and at <= e.offset < at + count]
            end = max((e.offset + 1 for e in batch if e.partition == partition), default=at)
            self.positions[source, partition] = end
        next_offsets = {p: self.positions[source, p] for p in {e.partition for e in batch}}
        taken = EventBatch(source, frame_of(source, batch), [], next_offsets)
        logged = taken.frame.with_columns(pl.lit(value=False).alias("_too_late"))
        self.writers[source].append(logged, next_offsets)
        self.pairs.take(taken)
        self.waiting.append(taken)
        while self.waiting and self.pairs.has_read(self.join, self.applied):
            self.apply(self.waiting.popleft())

    def apply(self, batch: EventBatch) -> None:
        self.emitted.append(self.pairs.pairs(self.join, batch, self.applied))
        for partition, offset in batch.next_offsets.items():
            lane = self.join.lane(batch.source, partition)
            self.applied[lane] = max(offset, self.applied.get(lane, 0))

    def flush(self, source: KafkaSource) -> None:
        self.writers[source].flush()
        self.pairs.log_moved(source)


@pytest.mark.parametrize("join", JOINS.values(), ids=list(JOINS))
@EXAMPLES
@given(events=topics(), data=st.data())
def test_the_stream_makes_each_pair_once_through_restarts(
    join: JoinedStream, events: dict[str, list[PlacedEvent]], data: st.DataObject
) -> None:
    source = st.sampled_from(join.sources)
    read = st.tuples(st.just("read"), source, st.fixed_dictionaries({p: st.integers(0, 6) for p in PARTITIONS}))
    steps = st.lists(read | read | st.tuples(st.just("flush"), source) | st.just(("restart",)), max_size=20)
    applied: dict[int, int] = {}
    emitted: list[pl.DataFrame] = []
    with tempfile.TemporaryDirectory() as folder:
        log = OfflineLog(Path(folder))
        process = Process(join, log, applied, emitted)
        everything = [("read", s, dict.fromkeys(PARTITIONS, 100)) for s in data.draw(st.permutations(join.sources))]
        drawn: list[Any] = data.draw(steps)
        for step in [*drawn, *everything]:
            if step[0] == "read":
                process.read(step[1], events[step[1].name], step[2])
            elif step[0] == "flush":
                process.flush(step[1])
            else:
                process = Process(join, log, applied, emitted)
        assert not process.waiting
        expected = naive_rows(join, expected_pairs(join, events))
        assert as_rows(join, pl.concat(emitted)) == expected
        for of in join.sources:
            process.flush(of)
        snapshots = {of: log.snapshot(of) for of in join.sources}
        parts = list(logged_pairs(join, [f.name for f in join.schema.fields], log, snapshots))
        assert (as_rows(join, pl.concat(parts)) if parts else []) == expected


@EXAMPLES
@given(events=topics(), seed=st.integers(0, 2**16), data=st.data())
def test_features_of_pairs_are_the_same_in_tiles_history_and_plain_python(
    events: dict[str, list[PlacedEvent]], seed: int, data: st.DataObject
) -> None:
    pairs = joined(plain, frame_of(clicks, events["clicks"]), frame_of(views, events["views"]))
    naive = expected_pairs(plain, events)
    at_us = max((to_us(pair.fields["joined_at"]) for pair in naive), default=ORIGIN_US)
    at_us += data.draw(st.integers(1, 90_000_000))
    shuffled = pairs.sample(fraction=1.0, shuffle=True, seed=seed)
    table = OnlineTable(ADS)
    for part in shuffled.iter_slices(random.Random(seed).randint(1, 9)):
        table.apply(part)
    keys = ["a", "b", "", "ä", "nobody"]
    at = np.full(len(keys), at_us)
    online = table.read(ADS.features, keys, at)
    history = point_in_time(ADS, ADS.features, transformed(later, pairs), pl.DataFrame({"ad": keys}), at)
    for feature in ADS.features:
        expected = [naive_feature(feature, ADS, naive, {"ad": key}, at_us) for key in keys]
        assert_equal(values_of(history[feature.qualified_name]), expected)
        assert_equal(values_of(online[feature.qualified_name]), expected)


def values_of(column: FeatureColumn) -> list[float | None]:
    return [
        None if status >= Status.EXPIRED else value.item()
        for value, status in zip(column.values, column.status, strict=True)
    ]


def assert_equal(got: list[Any], expected: list[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or math.isclose(one, other, rel_tol=1e-9)
