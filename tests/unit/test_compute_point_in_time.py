from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.values import FeatureColumn
from streamfti.testing.event_frames import event_frame, frame_schema
from streamfti.testing.naive import PlacedEvent

HOUR_US = 3_600_000_000
T0 = 1_767_225_600_000_000


class Payment(fti.Event):
    card_id: str | None
    shop: int
    cents: int
    at: fti.EventTime


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity=("card_id", "shop"))
class AtShop:
    n = fti.count().over("24h")
    previous = fti.last(Payment.cents).over("24h")


group: Any = AtShop  # mypy ignores what class decorators return


def frame_of(*rows: tuple[str | None, int, int, int]) -> pl.DataFrame:
    events = [
        PlacedEvent(Payment(card_id=card, shop=shop, cents=cents, at=from_us(at_us)), 0, offset)
        for offset, (card, shop, cents, at_us) in enumerate(rows)
    ]
    return event_frame(payments.schema, events)


def ask(events: pl.DataFrame, keys: list[tuple[str | None, int | None]], *at_us: int) -> dict[str, FeatureColumn]:
    columns = {
        "label": [1] * len(keys),  # a spine has more than keys, in any order
        "shop": pl.Series([shop for _, shop in keys], dtype=pl.Int64),
        "card_id": pl.Series([card for card, _ in keys], dtype=pl.String),
    }
    return point_in_time(group, group.features, events, pl.DataFrame(columns), np.array(at_us, np.int64))


@pytest.mark.parametrize(("at_us", "n"), [(T0, 0), (T0 + 1, 1), (T0 + 24 * HOUR_US, 1), (T0 + 26 * HOUR_US, 0)])
def test_an_event_counts_after_its_time_and_until_the_tail(at_us: int, n: int) -> None:
    columns = ask(frame_of(("c1", 1, 5, T0)), [("c1", 1)], at_us)
    assert columns["AtShop.n_24h"].values.tolist() == [n]


def test_rows_are_in_the_order_of_the_queries_and_may_repeat() -> None:
    events = frame_of(("c2", 1, 7, T0 + 5), ("c1", 1, 5, T0), ("c1", 2, 6, T0), ("c1", 1, 9, T0 + 10))
    keys: list[tuple[str | None, int | None]] = [("c1", 1), ("c2", 1), ("c1", 1), ("c1", 2), ("c2", 2)]
    columns = ask(events, keys, T0 + 11, T0 + 6, T0 + 1, T0 + 1, T0 + 99)
    assert columns["AtShop.previous_24h"].values.tolist() == [9, 7, 5, 6, 0]
    assert columns["AtShop.previous_24h"].status.tolist() == [1, 1, 1, 1, 4]


@pytest.mark.parametrize("key", [(None, 1), ("c1", None), (None, None)])
def test_a_null_in_the_key_is_no_entity(key: tuple[str | None, int | None]) -> None:
    columns = ask(frame_of((None, 1, 5, T0), ("c1", 1, 5, T0)), [key, ("c1", 1)], T0 + 1, T0 + 1)
    assert columns["AtShop.n_24h"].status.tolist() == [4, 1]
    assert columns["AtShop.n_24h"].values.tolist() == [0, 1]


def test_no_events_are_no_values() -> None:
    columns = ask(frame_schema(payments.schema).to_frame(), [("c1", 1)], T0)
    assert columns["AtShop.n_24h"].values.tolist() == [0]
    assert columns["AtShop.previous_24h"].status.tolist() == [4]


def test_no_queries_are_no_rows() -> None:
    columns = ask(frame_of(("c1", 1, 5, T0)), [])
    assert [len(c.values) for c in columns.values()] == [0, 0]
