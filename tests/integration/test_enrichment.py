"""Events enriched by a table on a real broker and a real Redis: while both come, through kills, as both logs say."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
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

from streamfti.clock import SystemClock, to_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.records import load_records, read_features
from streamfti.compute.values import Status
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import EnrichedStream
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.assembly import Engine, build_feature_run
from streamfti.feature_pipeline.materialize import materialize
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.monitoring.verification import Stores, ask_drawn, verify_vectors
from streamfti.monitoring.verify import Verdict
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import record_key
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.testing.naive import PlacedEvent, naive_feature
from streamfti.testing.naive_enrichment import Taken, naive_enriched
from streamfti.training_pipeline.feature_history import backfill_features

CHILD = Path(__file__).parents[1] / "faults" / "feature_pipeline_child.py"
DEFINITIONS = """
import streamfti as fti

class Payment(fti.Event):
    customer: str | None
    cents: int
    at: fti.EventTime

class Customer(fti.Event):
    customer: str
    country: str
    limit: int
    at: fti.EventTime

payments = fti.KafkaSource("{payments}", Payment)
customers = fti.KafkaSource("{customers}", Customer)
enriched = payments.where(Payment.cents >= 0).enrich(customers, on="customer", fields=["country", "limit"])

@fti.feature_group(source=enriched, entity="country")
class Countries:
    n = fti.count().over("12h", "24h")
    cents = fti.sum(Payment.cents).over("24h")
    last = fti.last(enriched["limit"]).over("24h")

@fti.feature_group(source=enriched.where(enriched["country"].is_null()), entity="customer")
class Unknown:
    n = fti.count().over("24h")

@fti.feature_group(source=payments, entity="customer")
class Plain:
    n = fti.count().over("24h")

