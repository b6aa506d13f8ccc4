"""Changes of rows on a real broker and a real Redis: attributes and signed aggregates, online, past and served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

import streamfti as fti
from streamfti.clock import SystemClock, to_us
from streamfti.compute.values import Status
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.kafka_broker import KafkaServer
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import ContractError
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
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.testing.naive import GoneRow, PlacedEvent, naive_feature
from streamfti.training_pipeline.feature_history import backfill_features
from tests.integration.conftest import NOW, Served, serving

PARTITIONS = 3
RUNNERS = pytest.mark.parametrize("runner", [PlainRunner(), BytewaxRunner()], ids=["plain", "bytewax"])


class Account(fti.Event):
    account: str
    branch: str
    balance: int
    limit: float | None
    at: fti.EventTime


@dataclass
class Project:
    """A topic of upserts and one of Debezium's envelopes, with a log, keys and groups of their own."""

    upserts: fti.KafkaSource
    envelopes: fti.KafkaSource
    home: Path
    bootstrap_servers: str
    redis_url: str

    def __post_init__(self) -> None:
        @fti.feature_group(source=self.upserts, entity="account")
        class Attributes:
            balance = fti.latest(Account.balance)
            limit = fti.latest(Account.limit, default=10.0)
            branch = fti.latest(Account.branch)
            fresh = fti.latest(Account.balance, expires_after="90m")

        @fti.feature_group(source=self.envelopes, entity="branch")
        class Branches:
            accounts = fti.count().lifetime()
            opened = fti.count().over("1h")
            balance = fti.sum(Account.balance).lifetime()
            usual = fti.mean(Account.balance, where=Account.balance >= 0).lifetime()

        @fti.feature_group(source=self.envelopes, entity="account")
        class Mixed:
            balance = fti.latest(Account.balance)
            moved = fti.sum(Account.balance).over("1h", "24h")

        self.attributes: Any = Attributes
        self.branches: Any = Branches
        self.mixed: Any = Mixed
        self.service = fti.FeatureService("accounts", [self.attributes, self.branches, self.mixed])
        self.catalog = fti.Catalog.of([self.service])

    @property
    def groups(self) -> list[FeatureGroup]:
        return [self.attributes, self.branches, self.mixed]

    @property
    def schemas(self) -> FileSchemaRegistry:
        return FileSchemaRegistry(self.home / "schemas")

    @property
    def log(self) -> OfflineLog:
        return OfflineLog(self.home / "log")

    def producer(self) -> EventProducer:
        return EventProducer(self.bootstrap_servers, self.upserts, self.schemas)

    def produce_envelopes(self, envelopes: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
        """Send envelopes as Debezium does, keyed by row."""
        events = fti.KafkaSource(self.envelopes.topic, Account, format="json")
        with EventProducer(self.bootstrap_servers, events, self.schemas) as producer:
            for key, envelope in envelopes:
                value = None if envelope is None else json.dumps(envelope).encode()
                producer.send_encoded(value, json.dumps({"account": key}).encode(), NOW)

    def run(self, groups: Iterable[FeatureGroup] | None = None, runner: Runner | None = None) -> None:
        sources = [self.upserts, self.envelopes]
        pipeline = FeaturePipeline(
            fti.Catalog.of([*sources, *(self.groups if groups is None else groups)]),
            topic_partitions(self.bootstrap_servers, [source.topic for source in sources]),
            redis_url=self.redis_url,
            log=self.log,
            decoder=EventDecoder(self.schemas),
            dead_letters=DeadLetterProducer(self.bootstrap_servers),
            clock=SystemClock(),
            metrics=FeaturePipelineMetrics(CollectorRegistry()),
        )
        reader = KafkaSourceReader(self.bootstrap_servers, sources, pipeline.positions(), group_id="test")
        (runner or PlainRunner()).run(reader, pipeline, StopSignal(when_caught_up=True))

    def logged(self, source: fti.KafkaSource) -> list[PlacedEvent]:
        names = [field.name for field in source.schema.fields]
        rows = self.log.read(source).iter_rows(named=True)
        return [
            PlacedEvent(_row(source, {n: row[n] for n in names}), row["_partition"], row["_offset"], row["_change"])
            for row in rows
        ]

    def serving(self) -> Any:  # noqa: ANN401  # a context manager of `Served`
        return serving(self.catalog, self.home, self.redis_url)


def _row(source: fti.KafkaSource, values: dict[str, Any]) -> Account | GoneRow:
    if values["branch"] is None:
        return GoneRow(source.schema, {"account": values["account"]}, values["at"])
    return Account(**values)


@pytest.fixture
def project(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_admin: AdminClient,
    redis_client: redis.Redis,
    redis_server: RedisServer,
    make_topic: Callable[..., str],
) -> Project:
    def topic() -> str:
        return make_topic(PARTITIONS, name_hint="accounts", config={"retention.ms": "-1"})

    upserts = fti.KafkaSource(topic(), Account, changes="upsert", key="account")
    envelopes = fti.KafkaSource(topic(), Account, format="json", changes="debezium", key="account", before_images=True)
    for source in (upserts, envelopes):
        kafka_admin.create_topics([NewTopic(source.dead_letter_topic, 1, 1)])[source.dead_letter_topic].result()
    del redis_client  # only so that the database is empty
    return Project(upserts, envelopes, tmp_path, kafka.bootstrap_servers, redis_server.url)


def account(number: int, seconds: int, balance: int = 5, limit: float | None = 1.5, branch: str = "b0") -> Account:
    at = NOW - timedelta(seconds=seconds)
    return Account(account=f"a{number}", branch=branch, balance=balance, limit=limit, at=at)


def produce_upserts(project: Project, n: int, seed: int) -> None:
    """Rows and tombstones of some accounts, of the last two hours, in a random order of time."""
    rng = np.random.default_rng(seed)
    with project.producer() as producer:
        for _ in range(n):
            number, seconds = int(rng.integers(8)), int(rng.integers(1, 7200))
            row = account(
                number,
                seconds,
                int(rng.integers(-99, 99)),
                float(rng.integers(9)) if seconds % 3 else None,
                f"b{seconds % 5}",
            )
            if rng.random() < 0.25:
                producer.delete([row.account], ingest_time=row.at)
            else:
                producer.send(row, ingest_time=NOW)


def envelopes_of(n: int, seed: int) -> list[tuple[str, dict[str, Any] | None]]:
    """The changes of a table that begins empty, by its log; the times of a row's changes go up."""
    rng = np.random.default_rng(seed)
    rows: dict[str, dict[str, Any]] = {}
    found: list[tuple[str, dict[str, Any] | None]] = []
    for i in range(n):
        name = f"a{rng.integers(12)}"
        at_us = to_us(NOW - timedelta(hours=3)) + i * 3 * 3_600_000_000 // n
        before, is_gone = rows.pop(name, None), rng.random() < 0.2
        stamp = {"source": {"ts_us": at_us}, "ts_ms": to_us(NOW) // 1000}
        if is_gone and before is not None:
            found += [(name, {"op": "d", "before": before, "after": None, **stamp}), (name, None)]
        elif not is_gone:
            branch, limit = f"b{rng.integers(3)}", None if rng.random() < 0.3 else 2.5
            after = {
                "account": name,
                "branch": branch,
                "balance": int(rng.integers(-99, 99)),
                "limit": limit,
                "at": at_us,
            }
            found.append((name, {"op": "u" if before else "c", "before": before, "after": after, **stamp}))
            rows[name] = after
    return found


def recount(envelopes: Iterable[tuple[str, dict[str, Any] | None]]) -> dict[str, list[int]]:
    """The balances of the accounts that are there, by branch."""
    rows: dict[str, dict[str, Any]] = {}
    for name, envelope in envelopes:
        if envelope is not None:
            rows.pop(name, None)
            if envelope["after"] is not None:
                rows[name] = envelope["after"]
    found: dict[str, list[int]] = {}
    for row in rows.values():
        found.setdefault(row["branch"], []).append(row["balance"])
    return found


ACCOUNTS = [f"a{i}" for i in range(13)]  # the last one is of nobody
BRANCHES = [f"b{i}" for i in range(4)]


def served_values(served: Served, at: datetime) -> dict[str, list[Any]]:
    """Every feature, of all accounts and, in the first rows, of all branches."""
    keys = {"account": ACCOUNTS, "branch": [*BRANCHES, *(["nobody"] * (len(ACCOUNTS) - len(BRANCHES)))]}
    columns = served.client.get_features("accounts", keys, as_of=at).vectors.columns
    return {
        name: [None if s >= Status.EXPIRED else v for v, s in zip(c.values.tolist(), c.status.tolist(), strict=True)]
        for name, c in columns.items()
    }


def assert_as_defined(project: Project, served: dict[str, list[Any]], at: datetime) -> None:
    """What is served is what plain Python makes of the log."""
    for group in project.groups:
        changes = project.logged(group.source)
        (entity,) = group.entity
        for feature in group.features:
            keys = ACCOUNTS if entity == "account" else BRANCHES
            expected = [naive_feature(feature, group, changes, {entity: key}, to_us(at)) for key in keys]
            assert served[feature.qualified_name][: len(keys)] == expected, feature.qualified_name
            assert any(expected), "nothing was compared"


@RUNNERS
def test_what_is_served_is_what_the_changes_say(project: Project, runner: Runner) -> None:
    envelopes = envelopes_of(400, seed=5)
    for part in range(2):
        produce_upserts(project, 200, seed=part)
        project.produce_envelopes(envelopes[part * 200 : (part + 1) * 200 if part == 0 else None])
        project.run(runner=runner)
    at = NOW + timedelta(seconds=31)
    with project.serving() as served:
        values = served_values(served, at)
    assert_as_defined(project, values, at)
    for place, branch in enumerate(BRANCHES):
        balances = recount(envelopes).get(branch, [])
        assert values["Branches.accounts"][place] == len(balances)
        assert values["Branches.balance"][place] == (sum(balances) if balances else None)


def test_history_training_sets_and_verify_agree(project: Project, tmp_path: Path) -> None:
    produce_upserts(project, 300, seed=3)
    project.produce_envelopes(envelopes_of(300, seed=4))
    project.run()
    at = NOW + timedelta(seconds=31)
    with project.serving() as served:
        values = served_values(served, at)
    moments = pl.DataFrame(
        {"account": ACCOUNTS, "branch": [*BRANCHES, *(["nobody"] * (len(ACCOUNTS) - len(BRANCHES)))], "now": at}
    )
    frame = backfill_features(project.service, project.log, moments, at="now")
    for name, column in values.items():
        assert frame[name].to_list() == [v if v is None or isinstance(v, str) else float(v) for v in column], name

    online, folder = OnlineReader(project.redis_url), tmp_path / "vectors"
    stores = Stores(project.log, online, SystemClock())
    folder.mkdir()
    ask_drawn([(g, g.features) for g in project.groups], folder, stores, n=400, seed=1, on_progress=silent)
    report = verify_vectors(project.catalog, folder, stores, log_wait_s=1.0, on_progress=silent)
    online.close()
    assert {verdict for verdict, n in report.by_verdict().items() if n} <= {Verdict.EQUAL, Verdict.IN_FLIGHT}


def silent(_what: str, _done: int) -> None:
    """Report to nobody."""


def test_groups_are_filled_from_the_log_and_go_on(project: Project) -> None:
    envelopes = envelopes_of(300, seed=8)
    produce_upserts(project, 150, seed=6)
    project.produce_envelopes(envelopes[:150])
    project.run([])
    for group in project.groups:
        materialize(group, project.log, redis_url=project.redis_url, clock=SystemClock(), chunk_rows=40)
    produce_upserts(project, 150, seed=7)
    project.produce_envelopes(envelopes[150:])
    project.run()
    at = NOW + timedelta(seconds=31)
    with project.serving() as served:
        assert_as_defined(project, served_values(served, at), at)


def test_a_tombstone_ends_a_row_until_a_newer_one_and_late_rows_change_nothing(project: Project) -> None:
    at = NOW + timedelta(seconds=31)
    steps: list[tuple[Callable[[EventProducer], None], int | None]] = [
        (lambda p: p.send(account(1, 600, balance=7), ingest_time=NOW), 7),
        (lambda p: p.delete(["a1"], ingest_time=NOW - timedelta(seconds=300)), None),
        (lambda p: p.send(account(1, 400, balance=8), ingest_time=NOW), None),
        (lambda p: p.send(account(1, 200, balance=9), ingest_time=NOW), 9),
        (lambda p: p.send(account(1, 500, balance=6), ingest_time=NOW), 9),
    ]
    for step, expected in steps:
        with project.producer() as producer:
            step(producer)
        project.run()
        with project.serving() as served:
            values = served_values(served, at)
        assert values["Attributes.balance"][1] == expected
        assert values["Attributes.limit"][1] == (10.0 if expected is None else 1.5)
    with project.serving() as served:
        later = served_values(served, NOW + timedelta(minutes=100))
    assert (later["Attributes.balance"][1], later["Attributes.fresh"][1]) == (9, None)  # EXPIRED


def test_bad_envelopes_are_dead_letters_with_reason_and_path(project: Project) -> None:
    good = {"account": "a1", "branch": "b1", "balance": 5, "limit": None, "at": to_us(NOW)}
    stamp = {"source": {"ts_us": to_us(NOW)}}
    project.produce_envelopes(
        [
            ("a1", {"op": "c", "before": None, "after": good, **stamp}),
            ("a1", {"op": "u", "before": None, "after": {**good, "balance": 9}, **stamp}),
            ("a1", {"op": "u", "before": good, "after": {**good, "balance": "9"}, **stamp}),
            ("a1", good),
        ]
    )
    project.run()
    assert project.log.read(project.envelopes).height == 1
    letters = sorted((h["streamfti-reason"], h["streamfti-path"]) for h in dead_letters(project, project.envelopes, 3))
    assert letters == [("invalid", "$.after.balance"), ("invalid", "$.before"), ("malformed", "$.op")]


def dead_letters(project: Project, source: fti.KafkaSource, n: int) -> list[dict[str, str]]:
    consumer = Consumer({"bootstrap.servers": project.bootstrap_servers, "group.id": "dead"})
    consumer.assign([TopicPartition(source.dead_letter_topic, 0, 0)])
    found = consumer.consume(n, 10.0)
    consumer.close()
    return [
        {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in dict(headers).items()}
        for headers in (message.headers() or [] for message in found)
    ]


def test_rows_are_produced_by_their_key_and_envelopes_not_at_all(project: Project) -> None:
    with pytest.raises(ContractError, match="must be of events or upserts to be produced, got debezium"):
        EventProducer(project.bootstrap_servers, project.envelopes, project.schemas)
    with pytest.raises(ContractError, match=r"must have the key \('account',\) of a row, got 'branch'"):
        EventProducer(project.bootstrap_servers, project.upserts, project.schemas, key_field="branch")
    with project.producer() as producer, pytest.raises(ContractError, match=r"must have the key \('account',\)"):
        producer.delete([7])


def test_a_fill_never_stops_between_the_two_rows_of_an_update(project: Project) -> None:
    """Its progress is an offset: after a death between them, the second one would be taken for applied."""
    project.produce_envelopes(envelopes_of(60, seed=9))
    project.run([])
    done = [0]
    materialize(
        project.branches,
        project.log,
        redis_url=project.redis_url,
        clock=SystemClock(),
        chunk_rows=1,
        on_progress=lambda n, _: done.append(n),
    )
    offsets = project.log.read(project.envelopes).group_by("_partition", "_offset").len()["len"].to_list()
    assert sorted(np.diff(done).tolist()) == sorted(offsets)
    assert set(offsets) == {1, 2}
