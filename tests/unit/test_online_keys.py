from __future__ import annotations

import pytest

import streamfti as fti
from streamfti.stores.online.keys import meta_key, progress_key, record_key, side_key


class Payment(fti.Event):
    card: str
    at: fti.EventTime


@fti.feature_group(source=fti.KafkaSource("payments", Payment), entity="card", version=3)
class Card:
    n = fti.count().over("1h")


CARD = fti.Catalog.of([Card]).group("Card")


@pytest.mark.parametrize(
    ("key", "golden"),
    [
        (record_key(CARD, "ä:1"), b"fti:{Card.3.0}:e:\xc3\xa4:1"),
        (side_key(CARD, "ä:1"), b"fti:{Card.3.0}:s:\xc3\xa4:1"),
        (progress_key(CARD, 12), b"fti:{Card.3.0}:p:12"),
        (meta_key(CARD), b"fti:{Card.3.0}:meta"),
    ],
)
def test_keys_are_those_in_stores_already(key: bytes, golden: bytes) -> None:
    """A change here orphans everything that is stored: nothing would be found, and nothing deleted."""
    assert key == golden
