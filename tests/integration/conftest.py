"""What the tests of serving share: definitions, a model that adds its inputs up, a Redis with payments, a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from streamfti.clock import ManualClock, SystemClock, to_us
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.redis_server import RedisServer, start_redis
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.routes import Routes
from streamfti.inference_pipeline.server import InferenceServer
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.meaning import register_group
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader, OnlineWriter
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

DEFINITIONS = '''
import streamfti as fti

class Payment(fti.Event):
    card_id: str
    shop: int | None
    cents: int
    at: fti.EventTime

class Checkout(fti.Event):
    order_id: str
    card_id: str
    shop: int | None
    amount: float
    country: str | None
    night: bool
    at: fti.EventTime

class Chargeback(fti.Event):
    order_id: str
    disputed: bool
    at: fti.EventTime

payments = fti.KafkaSource("payments", Payment)
checkouts = fti.KafkaSource("checkouts", Checkout)
chargebacks = fti.KafkaSource("chargebacks", Chargeback)

@fti.feature_group(source=payments, entity="card_id", max_staleness="3s")
class Card:
    n = fti.count().over("5m", "1h")
    cents = fti.sum(Payment.cents).over("1h")
    usual = fti.mean(Payment.cents).over("1h", default=50.0)

@fti.feature_group(source=payments, entity="shop")
class Shop:
    n = fti.count().over("1h")
    most = fti.max(Payment.cents).over("1h")

fraud_features = fti.FeatureService(
    "fraud_features",
    [fti.request("amount", float), fti.request("country", str), Card, fti.request("night", bool), Shop],
)

@fti.model(
    "fraud",
    features=fraud_features,
    spine=checkouts,
    label=fti.label(Chargeback.disputed, source=chargebacks, on="order_id", within="1d"),
)
def fraud(data: fti.TrainingSet) -> object:
    """Whether a payment will be disputed."""
    return data
'''

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
APPLIED_UNTIL_US = to_us(NOW) - 4_000_000
PARTITIONS = (0, 20, 40)  # more than are read at first
NUMERIC = ("amount", "Card.n_5m", "Card.n_1h", "Card.cents_1h", "Card.usual_1h", "night", "Shop.n_1h", "Shop.most_1h")
GOOD: dict[str, Any] = {"card_id": "c1", "shop": 7, "amount": 12.5, "country": "NL", "night": True}


def graph() -> bytes:
    """Return the sum of all numbers, a missing one counting as -1, and 100 more where the country is NL."""
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "substitute", "numeric"], ["filled"]),
        helper.make_node("ReduceSum", ["filled", "axis"], ["total"], keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["categories"],
            ["weights"],
            domain="ai.onnx.ml",
            keys_strings=["NL"],
            values_floats=[100.0],
            default_float=0.0,
        ),
        helper.make_node("ReduceSum", ["weights", "axis"], ["weight"], keepdims=0),
        helper.make_node("Add", ["total", "weight"], ["prediction"]),
    ]
    built = helper.make_graph(
        nodes,
        "sum",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(NUMERIC)]),
            helper.make_tensor_value_info("categories", TensorProto.STRING, [None, 1]),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("substitute", TensorProto.FLOAT, [], [-1.0]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(built, opset_imports=opsets, ir_version=9).SerializeToString())


def publish(home: Path, fingerprint: str) -> None:
    numbers = np.arange(2 * len(NUMERIC), dtype=np.float32).reshape(2, -1)
    outputs = numbers.sum(axis=1) + np.array([100, 0], np.float32)
    golden = GoldenRows(numbers, np.array([["NL"], [""]]), outputs.astype(np.float32))
    facts = ModelFacts(
        service="fraud_features",
        service_fingerprint=fingerprint,
        inputs={"numeric": NUMERIC, "categories": ["country"]},
        task="binary",
    )
    registry = ModelRegistry(home / "registry")
    registry.promote("fraud", registry.publish("fraud", facts, model=graph(), golden=golden).version)


def payments(catalog: Catalog) -> pl.DataFrame:
    """Three cards in two shops over the last two hours, one payment in no shop, from three partitions."""
    source = catalog.source("payments")
    rows: list[tuple[str, int | None, int, float]] = [
        ("c1", 7, 100, 119.0),
        ("c1", 7, 250, 30.0),
        ("c1", None, 40, 3.5),
        ("c2", 7, 999, 61.0),
        ("c2", 8, 1, 10.0),
        ("c3", 8, 70, 50.0),
    ]
    events = [
        PlacedEvent(
            source.event(card_id=card, shop=shop, cents=cents, at=NOW - timedelta(minutes=minutes)),
            PARTITIONS[i % len(PARTITIONS)],
            i // len(PARTITIONS),
        )
        for i, (card, shop, cents, minutes) in enumerate(rows)
    ]
    return event_frame(source.schema, events, ingest_time_us=to_us(NOW))


def apply(url: str, group: FeatureGroup, frame: pl.DataFrame) -> None:
    """Write events as the feature pipeline does."""
    register_group(url, group, stored_state(group))
    writer = OnlineWriter(url, [progress_key(group, partition) for partition in PARTITIONS])
    change = GroupState(group, writer.read).apply(frame, to_us(NOW))
    by_partition = dict(frame.group_by("_partition").agg(pl.col("_offset").max() + 1).iter_rows())
    progress = {
        progress_key(group, partition): Progress(next_offset, to_us(NOW) - 1, to_us(NOW), to_us(NOW), APPLIED_UNTIL_US)
        for partition, next_offset in by_partition.items()
    }
    writer.commit(change.slots, change.expiries_ms, progress, change.side)
    writer.close()


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("definitions") / "payments.py"
    path.write_text(DEFINITIONS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def catalog(definitions: Path) -> Catalog:
    return load_catalog(definitions)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    folder = tmp_path_factory.mktemp("home")
    publish(folder, service_fingerprint(catalog.service("fraud_features")))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Iterator[RedisServer]:
    """A Redis of this module's own, which holds the payments."""
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        for group in catalog.groups.values():
            apply(server.url, group, payments(catalog))
        yield server


@dataclass(frozen=True)
class Served:
    client: InferenceClient
    channel: grpc.Channel
    server: InferenceServer
    metrics: CollectorRegistry


@contextmanager
def serving(catalog: Catalog, home: Path, url: str, *, read_timeout_s: float = 5.0) -> Iterator[Served]:
    """A server in this process, on a clock that stands at noon."""
    samples = CollectorRegistry()
    metrics = ServingMetrics(samples)
    online = OnlineReader(url, timeout_s=read_timeout_s)
    routes = Routes.build(
        catalog,
        catalog.models,
        registry=ModelRegistry(home / "registry"),
        online=online,
        ref="champion",
        clock=ManualClock(NOW),
        metrics=metrics,
    )
    server = InferenceServer(routes, host="127.0.0.1", port=0, metrics=metrics, clock=SystemClock())
    server.start()
    with InferenceClient(server.address) as client, grpc.insecure_channel(server.address) as channel:
        yield Served(client, channel, server, samples)
    server.stop(5.0)
    online.close()


@pytest.fixture(scope="module")
def served(catalog: Catalog, home: Path, store: RedisServer) -> Iterator[Served]:
    with serving(catalog, home, store.url) as running:
        yield running
