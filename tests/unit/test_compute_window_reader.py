"""The compiled read path: whatever is stacked with whatever, each feature is what it is when read alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.values import FeatureColumn, FeatureMatrix, Status
from streamfti.compute.window_reader import WindowReader
from streamfti.definitions.aggregations import Feature
from streamfti.errors import CorruptRecord
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.online_table import OnlineTable

T0 = 1_767_225_600_000_000
MINUTE_US = 60_000_000


class Payment(fti.Event):
    card: str
    shop: int
    cents: int
    tip: float | None
    online: bool | None
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment, max_future_skew="30s")


@fti.feature_group(source=payments, entity="card")
class Card:
    n = fti.count().over("1m", "12m", "1h")
    cents = fti.sum(Payment.cents).over("12m", "1h", default=-1)
    tip = fti.mean(Payment.tip).over("12m", "1h", default=0.25)
    last_tip = fti.last(Payment.tip).over("12m")
    least = fti.min(Payment.tip).over("1h")


@fti.feature_group(source=payments, entity="shop")
class Shop:
    n = fti.count().over("12m")
    fine = fti.max(Payment.cents).over("5m", hop="1s")  # 331 slots, where the others have about a dozen
    first_class = fti.min(Payment.cents).over("1h")
    online = fti.last(Payment.online).over("1h")
    share = fti.mean(Payment.online).over("5m", hop="1s")


groups: list[Any] = [Card, Shop]


@pytest.fixture(scope="module")
def tables() -> list[OnlineTable]:
    dice = random.Random(3)
    events = [
        Payment(
            card=f"c{dice.randrange(5)}",
            shop=dice.randrange(4),
            cents=dice.randrange(-50, 1000),
            tip=dice.choice([None, dice.uniform(0, 5)]),
            online=dice.choice([None, True, False]),
            at=from_us(T0 - dice.randrange(90 * MINUTE_US)),
        )
        for _ in range(400)
    ]
    built = [OnlineTable(group) for group in groups]
    for table in built:
        table.apply(event_frame(payments.schema, [PlacedEvent(event, 0, i) for i, event in enumerate(events)]))
    return built


def alone(tables: list[OnlineTable], feature: Feature, key: str | None, at_us: int) -> FeatureColumn:
    (table,) = (table for table in tables if table.group.name == feature.group)
    return table.read([feature], [key], np.array([at_us], np.int64))[feature.qualified_name]


def read_all(tables: list[OnlineTable], keys: list[tuple[str | None, ...]], at_us: NDArray[np.int64]) -> FeatureMatrix:
    reader = WindowReader([(table.layout, table.group.features) for table in tables])
    by_group = [table.records(list(column)) for table, column in zip(tables, zip(*keys, strict=True), strict=True)]
    rows = reader.load([record for row in zip(*by_group, strict=True) for record in row], len(keys))
    return reader.read(rows, at_us, np.array([[key is not None for key in row] for row in keys]))


def test_features_of_groups_read_together_are_those_read_alone(tables: list[OnlineTable]) -> None:
    keys: list[tuple[str | None, ...]] = [("c0", "1"), ("c1", None), (None, "2"), ("nobody", "3"), ("c0", "99")]
    at_us = T0 + np.array([0, 5, 7 * MINUTE_US, 3, 30 * MINUTE_US], np.int64)
    columns = read_all(tables, keys, at_us).by_name()
    features = [feature for group in groups for feature in group.features]
    assert list(columns) == [feature.qualified_name for feature in features]
    for feature in features:
        for row, key in enumerate(keys):
            one = alone(tables, feature, key[groups.index(Card if feature.group == "Card" else Shop)], int(at_us[row]))
            got = columns[feature.qualified_name]
            assert got.values.dtype == one.values.dtype
            assert got.status[row] == one.status[0], (feature, key)
            np.testing.assert_allclose(got.values[row], one.values[0], rtol=1e-12)  # floats are summed as stacked


def test_more_rows_than_one_pass_takes_are_read_in_their_order(tables: list[OnlineTable]) -> None:
    keys: list[tuple[str | None, ...]] = [(f"c{i % 7}", str(i % 5)) for i in range(350)]
    together = read_all(tables, keys, np.array([T0], np.int64))
    assert len(together) == 350
    for row in (0, 99, 100, 349):
        single = read_all(tables, keys[row : row + 1], np.array([T0], np.int64))
        np.testing.assert_array_equal(together.words[row], single.words[0])
        np.testing.assert_array_equal(together.status[row], single.status[0])


def test_a_matrix_as_floats_is_its_columns_as_floats(tables: list[OnlineTable]) -> None:
    matrix = read_all(tables, [("c0", "1"), ("nobody", None)], np.array([T0], np.int64))
    for column, floats in zip(matrix.by_name().values(), matrix.as_float64().T, strict=True):
        np.testing.assert_array_equal(column.as_float64(), floats)
    assert np.isnan(matrix.as_float64()[1]).tolist() == (matrix.status[1] == Status.MISSING).tolist()


def test_the_newest_event_time_of_each_group_is_told(tables: list[OnlineTable]) -> None:
    reader = WindowReader([(table.layout, table.group.features) for table in tables])
    rows = reader.load([*tables[0].records(["c0"]), None], 1)
    newest = reader.newest_event_time_us(rows).tolist()
    assert T0 - 90 * MINUTE_US < newest[0][0] < T0
    assert newest[0][1] == -1


def test_a_reader_of_nothing_reads_rows_of_nothing() -> None:
    reader = WindowReader([])
    matrix = reader.read(reader.load([], 3), np.array([T0], np.int64))
    assert (matrix.words.shape, matrix.by_name()) == ((3, 0), {})


def test_a_record_of_another_layout_is_corrupt(tables: list[OnlineTable]) -> None:
    layout = tables[0].layout
    with pytest.raises(CorruptRecord, match=rf"at most {layout.record_bytes} bytes"):
        WindowReader([(layout, groups[0].features)]).load([bytes(layout.record_bytes + 8)], 1)
