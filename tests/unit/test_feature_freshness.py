"""What a group is told when its partitions have ended, also when it reads two topics."""

from __future__ import annotations

import pytest

import streamfti as fti
from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.feature_pipeline.freshness import freshness_s, progress_at_ends
from streamfti.feature_pipeline.kafka_source import Partition
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress


class View(fti.Event):
    at: fti.EventTime
    ad: str


class Click(fti.Event):
    at: fti.EventTime
    ad: str


views, clicks = fti.KafkaSource("views", View), fti.KafkaSource("clicks", Click)
seen = views.join(clicks, on="ad", within="1h")


@fti.feature_group(source=seen, entity="ad")
class Ads:
    n = fti.count().over("24h")


ADS = fti.Catalog.of([views, clicks, Ads]).group("Ads")
LANES = [0, 2, HISTORY_PARTITION, 1, HISTORY_PARTITION + 1]
"""Two partitions of views, one of clicks, and what is history of either."""
NOW_US = 60_000_000


def applied(offsets: dict[int, int]) -> dict[bytes, Progress]:
    return {progress_key(ADS, lane): Progress(offset, 0, 0, 0, 5_000_000) for lane, offset in offsets.items()}


@pytest.mark.parametrize(
    ("offsets", "ends", "up_to_date"),
    [
        ({0: 3, 2: 4, 1: 5}, {("views", 0): 3, ("views", 1): 4, ("clicks", 0): 5}, {0, 1, 2}),
        ({0: 3, 2: 4, 1: 5}, {("views", 0): 3, ("clicks", 0): 5}, {0, 1}),
        ({0: 3, 2: 4, 1: 5}, {("views", 0): 3, ("views", 1): 4, ("clicks", 0): 6}, {0, 2}),
        ({0: 3, 2: 4}, {("views", 0): 3, ("views", 1): 4, ("clicks", 0): 0}, {0, 2}),
        ({0: 3, 2: 4}, {("views", 0): 3, ("views", 1): 4}, set()),
        ({HISTORY_PARTITION: 9, 0: 3, 2: 4, 1: 5}, {("views", 0): 3}, {0}),
    ],
    ids=["all", "one goes on", "one waits in memory", "one is empty", "one has not begun", "history has no end"],
)
def test_lanes_that_have_ended_and_are_applied_are_up_to_date(
    offsets: dict[int, int], ends: dict[Partition, int], up_to_date: set[int]
) -> None:
    found = progress_at_ends(ADS, LANES, applied(offsets), ends, NOW_US)
    assert found == {progress_key(ADS, lane): Progress(offsets[lane], 0, 0, 0, NOW_US) for lane in up_to_date}


def test_a_group_of_two_topics_is_as_fresh_as_the_one_that_is_behind() -> None:
    stored = applied({0: 3, 2: 4, 1: 5, HISTORY_PARTITION + 1: 7})
    ahead = stored | progress_at_ends(ADS, LANES, stored, {("views", 0): 3, ("views", 1): 4}, NOW_US)
    assert freshness_s(ADS, LANES, ahead, NOW_US) == 55.0
    ahead |= progress_at_ends(ADS, LANES, stored, {("clicks", 0): 5}, NOW_US)
    assert freshness_s(ADS, LANES, ahead, NOW_US) == 0.0
    assert freshness_s(ADS, LANES, {}, NOW_US) is None
