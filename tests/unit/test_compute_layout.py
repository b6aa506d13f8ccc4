from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.compute.layout import HEADER_BYTES, RecordLayout


class Payment(fti.Event):
    card_id: str
    cents: int
    tip: float | None
    at: fti.EventTime


def group_of(skew: str = "30s", **features: Any) -> Any:  # noqa: ANN401  # a group, made of what is tested
    source = fti.KafkaSource("payments", Payment, max_future_skew=skew)
    return fti.feature_group(source=source, entity="card_id")(type("Card", (), features))


def layout_of(skew: str = "30s", **features: Any) -> RecordLayout:  # noqa: ANN401  # as above
    return RecordLayout.of(group_of(skew, **features))


tip: Any = Payment.tip


def test_a_record_is_a_header_and_one_ring_for_each_hop_ascending() -> None:
    layout = layout_of(
        n=fti.count().over("24h", "1h"),
        spend=fti.sum(Payment.cents).over("1h", "10m"),
        tip=fti.mean(tip).over("24h"),
        previous=fti.last(Payment.cents).over("10m"),
    )
    assert [(r.hop_us // 1_000_000, r.n_slots, list(r.accumulators)) for r in layout.rings] == [
        (30, 20 + 1 + 1, ["count", "highsum(cents)", "last(cents)", "lowsum(cents)"]),
        (300, 12 + 1 + 1, ["count", "highsum(cents)", "lowsum(cents)"]),
        (7200, 12 + 1 + 1, ["count", "count(tip)", "floatsum(tip)"]),
    ]
    assert [r.slot_bytes for r in layout.rings] == [56, 32, 32]
    assert [r.offset_bytes for r in layout.rings] == [8, 8 + 22 * 56, 8 + 22 * 56 + 14 * 32]


def test_the_bytes_of_a_known_group_are_those_in_stores_already() -> None:
    """A change here means that every record in every online store is read wrongly: raise versions instead."""
    layout = layout_of(
        n=fti.count().over("5m", "1h"), spend=fti.sum(Payment.cents).over("1h"), low=fti.min(tip).over("1h")
    )
    assert layout.record_bytes == HEADER_BYTES + 34 * 16 + 14 * 48 == 1224
    assert layout.dtype["ring_300000000"].base.descr == [
        ("tile_end_us", "<i8"), ("count", "<i8"), ("count(tip)", "<i8"), ("highsum(cents)", "<i8"),
        ("lowsum(cents)", "<i8"), ("min(tip)", "<f8"),
    ]  # fmt: skip
    assert layout.dtype["ring_10000000"].base.descr == [("tile_end_us", "<i8"), ("count", "<i8")]
    fields = layout.dtype.fields
    assert fields is not None
    assert {name: entry[1] for name, entry in fields.items()} == {
        "newest_end_us": 0, "ring_10000000": 8, "ring_300000000": 8 + 34 * 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("skew", "n_slots"),
    [("1s", 60 + 1 + 1), ("4s", 60 + 1 + 1), ("5s", 60 + 1 + 1), ("6s", 60 + 1 + 2), ("1m", 60 + 1 + 12)],
)
def test_a_ring_has_its_window_the_open_tile_and_those_ahead_of_the_clock(skew: str, n_slots: int) -> None:
    (ring,) = layout_of(skew, n=fti.count().over("5m", hop="5s")).rings
    assert (ring.n_slots, ring.span_us) == (n_slots, n_slots * 5_000_000)


def test_the_order_of_features_is_not_that_of_the_bytes() -> None:
    one = layout_of(n=fti.count().over("1h"), spend=fti.sum(Payment.cents).over("1h"))
    other = layout_of(spend=fti.sum(Payment.cents).over("1h"), n=fti.count().over("1h"))
    assert one.dtype == other.dtype


def test_windows_of_one_hop_share_a_ring_of_the_longest() -> None:
    group = group_of(n=fti.count().over("10m", hop="1m"), m=fti.count().over("1h", hop="1m"))
    (ring,) = RecordLayout.of(group).rings
    assert ring.n_slots == 60 + 1 + 1
    assert {RecordLayout.of(group).ring_of(f).hop_us for f in group.features} == {60_000_000}
