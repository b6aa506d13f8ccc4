"""Whatever the stream and its steps: tiles, history and plain Python see the same events, kept and derived alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfti as fti
from streamfti.clock import to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.transformations import transformed
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.feature_pipeline.batch_columns import BatchColumns
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent, naive_feature
from streamfti.testing.online_table import OnlineTable
from streamfti.testing.strategies import batches, event_times_us, placed_streams

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ORIGIN_US = 1_767_225_600_000_000  # 2026-01-01


class Reading(fti.Event):
    sensor: str
    line: int | None
    whole: int
    part: float
    maybe_whole: int | None
    sure: bool
    seen: fti.EventTime


R: Any = Reading  # fields are expressions at run time
readings = fti.KafkaSource("readings", Reading, max_future_skew="3s")


@fti.batch_function(outputs={"root": float | None, "is_even": bool, "tag": str})
def judged(part: Any, whole: Any, sensor: Any) -> Any:  # noqa: ANN401  # columns
    """Roots of negative numbers are no values; every event has a tag."""
    tags = np.array([f"{name}!" for name in sensor.tolist()], np.object_)
    return np.sqrt(part), whole % 2 == 0, tags


kept = readings.where((R.whole > 0) | R.maybe_whole.is_null())
derived = kept.derive(
    size=fti.when(R.sure, R.whole, R.maybe_whole),
    share=R.part / R.whole,
    bucket=R.whole % 3,
    hour=R.seen.hour(),
)
applied = derived.where(derived["share"] < 1e5).apply(judged)


@fti.feature_group(source=kept, entity="sensor")
class Kept:
    n = fti.count().over("12s", "1m")
    whole = fti.sum(Reading.whole).over("12s")


@fti.feature_group(source=derived, entity=("sensor", "bucket"))
class Derived:
    n = fti.count().over("12s", "1m")
    size = fti.sum(derived["size"]).over("12s", "1m", default=-1)
    last = fti.last(derived["size"]).over("1m")
    share = fti.max(derived["share"]).over("12s")
    big = fti.count(where=derived["size"] > 1).over("12s")
    twice = fti.sum(derived["size"] * 2, where=derived["hour"] == 0).over("1m")


@fti.feature_group(source=applied, entity="tag")
class Applied:
    n = fti.count().over("12s")
    root = fti.max(applied["root"]).over("12s", "1m")
    even = fti.sum(applied["is_even"]).over("1m")


@fti.feature_group(source=readings.where(R.whole > R.whole), entity="sensor")
class Nothing:
    n = fti.count().over("12s")


GROUPS: list[Any] = [Kept, Derived, Applied, Nothing]  # mypy ignores what class decorators return
KEYS: dict[str, list[tuple[object, ...]]] = {
    "Kept": [(s,) for s in ("a", "b", "", "ä", "nobody", None)],
    "Derived": [(s, b) for s in ("a", "b", "ä") for b in (0, 1, 2)] + [("a", None)],
    "Applied": [(s,) for s in ("a!", "b!", "!", "ä!", "a", None)],
    "Nothing": [("a",), ("b",)],
}


def streams(group: FeatureGroup) -> st.SearchStrategy[list[PlacedEvent]]:
    windows = sorted({feature.window for feature in group.features}, key=lambda w: (w.length_us, w.hop_us))
    return placed_streams(Reading, event_times_us(ORIGIN_US, windows))


def key_frame(group: FeatureGroup) -> pl.DataFrame:
    columns = frame_schema(group.stream.schema)
    return pl.DataFrame(KEYS[group.name], schema={name: columns[name] for name in group.entity}, orient="row")


def encoded(group: FeatureGroup) -> list[str | None]:
    return [None if None in key else encode_key(key) for key in KEYS[group.name]]  # type: ignore[arg-type]  # None is excluded


def values_of(column: FeatureColumn) -> list[float | None]:
    return [
        None if status >= Status.EXPIRED else value.item()
        for value, status in zip(column.values, column.status, strict=True)
    ]


def assert_equal(name: str, got: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, other in zip(got, expected, strict=True):
        if one is None or other is None:
            assert one == other, name
        else:
            assert math.isclose(one, other, rel_tol=1e-9), name


def stored(groups: Sequence[FeatureGroup], frames: Sequence[pl.DataFrame]) -> dict[bytes, bytearray]:
    """The online store as a pipeline of some groups leaves it."""
    records: dict[bytes, bytearray] = {}

    def read(keys: Sequence[bytes]) -> list[bytes | None]:
        return [bytes(records[key]) if key in records else None for key in keys]

    states = {group.name: GroupState(group, read) for group in groups}
    for frame in frames:
        columns = BatchColumns.by_group(frame, groups)
        for name, state in states.items():
            for key, offset, part in state.merge(columns[name], {}, ORIGIN_US).slots:
                record = records.setdefault(key, bytearray())
                record.extend(bytes(max(0, offset + len(part) - len(record))))
                record[offset : offset + len(part)] = part
    return records


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
@EXAMPLES
@given(data=st.data())
def test_tiles_history_and_plain_python_see_the_same_events(group: FeatureGroup, data: st.DataObject) -> None:
    events = data.draw(streams(group))
    parts = data.draw(batches(events))
    keys = encoded(group)
    newest_us = max((to_us(e.event.values()["seen"]) for e in events), default=ORIGIN_US)
    at_us = np.full(len(keys), newest_us + data.draw(st.integers(1, 90_000_000)), np.int64)

    table = OnlineTable(group)
    for part in parts:
        table.apply(event_frame(readings.schema, part))
    online = table.read(group.features, keys, at_us)
    frame = transformed(group.stream, event_frame(readings.schema, events))
    history = point_in_time(group, group.features, frame, key_frame(group), at_us)

    named = [dict(zip(group.entity, key, strict=True)) for key in KEYS[group.name]]
    for feature in group.features:
        name = feature.qualified_name
        expected = [naive_feature(feature, group, events, key, int(at_us[0])) for key in named]
        assert_equal(name, values_of(online[name]), expected)
        assert_equal(name, values_of(history[name]), expected)


@EXAMPLES
@given(data=st.data())
def test_groups_that_are_fed_together_hold_what_each_of_them_holds_alone(data: st.DataObject) -> None:
    """Streams share the steps that they have in common, and the batch is taken apart once for each of them."""
    events = data.draw(streams(Derived))  # type: ignore[arg-type]  # mypy ignores what class decorators return
    frames = [event_frame(readings.schema, part) for part in data.draw(batches(events))]
    together = stored(GROUPS, frames)
    alone: dict[bytes, bytearray] = {}
    for group in GROUPS:
        alone |= stored([group], frames)
    assert together == alone
