"""Whatever the stream: what was merged tile by tile, what history gives, and what the definition says are one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfti as fti
from streamfti.clock import to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.layout import RecordLayout
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.records import load_records, read_features
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup
from streamfti.feature_pipeline.batch_columns import BatchColumns
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.stores.online.keys import record_key, side_key
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent, Value, naive_feature
from streamfti.testing.online_table import OnlineTable
from streamfti.testing.strategies import batches, event_times_us, placed_streams

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ROUNDED = {"sum", "mean", "variance", "stddev"}
ORIGINS_US = (0, 1_767_225_600_000_000)  # the epoch itself, and 2026-01-01


class Reading(fti.Event):
    sensor: str
    line: int | None
    whole: int
    part: float
    sure: bool
    maybe_whole: int | None
    maybe_part: float | None
    maybe_sure: bool | None
    maybe_word: str | None
    at: fti.EventTime


readings = fti.KafkaSource("readings", Reading, max_future_skew="3s")


@fti.feature_group(source=readings, entity="sensor")
class BySensor:
    n = fti.count().over("12s", "1m", "2m")
    whole = fti.sum(Reading.whole).over("12s", "10m", default=-1)
    part = fti.sum(Reading.part).over("12s", "1m")
    sure = fti.mean(Reading.sure).over("1m")
    maybe_whole_sum = fti.sum(Reading.maybe_whole).over("12s", "1m")
    maybe_whole_least = fti.min(Reading.maybe_whole).over("12s", "1m", default=7)
    maybe_whole_most = fti.max(Reading.maybe_whole).over("12s", "1m")
    part_least = fti.min(Reading.part).over("12s", "10m")
    part_most = fti.max(Reading.part).over("12s", "10m")
    maybe_part_mean = fti.mean(Reading.maybe_part).over("12s", "1m", default=0.5)
    maybe_sure_last = fti.last(Reading.maybe_sure).over("12s", "10m")
    last_whole = fti.last(Reading.whole).over("12s", "10m")
    last_maybe_part = fti.last(Reading.maybe_part).over("1m", hop="1m")
    jumping = fti.count().over("10s", hop="10s")


@fti.feature_group(source=readings, entity=("sensor", "line"))
class ByLine:
    n = fti.count().over("12s", "1m")
    total = fti.sum(Reading.whole).over("1m")
    last = fti.last(Reading.maybe_whole).over("1m", hop="30s")


@fti.feature_group(source=readings, entity=("line", "sure"))
class ByFlag:
    n = fti.count().over("12s")
    last = fti.last(Reading.whole).over("12s", hop="12s")


@fti.feature_group(source=readings, entity="sensor")
class Spread:
    part = fti.variance(Reading.part).over("12s", "10m", default=-1.0)
    whole = fti.stddev(Reading.maybe_whole).over("12s", "1m")
    sure = fti.variance(Reading.maybe_sure).over("1m", expires_after="13s")
    n = fti.count().over("12s", "1m", expires_after="40s")
    most = fti.max(Reading.part).over("12s", default=4.5, expires_after="5s")


maybe_part: Any = Reading.maybe_part  # to a type checker it may be None, which takes part in no arithmetic
maybe_whole: Any = Reading.maybe_whole


@fti.feature_group(source=readings, entity="line")
class Order:
    first = fti.first(Reading.whole).over("12s", "10m", default=3)
    first_maybe = fti.first(Reading.maybe_part).over("1m")
    sure = fti.count(where=Reading.maybe_sure == True).over("12s", "10m")  # noqa: E712  # a condition
    large = fti.sum(Reading.whole, where=Reading.whole > 0).over("12s", default=0)
    last_small = fti.last(Reading.part, where=maybe_part < 0).over("1m")
    double = fti.max(maybe_whole * 2 + 1).over("12s", "1m")
    seen_sure = fti.time_since_last(where=Reading.sure == True)  # noqa: E712
    recent = fti.last_n(Reading.maybe_whole, 3).over("12s", "1m", default=-7)
    parts = fti.last_n(Reading.part, 2).lifetime()
    n = fti.count().lifetime(expires_after="2m")
    total = fti.sum(Reading.whole).lifetime()
    opening = fti.first(Reading.maybe_sure).lifetime(default=1)
    seen = fti.time_since_last(default=-1.0)
    seen_lately = fti.time_since_last(expires_after="30s")


@fti.feature_group(source=readings, entity="line")
class Words:
    last = fti.last(Reading.sensor).over("12s", "1m", default="none")
    first = fti.first(Reading.maybe_word).over("12s", "10m")
    recent = fti.last_n(Reading.maybe_word, 2).over("1m", hop="30s")
    last_sure = fti.last(Reading.sensor, where=Reading.maybe_sure == True).over("12s")  # noqa: E712
    seen = fti.last_n(Reading.sensor, 3).lifetime(expires_after="40s")
    opening = fti.first(Reading.maybe_word).lifetime(default="")
    n = fti.count().over("12s", "1m")


@fti.feature_group(source=readings, entity="line")
class Sketches:
    sensors = fti.approx_distinct(Reading.sensor).over("12s", "10m")
    wholes = fti.approx_distinct(Reading.maybe_whole, where=Reading.whole > 0).over("1m")
    parts = fti.approx_distinct(Reading.maybe_part).lifetime()
    part = fti.quantiles(Reading.part, 0, 0.5, 0.999).over("12s", "1m", default=-1.0)
    whole = fti.quantiles(Reading.maybe_whole, 0.25, 1).lifetime(expires_after="40s")
    top = fti.top_k(Reading.sensor, 2).over("12s", "10m", default="none")
    word = fti.top_k(Reading.maybe_word, 1).lifetime()
    top_whole = fti.top_k(Reading.maybe_whole, 3).over("1m")
    sure = fti.top_k(Reading.maybe_sure, 2).over("12s", default=-1)


GROUPS: list[Any] = [
    BySensor,
    ByLine,
    ByFlag,
    Spread,
    Order,
    Words,
    Sketches,
]  # mypy ignores what class decorators return
EXACT: list[Any] = [ByLine, ByFlag, Order, Words, Sketches]
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)


def streams(group: FeatureGroup) -> st.SearchStrategy[list[PlacedEvent]]:
    bounded = {feature.window for feature in group.features if not feature.window.is_lifetime}
    windows = sorted(bounded, key=lambda w: (w.length_us, w.hop_us))
    chosen = st.sampled_from(windows).map(lambda window: [window]) | st.just(windows)
    return st.tuples(st.sampled_from(ORIGINS_US), chosen).flatmap(
        lambda drawn: placed_streams(Reading, event_times_us(*drawn))
    )


def steps_us(group: FeatureGroup) -> tuple[int, ...]:
    windows = [feature.window for feature in group.features if not feature.window.is_lifetime]
    expiries = {feature.expires_after_us for feature in group.features if feature.expires_after_us}
    return tuple(sorted({w.length_us for w in windows} | {w.hop_us for w in windows} | expiries))


def keys_of(group: FeatureGroup, events: Sequence[PlacedEvent]) -> list[tuple[object, ...]]:
    found = {tuple(e.event.values()[name] for name in group.entity) for e in events}
    never_seen = tuple({"sensor": "nobody", "line": 99, "sure": False}[name] for name in group.entity)
    no_entity = (None,) * len(group.entity)
    return [*sorted(found, key=repr), never_seen, no_entity]


def key_frame(group: FeatureGroup, keys: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    columns = frame_schema(group.source.schema)
    return pl.DataFrame(keys, schema={name: columns[name] for name in group.entity}, orient="row")


def encoded(keys: Sequence[tuple[object, ...]]) -> list[str | None]:
    return [None if None in key else encode_key(key) for key in keys]  # type: ignore[arg-type]  # None is excluded


def newest_us(events: Sequence[PlacedEvent]) -> int:
    return max((to_us(e.event.values()["at"]) for e in events), default=0)


def query_times(group: FeatureGroup, events: Sequence[PlacedEvent], earliest_us: int) -> st.SearchStrategy[int]:
    """Times at which something leaves a window, give or take a microsecond; never before the earliest."""
    at = st.sampled_from([to_us(e.event.values()["at"]) for e in events] or [0])
    step, nudge = st.sampled_from((0, *steps_us(group))), st.sampled_from((-1, 0, 1))
    twice = st.tuples(step, step).map(sum)
    return st.builds(lambda t, s, d: max(t + s + d, earliest_us), at, twice, nudge)


def table_of(group: FeatureGroup, parts: Sequence[Sequence[PlacedEvent]]) -> OnlineTable:
    table = OnlineTable(group)
    for part in parts:
        table.apply(event_frame(readings.schema, part))
    return table


def values_of(column: FeatureColumn) -> list[Value | None]:
    return [
        None if status >= Status.EXPIRED else value
        for value, status in zip(column.values.tolist(), column.status, strict=True)
    ]


def assert_equal(feature: Feature, got: Sequence[Value | None], expected: Sequence[Value | None]) -> None:
    for one, other in zip(got, expected, strict=True):
        if not (isinstance(one, float) and isinstance(other, float) and feature.aggregation.kind in ROUNDED):
            assert one == other, feature.qualified_name
        elif feature.aggregation.kind == "stddev":  # the root of a tolerance
            assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-3), (feature.qualified_name, one, other)
        else:
            assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6), (feature.qualified_name, one, other)


def naive_columns(
    group: FeatureGroup, events: Sequence[PlacedEvent], keys: Sequence[tuple[object, ...]], at_us: Sequence[int]
) -> Mapping[str, list[Value | None]]:
    named = [dict(zip(group.entity, key, strict=True)) for key in keys]
    return {
        f.qualified_name: [naive_feature(f, group, events, key, q) for key, q in zip(named, at_us, strict=True)]
        for f in group.features
    }


@every_group
@EXAMPLES
@given(data=st.data())
def test_merged_tiles_equal_the_definition_and_history(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    table = table_of(group, data.draw(batches(events)))
    keys = keys_of(group, events)
    after_newest = query_times(group, events, newest_us(events) + 1)
    at_us = data.draw(st.lists(after_newest, min_size=len(keys), max_size=len(keys)))

    online = table.read(group.features, encoded(keys), np.array(at_us, np.int64))

    history = point_in_time(
        group, group.features, event_frame(readings.schema, events), key_frame(group, keys), np.array(at_us)
    )
    expected = naive_columns(group, events, keys, at_us)
    for feature in group.features:
        name = feature.qualified_name
        assert_equal(feature, values_of(online[name]), expected[name])
        assert_equal(feature, values_of(online[name]), values_of(history[name]))
        np.testing.assert_array_equal(online[name].status, history[name].status)


@every_group
@EXAMPLES
@given(data=st.data())
def test_history_equals_the_definition_at_any_past_time(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    keys = keys_of(group, events)
    at_us = data.draw(st.lists(query_times(group, events, 0), min_size=len(keys), max_size=len(keys)))
    shuffled = data.draw(st.permutations(events))

    history = point_in_time(
        group, group.features, event_frame(readings.schema, shuffled), key_frame(group, keys), np.array(at_us)
    )

    expected = naive_columns(group, events, keys, at_us)
    for feature in group.features:
        assert_equal(feature, values_of(history[feature.qualified_name]), expected[feature.qualified_name])


@every_group
@EXAMPLES
@given(data=st.data())
def test_events_ahead_of_the_clock_count_at_once_and_push_nothing_out(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    table = table_of(group, data.draw(batches(events)))
    keys = keys_of(group, events)
    skew_us = group.source.max_future_skew_us
    now_us = max(0, newest_us(events) - data.draw(st.integers(0, skew_us) | st.just(skew_us)))

    online = table.read(group.features, encoded(keys), np.full(len(keys), now_us, np.int64))

    for feature in group.features:
        expected = [
            naive_feature(feature, group, events, dict(zip(group.entity, key, strict=True)), now_us, head="applied")
            for key in keys
        ]
        assert_equal(feature, values_of(online[feature.qualified_name]), expected)


@pytest.mark.parametrize("group", EXACT, ids=lambda group: group.name)  # sums of floats depend on order
@EXAMPLES
@given(data=st.data())
def test_any_order_and_split_gives_the_same_bytes(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    shuffled = data.draw(st.permutations(events))
    keys = [key for key in encoded(keys_of(group, events)) if key is not None]

    one = table_of(group, [events])
    cut = table_of(group, data.draw(batches(events)))
    other = table_of(group, data.draw(batches(shuffled)))

    assert one.records(keys) == cut.records(keys) == other.records(keys)
    assert one.side_records(keys) == cut.side_records(keys) == other.side_records(keys)


@pytest.mark.parametrize("group", GROUPS[:1], ids=lambda group: group.name)
@EXAMPLES
@given(data=st.data())
def test_the_newest_event_time_is_in_the_record(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    table = table_of(group, data.draw(batches(events)))
    for (sensor,) in keys_of(group, events)[:-2]:
        own = [e for e in events if e.event.values()["sensor"] == sensor]
        (record,) = table.records([str(sensor)])
        assert record is not None
        assert int.from_bytes(record[:8], "little") == newest_us(own) + 1


class Pipeline:
    """The code that the feature pipeline and a backfill run for one group, over a store of strings.

    Attributes:
        records: what is stored, by key: records, and side records beside them.
    """

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        self.records: dict[bytes, bytes] = {}
        self._applied: dict[int, int] = {}
        self.restart()

    def restart(self) -> None:
        """Start anew: what is left is what is stored, which is records and offsets."""
        self._state = GroupState(self.group, lambda keys: [self.records.get(key) for key in keys])

    def send(self, events: Sequence[PlacedEvent]) -> None:
        """Apply a batch; what has been applied already is dropped by its offsets."""
        frame = event_frame(readings.schema, events)
        batch = BatchColumns.by_group(frame, [self.group])[self.group.name]
        change = self._state.merge(batch, self._applied, 0)
        for key, offset, data in change.slots:
            found = self.records.get(key, b"").ljust(offset, b"\0")
            self.records[key] = found[:offset] + data + found[offset + len(data) :]
        self.records |= {write.key: write.data for write in change.side}
        for event in events:
            self._applied[event.partition] = max(self._applied.get(event.partition, 0), event.offset + 1)

    def fill(self, log: Sequence[PlacedEvent], chunk_rows: int) -> None:
        """Apply a log as `materialize` does: one partition after the other, in chunks, in the order of offsets."""
        for partition in sorted({event.partition for event in log}):
            own = [event for event in log if event.partition == partition]
            for start in range(0, len(own), chunk_rows):
                self.send(own[start : start + chunk_rows])

    def stored(self, keys: Sequence[str | None]) -> list[bytes | None]:
        return [None if key is None else self.records.get(record_key(self.group, key)) for key in keys]

    def stored_beside(self, keys: Sequence[str | None]) -> list[bytes | None]:
        return [None if key is None else self.records.get(side_key(self.group, key)) for key in keys]

    def read(self, keys: Sequence[str | None], at_us: Sequence[int]) -> Mapping[str, FeatureColumn]:
        layout = RecordLayout.of(self.group)
        has_entity = np.array([key is not None for key in keys], np.bool_)
        rows = load_records(layout, self.stored(keys))
        beside = self.stored_beside(keys)
        return read_features(layout, self.group.features, rows, np.array(at_us, np.int64), has_entity, beside)


def send_all(pipeline: Pipeline, parts: Sequence[Sequence[PlacedEvent]], data: st.DataObject) -> None:
    """Send batches; before some, the pipeline dies and starts again, and then some of what it had is sent again."""
    before: list[PlacedEvent] = []
    for part in parts:
        if data.draw(st.booleans()):
            pipeline.restart()
            since = data.draw(st.integers(0, len(before)))
            pipeline.send([*before[since:], *part])
        else:
            pipeline.send(part)
        before += part


@every_group
@EXAMPLES
@given(data=st.data())
def test_restarts_and_replays_leave_the_bytes_of_an_undisturbed_stream(
    group: FeatureGroup, data: st.DataObject
) -> None:
    events = data.draw(streams(group))
    parts = data.draw(batches(events))
    keys = encoded(keys_of(group, events))
    pipeline = Pipeline(group)

    send_all(pipeline, parts, data)

    undisturbed = table_of(group, parts)
    assert pipeline.stored(keys) == undisturbed.records(keys)
    assert pipeline.stored_beside(keys) == undisturbed.side_records(keys)


@every_group
@EXAMPLES
@given(data=st.data())
def test_a_backfill_of_what_the_log_holds_and_then_the_stream_equal_the_definition(
    group: FeatureGroup, data: st.DataObject
) -> None:
    events = data.draw(streams(group))
    logged = data.draw(st.integers(0, len(events)))
    keys = keys_of(group, events)
    after_newest = query_times(group, events, newest_us(events) + 1)
    at_us = data.draw(st.lists(after_newest, min_size=len(keys), max_size=len(keys)))
    pipeline = Pipeline(group)

    pipeline.fill(events[:logged], data.draw(st.integers(1, 7)))
    since = data.draw(st.integers(0, logged))
    send_all(pipeline, data.draw(batches(events[since:])), data)

    online = pipeline.read(encoded(keys), at_us)
    for feature in group.features:
        expected = naive_columns(group, events, keys, at_us)[feature.qualified_name]
        assert_equal(feature, values_of(online[feature.qualified_name]), expected)


@pytest.mark.parametrize("group", EXACT, ids=lambda group: group.name)  # sums of floats depend on order
@EXAMPLES
@given(data=st.data())
def test_a_backfill_leaves_the_bytes_of_the_stream(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    keys = encoded(keys_of(group, events))
    pipeline = Pipeline(group)

    pipeline.fill(events, data.draw(st.integers(1, 7)))

    streamed = table_of(group, data.draw(batches(events)))
    assert pipeline.stored(keys) == streamed.records(keys)
    assert pipeline.stored_beside(keys) == streamed.side_records(keys)
