"""Freshness on a real broker and a real Redis: an idle topic is fresh, a stopped or lagging pipeline is not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

import streamfti as fti
from streamfti.clock import Clock, ManualClock, SystemClock, from_us, to_us
from streamfti.compute.values import Status
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import FencedWriter
from streamfti.feature_pipeline.batches import MessageBatch
from streamfti.feature_pipeline.bytewax_runner import BytewaxRunner
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader, Partition, Reached, topic_partitions
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.pipeline import FeaturePipeline
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import PlainRunner, Runner, StopSignal
from streamfti.inference_pipeline.feature_lookup import FeatureLookup
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.tables import FeatureVectors, GroupProgress, InputColumn
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
T = TypeVar("T")
Eventually = Callable[..., T]


class Payment(fti.Event):
    at: fti.EventTime
    card: str


@dataclass
class Project:
    """A group that must be fresh within a minute, one that need not, and a topic of two partitions."""

    source: fti.KafkaSource
    catalog: fti.Catalog
    home: Path
    bootstrap_servers: str
    redis_url: str
    online: redis.Redis
    metrics: CollectorRegistry
    """Of the last pipeline."""
    serving_metrics: CollectorRegistry
    """Of the last question."""

    def produce(self, at: datetime, card: str = "c1") -> None:
        """Send an event that happened, and that the broker got, at a time; one card is of one partition."""
        with EventProducer(
            self.bootstrap_servers, self.source, FileSchemaRegistry(self.home / "schemas"), key_field="card"
        ) as producer:
            producer.send(Payment(at=at, card=card), ingest_time=at)

    def pipeline(self, clock: Clock) -> FeaturePipeline:
        self.metrics = CollectorRegistry()
        return FeaturePipeline(
            self.catalog,
            topic_partitions(self.bootstrap_servers, [self.source.topic]),
            redis_url=self.redis_url,
            log=OfflineLog(self.home / "log"),
            decoder=EventDecoder(FileSchemaRegistry(self.home / "schemas")),
            dead_letters=DeadLetterProducer(self.bootstrap_servers),
            clock=clock,
            metrics=FeaturePipelineMetrics(self.metrics),
        )

    def reader(self, pipeline: FeaturePipeline) -> KafkaSourceReader:
        return KafkaSourceReader(self.bootstrap_servers, [self.source], pipeline.positions(), group_id="test")

    def stored(self, group: str = "Cards") -> dict[int, Progress]:
        found = {p: self.online.get(progress_key(self.catalog.group(group), p)) for p in range(2)}
        return {p: Progress.load(value) for p, value in found.items() if isinstance(value, bytes)}

    def asked(self, now: datetime, as_of: datetime | None = None) -> FeatureVectors:
        """What a server answers whose clock stands at a time."""
        service, self.serving_metrics = self.catalog.service("cards"), CollectorRegistry()
        with closing(OnlineReader(self.redis_url)) as online:
            lookup = FeatureLookup(service, online, ManualClock(now), ServingMetrics(self.serving_metrics))
            answer = lookup.get({"card": InputColumn(None, ["c1"])}, None if as_of is None else to_us(as_of))
        return answer.vectors

    def fresh(self, now: datetime, as_of: datetime | None = None) -> GroupProgress:
        return self.asked(now, as_of).progress[0]


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    source = fti.KafkaSource(make_topic(2, name_hint="payments", config={"retention.ms": "-1"}), Payment)
    kafka_admin.create_topics([NewTopic(source.dead_letter_topic, 1, 1)])[source.dead_letter_topic].result()

    @fti.feature_group(source=source, entity="card", max_staleness="1m")
    class Cards:
        n = fti.count().over("24h")

    @fti.feature_group(source=source, entity="card")
    class Others:
        n = fti.count().over("24h")

    catalog = fti.Catalog.of([source, Cards, Others, fti.FeatureService("cards", [Cards, Others])])
    return Project(
        source,
        catalog,
        tmp_path,
        kafka.bootstrap_servers,
        redis_server.url,
        redis_client,
        CollectorRegistry(),
        CollectorRegistry(),
    )


class Told:
    """A reader from which nothing comes, and that says what it is told to of the ends."""

    caught_up = False

    def __init__(self, ends: Mapping[Partition, int]) -> None:
        self._ends = ends

    def poll(self, timeout_s: float) -> list[MessageBatch]:
        del timeout_s
        return []

    def lags(self) -> Mapping[Partition, int]:
        return {}

    def ends(self) -> Mapping[Partition, int]:
        return self._ends

    def end_offsets(self, topic: str) -> Mapping[int, int]:
        raise AssertionError(topic)

    def reached(self, topic: str) -> Mapping[int, Reached]:
        raise AssertionError(topic)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """There is nothing to leave."""


@dataclass
class Stepped:
    """A pipeline by hand: its clock moves, and it reads and looks around, only when told to."""

    project: Project
    clock: ManualClock
    pipeline: FeaturePipeline
    reader: KafkaSourceReader

    def read(self) -> list[MessageBatch]:
        """Everything that is there, up to its end."""
        found = self.reader.poll(0.1)
        while not self.reader.caught_up:
            found += self.reader.poll(0.1)
        return found

    def apply(self, batches: list[MessageBatch]) -> None:
        for batch in batches:
            self.pipeline.process(self.pipeline.decode(batch))

    def idle(self, by: timedelta, ends: Mapping[int, int]) -> None:
        """Let time go by, and say which partitions have ended where."""
        self.clock.advance(by)
        self.pipeline.idle(Told({(self.project.source.name, p): offset for p, offset in ends.items()}))

    def ends(self) -> Mapping[int, int]:
        """How far each partition has been applied."""
        return {p: progress.next_offset for p, progress in self.project.stored().items()}


@contextmanager
def stepped(project: Project, now: datetime = NOW) -> Iterator[Stepped]:
    clock = ManualClock(now)
    pipeline = project.pipeline(clock)
    with closing(project.reader(pipeline)) as reader, closing(pipeline):
        yield Stepped(project, clock, pipeline, reader)


@pytest.mark.parametrize("runner", [PlainRunner(), BytewaxRunner()], ids=["plain", "bytewax"])
def test_an_idle_topic_keeps_a_group_fresh_until_the_pipeline_stops(
    project: Project, runner: Runner, eventually: Eventually[bool]
) -> None:
    began = datetime.now(UTC)
    project.produce(began - timedelta(hours=1))
    pipeline, stop = project.pipeline(SystemClock()), StopSignal()
    thread = threading.Thread(target=runner.run, args=(project.reader(pipeline), pipeline, stop))
    thread.start()
    try:
        for later in (0, 1, 2):  # nothing comes, and it goes on
            since_us = to_us(began + timedelta(seconds=later))
            eventually(lambda least=since_us: (project.fresh(datetime.now(UTC)).applied_until_us or 0) > least, 20.0)
        assert project.fresh(datetime.now(UTC)).is_stale is False
    finally:
        stop.set()
        thread.join()
    last = project.fresh(datetime.now(UTC))
    assert last.applied_until_us is not None
    assert last.applied_until_us <= to_us(datetime.now(UTC))
    stopped = from_us(last.applied_until_us)
    assert project.fresh(stopped + MINUTE).is_stale is False
    stale = project.fresh(stopped + MINUTE + timedelta(microseconds=1))
    assert (stale.is_stale, stale.freshness_us) == (True, 60_000_001)
    freshness = project.metrics.get_sample_value("streamfti_group_freshness_seconds", {"group": "Cards"})
    assert freshness is not None
    assert 0 <= freshness < 10


def test_a_group_that_lags_behind_is_stale_until_it_has_caught_up(project: Project) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        on.apply(on.read())
        assert project.fresh(NOW).freshness_us == 0
        project.produce(NOW + MINUTE)
        in_flight, ends = on.read(), {p: offset + 1 for p, offset in on.ends().items()}
        assert sum(len(batch.messages) for batch in in_flight) == 1
        others = dict.fromkeys({0, 1} - ends.keys(), 0)
        on.idle(5 * MINUTE, {**others, **ends})  # read to the end, but not applied
        behind = project.fresh(on_time := NOW + 5 * MINUTE)
        assert (behind.is_stale, behind.freshness_us) == (True, 5 * 60_000_000)
        on.apply(in_flight)  # applied, but nobody knows yet that it was the last
        behind = project.fresh(on_time)
        assert (behind.is_stale, behind.freshness_us) == (True, 4 * 60_000_000)
        on.idle(timedelta(seconds=1), {**others, **ends})
        assert project.fresh(on_time + timedelta(seconds=1)).freshness_us == 0


def test_a_partition_that_has_not_begun_holds_the_group_back_unless_it_is_empty(project: Project) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        on.apply(on.read())
        ends = on.ends()
        assert len(ends) == 1
        on.idle(5 * MINUTE, ends)
        assert project.fresh(NOW + 5 * MINUTE).freshness_us == 5 * 60_000_000
        on.idle(MINUTE, {**dict.fromkeys((0, 1), 0), **ends})
        assert project.fresh(NOW + 6 * MINUTE).freshness_us == 0
        assert on.ends() == ends, "nothing has been applied of the other"


def test_a_group_is_as_fresh_as_its_slowest_partition(project: Project) -> None:
    for number in range(8):
        project.produce(NOW, f"c{number}")
    with stepped(project) as on:
        on.apply(on.read())
        ends = on.ends()
        assert set(ends) == {0, 1}
        on.idle(2 * MINUTE, {0: ends[0]})
        assert project.fresh(NOW + 2 * MINUTE).freshness_us == 2 * 60_000_000
        on.idle(MINUTE, ends)
        assert project.fresh(NOW + 3 * MINUTE).freshness_us == 0


def test_a_producers_clock_that_is_ahead_makes_nothing_fresher_than_now(project: Project) -> None:
    project.produce(NOW + timedelta(seconds=1))
    with stepped(project) as on:
        on.apply(on.read())
        assert {p.applied_until_us for p in project.stored().values()} == {to_us(NOW)}


def test_a_clock_that_goes_back_takes_nothing_back(project: Project) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        on.apply(on.read())
    with stepped(project, NOW - MINUTE) as on:
        on.idle(timedelta(seconds=1), {**dict.fromkeys((0, 1), 0), **on.ends()})
    assert {p.applied_until_us for p in project.stored().values()} == {to_us(NOW)}
    assert project.fresh(NOW - MINUTE).freshness_us == 0


def test_a_heartbeat_is_fenced_like_every_write(project: Project) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        on.apply(on.read())
        ends = {**dict.fromkeys((0, 1), 0), **on.ends()}
        on.idle(timedelta(seconds=1), ends)
        (partition,) = project.stored()
        project.online.set(progress_key(project.catalog.group("Cards"), partition), Progress(9, 9, 9, 9).dump())
        with pytest.raises(FencedWriter):
            on.idle(timedelta(seconds=1), ends)


def test_what_was_stored_before_freshness_was_kept_goes_on_and_is_stale_at_first(project: Project) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        on.apply(on.read())
    for group in project.catalog.groups.values():
        for partition in project.stored():
            key = progress_key(group, partition)
            project.online.set(key, project.online.getrange(key, 0, 31))
    unknown = project.fresh(NOW)
    assert (unknown.applied_until_us, unknown.freshness_us, unknown.is_stale) == (None, None, True)
    with stepped(project) as on:
        on.idle(timedelta(seconds=1), {**dict.fromkeys((0, 1), 0), **on.ends()})
        assert project.fresh(NOW + timedelta(seconds=1)).freshness_us == 0


def test_a_stale_group_keeps_its_values_and_is_counted(project: Project) -> None:
    project.produce(NOW - timedelta(seconds=1))
    with stepped(project) as on:
        on.apply(on.read())
    for now in (NOW, NOW + timedelta(hours=1)):
        vectors = project.asked(now)
        assert [group.is_stale for group in vectors.progress] == [now > NOW, None], "Others promises nothing"
        found = vectors.columns["Cards.n_24h"]
        assert (found.values[0], found.status[0]) == (1, Status.PRESENT)
        counted = project.serving_metrics.get_sample_value("streamfti_stale_reads_total", {"group": "Cards"})
        assert counted == (1 if now > NOW else None)


def test_freshness_is_of_the_time_of_asking(project: Project) -> None:
    project.produce(NOW - timedelta(seconds=1))
    with stepped(project) as on:
        on.apply(on.read())
    assert project.fresh(NOW + timedelta(hours=1), as_of=NOW).is_stale is True
    assert project.fresh(NOW, as_of=NOW + timedelta(hours=1)).is_stale is False


def test_a_broker_that_is_silent_tells_of_no_end(
    project: Project, kafka: KafkaServer, eventually: Eventually[bool]
) -> None:
    project.produce(NOW)
    with stepped(project) as on:
        name = project.source.name

        def ends() -> Mapping[Partition, int]:
            on.reader.poll(0.05)
            return on.reader.ends()

        eventually(lambda: sorted(ends().values()) == [0, 1])
        assert ends().keys() == {(name, 0), (name, 1)}
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            eventually(lambda: not ends(), 20.0)
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        eventually(lambda: sorted(ends().values()) == [0, 1], 20.0)
