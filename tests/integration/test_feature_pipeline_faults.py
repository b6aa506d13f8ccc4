"""Faults between the feature pipeline and its servers: a lost connection, a full or a meddled-with store, poison.

Each time: nothing is applied in part, nobody is overwritten in silence, and the error says what must be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

import streamfti as fti
from streamfti.clock import SystemClock, from_us, to_us
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import FencedWriter, SourceError, StoreError, StoreUnavailable
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, DeadLetter, Message
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.group_state import GroupState, progress_after
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader, topic_partitions
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.pipeline import FeaturePipeline, LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import PlainRunner, StopSignal
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import progress_key, record_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineWriter
from streamfti.stores.online.slot_writes import SlotWrite, SlotWrites
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = to_us(NOW)
Eventually = Callable[..., object]


class Payment(fti.Event):
    at: fti.EventTime
    card: str | None
    cents: int


SOURCE = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=SOURCE, entity="card")
class Cards:
    payments = fti.count().over("1h")


CARDS = fti.Catalog.of([SOURCE, Cards]).group("Cards")
P0 = progress_key(CARDS, 0)
FIRST, SECOND, OTHER = Progress(1, 0, 0, 0), Progress(2, 0, 0, 0), Progress(7, 0, 0, 0)
SLOT = SlotWrite(record_key(CARDS, "c1"), 0, b"12345678")
SLOTS = SlotWrites.of([SLOT])


@pytest.fixture
def writer(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[OnlineWriter]:
    """A writer that has committed once."""
    del redis_client  # only so that the database is empty
    opened = OnlineWriter(redis_server.url, [P0])
    opened.commit(SLOTS, {SLOT.key: 60_000}, {P0: FIRST})
    yield opened
    opened.close()


def kill_connections(client: redis.Redis) -> None:
    """Cut every connection but the one that asks."""
    own = client.client_id()
    for connection in client.client_list():
        if int(connection["id"]) != own:
            client.client_kill_filter(_id=connection["id"])


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]


def test_killed_connection_beside_another_writer_never_overwrites_it(
    writer: OnlineWriter, redis_client: redis.Redis
) -> None:
    kill_connections(redis_client)
    redis_client.set(P0, OTHER.dump())
    before = everything(redis_client)
    for _ in range(3):  # a second try must not go through on a new connection that watches nothing
        with pytest.raises(StoreError):
            writer.commit(SLOTS, {}, {P0: SECOND})
    with pytest.raises(StoreError, match="after an error"):
        writer.read([SLOT.key])
    assert everything(redis_client) == before


def test_connection_killed_before_a_read_is_not_made_anew_either(
    writer: OnlineWriter, redis_client: redis.Redis
) -> None:
    kill_connections(redis_client)
    with pytest.raises(StoreUnavailable, match="must answer"):
        writer.read([SLOT.key])
    redis_client.set(P0, OTHER.dump())
    with pytest.raises(StoreError, match=r"after an error.*make a new one"):
        writer.commit(SLOTS, {}, {P0: SECOND})
    assert redis_client.get(P0) == OTHER.dump()


def test_health_check_of_the_driver_does_not_connect_anew_behind_the_guard(
    redis_server: RedisServer, redis_client: redis.Redis, eventually: Eventually
) -> None:
    writer = OnlineWriter(f"{redis_server.url}?health_check_interval=1&retry_on_timeout=true", [P0])
    writer.commit(SLOTS, {}, {P0: FIRST})
    due = time.monotonic() + 1.1
    kill_connections(redis_client)
    redis_client.set(P0, OTHER.dump())
    eventually(lambda: time.monotonic() > due)
    with pytest.raises(StoreError):
        writer.commit(SLOTS, {}, {P0: SECOND})
    assert redis_client.get(P0) == OTHER.dump()
    writer.close()


def test_progress_that_another_writer_moved_or_removed_fences(writer: OnlineWriter, redis_client: redis.Redis) -> None:
    redis_client.delete(P0)
    with pytest.raises(FencedWriter, match="only writer"):
        writer.commit(SLOTS, {}, {P0: SECOND})
    with pytest.raises(StoreError, match="after an error"):
        writer.commit(SLOTS, {}, {P0: SECOND})
    assert redis_client.get(P0) is None


def test_full_store_refuses_a_transaction_as_a_whole(writer: OnlineWriter, redis_client: redis.Redis) -> None:
    before = everything(redis_client)
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="maxmemory"):
            writer.commit(SlotWrites.of([SLOT._replace(data=b"x" * 8)]), {}, {P0: SECOND})
    finally:
        redis_client.config_set("maxmemory", "0")
    assert everything(redis_client) == before


def test_key_of_another_type_is_refused_before_anything_is_written(
    writer: OnlineWriter, redis_client: redis.Redis
) -> None:
    """MGET reads it as nothing, and SETRANGE fails alone in its transaction, which would move the progress."""
    foreign = record_key(CARDS, "c2")
    redis_client.hset(foreign, "a", "b")
    assert GroupState(CARDS, writer.read).apply(payments("c1"), NOW_US).slots
    before = everything(redis_client)
    with pytest.raises(StoreError, match="another type"):
        GroupState(CARDS, writer.read).apply(payments("c1", "c2", "c3"), NOW_US)
    assert everything(redis_client) == before


def payments(*cards: str, at_us: int = NOW_US) -> pl.DataFrame:
    placed = [PlacedEvent(Payment(at=from_us(at_us), card=card, cents=1), 0, i) for i, card in enumerate(cards)]
    return event_frame(SOURCE.schema, placed, ingest_time_us=NOW_US)


def test_record_that_redis_has_expired_is_whole_after_a_late_event(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    writer, key = OnlineWriter(redis_server.url, [P0]), record_key(CARDS, "c1")
    state = GroupState(CARDS, writer.read)

    def apply(at_us: int, now_us: int) -> None:
        change = state.apply(payments("c1", at_us=at_us), now_us)
        writer.commit(change.slots, change.expiries_ms, progress_after(CARDS, writer.progress, {0: 1}, change, now_us))

    apply(NOW_US, NOW_US)
    left_ms = redis_client.pttl(key)
    assert isinstance(left_ms, int)
    assert left_ms * 1000 > (CARDS.retention_us or 0)
    redis_client.pexpire(key, 0)  # as it would in time
    assert not redis_client.exists(key)
    apply(NOW_US - 600_000_000, NOW_US + left_ms * 1000)
    late = redis_client.get(key)
    redis_client.delete(key)
    state = GroupState(CARDS, writer.read)
    apply(NOW_US - 600_000_000, NOW_US + left_ms * 1000)
    assert late == redis_client.get(key)
    writer.close()


@dataclass
class Project:
    """A source on a topic of its own, with the groups that a test gives it."""

    source: fti.KafkaSource
    home: Path
    bootstrap_servers: str
    redis_url: str

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    def group(self, name: str) -> fti.FeatureGroup:
        built: fti.FeatureGroup = fti.feature_group(source=self.source, entity="card")(
            type(name, (), {"payments": fti.count().over("1h")})
        )
        return built

    def produce(self, *cards: str | None) -> None:
        with EventProducer(self.bootstrap_servers, self.source, FileSchemaRegistry(self.home / "schemas")) as producer:
            for card in cards:
                producer.send(self.source.event(at=NOW, card=card, cents=1), ingest_time=NOW)

    def produce_raw(self, value: bytes, **message: object) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap_servers})
        producer.produce(self.source.topic, value=value, **message)  # type: ignore[arg-type]
        assert producer.flush(10) == 0

    def pipeline(self, *groups: fti.FeatureGroup, log_policy: LogPolicy | None = None) -> FeaturePipeline:
        return FeaturePipeline(
            fti.Catalog.of([self.source, *groups]),
            topic_partitions(self.bootstrap_servers, [self.source.topic]),
            redis_url=self.redis_url,
            log=self.log,
            decoder=EventDecoder(FileSchemaRegistry(self.home / "schemas")),
            dead_letters=DeadLetterProducer(self.bootstrap_servers),
            clock=SystemClock(),
            metrics=FeaturePipelineMetrics(CollectorRegistry()),
            log_policy=log_policy or LogPolicy(max_rows=1),
        )

    def run(self, *groups: fti.FeatureGroup) -> FeaturePipeline:
        pipeline = self.pipeline(*groups)
        reader = KafkaSourceReader(self.bootstrap_servers, [self.source], pipeline.positions(), group_id="faults")
        PlainRunner().run(reader, pipeline, StopSignal(when_caught_up=True))
        return pipeline


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    del redis_client  # only so that the database is empty
    # A broker that checks the times of messages would refuse those that one without the check lets in.
    config = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}
    source = fti.KafkaSource(make_topic(1, name_hint="payments", config=config), Payment)
    kafka_admin.create_topics([NewTopic(source.dead_letter_topic, 1, 1)])[source.dead_letter_topic].result()
    return Project(source, tmp_path, kafka.bootstrap_servers, redis_server.url)


def stored_progress(client: redis.Redis, group: fti.FeatureGroup) -> int | None:
    stored = client.get(progress_key(group, 0))
    return Progress.load(stored).next_offset if isinstance(stored, bytes) else None


def test_source_without_groups_fills_its_log(project: Project) -> None:
    project.produce("c1", "c2")
    pipeline = project.run()
    assert pipeline.durable_offsets() == {(project.source.topic, 0): 2}
    project.produce("c3")
    project.run()
    assert project.log.read(project.source)["card"].to_list() == ["c1", "c2", "c3"]


def test_progress_moves_over_messages_that_change_nothing(project: Project, redis_client: redis.Redis) -> None:
    """Dead letters only, then events without an entity: nothing is read again, nothing counts as missing."""
    group = project.group("Cards")
    project.produce_raw(b"no event")
    project.run(group)
    assert stored_progress(redis_client, group) == 1
    project.produce(None, None)
    pipeline = project.run(group)
    assert stored_progress(redis_client, group) == 3
    assert pipeline.durable_offsets() == {(project.source.topic, 0): 3}
    assert project.pipeline(group).positions() == {(project.source.topic, 0): 3}


def test_events_reach_the_log_in_time_though_nothing_comes_after_them(project: Project, eventually: Eventually) -> None:
    project.produce("c1", "c2")
    pipeline = project.pipeline(log_policy=LogPolicy(max_age_s=0.3))
    reader = KafkaSourceReader(project.bootstrap_servers, [project.source], pipeline.positions(), group_id="idle")
    while not reader.caught_up:
        for batch in reader.poll(0.1):
            pipeline.process(pipeline.decode(batch))
    assert pipeline.durable_offsets() == {(project.source.topic, 0): 0}

    def is_durable() -> bool:
        pipeline.idle(reader)
        return pipeline.durable_offsets() == {(project.source.topic, 0): 2}

    eventually(is_durable)
    assert project.log.read(project.source).height == 2
    reader.close()
    pipeline.close()


@pytest.mark.parametrize("timestamp", [253_402_300_800_000, 1_777_636_800_000_000_000, 2**63 - 1])
def test_message_time_in_a_wrong_unit_does_not_stop_the_pipeline(project: Project, timestamp: int) -> None:
    """Nanoseconds where milliseconds belong do not even fit 64 bits as microseconds."""
    project.produce("c1")
    whole = FileSchemaRegistry(project.home / "schemas")
    assert whole.subjects()[project.source.topic] == (1,)
    body = b"\x00" + (1).to_bytes(4, "big") + varint(NOW_US) + b"\x02\x04c2" + varint(1)
    project.produce_raw(body, timestamp=timestamp)
    project.run(project.group("Cards"))
    logged = project.log.read(project.source).sort("_offset")
    assert logged["card"].to_list() == ["c1", "c2"]
    assert logged["_ingest_time_us"].to_list() == [NOW_US, NO_INGEST_TIME]


def varint(value: int) -> bytes:
    """Return a number from 0 on as Avro writes a long."""
    value, out = value << 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_groups_of_one_source_that_are_not_equally_far_apply_each_event_once(
    project: Project, redis_client: redis.Redis
) -> None:
    """As `materialize` leaves them where the log is ahead of one and behind another."""
    ahead, behind = project.group("Ahead"), project.group("Behind")
    project.produce("c1", "c1")
    project.run(ahead, behind)
    whole = {key: redis_client.dump(key) for key in redis_client.scan_iter(f"fti:{{{behind.name}*")}
    project.produce("c1", "c2", "c1")
    project.run(ahead, behind)
    after = records(redis_client, ahead)
    for key in redis_client.scan_iter(f"fti:{{{behind.name}*"):
        redis_client.delete(key)
    for key, stored in whole.items():
        redis_client.restore(key, 0, stored)  # type: ignore[arg-type]
    assert project.pipeline(ahead, behind).positions() == {(project.source.topic, 0): 2}
    project.produce("c1")
    project.run(ahead, behind)
    assert project.log.read(project.source).height == 6
    assert records(redis_client, ahead) == records(redis_client, behind) != after
    assert stored_progress(redis_client, ahead) == stored_progress(redis_client, behind) == 6


def records(client: redis.Redis, group: fti.FeatureGroup) -> Mapping[str, object]:
    return {card: client.get(record_key(group, card)) for card in ("c1", "c2")}


def test_dead_letter_as_large_as_a_topic_takes_is_delivered(project: Project) -> None:
    """A client refuses by default what the broker would take, and has taken: the message is there."""
    letter = DeadLetter(Message(0, 0, NOW_US, None, b"x" * 1_048_000), "malformed", "no event", None)
    DeadLetterProducer(project.bootstrap_servers).deliver(project.source, [letter])


def test_event_that_no_message_can_hold_is_one_clear_error(project: Project) -> None:
    producer = EventProducer(project.bootstrap_servers, project.source, FileSchemaRegistry(project.home / "schemas"))
    with pytest.raises(SourceError, match=f"must reach topic '{project.source.topic}'.*too large"):
        producer.send(project.source.event(at=NOW, card="x" * 1_100_000, cents=1))
