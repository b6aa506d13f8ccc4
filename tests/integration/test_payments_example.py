"""The payments example on a real broker and a real Redis: what it sends is what is read, online and in history."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from click.testing import CliRunner

from examples.payments import definitions
from examples.payments.producer import Payments, main
from streamfti.clock import SystemClock
from streamfti.compute.point_in_time import point_in_time
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.feature_pipeline.assembly import RunSummary, build_feature_run
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.inference_pipeline.feature_reader import FeatureReader
from streamfti.inference_pipeline.request_contract import QueryTime
from streamfti.inference_pipeline.tables import InputColumn, InputTable
from streamfti.project.topics import Topic, Topics
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.redis_store import OnlineReader

ROOT = Path(__file__).parents[2]
EVENTS = 2_000
OPTIONS = ("--seed", "5", "--users", "40", "--fraud-share", "0.1", "--late-share", "0.2", "--late-mean", "5m")
SOURCE = definitions.payments


@pytest.fixture
def catalog() -> Catalog:
    return load_catalog(Path(definitions.__file__))


@pytest.fixture
def settings(tmp_path: Path, kafka: KafkaServer, redis_server: RedisServer, redis_client: redis.Redis) -> Settings:
    """A folder and an empty Redis; the example's topic has a fixed name, so there may be one with other messages."""
    del redis_client  # only so that the database is empty
    topics = Topics(kafka.bootstrap_servers)
    wanted = (Topic(SOURCE.topic, 3, {}), Topic(SOURCE.dead_letter_topic, 1, {}))
    topics.create([topic for topic in wanted if topic.name not in topics.partitions()])
    return Settings(tmp_path, redis_server.url, kafka.bootstrap_servers)


def send(settings: Settings, *options: str) -> dict[str, Any]:
    places = ("--home", str(settings.home), "--bootstrap-servers", settings.bootstrap_servers)
    result = CliRunner().invoke(main, [*places, *options, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def follow(catalog: Catalog, settings: Settings) -> RunSummary:
    run = build_feature_run(catalog, [], settings, clock=SystemClock(), log_policy=LogPolicy())
    return run.run("plain", StopSignal(when_caught_up=True))


def logged(settings: Settings) -> pl.DataFrame:
    return OfflineLog(settings.log_folder).read(SOURCE)


def test_payments_become_the_features_that_history_says(catalog: Catalog, settings: Settings) -> None:
    follow(catalog, settings)  # past whatever the topic holds
    before = logged(settings)
    summary = send(settings, "--rate", "20000", "--count", str(EVENTS), *OPTIONS)
    assert summary["events"] == EVENTS
    done = follow(catalog, settings)
    assert (done.events, done.dead_letters) == ({"payments": EVENTS}, {"payments": 0})

    events = logged(settings)
    assert len(events) == len(before) + EVENTS
    world = Payments(5, users=40, fraud_share=0.1, late_share=0.2, late_mean="5m")
    names = [field.name for field in SOURCE.schema.fields if field.name not in {"at", "payment_id"}]
    number = pl.col("payment_id").str.extract(r"-(\d+)$").cast(pl.Int64)
    received = events.join(before, on="payment_id", how="anti").sort(number).select(names)
    assert received.equals(world.generate(EVENTS, 0, 50.0).select(names))

    keys = events.tail(50).select("card_id", "user_id", "merchant_id").unique(maintain_order=True)
    keys = pl.concat([keys, pl.DataFrame({name: ["nobody"] for name in keys.columns})])
    assert_online_is_history(catalog, settings, events, keys)


def assert_online_is_history(catalog: Catalog, settings: Settings, events: pl.DataFrame, keys: pl.DataFrame) -> None:
    """Compare every feature of the keys as of now, which is after every event."""
    table = InputTable(len(keys), {name: InputColumn.of(name, keys[name].to_list()) for name in keys.columns})
    online = OnlineReader(settings.redis_url)
    now = QueryTime.of(None, SystemClock())
    served = FeatureReader(catalog.service("payment_features"), online).read(table, now).matrix.by_name()
    online.close()
    seen = 0
    for group in catalog.groups.values():
        at_us = np.full(len(keys), now.us, np.int64)
        for name, column in point_in_time(group, group.features, events, keys, at_us).items():
            np.testing.assert_array_equal(served[name].status, column.status, err_msg=name)
            if column.values.dtype == np.object_:
                assert served[name].values.tolist() == column.values.tolist(), name
            else:
                np.testing.assert_allclose(served[name].values, column.values, rtol=1e-9, err_msg=name)
            seen += 1
    assert seen == len(served)
    assert served["CardSpend.payments_24h"].values[0] >= 1
    assert served["CardSpend.payments_24h"].values[-1] == 0


def test_a_run_lasts_as_long_as_asked_for(settings: Settings) -> None:
    summary = send(settings, "--rate", "500", "--seconds", "0.4")
    assert summary["events"] == 200 or summary["behind_max_ms"] > 1000  # a machine that stalls cuts the end off
    assert summary["seconds"] > 0.39
    assert set(summary) == {"events", "seconds", "events_per_second", "wanted_per_second", "behind_max_ms"}


def test_an_endless_run_ends_in_order_when_it_is_told_to(
    catalog: Catalog, settings: Settings, eventually: Callable[..., Any]
) -> None:
    follow(catalog, settings)
    before = len(logged(settings))
    places = ("--home", str(settings.home), "--bootstrap-servers", settings.bootstrap_servers)
    words = [sys.executable, "-m", "examples.payments.producer", *places, "--rate", "200", "--json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: follow(catalog, settings).events["payments"], within=30)
            process.terminate()
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    follow(catalog, settings)
    assert json.loads(out)["events"] == len(logged(settings)) - before > 0
