"""State of any length through a real broker, a real Redis and a real server: what is served is what the log says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streamfti.cli import main
from streamfti.clock import SystemClock, to_us
from streamfti.compute.point_in_time import point_in_time
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import CorruptRecord
from streamfti.feature_pipeline.assembly import build_feature_run
from streamfti.feature_pipeline.materialize import materialize
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import record_prefix, side_key, side_prefix
from streamfti.stores.online.redis_store import delete_values
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from tests.integration.conftest import (  # pytest has loaded it under this name before it loads a test
    NOW,
    serving,
)

DEFINITIONS = """
import streamfti as fti

class Visit(fti.Event):
    card: str
    city: str | None
    shop: str
    cents: int
    at: fti.EventTime

visits = fti.KafkaSource("{topic}", Visit)

@fti.feature_group(source=visits, entity="card")
class Places:
    city = fti.last(Visit.city).over("1h", "24h", default="nowhere")
    first_shop = fti.first(Visit.shop).over("24h")
    recent = fti.last_n(Visit.shop, 2).over("1h")
    shops = fti.approx_distinct(Visit.shop).over("1h", "24h")
    spend = fti.quantiles(Visit.cents, 0.5, 0.95).over("24h")
    often = fti.top_k(Visit.shop, 2).over("24h")
    n = fti.count().over("1h")

@fti.feature_group(source=visits, entity="shop")
class Shop:
    cards = fti.approx_distinct(Visit.card).lifetime()
    n = fti.count().over("24h")

places = fti.FeatureService("places", [Places, Shop])
"""

CARDS = [f"c{i}" for i in range(13)]
N_VISITS = 3_000


@dataclass
class Project:
    path: Path
    home: Path
    catalog: Catalog
    bootstrap: str
    redis_url: str
    client: redis.Redis
    topic: str

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    def produce(self, visits: pl.DataFrame) -> None:
        source = self.catalog.source(self.topic)
        registry = FileSchemaRegistry(self.home / "schemas")
        with EventProducer(self.bootstrap, source, registry, key_field="card") as producer:
            for row in visits.iter_rows(named=True):
                producer.send(source.event(**row), ingest_time=NOW)

    def run(self) -> None:
        """A process of its own, as far as what it remembers goes: a new pipeline that starts from the stores."""
        settings = Settings(home=self.home, redis_url=self.redis_url, bootstrap_servers=self.bootstrap)
        run = build_feature_run(self.catalog, [], settings, clock=SystemClock(), log_policy=LogPolicy())
        run.run("plain", StopSignal(when_caught_up=True))

    def stored(self, prefix: bytes) -> dict[Any, Any]:
        keys: Any = self.client.keys(prefix + b"*")
        return {key: self.client.get(key) for key in sorted(keys)}


def visits(n: int, seed: int) -> pl.DataFrame:
    """Visits of the last two days in a random order: a dozen cards, few cities, shops of which some are frequent."""
    dice = np.random.default_rng(seed)
    at = [NOW - timedelta(seconds=int(s)) for s in dice.integers(1, 2 * 24 * 3600, n)]
    return pl.DataFrame(
        {
            "card": [f"c{i}" for i in dice.integers(0, 12, n)],
            "city": [None if i == 5 else ["rome", "bonn", "", "zürich", "rome"][i] for i in dice.integers(0, 6, n)],
            "shop": [f"s{i % 300}" for i in dice.zipf(1.4, n)],
            "cents": dice.integers(1, 100_000, n),
            "at": at,
        }
    )


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    """The events have been through three feature pipelines, one after the other."""
    topic = make_topic(2, name_hint="visits", config={"retention.ms": "-1"})
    path = tmp_path / "definitions.py"
    path.write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
    catalog = load_catalog(path)
    dead = catalog.source(topic).dead_letter_topic
    kafka_admin.create_topics([NewTopic(dead, 1, 1)])[dead].result()
    found = Project(path, tmp_path, catalog, kafka.bootstrap_servers, redis_server.url, redis_client, topic)
    for part in visits(N_VISITS, seed=5).iter_slices(N_VISITS // 3):
        found.produce(part)
        found.run()
    return found


def test_what_is_served_is_what_the_log_says(project: Project) -> None:
    keys = pl.DataFrame({"card": CARDS, "shop": [f"s{i}" for i in range(len(CARDS))]})
    at_us = np.full(len(CARDS), to_us(NOW), np.int64)
    with serving(project.catalog, project.home, project.redis_url) as served:
        answer = served.client.get_features("places", {n: keys[n].to_list() for n in keys.columns}, as_of=NOW)
    events = project.log.read(project.catalog.source(project.topic))
    assert len(events) == N_VISITS
    columns = answer.vectors.columns
    for group in project.catalog.groups.values():
        history = point_in_time(group, group.features, events, keys.select(group.entity), at_us)
        for name, column in history.items():
            assert columns[name].values.tolist() == column.values.tolist(), name
            assert columns[name].status.tolist() == column.status.tolist(), name
    assert set(columns["Places.city_24h"].values.tolist()) >= {"rome", "nowhere"}
    assert max(columns["Shop.cards"].values.tolist()) == 12


def test_verify_finds_nothing_until_an_entity_has_what_is_another_ones(project: Project) -> None:
    def verified() -> dict[str, Any]:
        places = ["--home", str(project.home), "--redis-url", project.redis_url, "--log-wait", "0", "--json"]
        result = CliRunner().invoke(main, ["verify", str(project.path), "--probes", "400", *places])
        report: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
        return report

    assert verified()["skew_rows"] == 0
    one, other = (side_key(project.catalog.group("Places"), card).decode() for card in ("c1", "c2"))
    project.client.copy(one, other, replace=True)
    assert verified()["verdicts"]["bug"] > 0


def test_a_group_that_is_filled_anew_has_the_bytes_that_the_stream_gave_it(project: Project) -> None:
    group = project.catalog.group("Places")
    records, side = (project.stored(prefix(group)) for prefix in (record_prefix, side_prefix))
    assert len(records) == len(side) == 12
    keys = [*records, *side]
    assert min(project.client.pttl(key) for key in keys) > 0
    assert delete_values(project.redis_url, group) == len(keys) + 2  # and the progress of two partitions
    assert project.stored(side_prefix(group)) == {}
    materialize(group, project.log, redis_url=project.redis_url, clock=SystemClock())
    assert project.stored(record_prefix(group)) == records
    assert project.stored(side_prefix(group)) == side


def test_a_damaged_side_record_is_an_error_that_tells_nothing_of_the_inside(project: Project) -> None:
    project.client.set(side_key(project.catalog.group("Places"), "c1"), b"\x00\x00 not a side record")
    with (
        serving(project.catalog, project.home, project.redis_url) as served,
        pytest.raises(CorruptRecord, match=r"^a stored record cannot be read; .* details under [0-9a-f]{32}$"),
    ):
        served.client.get_features("places", {"card": ["c1"], "shop": ["s1"]}, as_of=NOW)
