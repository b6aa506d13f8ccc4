"""SIGKILL at every step of the feature pipeline's commit: the same Redis and the same log as undisturbed.

The events are real: January of the flights example, through its groups and one of strings, with a bad message in
between.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import polars as pl
import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from examples.flights.stream import arrivals, departures, load_flights, schedules
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.progress import Progress
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

CHILD = Path(__file__).parent / "feature_pipeline_child.py"
DEFINITIONS = Path(__file__).parent / "flight_definitions.py"
END = datetime(2013, 1, 16, tzinfo=UTC)

POINTS = [
    ("before dead letters", 0),
    ("after dead letters", 0),
    ("after append", 2),
    ("before commit", 3),
    ("in transaction, nothing sent", 2),
    ("in transaction, half sent", 2),
    ("in transaction, all sent", 3),
    ("after commit", 2),
    ("before flush", 0),
    ("after flush", 0),
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(DEFINITIONS)


@pytest.fixture(scope="module")
def topics(kafka: KafkaServer, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three topics of the example, filled; returns the folder with the schemas."""
    bootstrap = kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": bootstrap})
    names = [t for s in catalog.sources.values() for t in (s.topic, s.dead_letter_topic)]
    config = {"retention.ms": "-1"}
    for future in admin.create_topics([NewTopic(t, 2, 1, config=config) for t in names]).values():
        future.result()
    home = tmp_path_factory.mktemp("schemas")
    registry = FileSchemaRegistry(home / "schemas")
    flights = load_flights()
    frames = {"schedules": schedules(flights), "departures": departures(flights), "arrivals": arrivals(flights)}
    for name, frame in frames.items():
        source = catalog.source(name)
        wanted = frame.filter(pl.col("at") < END).select([f.name for f in source.schema.fields])
        with EventProducer(bootstrap, source, registry, key_field="flight_id") as producer:
            for number, row in enumerate(wanted.iter_rows(named=True)):
                producer.send(source.event(**row), ingest_time=row["at"])
                if number == wanted.height // 2:
                    producer.send_encoded(b"not an event", b"x", row["at"])
    return home


def run_child(home: Path, redis_url: str, bootstrap: str, point: str = "never", count: int = 0) -> int:
    command = [sys.executable, str(CHILD), str(DEFINITIONS), str(home), redis_url, bootstrap, point, str(count)]
    return subprocess.run(command, timeout=120, check=False).returncode


def online_records(redis_url: str) -> dict[bytes, bytes]:
    """All records and positions, and what groups mean; not when that, or a progress, was written."""
    client = redis.Redis.from_url(redis_url)
    stored = {key: client.get(key) for key in client.scan_iter("fti:*", count=10_000)}
    client.close()
    assert all(isinstance(key, bytes) and isinstance(value, bytes) for key, value in stored.items())
    return {key: timeless(key, value) for key, value in cast("dict[bytes, bytes]", stored).items()}


def timeless(key: bytes, value: bytes) -> bytes:
    if key.endswith(b"}:meta"):
        said: dict[str, object] = json.loads(value)
        return json.dumps({**said, "registered_at_us": None}).encode()
    return value[:16] if b"}:p:" in key else value


def log_rows(home: Path, catalog: Catalog) -> dict[str, pl.DataFrame]:
    log = OfflineLog(home / "log")
    return {name: log.read(source).sort("_partition", "_offset") for name, source in catalog.sources.items()}


@pytest.fixture
def undisturbed(
    kafka: KafkaServer,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    topics: Path,
    tmp_path: Path,
    catalog: Catalog,
) -> tuple[dict[bytes, bytes], dict[str, pl.DataFrame]]:
    del redis_client  # only so that the databases are empty
    home = with_schemas(tmp_path / "undisturbed", topics)
    url = database(redis_server.url, 1)
    assert run_child(home, url, kafka.bootstrap_servers) == 0
    return online_records(url), log_rows(home, catalog)


def with_schemas(home: Path, topics: Path) -> Path:
    home.mkdir()
    (home / "schemas").symlink_to(topics / "schemas")
    return home


def database(url: str, number: int) -> str:
    """Another database of the same server, emptied."""
    other = url.rsplit("/", 1)[0] + f"/{number}"
    client = redis.Redis.from_url(other)
    client.flushdb()
    client.close()
    return other


def test_killed_at_every_step_and_started_again_gives_the_same_stores(
    kafka: KafkaServer,
    redis_server: RedisServer,
    topics: Path,
    tmp_path: Path,
    catalog: Catalog,
    undisturbed: tuple[dict[bytes, bytes], dict[str, pl.DataFrame]],
) -> None:
    home = with_schemas(tmp_path / "killed", topics)
    url = database(redis_server.url, 2)
    bootstrap: str = kafka.bootstrap_servers
    killed = [point for point, n in POINTS if run_child(home, url, bootstrap, point, n) == -signal.SIGKILL]
    assert killed == [point for point, _ in POINTS]
    assert run_child(home, url, bootstrap) == 0
    assert_same(undisturbed, (online_records(url), log_rows(home, catalog)))


def test_killed_at_random_moments_and_started_again_gives_the_same_stores(
    kafka: KafkaServer,
    redis_server: RedisServer,
    topics: Path,
    tmp_path: Path,
    catalog: Catalog,
    undisturbed: tuple[dict[bytes, bytes], dict[str, pl.DataFrame]],
    eventually: Callable[..., object],
) -> None:
    """From outside, through the command that a user runs, as soon as a number of events is readable."""
    home = with_schemas(tmp_path / "killed", topics)
    url = database(redis_server.url, 2)
    bootstrap: str = kafka.bootstrap_servers
    command = [sys.executable, "-m", "streamfti.cli", "run", "features", str(DEFINITIONS)]
    options = ["--home", str(home), "--redis-url", url, "--bootstrap-servers", bootstrap, "--until-caught-up"]
    for wanted in (1, 3_000, 15_000):
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
            eventually(lambda: process.poll() is not None or applied(url) >= wanted, within=60)  # noqa: B023
            process.send_signal(signal.SIGKILL)
    assert subprocess.run([*command, *options], check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert_same(undisturbed, (online_records(url), log_rows(home, catalog)))


def applied(url: str) -> int:
    """How many departures have been applied."""
    progress = [value for key, value in online_records(url).items() if key.startswith(b"fti:{Airport.1.0}:p:")]
    return sum(Progress.load(value.ljust(32, b"\0")).next_offset for value in progress)


def assert_same(
    expected: tuple[dict[bytes, bytes], dict[str, pl.DataFrame]],
    found: tuple[dict[bytes, bytes], dict[str, pl.DataFrame]],
) -> None:
    assert found[0].keys() == expected[0].keys()
    assert {k for k, v in expected[0].items() if found[0][k] != v} == set()
    for name, rows in expected[1].items():
        assert rows.height > 10_000
        assert rows.select("_partition", "_offset").n_unique() == rows.height
        assert found[1][name].equals(rows), name
