"""The feature pipeline on a real broker and a real Redis: what goes in comes out, once, as the definition says."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import fastavro
import numpy as np
import polars as pl
import pytest
import redis
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

import streamfti as fti
from streamfti.clock import SystemClock, to_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.records import load_records, read_features
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import ContractError, FencedWriter, FingerprintMismatch, RetentionGap, SourceError
from streamfti.feature_pipeline.avro_schema import avro_schema, frame_message
from streamfti.feature_pipeline.bytewax_runner import BytewaxRunner
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader, topic_partitions
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.pipeline import FeaturePipeline, LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import PlainRunner, Runner, StopSignal
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import record_key
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Payment(fti.Event):
    at: fti.EventTime
    card: str
    shop: str | None
    cents: int
    fee: float | None


@dataclass
class Project:
    """One definition set on topics, keys and folders of its own."""

    source: fti.KafkaSource
    cards: fti.FeatureGroup
    shops: fti.FeatureGroup
    catalog: fti.Catalog
    home: Path
    bootstrap_servers: str
    redis_url: str

    @property
    def schemas(self) -> FileSchemaRegistry:
        return FileSchemaRegistry(self.home / "schemas")

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    def produce(self, events: Sequence[Payment]) -> None:
        with EventProducer(self.bootstrap_servers, self.source, self.schemas, key_field="card") as producer:
            for event in events:
                producer.send(event, ingest_time=NOW)

    def pipeline(self, log_policy: LogPolicy | None = None) -> FeaturePipeline:
        partitions = topic_partitions(self.bootstrap_servers, [self.source.topic])
        return FeaturePipeline(
            self.catalog,
            partitions,
            redis_url=self.redis_url,
            log=self.log,
            decoder=EventDecoder(self.schemas),
            dead_letters=DeadLetterProducer(self.bootstrap_servers),
            clock=SystemClock(),
            metrics=FeaturePipelineMetrics(CollectorRegistry()),
            log_policy=log_policy,
        )

    def reader(self, pipeline: FeaturePipeline) -> KafkaSourceReader:
        return KafkaSourceReader(self.bootstrap_servers, [self.source], pipeline.positions(), group_id="test")

    def run(self, runner: Runner | None = None) -> None:
        pipeline = self.pipeline()
        (runner or PlainRunner()).run(self.reader(pipeline), pipeline, StopSignal(when_caught_up=True))


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    topic = make_topic(3, name_hint="payments", config={"retention.ms": "-1"})
    source = fti.KafkaSource(topic, Payment)
    kafka_admin.create_topics([NewTopic(source.dead_letter_topic, 1, 1)])[source.dead_letter_topic].result()

    @fti.feature_group(source=source, entity="card")
    class Cards:
        payments = fti.count().over("5m", "1h", "24h")
        cents = fti.sum(Payment.cents).over("1h", "24h", default=0)
        fee = fti.mean(Payment.fee).over("1h")
        least = fti.min(Payment.cents).over("24h")
        most = fti.max(Payment.fee).over("1h")
        last = fti.last(Payment.cents).over("24h")

    @fti.feature_group(source=source, entity=("shop", "card"))
    class Shops:
        payments = fti.count().over("1h")

    catalog = fti.Catalog.of([source, Cards, Shops])
    del redis_client  # only so that the database is empty
    return Project(
        source,
        catalog.group("Cards"),
        catalog.group("Shops"),
        catalog,
        tmp_path,
        kafka.bootstrap_servers,
        redis_server.url,
    )


def drain(reader: KafkaSourceReader, pipeline: FeaturePipeline) -> None:
    """Process what is there, and leave both open: what a crash leaves behind."""
    while not reader.caught_up:
        for batch in reader.poll(0.1):
            pipeline.process(pipeline.decode(batch))


def poll_on(reader: KafkaSourceReader) -> None:
    for _ in range(200):
        reader.poll(0.05)
        reader.lags()


def payments(n: int, seed: int = 7) -> list[Payment]:
    """Events of the last two days in a random order, a few cards, nulls, ties and boundary times among them."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(0, 2 * 24 * 3600, n)
    seconds[::10] -= seconds[::10] % 300
    return [
        Payment(
            at=NOW - timedelta(seconds=int(s)),
            card=f"c{rng.integers(20)}",
            shop=None if rng.random() < 0.2 else f"s{rng.integers(5)}",
            cents=int(rng.integers(-1000, 100_000)),
            fee=None if rng.random() < 0.3 else float(rng.random()),
        )
        for s in seconds
    ]


def online(project: Project, group: fti.FeatureGroup, keys: Mapping[str, Sequence[str]]) -> dict[str, list[object]]:
    client = redis.Redis.from_url(project.redis_url)
    texts = (
        next(iter(keys.values()))
        if len(keys) == 1
        else ["".join(f"{len(v.encode())}:{v}" for v in row) for row in zip(*keys.values(), strict=True)]
    )
    stored = client.mget([record_key(group, text) for text in texts])
    layout = RecordLayout.of(group)
    query = np.full(len(texts), to_us(NOW) + 1)
    columns = read_features(layout, group.features, load_records(layout, stored), query)  # type: ignore[arg-type]
    client.close()
    return {n: list(zip(c.values.tolist(), c.status.tolist(), strict=True)) for n, c in columns.items()}


