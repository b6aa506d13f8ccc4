"""`verify` of strings and sketches: exact where they are, within their error where not; what is wrong is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.monitoring.served_vectors import ServedFeatures, VectorFile, VectorWriter
from streamfti.monitoring.verify import Verdict, verify_group
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.online_table import OnlineTable

T0 = 1_767_225_600_000_000
MINUTE_US = 60_000_000
N = 3_000
CARDS = ["a", "b", "nobody", None]


class Payment(fti.Event):
    card: str | None
    shop: str
    cents: int
    at: fti.EventTime


SOURCE = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=SOURCE, entity="card")
class Card:
    last_shop = fti.last(Payment.shop).over("1h", default="none")
    shops = fti.approx_distinct(Payment.shop).over("1h")
    spend = fti.quantiles(Payment.cents, 0.5, k=8).over("1h")
    often = fti.top_k(Payment.shop, 2, map_size=64).over("1h")


CARD = fti.Catalog.of([SOURCE, Card]).group("Card")


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    dice = np.random.default_rng(4)
    placed = [
        PlacedEvent(
            Payment(
                card="ab"[i % 2],
                shop=f"s{dice.zipf(1.2) % 800}",
                cents=int(dice.integers(10_000)),
                at=from_us(T0 + i * 20_000 * 60),
            ),
            0,
            i,
        )
        for i in range(N)
    ]
    return event_frame(SOURCE.schema, placed)


@pytest.fixture(scope="module")
def served(events: pl.DataFrame) -> ServedFeatures:
    """What serving answered after all events, and what it answered after half of them."""
    table = OnlineTable(CARD)
    parts: list[dict[str, FeatureColumn]] = []
    for half in (events[: N // 2], events[N // 2 :]):
        for batch in half.iter_slices(250):
            table.apply(batch)
        at_us = np.full(len(CARDS), T0 + N * 20_000 * 60, np.int64)
        parts.append(table.read(CARD.features, CARDS, at_us))
    columns = {
        name: FeatureColumn(
            np.concatenate([part[name].values for part in parts]),
            np.concatenate([part[name].status for part in parts]),
        )
        for name in parts[0]
    }
    return ServedFeatures(
        pl.DataFrame({"card": CARDS * 2}, {"card": pl.String}),
        np.full(2 * len(CARDS), T0 + N * 20_000 * 60, np.int64),
        columns,
        {0: np.repeat([N // 2, N], len(CARDS))},
        np.full(2 * len(CARDS), T0 + N * 20_000 * 60, np.int64),
    )


def bugs(served: ServedFeatures, events: pl.DataFrame) -> Mapping[str, list[int]]:
    verdicts = verify_group(CARD, CARD.features, events, served).verdicts
    found = {name: np.flatnonzero(v == Verdict.BUG).tolist() for name, v in verdicts.items()}
    return {name: rows for name, rows in found.items() if rows}


def changed(served: ServedFeatures, name: str, change: Callable[[Any], Any]) -> ServedFeatures:
    column = served.columns[name]
    values = column.values.copy()
    values[4] = change(values[4])
    columns = {**served.columns, name: FeatureColumn(values, column.status)}
    return ServedFeatures(served.keys, served.query_time_us, columns, served.applied, served.read_at_us)


def test_values_within_their_error_are_no_bugs(served: ServedFeatures, events: pl.DataFrame) -> None:
    history = verify_group(CARD, CARD.features, events, served).recomputed
    assert bugs(served, events) == {}
    quantile = "Card.spend_1h_p50"
    assert served.columns[quantile].values.tolist() != history[quantile].values.tolist()  # or nothing is judged here
    assert served.columns["Card.last_shop_1h"].values[2] == "none"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Card.last_shop_1h", lambda shop: shop + "x"),
        ("Card.shops_1h", lambda n: n + 1),
        ("Card.spend_1h_p50", lambda _: 9_999.0),
        ("Card.spend_1h_p50", lambda value: value + 0.5),
        ("Card.often_1h_1", lambda _: "s799"),
        ("Card.often_1h_2", lambda _: "no such shop"),
    ],
)
def test_a_value_beyond_its_error_is_a_bug(
    served: ServedFeatures, events: pl.DataFrame, name: str, change: Callable[[Any], Any]
) -> None:
    assert bugs(changed(served, name, change), events) == {name: [4]}


def test_a_value_that_is_missing_is_a_bug(served: ServedFeatures, events: pl.DataFrame) -> None:
    columns = dict(served.columns)
    for name in ("Card.last_shop_1h", "Card.often_1h_1", "Card.spend_1h_p50"):
        status = served.columns[name].status.copy()
        status[5] = Status.MISSING
        columns[name] = FeatureColumn(served.columns[name].values, status)
    lost = ServedFeatures(served.keys, served.query_time_us, columns, served.applied, served.read_at_us)
    assert set(bugs(lost, events)) == {"Card.last_shop_1h", "Card.often_1h_1", "Card.spend_1h_p50"}


def test_strings_come_back_from_a_file_as_they_were(served: ServedFeatures, tmp_path: Path) -> None:
    fingerprint = group_fingerprint(CARD)
    with VectorWriter(tmp_path / "Card.parquet", CARD, CARD.features, fingerprint) as writer:
        writer.write(served)
    (found,) = VectorFile(tmp_path / "Card.parquet").read(CARD, frozenset([fingerprint]), 1_000)
    for name, column in served.columns.items():
        assert found.columns[name].status.tolist() == column.status.tolist()
        there = column.status < Status.EXPIRED
        assert found.columns[name].values[there].tolist() == column.values[there].tolist()
        assert found.columns[name].values.dtype == column.values.dtype
