"""Changes of a table's rows in any order and split: tiles, history and the definition agree, and so does a recount."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

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
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent, Value, naive_feature
from streamfti.testing.online_table import OnlineTable
from streamfti.testing.strategies import batches, change_streams, event_times_us

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ORIGIN_US = 1_767_225_600_000_000


class Account(fti.Event):
    account: str
    branch: str
    balance: Annotated[Decimal, fti.Decimal(12, 2)]
    points: int
    limit: int | None
    rate: float
    vip: bool
    note: str | None
    at: fti.EventTime


upserts = fti.KafkaSource("accounts", Account, changes="upsert", key="account")
balances = fti.KafkaSource("balances", Account, changes="debezium", key="account", before_images=True)
maybe_limit: Any = Account.limit  # to a type checker it may be None


@fti.feature_group(source=upserts, entity="account")
class Attributes:
    balance = fti.latest(Account.balance)
    points = fti.latest(Account.points, default=-1)
    limit = fti.latest(Account.limit, expires_after="1m")
    rate = fti.latest(Account.rate, expires_after="12s")
    vip = fti.latest(Account.vip, default=0)
    twice = fti.latest(maybe_limit * 2)
    branch = fti.latest(Account.branch, default="none")
    note = fti.latest(Account.note)


@fti.feature_group(source=balances, entity="branch")
class Branches:
    accounts = fti.count().lifetime()
    opened = fti.count().over("12s", "1m")
    vips = fti.count(where=Account.vip == True).lifetime()  # noqa: E712  # a condition
    limited = fti.count(where=maybe_limit > 0).over("12s")
    balance = fti.sum(Account.balance).lifetime(default=0)
    points = fti.sum(Account.points).lifetime()
    moved = fti.sum(Account.points).over("12s", "1m")
    limits = fti.sum(Account.limit, where=Account.points >= 0).over("12s")
    mean_limit = fti.mean(Account.limit).lifetime(default=0.5)
    mean_balance = fti.mean(Account.balance).lifetime(expires_after="1m")


vips = balances.where(Account.vip == True).derive(size=Account.points.abs() + 1)  # type: ignore[attr-defined]  # noqa: E712


@fti.feature_group(source=vips, entity="branch")
class Vips:
    accounts = fti.count().lifetime()
    size = fti.sum(vips["size"]).over("12s", "1m")
    sizes = fti.sum(vips["size"]).lifetime()


@fti.feature_group(source=balances, entity="account")
class Mixed:
    balance = fti.latest(Account.balance)
    limit = fti.latest(Account.limit, default=3)
    n = fti.count().over("12s", "1m")
    points = fti.sum(Account.points).over("12s")


GROUPS: list[Any] = [Attributes, Branches, Vips, Mixed]  # mypy ignores what class decorators return
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
WINDOWS = [feature.window for feature in Mixed.features[2:4]]  # type: ignore[attr-defined]  # likewise


def streams(group: FeatureGroup) -> st.SearchStrategy[list[PlacedEvent]]:
    return change_streams(group.source, event_times_us(ORIGIN_US, WINDOWS))


def keys_of(group: FeatureGroup, changes: Sequence[PlacedEvent]) -> list[str]:
    (name,) = group.entity
    return [*sorted({change.event.values()[name] for change in changes}), "nobody"]


def newest_us(changes: Sequence[PlacedEvent]) -> int:
    return max((to_us(change.event.values()["at"]) for change in changes), default=0)


def query_times(changes: Sequence[PlacedEvent], earliest_us: int) -> st.SearchStrategy[int]:
    at = st.sampled_from([to_us(change.event.values()["at"]) for change in changes] or [0])
    steps = st.sampled_from((0, 1_000_000, 12_000_000, 60_000_000))
    nudges = st.sampled_from((-1, 0, 1))
    return st.builds(lambda t, step, nudge: max(t + step + nudge, earliest_us), at, steps, nudges)


def table_of(group: FeatureGroup, parts: Sequence[Sequence[PlacedEvent]]) -> OnlineTable:
    table = OnlineTable(group)
    for part in parts:
        table.apply(event_frame(group.source.schema, part))
    return table


def history_of(
    group: FeatureGroup, changes: Sequence[PlacedEvent], keys: list[str], at_us: list[int]
) -> dict[str, FeatureColumn]:
    frame = transformed(group.stream, event_frame(group.source.schema, changes))
    columns = frame_schema(group.source.schema)
    wanted = pl.DataFrame({group.entity[0]: keys}, schema={group.entity[0]: columns[group.entity[0]]})
    return point_in_time(group, group.features, frame, wanted, np.array(at_us, np.int64))


def values_of(column: FeatureColumn) -> list[Value | None]:
    return [
        None if status >= Status.EXPIRED else value if isinstance(value, str) else value.item()
        for value, status in zip(column.values, column.status, strict=True)
    ]


def assert_equal(name: str, got: Sequence[Value | None], expected: Sequence[Value | None]) -> None:
    for one, other in zip(got, expected, strict=True):
        if "mean" in name and isinstance(one, float) and isinstance(other, float):
            assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9), (name, one, other)
        else:
            assert one == other, name


@every_group
@EXAMPLES
@given(data=st.data())
def test_tiles_equal_history_and_the_definition(group: FeatureGroup, data: st.DataObject) -> None:
    changes = data.draw(streams(group))
    shuffled = data.draw(st.permutations(changes))  # also the two rows of one update apart
    table = table_of(group, data.draw(batches(shuffled)))
    keys = keys_of(group, changes)
    after = query_times(changes, newest_us(changes) + 1)
    at_us = data.draw(st.lists(after, min_size=len(keys), max_size=len(keys)))

    online = table.read(group.features, list(keys), np.array(at_us, np.int64))

    history = history_of(group, data.draw(st.permutations(changes)), keys, at_us)
    for feature in group.features:
        name = feature.qualified_name
        expected = [
            naive_feature(feature, group, changes, {group.entity[0]: key}, at)
            for key, at in zip(keys, at_us, strict=True)
        ]
        assert_equal(name, values_of(online[name]), expected)
        assert_equal(name, values_of(history[name]), expected)
        np.testing.assert_array_equal(online[name].status, history[name].status)


@every_group
@EXAMPLES
@given(data=st.data())
def test_history_equals_the_definition_at_any_past_time(group: FeatureGroup, data: st.DataObject) -> None:
    changes = data.draw(streams(group))
    keys = keys_of(group, changes)
    at_us = data.draw(st.lists(query_times(changes, 0), min_size=len(keys), max_size=len(keys)))

    history = history_of(group, changes, keys, at_us)

    for feature in group.features:
        expected = [
            naive_feature(feature, group, changes, {group.entity[0]: key}, at)
            for key, at in zip(keys, at_us, strict=True)
        ]
        assert_equal(feature.qualified_name, values_of(history[feature.qualified_name]), expected)


@every_group
@EXAMPLES
@given(data=st.data())
def test_any_order_and_split_gives_the_same_bytes(group: FeatureGroup, data: st.DataObject) -> None:
    changes = data.draw(streams(group))
    keys = [encode_key([key]) for key in keys_of(group, changes)]

    one = table_of(group, [changes])
    other = table_of(group, data.draw(batches(data.draw(st.permutations(changes)))))

    assert one.records(keys) == other.records(keys)


@EXAMPLES
@given(data=st.data())
def test_signed_aggregates_equal_a_recount_of_the_rows_that_are_there(data: st.DataObject) -> None:
    group: Any = Branches
    changes = data.draw(streams(group))
    at_us = data.draw(query_times(changes, 0))
    table: dict[str, dict[str, Any]] = {}
    for change in sorted(changes, key=lambda c: (to_us(c.event.values()["at"]), c.partition, c.offset, c.change)):
        values = change.event.values()
        if to_us(values["at"]) < at_us and change.change != -1:
            table.pop(values["account"], None)
            if change.change > 0:
                table[values["account"]] = values
    for branch in keys_of(group, changes):
        rows = [row for row in table.values() if row["branch"] == branch]
        found = history_of(group, changes, [branch], [at_us])
        got = {name.partition(".")[2]: values_of(column)[0] for name, column in found.items()}
        limits = [row["limit"] for row in rows if row["limit"] is not None]
        assert got["accounts"] == len(rows)
        assert got["vips"] == sum(row["vip"] for row in rows)
        assert got["points"] == (sum(row["points"] for row in rows) if rows else None)
        assert got["balance"] == float(sum((row["balance"] for row in rows), Decimal(0)))
        assert got["mean_limit"] == pytest.approx(sum(limits) / len(limits) if limits else 0.5, rel=1e-9)


@EXAMPLES
@given(data=st.data())
def test_a_deletion_is_remembered_whatever_comes_late(data: st.DataObject) -> None:
    group: Any = Attributes
    changes = [c for c in data.draw(streams(group)) if c.event.values()["account"] == "a"]
    if not changes:
        return
    newest = max(changes, key=lambda c: (to_us(c.event.values()["at"]), c.partition, c.offset))
    table = table_of(group, data.draw(batches(data.draw(st.permutations(changes)))))

    (column,) = table.read(group.features[:1], ["a"], np.array([newest_us(changes) + 1])).values()

    status = Status.PRESENT if newest.change > 0 else Status.MISSING
    assert column.status.tolist() == [status]