def offline(project: Project, group: fti.FeatureGroup, keys: Mapping[str, Sequence[str]]) -> dict[str, list[object]]:
    frame = pl.DataFrame(dict(keys))
    query = np.full(frame.height, to_us(NOW) + 1)
    columns = point_in_time(group, group.features, project.log.read(project.source), frame, query)
    return {n: list(zip(c.values.tolist(), c.status.tolist(), strict=True)) for n, c in columns.items()}


CARDS = {"card": [f"c{i}" for i in range(21)]}
SHOPS = {"shop": [f"s{i}" for i in range(5) for _ in range(20)], "card": [f"c{i}" for _ in range(5) for i in range(20)]}


def assert_equal(left: dict[str, list[object]], right: dict[str, list[object]]) -> None:
    assert left.keys() == right.keys()
    for name, rows in left.items():
        np.testing.assert_allclose(np.array(rows), np.array(right[name]), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("runner", [PlainRunner(), BytewaxRunner()], ids=["plain", "bytewax"])
def test_online_equals_offline_after_a_stream_out_of_order(project: Project, runner: Runner) -> None:
    project.produce(payments(3000))
    project.run(runner)
    assert project.log.read(project.source).height == 3000
    assert_equal(online(project, project.cards, CARDS), offline(project, project.cards, CARDS))
    assert_equal(online(project, project.shops, SHOPS), offline(project, project.shops, SHOPS))


def test_stopping_and_starting_again_loses_and_doubles_nothing(project: Project) -> None:
    events = payments(900)
    for part in range(3):
        project.produce(events[part::3])
        project.run(BytewaxRunner() if part == 1 else PlainRunner())
    logged = project.log.read(project.source)
    assert logged.select("_partition", "_offset").n_unique() == logged.height == 900
    assert_equal(online(project, project.cards, CARDS), offline(project, project.cards, CARDS))


def test_log_that_is_behind_is_caught_up_without_counting_twice_online(project: Project) -> None:
    project.produce(payments(500))
    pipeline = project.pipeline()
    reader = project.reader(pipeline)
    drain(reader, pipeline)
    reader.close()  # and never close the pipeline: what a crash before the log's flush leaves behind
    assert project.log.read(project.source).height == 0
    before = online(project, project.cards, CARDS)
    project.produce(payments(100, seed=8))
    project.run()
    assert project.log.read(project.source).height == 600
    assert_equal(online(project, project.cards, CARDS), offline(project, project.cards, CARDS))
    assert before != online(project, project.cards, CARDS)


def raw_producer(project: Project) -> Producer:
    return Producer({"bootstrap.servers": project.bootstrap_servers})


def encoded(project: Project, values: Mapping[str, object]) -> bytes:
    schema = avro_schema(project.source.schema)
    schema_id = project.schemas.register(project.source.topic, schema)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), dict(values))
    return frame_message(schema_id, body.getvalue())


GOOD = {"at": to_us(NOW), "card": "c1", "shop": None, "cents": 5, "fee": 1.0}


