"""Two topics joined on a real broker and a real Redis, killed in between: what is online is what both logs say."""

from __future__ import annotations

import signal
import subprocess
import sys
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
from streamfti.definitions.streams import JoinedStream
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import DefinitionError
from streamfti.feature_pipeline.assembly import build_feature_run
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
from streamfti.testing.naive_joins import naive_pairs
from streamfti.training_pipeline.feature_history import backfill_features

CHILD = Path(__file__).parents[1] / "faults" / "feature_pipeline_child.py"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
QUERY_US = to_us(NOW) + 1
DEFINITIONS = """
import streamfti as fti

class Click(fti.Event):
    ad: str | None
    cents: int
    at: fti.EventTime

class View(fti.Event):
    ad: str
    place: str
    cents: int
    at: fti.EventTime

clicks = fti.KafkaSource("{clicks}", Click)
views = fti.KafkaSource("{views}", View)
pairs = clicks.where(Click.cents >= 0).join(views, on="ad", within="20m")
seen_first = pairs.where(pairs["at"] >= pairs["view_at"]).derive(
    gain=pairs["cents"] - pairs["view_cents"], wait=pairs["at"].seconds_since(pairs["view_at"])
)

@fti.feature_group(source=seen_first, entity="ad")
class Ads:
    n = fti.count().over("1h", "24h")
    gain = fti.sum(seen_first["gain"]).over("24h")
    wait = fti.mean(seen_first["wait"]).over("24h")
    last = fti.last(seen_first["view_cents"]).over("24h")

@fti.feature_group(source=pairs, entity="place")
class Places:
    n = fti.count().over("24h")
    most = fti.max(pairs["cents"]).over("24h")

@fti.feature_group(source=clicks, entity="ad")
class Clicks:
    n = fti.count().over("24h")

ads = fti.FeatureService("ads", [Ads])
"""


@dataclass
class Project:
    definitions: Path
    home: Path
    bootstrap_servers: str
    redis_url: str

    @property
    def catalog(self) -> Catalog:
        return load_catalog(self.definitions)

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, redis_url=self.redis_url, bootstrap_servers=self.bootstrap_servers)

    def produce(self, part: int, n: int = 300) -> None:
        """Events of the last day and a half in a random order; the same click and view times meet again and again."""
        rng = np.random.default_rng(part)
        catalog = self.catalog
        for source in catalog.sources.values():
            with EventProducer(
                self.bootstrap_servers, source, FileSchemaRegistry(self.home / "schemas"), key_field="cents"
            ) as producer:
                for _ in range(n):
                    at = NOW - timedelta(minutes=int(rng.integers(0, 36 * 60)))
                    values: dict[str, Any] = {
                        "at": at,
                        "ad": f"ad{rng.integers(4)}",
                        "cents": int(rng.integers(-5, 50)),
                    }
                    if source.schema.name == "View":
                        values["place"] = f"p{rng.integers(3)}"
                    elif rng.random() < 0.1:
                        values["ad"] = None
                    producer.send(source.event(**values), ingest_time=NOW)

    def run_child(self, point: str = "never", count: int = 0) -> int:
        arguments = [str(self.definitions), str(self.home), self.redis_url, self.bootstrap_servers, point, str(count)]
        return subprocess.run([sys.executable, str(CHILD), *arguments], timeout=120, check=False).returncode

    def logged(self, name: str) -> list[PlacedEvent]:
        source = self.catalog.sources[name]
        fields = [field.name for field in source.schema.fields]
        return [
            PlacedEvent(source.event(**{f: row[f] for f in fields}), row["_partition"], row["_offset"])
            for row in self.log.read(source).iter_rows(named=True)
        ]

    def online(self, group: FeatureGroup, keys: list[str]) -> dict[str, list[float | None]]:
        client, layout = redis.Redis.from_url(self.redis_url), RecordLayout.of(group)
        stored: Any = client.mget([record_key(group, key) for key in keys])
        client.close()
        found = read_features(layout, group.features, load_records(layout, stored), np.full(len(keys), QUERY_US))
        return {name: column_values(column.values, column.status) for name, column in found.items()}

    def records(self, group: FeatureGroup) -> dict[bytes, Any]:
        client = redis.Redis.from_url(self.redis_url)
        found: Any = {key: client.get(key) for key in client.scan_iter(record_key(group, "") + b"*")}
        client.close()
        return dict(found)


