"""Conditions, derived fields and Python functions between a topic and its groups, on a real broker and a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

import streamfti as fti
from streamfti.clock import SystemClock, to_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.records import load_records, read_features
from streamfti.compute.values import Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import Stream
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import FunctionError
from streamfti.feature_pipeline.bytewax_runner import BytewaxRunner
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader, topic_partitions
from streamfti.feature_pipeline.materialize import materialize
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.pipeline import FeaturePipeline
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import PlainRunner, Runner, StopSignal
from streamfti.monitoring.verification import Stores, ask_drawn, verify_vectors
from streamfti.monitoring.verify import Verdict
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import progress_key, record_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.testing.naive import PlacedEvent, naive_feature

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
QUERY_US = to_us(NOW) + 1
PARTITIONS = 3


class Payment(fti.Event):
    at: fti.EventTime
    card: str
    shop: str | None
    cents: int


P: Any = Payment  # fields are expressions at run time


@fti.batch_function(outputs={"root": float | None})
def rooted(euros: Any) -> Any:  # noqa: ANN401  # columns
    """The root of an amount; of a negative one there is none."""
    return np.sqrt(euros)


def sizing(*, stands_negatives: bool) -> Any:  # noqa: ANN401  # a batch function
    """A function before and after its author mended it, which changed no value and so not its version."""

    @fti.batch_function(outputs={"size": float}, version=1)
    def sized(cents: Any) -> Any:  # noqa: ANN401  # columns
        if (cents < 0).any() and not stands_negatives:
            msg = "a negative amount"
            raise ValueError(msg)
        return np.abs(cents)

    return sized


@dataclass
class Project:
    """One topic, with a log, keys and groups of its own."""

    source: fti.KafkaSource
    home: Path
    bootstrap_servers: str
    redis_url: str

    @property
    def large(self) -> Stream:
        """Payments of at least a euro, with what is derived of them."""
        kept = self.source.where(P.cents >= 100)
        derived = kept.derive(euros=P.cents / 100, place=P.shop.upper().fill_null("nowhere"), hour=P.at.hour())
        return derived.apply(rooted)

    def groups(self) -> dict[str, FeatureGroup]:
        large = self.large

        class Whole:
            n = fti.count().over("1h", "24h")

        class Large:
            n = fti.count().over("1h", "24h")
            euros = fti.sum(large["euros"]).over("24h")
            root = fti.max(large["root"]).over("1h", "24h")

        class ByPlace:
            n = fti.count().over("24h")
            most = fti.max(Payment.cents).over("24h")

        class Never:
            n = fti.count().over("24h")

        built = [
            fti.feature_group(source=self.source, entity="card")(Whole),
            fti.feature_group(source=large, entity="card")(Large),
            fti.feature_group(source=large, entity=("place", "hour"))(ByPlace),
            fti.feature_group(source=self.source.where(P.cents > 10**9), entity="card")(Never),
        ]
        return {group.name: group for group in built}

    def produce(self, events: list[Payment]) -> None:
        with EventProducer(self.bootstrap_servers, self.source, self.schemas, key_field="card") as producer:
            for event in events:
                producer.send(event, ingest_time=NOW)

    @property
    def schemas(self) -> FileSchemaRegistry:
        return FileSchemaRegistry(self.home / "schemas")

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    def run(self, groups: list[FeatureGroup], runner: Runner | None = None) -> None:
        pipeline = FeaturePipeline(
            fti.Catalog.of([self.source, *groups]),
            topic_partitions(self.bootstrap_servers, [self.source.topic]),
            redis_url=self.redis_url,
            log=self.log,
            decoder=EventDecoder(self.schemas),
            dead_letters=DeadLetterProducer(self.bootstrap_servers),
            clock=SystemClock(),
            metrics=FeaturePipelineMetrics(CollectorRegistry()),
        )
        reader = KafkaSourceReader(self.bootstrap_servers, [self.source], pipeline.positions(), group_id="test")
        (runner or PlainRunner()).run(reader, pipeline, StopSignal(when_caught_up=True))

    def online(self, group: FeatureGroup, feature: str, texts: list[str]) -> list[float | None]:
        client, layout = redis.Redis.from_url(self.redis_url), RecordLayout.of(group)
        stored: Any = client.mget([record_key(group, text) for text in texts])
        client.close()
        query = np.full(len(texts), QUERY_US)
        column = read_features(layout, [group.feature(feature)], load_records(layout, stored), query)
        (found,) = column.values()
        pairs = zip(found.values.tolist(), found.status.tolist(), strict=True)
        return [None if status >= Status.EXPIRED else value for value, status in pairs]

    def logged(self) -> list[PlacedEvent]:
        rows = self.log.read(self.source).iter_rows(named=True)
        return [
            PlacedEvent(
                Payment(at=row["at"], card=row["card"], shop=row["shop"], cents=row["cents"]),
                row["_partition"],
                row["_offset"],
            )
            for row in rows
        ]

    def next_offsets(self, group: FeatureGroup) -> dict[int, int]:
        reader = OnlineReader(self.redis_url)
        stored = reader.read([progress_key(group, p) for p in range(PARTITIONS)])
        reader.close()
        return {p: Progress.load(value).next_offset for p, value in enumerate(stored) if value is not None}


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    source = fti.KafkaSource(make_topic(PARTITIONS, name_hint="payments", config={"retention.ms": "-1"}), Payment)
    kafka_admin.create_topics([NewTopic(source.dead_letter_topic, 1, 1)])[source.dead_letter_topic].result()
    del redis_client  # only so that the database is empty
    return Project(source, tmp_path, kafka.bootstrap_servers, redis_server.url)


def payments(n: int, seed: int = 7, cents: tuple[int, int] = (-200, 400)) -> list[Payment]:
    """Events of the last day and a half in a random order."""
    rng = np.random.default_rng(seed)
    return [
        Payment(
            at=NOW - timedelta(seconds=int(rng.integers(0, 36 * 3600))),
            card=f"c{rng.integers(8)}",
            shop=None if rng.random() < 0.2 else f"s{rng.integers(3)}",
            cents=int(rng.integers(*cents)),
        )
        for _ in range(n)
    ]


def assert_as_defined(project: Project, group: FeatureGroup, keys: list[tuple[str, dict[str, object]]]) -> None:
    """What is online is what plain Python makes of the log."""
    events = project.logged()
    for feature in group.features:
        expected = [naive_feature(feature, group, events, key, QUERY_US) for _, key in keys]
        got = project.online(group, feature.name, [text for text, _ in keys])
        assert got == [None if e is None else pytest.approx(e, rel=1e-9) for e in expected], feature.qualified_name
        assert any(expected), "nothing was compared"


CARDS: list[tuple[str, dict[str, object]]] = [(f"c{i}", {"card": f"c{i}"}) for i in range(9)]
PLACES: list[tuple[str, dict[str, object]]] = [
    (f"{len(place)}:{place}{len(str(hour))}:{hour}", {"place": place, "hour": hour})
    for place in ("S0", "S2", "nowhere", "s0")
    for hour in range(24)
]


@pytest.mark.parametrize("runner", [PlainRunner(), BytewaxRunner()], ids=["plain", "bytewax"])
def test_what_is_online_is_what_the_steps_make_of_the_log(project: Project, runner: Runner) -> None:
    groups = project.groups()
    for part in range(2):
        project.produce(payments(400, seed=part))
        project.run(list(groups.values()), runner)
    assert project.log.read(project.source).height == 800  # whole: also what every stream leaves out
    assert_as_defined(project, groups["Whole"], CARDS)
    assert_as_defined(project, groups["Large"], CARDS)
    assert_as_defined(project, groups["ByPlace"], PLACES)


def test_progress_passes_events_that_a_stream_leaves_out(project: Project) -> None:
    """A group that gets none of them must not be read for again, nor hold the others back."""
    groups = project.groups()
    project.produce(payments(90, cents=(-200, 100)))
    project.run(list(groups.values()))
    logged: pl.DataFrame = project.log.read(project.source)
    ends = dict(logged.group_by("_partition").agg(pl.col("_offset").max() + 1).iter_rows())
    assert [project.next_offsets(groups[name]) for name in ("Whole", "Large", "Never")] == [ends] * 3
    assert project.online(groups["Large"], "n_24h", ["c0"]) == [0]


def test_a_group_of_a_stream_is_filled_from_the_log_of_the_source(project: Project) -> None:
    groups = project.groups()
    project.produce(payments(300))
    project.run([groups["Whole"]])
    for name in ("Large", "ByPlace", "Never"):
        done = materialize(groups[name], project.log, redis_url=project.redis_url, clock=SystemClock(), chunk_rows=50)
        assert done.events == 300
    project.produce(payments(200, seed=8))
    project.run(list(groups.values()))
    assert_as_defined(project, groups["Large"], CARDS)
    assert_as_defined(project, groups["ByPlace"], PLACES)


def test_verify_finds_no_skew_in_groups_of_streams(project: Project, tmp_path: Path) -> None:
    groups = list(project.groups().values())
    project.produce(payments(500))
    project.run(groups)
    online, folder = OnlineReader(project.redis_url), tmp_path / "vectors"
    stores = Stores(project.log, online, SystemClock())
    folder.mkdir()
    ask_drawn([(g, g.features) for g in groups], folder, stores, n=400, seed=1, on_progress=silent)
    catalog = fti.Catalog.of([project.source, *groups])
    report = verify_vectors(catalog, folder, stores, log_wait_s=1.0, on_progress=silent)
    online.close()
    assert {verdict for verdict, n in report.by_verdict().items() if n} <= {Verdict.EQUAL, Verdict.IN_FLIGHT}
    assert report.values == 100 * sum(len(g.features) for g in groups)


def silent(_what: str, _done: int) -> None:
    """Report to nobody."""


def test_a_function_that_fails_ends_the_pipeline_and_loses_nothing(project: Project) -> None:
    def group_of(*, stands_negatives: bool) -> FeatureGroup:
        stream = project.source.apply(sizing(stands_negatives=stands_negatives))

        class Sizes:
            n = fti.count().over("24h")
            size = fti.sum(stream["size"]).over("24h")

        return fti.feature_group(source=stream, entity="card")(Sizes)

    project.produce(payments(100))
    with pytest.raises(FunctionError, match=r"batch function 'sized' must not fail, got ValueError: a negative"):
        project.run([group_of(stands_negatives=False)])
    assert project.next_offsets(group_of(stands_negatives=False)) == {}
    project.run([group_of(stands_negatives=True)])
    assert_as_defined(project, group_of(stands_negatives=True), CARDS)
    assert project.log.read(project.source).height == 100