@pytest.mark.parametrize(
    ("make", "reason", "detail"),
    [
        (lambda _: b"", "malformed", "must begin with a zero byte"),
        (lambda _: b"hello there", "malformed", "must begin with a zero byte"),
        (lambda p: encoded(p, GOOD) + b"\x02x", "malformed", "bytes after its end"),
        (lambda p: encoded(p, GOOD)[:-3], "malformed", "the body must be Avro, got"),
        (lambda _: struct.pack(">bI", 0, 999) + b"x", "schema", "999"),
        (lambda p: encoded(p, GOOD | {"fee": float("nan")}), "invalid", "must be finite"),
        (lambda p: encoded(p, GOOD | {"at": -1}), "invalid", "from 1970 on"),
        (lambda p: encoded(p, GOOD | {"at": to_us(NOW) + 31_000_000}), "future", "at most 30 s ahead"),
    ],
    ids=["empty", "foreign", "too-long", "too-short", "unknown-schema", "nan", "before-1970", "future"],
)
def test_bad_message_becomes_a_dead_letter_and_its_neighbours_count(
    project: Project,
    make: Callable[[Project], bytes],
    reason: str,
    detail: str,
) -> None:
    value = make(project)
    project.produce([Payment(at=NOW, card="c1", shop=None, cents=1, fee=None)])
    producer = raw_producer(project)
    producer.produce(project.source.topic, value=value, key=b"c1", partition=0, timestamp=to_us(NOW) // 1000)
    assert producer.flush(10) == 0
    project.produce([Payment(at=NOW, card="c1", shop=None, cents=2, fee=None)])
    project.run()
    assert project.log.read(project.source)["cents"].sort().to_list() == [1, 2]
    assert online(project, project.cards, {"card": ["c1"]})["Cards.payments_1h"] == [(2, 1)]
    letter = read_one(project, project.source.dead_letter_topic)
    found = cast("list[tuple[str, bytes]]", letter.headers() or [])
    headers = {name: value.decode() for name, value in found}
    assert headers["streamfti-reason"] == reason
    assert detail in headers["streamfti-detail"]
    assert headers["streamfti-partition"] == "0"
    assert letter.value() == value


def read_one(project: Project, topic: str) -> Message:
    consumer = Consumer({"bootstrap.servers": project.bootstrap_servers, "group.id": "dead", "fetch.wait.max.ms": 5})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    assert message.error() is None
    return message


def test_second_writer_of_the_same_partitions_is_fenced(project: Project) -> None:
    project.produce(payments(50))
    zombie = project.pipeline()
    zombie_reader = project.reader(zombie)
    project.run()
    with pytest.raises(FencedWriter, match="only writer of its partitions"):
        drain(zombie_reader, zombie)
    zombie_reader.close()
    assert_equal(online(project, project.cards, CARDS), offline(project, project.cards, CARDS))


def test_rolled_back_redis_is_noticed_and_healed_by_a_restart(project: Project) -> None:
    project.produce(payments(300))
    project.run()
    client = redis.Redis.from_url(project.redis_url)
    old = {key: client.dump(key) for key in client.keys("fti:*")}
    project.produce(payments(300, seed=9))
    pipeline = project.pipeline()
    reader = project.reader(pipeline)
    for key, stored in old.items():
        client.restore(key, 0, stored, replace=True)  # type: ignore[arg-type]
    with pytest.raises(FencedWriter, match="only writer"):
        drain(reader, pipeline)
    reader.close()
    project.run()
    assert_equal(online(project, project.cards, CARDS), offline(project, project.cards, CARDS))
    client.close()


def test_changed_meaning_under_the_same_version_is_refused(project: Project) -> None:
    project.produce(payments(10))
    project.run()

    @fti.feature_group(source=project.source, entity="card")
    class Cards:
        payments = fti.count().over("10m")

    project.catalog = fti.Catalog.of([project.source, Cards])
    with pytest.raises(FingerprintMismatch, match=r"must keep its meaning.*version=2"):
        project.pipeline()


def test_features_over_tiles_that_are_stored_join_without_a_new_version_or_a_backfill(project: Project) -> None:
    """And leave again; the old definitions can still be used, beside them or after them."""
    project.produce(payments(300))
    project.run()
    old = project.catalog

    @fti.feature_group(source=project.source, entity="card")
    class Cards:
        payments = fti.count().over("5m", "1h", "24h")
        cents = fti.sum(Payment.cents).over("1h", "24h", default=0)
        fee = fti.mean(Payment.fee).over("1h", default=0.5)
        least = fti.min(Payment.cents).over("24h")
        most = fti.max(Payment.fee).over("1h")
        last = fti.last(Payment.cents).over("24h")
        half_day = fti.count().over("12h", hop="2h")
        usual = fti.mean(Payment.cents).over("24h", "6h", hop="2h")

    project.catalog = fti.Catalog.of([project.source, Cards, project.shops])
    cards = project.catalog.group("Cards")
    project.run()
    assert_equal(online(project, cards, CARDS), offline(project, cards, CARDS))
    project.produce(payments(200, seed=8))
    project.run()
    found = online(project, cards, CARDS)
    assert_equal(found, offline(project, cards, CARDS))
    assert found["Cards.half_day_12h"] != found["Cards.payments_24h"]
    project.catalog = old
    project.produce(payments(100, seed=9))
    project.run()
    assert_equal(online(project, cards, CARDS), offline(project, cards, CARDS))


def test_new_group_beside_an_old_log_asks_to_be_materialized(project: Project) -> None:
    project.produce(payments(10))
    project.run()

    @fti.feature_group(source=project.source, entity="card")
    class Later:
        payments = fti.count().over("10m")

    project.catalog = fti.Catalog.of([project.source, project.cards, project.shops, Later])
    with pytest.raises(ContractError, match=r"'Later' must be filled from the log.*materialize"):
        project.pipeline().positions()


def test_position_that_the_topic_does_not_hold_is_a_loud_gap(project: Project) -> None:
    project.produce(payments(10))
    positions = {(project.source.topic, p): 5_000 for p in range(3)}
    reader = KafkaSourceReader(project.bootstrap_servers, [project.source], positions, group_id="gap")
    with pytest.raises(RetentionGap, match="must still hold the next events"):
        poll_on(reader)
    reader.close()


def test_broker_that_does_not_answer_is_one_clear_error() -> None:
    with pytest.raises(SourceError, match="must answer"):
        topic_partitions("127.0.0.1:1", ["payments"])
