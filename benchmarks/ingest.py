"""How many events a second does one core bring from Kafka bytes into Redis tiles and the Parquet log?

Method: the payments example's events (Avro, Zipf merchants) stand in one topic of four partitions on the embedded
broker; the features are those of `four_groups`: 4 groups of 12 features over 3 hops, so an event has 12 slots. Two arms
take turns, each in this process, the broker and Redis in their own:

- `floor`: a bare consumer with the pipeline's settings, which takes each message's value and does nothing with it;
- `streamfti`: the feature pipeline, whole: decode, validate, tiles of all groups into Redis, progress, the log.

A core's second is a CPU second of this process, all its threads; producing is not timed. Before any figure counts, the
answers are checked: the log must hold every event once, and the features online must equal those of history.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import confluent_kafka
import numpy as np
import polars as pl
from rich.console import Console

from benchmarks import four_groups
from examples.payments.definitions import payments
from examples.payments.producer import PaymentEncoder, Payments
from streamfti.clock import SystemClock, to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.compute.layout import RecordLayout
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.records import load_records, read_features
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.dev.kafka_broker import start_kafka
from streamfti.dev.redis_server import start_redis
from streamfti.feature_pipeline.assembly import build_feature_run
from streamfti.feature_pipeline.avro_schema import avro_schema
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader
from streamfti.feature_pipeline.pipeline import LogPolicy
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.feature_pipeline.runner import StopSignal
from streamfti.project.topics import Topic, Topics
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.online.keys import record_key
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

__all__ = ["Measured", "Result", "measure"]

_PARTITIONS = 4
_EVENTS_PER_SECOND = 1_000  # of event time: how closely the events of a batch lie
_CHECKED_ENTITIES = 200


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one arm."""

    events: int
    seconds: float
    cpu_seconds: float

    @property
    def per_core(self) -> float:
        """Events for each CPU second."""
        return self.events / self.cpu_seconds

    @property
    def per_second(self) -> float:
        """Events for each second."""
        return self.events / self.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, after the answers had been found right."""

    arms: dict[str, list[Measured]]

    def _median_per_core(self, arm: str) -> float:
        return statistics.median(run.per_core for run in self.arms[arm])

    @property
    def share_of_floor(self) -> float:
        """The pipeline's rate as a share of the bare consumer's, both per core, in this run."""
        return self._median_per_core("streamfti") / self._median_per_core("floor")

    def document(self) -> dict[str, object]:
        """Return the figures as plain JSON values."""
        return {
            "events_per_second_per_core": {arm: round(self._median_per_core(arm)) for arm in self.arms},
            "share_of_floor": round(self.share_of_floor, 4),
            "runs": {arm: [round(run.per_core) for run in runs] for arm, runs in self.arms.items()},
            "python": platform.python_version(),
            "machine": platform.machine(),
        }


def measure(folder: Path, *, events: int, repeats: int, console: Console) -> Result:
    """Fill a topic, then run the arms in turns, each on stores of its own.

    Raises:
        AssertionError: if an arm's answers are wrong; no figure is returned then.
    """
    catalog = load_catalog(Path(four_groups.__file__))
    with start_kafka(folder / "kafka") as broker, start_redis(folder / "redis") as server:
        settings = Settings(home=folder, redis_url=server.url, bootstrap_servers=broker.bootstrap_servers)
        _fill(settings, events)
        arms: dict[str, list[Measured]] = {"floor": [], "streamfti": []}
        for repeat in range(repeats):
            own = replace(settings, home=folder / f"run-{repeat}", redis_url=f"{server.url[:-1]}{repeat % 16}")
            own.home.mkdir()
            own.schemas_folder.symlink_to(settings.schemas_folder)
            arms["floor"].append(_timed(events, lambda: _consume(settings, events)))
            arms["streamfti"].append(_timed(events, lambda: _ingest(catalog, own)))  # noqa: B023  # called at once
            _check(catalog, own, events)
            console.print(f"run {repeat + 1} of {repeats}: {arms['streamfti'][-1].per_core:,.0f} events/s/core")
    return Result(arms)


def _timed(events: int, run: Callable[[], None]) -> Measured:
    began, cpu = time.perf_counter(), time.process_time()
    run()
    return Measured(events, time.perf_counter() - began, time.process_time() - cpu)


def _fill(settings: Settings, events: int) -> None:
    source = payments
    topics = Topics(settings.bootstrap_servers)
    topics.create([Topic(source.topic, _PARTITIONS, {}), Topic(source.dead_letter_topic, 1, {})])
    registry = FileSchemaRegistry(settings.schemas_folder)
    encoder = PaymentEncoder(registry.register(source.topic, avro_schema(source.schema)))
    step_us = 1_000_000 // _EVENTS_PER_SECOND
    start_us = SystemClock().now_us() - events * step_us
    frame = Payments(seed=1).generate(events, start_us, step_us)
    with EventProducer(settings.bootstrap_servers, source, registry) as producer:
        for row in frame.iter_rows(named=True):
            producer.send_encoded(encoder.encode(row), row["card_id"].encode())


def _consume(settings: Settings, events: int) -> None:
    positions: dict[tuple[str, int], int | None] = {(payments.topic, p): None for p in range(_PARTITIONS)}
    reader = KafkaSourceReader(settings.bootstrap_servers, [payments], positions, group_id="floor")
    consumer: confluent_kafka.Consumer = reader._consumer  # noqa: SLF001  # the same client, without our loop
    seen = 0
    while seen < events:
        for message in consumer.consume(20_000, 0.05):
            if message.error() is None:
                seen += message.value() is not None
    reader.close()


def _ingest(catalog: Catalog, settings: Settings) -> None:
    run = build_feature_run(catalog, [], settings, clock=SystemClock(), log_policy=LogPolicy())
    run.run("plain", StopSignal(when_caught_up=True))


def _check(catalog: Catalog, settings: Settings, events: int) -> None:
    """Compare the log with the topic, and what is online with the log."""
    logged = OfflineLog(settings.log_folder).read(payments)
    assert logged.select("_partition", "_offset").n_unique() == logged.height == events  # noqa: S101
    online = OnlineReader(settings.redis_url)
    newest = logged["at"].max()
    query_us = to_us(newest) + 1  # type: ignore[arg-type]  # a datetime: the log is not empty
    for group in catalog.groups.values():
        keys = logged.select(group.entity).unique(maintain_order=True).head(_CHECKED_ENTITIES)
        _check_group(catalog, group.name, keys, logged, online, query_us)
    online.close()


def _check_group(
    catalog: Catalog, name: str, keys: pl.DataFrame, logged: pl.DataFrame, online: OnlineReader, query_us: int
) -> None:
    group = catalog.group(name)
    layout, at = RecordLayout.of(group), np.full(keys.height, query_us)
    stored = online.read([record_key(group, encode_key(row)) for row in keys.rows()])
    served = read_features(layout, group.features, load_records(layout, stored), at)
    for feature, column in point_in_time(group, group.features, logged, keys, at).items():
        np.testing.assert_array_equal(served[feature].status, column.status, err_msg=feature)
        np.testing.assert_allclose(served[feature].values, column.values, rtol=1e-9, err_msg=feature)
