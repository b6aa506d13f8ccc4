from __future__ import annotations

from typing import Any

import pytest

import streamfti as fti
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.dtypes import DType
from streamfti.definitions.fingerprint import group_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import HISTORY_PARTITION, Stream
from streamfti.errors import DefinitionError
from streamfti.project.plan import build_plan


class Click(fti.Event):
    ad_id: str | None
    cost: int
    at: fti.EventTime


class AdImpression(fti.Event):
    ad_id: str
    cost: int
    place: str | None
    at: fti.EventTime


class Other(fti.Event):
    ad_id: int
    half: float
    joined_at: str
    at: fti.EventTime


C: Any = Click  # fields are expressions at run time
clicks = fti.KafkaSource("clicks", Click, max_future_skew="3s")
impressions = fti.KafkaSource("impressions", AdImpression)
others = fti.KafkaSource("others", Other)
joined = clicks.join(impressions, on="ad_id", within="10m")


def group_of(stream: Stream) -> FeatureGroup:
    class Ads:
        n = fti.count().over("1h")

    return fti.feature_group(source=stream, entity="ad_id")(Ads)


def test_a_pair_has_the_fields_of_both_under_names_of_their_own() -> None:
    names = [field.name for field in joined.schema.fields]
    assert names == ["ad_id", "cost", "at", "ad_impression_cost", "place", "ad_impression_at", "joined_at"]
    assert joined.schema.event_time == "joined_at"
    assert joined["cost"] == C.cost
    assert joined["place"].type.nullable
    assert clicks.join(impressions, on="ad_id", within="1m", prefix="shown_")["shown_at"].type.dtype is DType.DATETIME


def test_steps_follow_a_join_over_the_fields_of_both() -> None:
    shown_first = joined.where(joined["at"] >= joined["ad_impression_at"]).derive(
        wait=joined["at"].seconds_since(joined["ad_impression_at"]), gain=joined["cost"] - joined["ad_impression_cost"]
    )
    assert shown_first.origin is joined
    assert [step for step in shown_first.steps if step in joined.steps] == []
    assert len(shown_first.steps) == 2
    assert group_of(shown_first).features[0].name == "n_1h"


def test_a_group_has_both_sources_and_a_lane_for_each_of_their_partitions() -> None:
    stream = joined.where(joined["cost"] > 1)
    assert stream.sources == (clicks, impressions)
    assert Catalog.of([group_of(stream)]).sources == {"clicks": clicks, "impressions": impressions}
    assert Catalog.of([group_of(stream)]).groups_of(impressions)[0].name == "Ads"
    assert group_of(stream).max_future_skew_us == 30_000_000
    places = [(source, p) for p in (0, 1, 7, HISTORY_PARTITION) for source in (clicks, impressions)]
    lanes = [stream.lane(*place) for place in places]
    assert lanes[:6] == [0, 1, 2, 3, 14, 15]
    assert len(set(lanes)) == len(lanes)
    assert [stream.place(lane) for lane in lanes] == places


def test_a_group_of_one_source_keeps_its_partitions_as_lanes() -> None:
    twice = clicks.where(C.cost > 1).join(clicks, on="ad_id", within="1m")
    for stream in (clicks, twice):
        assert stream.sources == (clicks,)
        assert [stream.lane(clicks, p) for p in (0, 1, 40, HISTORY_PARTITION)] == [0, 1, 40, HISTORY_PARTITION]


def test_what_a_join_is_made_of_is_part_of_what_a_group_means() -> None:
    variants = [
        joined,
        clicks,
        clicks.join(impressions, on="ad_id", within="11m"),
        clicks.join(impressions, on="ad_id", within="10m", prefix="x"),
        clicks.join(impressions.where(impressions["cost"] > 1), on="ad_id", within="10m"),
        clicks.where(C.cost > 1).join(impressions, on="ad_id", within="10m"),
        impressions.join(clicks, on="ad_id", within="10m"),
    ]
    prints = [group_fingerprint(group_of(stream)) for stream in variants]
    assert len(set(prints)) == len(prints)
    assert group_fingerprint(group_of(clicks.join(impressions, on=("ad_id",), within="600s"))) == prints[0]


def test_plan_says_what_is_joined() -> None:
    stream = clicks.where(C.cost > 1).join(impressions, on="ad_id", within="10m")
    (group,) = build_plan(Catalog.of([group_of(stream)]), partitions=None, stored=None).groups
    assert group.steps == ["where Click.cost > 1", "join impressions on ad_id within 600 s"]


IMPOSSIBLE: list[tuple[Any, str]] = [
    (lambda: clicks.join(C, on="ad_id", within="1m"), "a join of source 'clicks' must be given a stream"),
    (lambda: clicks.join(others, on="ad_id", within="1m"), "'ad_id' is string and int64"),
    (lambda: clicks.join(impressions, on="at", within="1m"), "'at' is datetime and datetime"),
    (lambda: clicks.join(impressions, on=(), within="1m"), "must be on one or more fields"),
    (lambda: clicks.join(impressions, on=("ad_id", "ad_id"), within="1m"), "must be on one or more fields"),
    (lambda: clicks.join(impressions, on="place", within="1m"), "event 'Click' has no field 'place'"),
    (lambda: clicks.join(impressions, on="ad_id", within="soon"), "within of a join of source 'clicks' and source"),
    (lambda: joined.join(impressions, on="ad_id", within="1m"), "must be of two streams of one source each"),
    (lambda: clicks.join(joined, on="ad_id", within="1m"), "must be of two streams of one source each"),
    (lambda: clicks.join(impressions, on="ad_id", within="1m", prefix=""), "must have names of their own.* 'cost'"),
    (lambda: clicks.join(impressions, on="ad_id", within="1m", prefix="_"), "must have names of their own"),
    (lambda: others.join(others, on="ad_id", within="1m"), "must have names of their own.* 'joined_at'"),
    (lambda: clicks.join(fti.KafkaSource("clicks", Other), on="ad_id", within="1m"), "got two different sources"),
]


@pytest.mark.parametrize(("build", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_an_impossible_join_is_refused(build: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        build()