service = fti.FeatureService("countries", [Countries])
"""
KEYS = {"Countries": ["c0", "c1", "c2", "nowhere"], "Unknown": [f"u{i}" for i in range(6)]}


@dataclass
class Project:
    definitions: Path
    home: Path
    bootstrap_servers: str
    redis_url: str
    now: datetime

    @property
    def catalog(self) -> Catalog:
        return load_catalog(self.definitions)

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    @property
    def query_us(self) -> int:
        return to_us(self.now) + 1

    def produce(self, part: int, n: int = 150) -> None:
        """Payments and changes of customers in turns, each of the last day in any order, at the broker's own time."""
        rng = np.random.default_rng(part)
        for _ in range(3):  # producers send at their end
            self._produce(rng, n // 3)

    def _produce(self, rng: np.random.Generator, n: int) -> None:
        payments, customers = self.catalog.sources.values()
        registry = FileSchemaRegistry(self.home / "schemas")
        with (
            EventProducer(self.bootstrap_servers, payments, registry, key_field="cents") as events,
            EventProducer(self.bootstrap_servers, customers, registry, key_field="customer") as rows,
        ):
            for _ in range(n):
                at = self.now - timedelta(minutes=int(rng.integers(0, 24 * 60)))
                who = f"u{rng.integers(6)}"
                if rng.random() < 0.3:
                    country, limit = f"c{rng.integers(3)}", int(rng.integers(100))
                    rows.send(customers.event(customer=who, country=country, limit=limit, at=at))
                else:
                    customer = None if rng.random() < 0.1 else who
                    events.send(payments.event(customer=customer, cents=int(rng.integers(-5, 50)), at=at))

    def run_child(self, point: str = "never", count: int = 0) -> int:
        arguments = [str(self.definitions), str(self.home), self.redis_url, self.bootstrap_servers, point, str(count)]
        return subprocess.run([sys.executable, str(CHILD), *arguments], timeout=120, check=False).returncode

    def run(self, engine: Engine, stop: StopSignal) -> None:
        settings = Settings(home=self.home, redis_url=self.redis_url, bootstrap_servers=self.bootstrap_servers)
        run = build_feature_run(self.catalog, [], settings, clock=SystemClock(), log_policy=LogPolicy(max_rows=40))
        run.run(engine, stop)

    def logged(self, name: str) -> list[Taken]:
        source = self.catalog.sources[name]
        fields = [field.name for field in source.schema.fields]
        return [
            (
                PlacedEvent(source.event(**{f: row[f] for f in fields}), row["_partition"], row["_offset"]),
                row["_ingest_time_us"],
            )
            for row in self.log.read(source).iter_rows(named=True)
        ]

    def online(self, group: FeatureGroup, keys: list[str]) -> dict[str, list[float | None]]:
        client, layout = redis.Redis.from_url(self.redis_url), RecordLayout.of(group)
        stored: Any = client.mget([record_key(group, key) for key in keys])
        client.close()
        found = read_features(layout, group.features, load_records(layout, stored), np.full(len(keys), self.query_us))
        return {
            name: [
                None if s >= Status.EXPIRED else v for v, s in zip(c.values.tolist(), c.status.tolist(), strict=True)
            ]
            for name, c in found.items()
        }


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    config = {"retention.ms": "-1"}
    names = {name: make_topic(n, name_hint=name, config=config) for name, n in (("payments", 3), ("customers", 2))}
    for topic in names.values():
        kafka_admin.create_topics([NewTopic(f"{topic}.dead-letters", 1, 1)])[f"{topic}.dead-letters"].result()
    definitions = tmp_path / "definitions.py"
    definitions.write_text(DEFINITIONS.format(**names), encoding="utf-8")
    del redis_client  # only so that the database is empty
    return Project(definitions, tmp_path / "home", kafka.bootstrap_servers, redis_server.url, datetime.now(UTC))


def assert_as_defined(project: Project) -> None:
    """What is online is what plain Python makes of both logs."""
    for name, keys in KEYS.items():
        group = project.catalog.group(name)
        stream = group.stream.origin
        assert isinstance(stream, EnrichedStream)
        events = list(naive_enriched(stream, *(project.logged(source.name) for source in stream.sources)))
        online = project.online(group, keys)
        for feature in group.features:
            given = [{group.entity[0]: key} for key in keys]
            expected = [naive_feature(feature, group, events, key, project.query_us) for key in given]
            assert online[feature.qualified_name] == expected, feature.qualified_name
            assert any(expected), "nothing was compared"


def test_an_enriched_group_survives_kills_and_is_what_both_logs_say(project: Project, tmp_path: Path) -> None:
    project.produce(1)
    assert project.run_child() == 0
    project.produce(2)
    for point in ("after commit", "in transaction, all sent", "before flush", "after flush"):
        assert project.run_child(point) == -signal.SIGKILL, point
    project.produce(3)
    assert project.run_child("after commit") == -signal.SIGKILL
    assert project.run_child() == 0
    assert_as_defined(project)

    catalog = project.catalog
    groups = list(catalog.groups.values())
    online, folder = OnlineReader(project.redis_url), tmp_path / "vectors"
    stores = Stores(project.log, online, SystemClock())
    folder.mkdir()
    ask_drawn([(g, g.features) for g in groups], folder, stores, n=600, seed=1, on_progress=silent)
    report = verify_vectors(catalog, folder, stores, log_wait_s=1.0, on_progress=silent)
    online.close()
    assert {verdict for verdict, n in report.by_verdict().items() if n} <= {Verdict.EQUAL, Verdict.TOO_LATE}
    assert report.values == 200 * sum(len(g.features) for g in groups)

    keys = KEYS["Countries"]
    at = project.now + timedelta(microseconds=1)
    moments = pl.DataFrame({"country": keys, "t": [at] * len(keys)})
    history = backfill_features(catalog.service("countries"), project.log, moments, at="t")
    for name, values in project.online(catalog.group("Countries"), keys).items():
        assert history[name].to_list() == values, name


def silent(_what: str, _done: int) -> None:
    """Report to nobody."""


@pytest.mark.parametrize("engine", ["plain", "bytewax"])
def test_rows_and_events_that_come_together_meet_as_in_history(
    project: Project, engine: Engine, eventually: Callable[..., object]
) -> None:
    """The pipeline runs while they are produced, so that rows and events race from two topics into one process."""
    project.produce(1)
    stop = StopSignal()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            project.run(engine, stop)
        except BaseException as exc:  # noqa: BLE001  # raised again below
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for part in range(2, 12):
            project.produce(part, n=30)
        group = project.catalog.group("Plain")
        payments = project.catalog.sources[group.source.name]
        eventually(lambda: failures or project.log.read(payments).height >= 200, within=30)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    project.run(engine, StopSignal(when_caught_up=True))
    assert sum(project.log.read(source).height for source in project.catalog.sources.values()) == 450
    assert_as_defined(project)


def test_an_enriched_group_is_filled_from_both_logs_and_goes_on(project: Project) -> None:
    project.produce(1)
    project.run("plain", StopSignal(when_caught_up=True))
    assert_as_defined(project)
    for name in KEYS:
        done = materialize(
            project.catalog.group(name),
            project.log,
            redis_url=project.redis_url,
            clock=SystemClock(),
            force_rebuild=True,
            chunk_rows=20,
        )
        assert sum(done.positions.values()) == 150
    assert_as_defined(project)
    project.produce(2)
    project.run("plain", StopSignal(when_caught_up=True))
    assert_as_defined(project)