def column_values(values: Any, status: Any) -> list[float | None]:  # noqa: ANN401  # numpy arrays
    return [None if s >= Status.EXPIRED else v for v, s in zip(values.tolist(), status.tolist(), strict=True)]


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    names = {
        name: make_topic(n, name_hint=name, config={"retention.ms": "-1"}) for name, n in (("clicks", 3), ("views", 2))
    }
    for topic in names.values():
        kafka_admin.create_topics([NewTopic(f"{topic}.dead-letters", 1, 1)])[f"{topic}.dead-letters"].result()
    definitions = tmp_path / "definitions.py"
    definitions.write_text(DEFINITIONS.format(**names), encoding="utf-8")
    del redis_client  # only so that the database is empty
    return Project(definitions, tmp_path / "home", kafka.bootstrap_servers, redis_server.url)


KEYS = {"Ads": ["ad0", "ad1", "ad2", "ad3", "nobody"], "Places": ["p0", "p1", "p2", "nowhere"]}


def assert_as_defined(project: Project) -> None:
    """What is online is what plain Python makes of both logs."""
    for name, keys in KEYS.items():
        group = project.catalog.group(name)
        join = group.stream.origin
        assert isinstance(join, JoinedStream)
        pairs = list(naive_pairs(join, project.logged(join.left.source.name), project.logged(join.right.source.name)))
        online = project.online(group, keys)
        for feature in group.features:
            expected = [naive_feature(feature, group, pairs, {group.entity[0]: key}, QUERY_US) for key in keys]
            got = online[feature.qualified_name]
            assert got == [None if e is None else pytest.approx(e, rel=1e-9) for e in expected], feature.qualified_name
            assert any(expected), "nothing was compared"


def test_a_joined_group_survives_kills_and_is_what_both_logs_say(project: Project, tmp_path: Path) -> None:
    project.produce(1)
    assert project.run_child() == 0
    project.produce(2)
    for point, count in (("after commit", 0), ("in transaction, all sent", 0), ("before flush", 0), ("after flush", 0)):
        assert project.run_child(point, count) == -signal.SIGKILL, point
    project.produce(3)
    assert project.run_child("after commit", 0) == -signal.SIGKILL
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

    moments = pl.DataFrame({"ad": KEYS["Ads"], "t": [NOW + timedelta(microseconds=1)] * 5})
    history = backfill_features(catalog.service("ads"), project.log, moments, at="t")
    for name, values in project.online(catalog.group("Ads"), KEYS["Ads"]).items():
        assert history[name].to_list() == [None if v is None else pytest.approx(v, rel=1e-9) for v in values], name


def silent(_what: str, _done: int) -> None:
    """Report to nobody."""


def test_a_joined_group_is_filled_from_both_logs_and_goes_on(project: Project) -> None:
    project.produce(1)
    assert project.run_child() == 0
    streamed = {name: project.records(project.catalog.group(name)) for name in KEYS}
    for name in KEYS:
        group = project.catalog.group(name)
        done = materialize(
            group,
            project.log,
            redis_url=project.redis_url,
            clock=SystemClock(),
            force_rebuild=True,
            chunk_rows=50,
        )
        assert sum(done.positions.values()) == 600
        assert {key: len(value) for key, value in project.records(group).items()} == {
            key: len(value) for key, value in streamed[name].items()
        }
    assert_as_defined(project)
    project.produce(2)
    assert project.run_child() == 0
    assert_as_defined(project)


def test_one_side_alone_is_not_run(project: Project) -> None:
    project.produce(1, n=1)
    (clicks, _) = project.catalog.sources
    with pytest.raises(DefinitionError, match=r"'Ads' must be run with all of its sources"):
        build_feature_run(project.catalog, [clicks], project.settings, clock=SystemClock(), log_policy=LogPolicy())


def test_the_plain_engine_joins_too(project: Project) -> None:
    project.produce(1)
    run = build_feature_run(project.catalog, [], project.settings, clock=SystemClock(), log_policy=LogPolicy())
    assert run.run("plain", StopSignal(when_caught_up=True)).events_per_second > 0
    assert_as_defined(project)
