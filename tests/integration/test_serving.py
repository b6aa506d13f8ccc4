"""A real server, a real client, a real Redis and a real model: what is asked, what is answered, what is refused."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import click
import grpc
import numpy as np
import polars as pl
import pytest
import redis
from click.testing import CliRunner, Result
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from streamfti.clock import ManualClock, SystemClock, to_us
from streamfti.compute.layout import RecordLayout
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.values import Status
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.groups import FeatureGroup
from streamfti.dev.redis_server import RedisServer, start_redis
from streamfti.errors import (
    CorruptRecord,
    DefinitionError,
    FingerprintMismatch,
    InvalidRequest,
    MissingPart,
    ModelNotReady,
    ServingError,
    StoreUnavailable,
    StreamFTIError,
)
from streamfti.feature_pipeline.group_state import GroupState
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.commands import get_features, predict, serve
from streamfti.inference_pipeline.feature_reader import check_stored_meaning
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.request_contract import MAX_ROWS
from streamfti.inference_pipeline.routes import Routes
from streamfti.inference_pipeline.server import SERVER_OPTIONS, InferenceServer
from streamfti.stores.online.keys import progress_key, record_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader, OnlineWriter, register_group
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

@fti.feature_group(source=payments, entity="card_id")
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
    register_group(url, group, RecordLayout.of(group).record_bytes)
    writer = OnlineWriter(url, [progress_key(group, partition) for partition in PARTITIONS])
    change = GroupState(group, writer.read).apply(frame, to_us(NOW))
    by_partition = dict(frame.group_by("_partition").agg(pl.col("_offset").max() + 1).iter_rows())
    progress = {
        progress_key(group, partition): Progress(next_offset, to_us(NOW) - 1, to_us(NOW), to_us(NOW))
        for partition, next_offset in by_partition.items()
    }
    writer.commit(change.slots, change.expiries_ms, progress)
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


# --- what is answered


def test_a_prediction_joins_request_and_stored_features(served: Served) -> None:
    answer = served.client.predict("fraud", GOOD)
    # c1: 1 payment in 5 minutes, 2 in the hour, 290 cents, 145 on average; shop 7: the 250 of half an hour ago
    assert answer[0] == 12.5 + 1 + 2 + 290 + 145 + 1 + 1 + 250 + 100
    assert (answer.model.name, answer.model.version) == ("fraud", 1)
    assert len(answer.prediction_id) == 36
    assert answer.query_time_us == to_us(NOW)
    assert answer.features is None


def test_a_batch_answers_in_the_order_of_its_rows(served: Served) -> None:
    rows = [{**GOOD, "card_id": card} for card in ("c3", "c1", "nobody", "c2", "c1")] * 30
    batch = served.client.predict_batch("fraud", {name: [row[name] for row in rows] for name in GOOD})
    singles = {row["card_id"]: served.client.predict("fraud", row)[0] for row in rows[:4]}
    assert batch.values.tolist() == [singles[row["card_id"]] for row in rows]
    assert len(set(singles.values())) == 4


def test_the_inputs_are_told_on_request(served: Served, catalog: Catalog) -> None:
    asked = {**GOOD, "country": None, "card_id": "nobody"}
    features = served.client.predict("fraud", asked, include_features=True).features
    assert features is not None
    inputs = catalog.service("fraud_features").inputs
    assert list(features.columns) == [item.qualified_name for item in inputs]
    told = {n: (c.values.tolist()[0], Status(c.status[0])) for n, c in features.columns.items()}
    assert told == {
        "amount": (12.5, Status.PRESENT),
        "country": ("", Status.MISSING),
        "Card.n_5m": (0, Status.PRESENT),
        "Card.n_1h": (0, Status.PRESENT),
        "Card.cents_1h": (0, Status.MISSING),
        "Card.usual_1h": (50.0, Status.DEFAULTED),
        "night": (True, Status.PRESENT),
        "Shop.n_1h": (1, Status.PRESENT),
        "Shop.most_1h": (250, Status.PRESENT),
    }


def test_progress_says_which_events_are_in_the_values(served: Served) -> None:
    features = served.client.predict("fraud", GOOD, include_features=True).features
    assert features is not None
    assert [(p.group, p.version) for p in features.progress] == [("Card", 1), ("Shop", 1)]
    for group in features.progress:
        assert {partition: p.next_offset for partition, p in group.partitions.items()} == dict.fromkeys(PARTITIONS, 2)
        assert {p.newest_ingest_time_us for p in group.partitions.values()} == {to_us(NOW)}


@pytest.mark.parametrize("later", [timedelta(0), timedelta(minutes=4), timedelta(hours=3)])
def test_served_features_are_those_of_history(served: Served, catalog: Catalog, later: timedelta) -> None:
    keys = pl.DataFrame(
        {"card_id": ["c1", "c2", "c3", "nobody", "c1"], "shop": [7, 8, None, 9, 8]},
        schema={"card_id": pl.String, "shop": pl.Int64},
    )
    columns = {name: keys[name].to_list() for name in keys.columns}
    got = served.client.get_features("fraud_features", columns, as_of=NOW + later)
    at_us = np.full(len(keys), to_us(NOW + later), np.int64)
    assert got.vectors.query_time_us == at_us[0]
    assert got.service_fingerprint == service_fingerprint(catalog.service("fraud_features"))
    for group in catalog.groups.values():
        history = point_in_time(group, group.features, payments(catalog), keys, at_us)
        for name, column in history.items():
            np.testing.assert_array_equal(got.vectors.columns[name].values, column.values, err_msg=name)
            np.testing.assert_array_equal(got.vectors.columns[name].status, column.status, err_msg=name)


def test_a_key_that_may_be_null_may_be_left_out(served: Served) -> None:
    columns = served.client.get_features("fraud_features", {"card_id": ["c1"]}).vectors.columns
    statuses = {name: Status(column.status[0]) for name, column in columns.items()}
    assert {statuses["Shop.n_1h"], statuses["Shop.most_1h"]} == {Status.MISSING}
    assert statuses["Card.n_1h"] is Status.PRESENT


def test_a_client_can_ask_what_to_send(served: Served) -> None:
    model = served.client.model("fraud")
    assert (model.alias, model.task, model.identity.version) == ("champion", "binary", 1)
    assert {f.name: (f.dtype.value, f.nullable, f.optional) for f in model.fields} == {
        "card_id": ("string", False, False),
        "shop": ("int64", True, True),
        "amount": ("float64", True, False),
        "country": ("string", True, False),
        "night": ("bool", True, False),
    }
    assert list(served.client.feature_service("fraud_features").features) == [n for n in model.inputs if "." in n]


def test_the_version_and_alias_that_are_loaded_may_be_asked_for(served: Served) -> None:
    assert served.client.predict("fraud", GOOD, version=1, alias="champion").model.version == 1


# --- what is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"amonut": 1.0}, r"model 'fraud' has no field 'amonut' \(did you mean 'amount'\?\)"),
        ({"amount": "12"}, "field 'amount' of model 'fraud' must be float64 or null, got string '12'"),
        ({"card_id": 1}, "field 'card_id' of model 'fraud' must be string, got int64 1"),
        ({"card_id": None}, "field 'card_id' of model 'fraud' must be string, got null in row 0"),
        ({"amount": float("nan")}, "field 'amount' of model 'fraud' must be finite, got nan"),
        ({"country": "\ud800"}, "a request must be made of what the wire can carry"),
    ],
)
def test_a_wrong_field_is_refused(served: Served, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        served.client.predict("fraud", {**GOOD, **changed})


def test_a_missing_field_is_refused(served: Served) -> None:
    with pytest.raises(InvalidRequest, match="field 'amount' of model 'fraud' must be float64 or null, got nothing"):
        served.client.predict("fraud", {name: value for name, value in GOOD.items() if name != "amount"})


def test_columns_of_different_lengths_are_refused(served: Served) -> None:
    with pytest.raises(InvalidRequest, match="field 'shop' must have 2 rows as 'card_id' has, got 1"):
        served.client.get_features("fraud_features", {"card_id": ["c1", "c2"], "shop": [7]})


def test_too_many_rows_are_refused(served: Served) -> None:
    with pytest.raises(InvalidRequest, match=f"must have 1 to {MAX_ROWS} rows, got {MAX_ROWS + 1}"):
        served.client.get_features("fraud_features", {"card_id": ["c"] * (MAX_ROWS + 1)})


NEWEST = NOW - timedelta(minutes=3.5)


@pytest.mark.parametrize("as_of", [NEWEST, NEWEST - timedelta(hours=1)])
def test_a_query_time_in_the_past_of_an_entity_is_refused(served: Served, as_of: datetime) -> None:
    message = (
        "as_of must be later than the newest event applied for entity 'c1' of feature group 'Card', "
        rf"which is at 2026-01-01T11:56:30\+00:00, got {as_of.isoformat().replace('+', '.')}"
    )
    with pytest.raises(InvalidRequest, match=message) as caught:
        served.client.predict("fraud", GOOD, as_of=as_of)
    assert caught.value.hint == "leave as_of out for the values as of now; the past is in the offline log"


def test_a_microsecond_after_the_newest_event_is_answered(served: Served) -> None:
    columns = {"card_id": ["c1"]}
    answer = served.client.get_features("fraud_features", columns, as_of=NEWEST + timedelta(microseconds=1))
    assert answer.vectors.columns["Card.n_5m"].values.tolist() == [1]


def test_a_naive_query_time_is_refused(served: Served) -> None:
    with pytest.raises(InvalidRequest, match="as_of: a time must be aware"):
        served.client.predict("fraud", GOOD, as_of=datetime(2026, 1, 1))  # noqa: DTZ001  # the point of the test


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda c: c.predict("frand", GOOD), ModelNotReady, "has no model named 'frand' .did you mean 'fraud'"),
        (lambda c: c.model("frand"), ModelNotReady, "has no model named 'frand'"),
        (lambda c: c.predict("fraud", GOOD, version=2), ModelNotReady, "must be asked for version 1, got 2"),
        (lambda c: c.predict("fraud", GOOD, alias="old"), ModelNotReady, "asked for alias 'champion', got 'old'"),
        (lambda c: c.get_features("f", {}), InvalidRequest, "no feature service named 'f' .*fraud_features"),
        (lambda c: c.feature_service("f"), InvalidRequest, "no feature service named 'f'"),
    ],
)
def test_a_wrong_name_is_refused(
    served: Served, ask: Callable[[InferenceClient], object], error: type[StreamFTIError], message: str
) -> None:
    with pytest.raises(error, match=message):
        ask(served.client)


def test_a_message_that_is_too_large_is_refused(served: Served) -> None:
    with pytest.raises(ServingError, match=r"the inference server has too much to do.*larger than max"):
        served.client.predict("fraud", {**GOOD, "country": "x" * (1 << 20)})


def test_bytes_that_are_no_message_do_not_harm(served: Served) -> None:
    call: Any = served.channel.unary_unary("/streamfti.v1.InferenceService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert served.client.predict("fraud", GOOD)[0] > 0


def test_a_damaged_record_is_an_error_that_tells_nothing_of_the_inside(
    served: Served, store: RedisServer, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(store.url) as writer:
        writer.set(record_key(catalog.group("Card"), "broken"), b"\x01" * 100_000)
    with pytest.raises(
        CorruptRecord, match=r"^a stored record cannot be read; .* details under [0-9a-f]{32}$"
    ) as caught:
        served.client.predict("fraud", {**GOOD, "card_id": "broken"})
    logged = [r for r in caplog.records if r.name.endswith("rpc_boundary")]
    assert [getattr(r, "correlation_id", "") in str(caught.value) for r in logged] == [True]


def test_a_model_of_other_features_is_not_served(tmp_path: Path, catalog: Catalog, store: RedisServer) -> None:
    publish(tmp_path, "0" * 64)
    with (
        pytest.raises(FingerprintMismatch, match="must be served with the features that it was trained on"),
        serving(catalog, tmp_path, store.url),
    ):
        pass


def test_records_of_another_definition_are_not_read(tmp_path: Path, store: RedisServer) -> None:
    changed = tmp_path / "changed.py"
    changed.write_text(DEFINITIONS.replace('.over("5m", "1h")', '.over("10m", "1h")'), encoding="utf-8")
    online = OnlineReader(store.url)
    with pytest.raises(FingerprintMismatch, match="'Card' version 1 must be read by the definition that wrote it"):
        check_stored_meaning(load_catalog(changed).groups.values(), online)
    online.close()


def test_a_port_that_is_taken_is_an_error(served: Served) -> None:
    port = int(served.server.address.rsplit(":", 1)[1])
    with pytest.raises(ServingError, match=f"must be able to bind 127.0.0.1:{port}, which is refused"):
        InferenceServer(
            Routes({}, {}),
            host="127.0.0.1",
            port=port,
            metrics=ServingMetrics(CollectorRegistry()),
            clock=SystemClock(),
        )


# --- how it runs


def test_health_is_told_by_model_and_a_stop_is_announced(catalog: Catalog, home: Path, store: RedisServer) -> None:
    serving_status, stopping = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with serving(catalog, home, store.url) as running:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        for name in ("", "fraud", "streamfti.v1.InferenceService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == serving_status
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="fraud"), timeout=10)
        assert next(watch).status == serving_status
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(running.server.stop, 5.0)
            assert next(watch).status == stopping
            watch.cancel()
            assert stopped.result(timeout=10)


def test_reflection_knows_the_service(served: Served) -> None:
    database = ProtoReflectionDescriptorDatabase(served.channel)
    assert "streamfti.v1.InferenceService" in database.get_services()
    found = database.FindFileContainingSymbol("streamfti.v1.PredictRequest")
    assert found.name == "streamfti/v1/inference.proto"


def test_every_option_is_one_that_grpc_knows() -> None:
    spec = importlib.util.find_spec("grpc._cython.cygrpc")
    assert spec is not None
    binary = Path(str(spec.origin)).read_bytes()
    names = [name for name, _ in SERVER_OPTIONS]
    assert [name for name in names if name.encode() not in binary] == []


def test_calls_and_statuses_are_counted(catalog: Catalog, home: Path, store: RedisServer) -> None:
    with serving(catalog, home, store.url) as running:
        running.client.predict("fraud", GOOD)
        running.client.predict("fraud", {**GOOD, "shop": None})
        with pytest.raises(InvalidRequest, match="has no field"):
            running.client.predict("fraud", {**GOOD, "x": 1})
        value = running.metrics.get_sample_value
        calls = {"method": "Predict", "code": "OK"}
        assert value("streamfti_requests_total", calls) == 2
        assert value("streamfti_requests_total", {**calls, "code": "INVALID_ARGUMENT"}) == 1
        assert value("streamfti_request_seconds_count", {"method": "Predict"}) == 3
        assert value("streamfti_feature_status_total", {"group": "Card", "status": "PRESENT"}) == 8
        assert value("streamfti_feature_status_total", {"group": "Shop", "status": "MISSING"}) == 2
        assert value("streamfti_model_info", {"model": "fraud", "version": "1"}) == 1


def test_nobody_there_is_a_missing_part() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
        InferenceClient(address) as client,
        pytest.raises(MissingPart, match=f"no inference server answers there: {address}"),
    ):
        client.predict("fraud", GOOD)


# --- when the store fails


class HoldingProxy:
    """A TCP proxy before Redis: while it holds, what clients send is kept back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.holding = threading.Event()
        self.caught = threading.Event()
        self.released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._listener.close()
        for connection in self._sockets:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, may_hold: bool) -> None:  # noqa: FBT001  # a thread's argument
        try:
            while data := source.recv(1 << 16):
                if may_hold and self.holding.is_set():
                    self.caught.set()
                    self.released.wait()
                target.sendall(data)
        except OSError:
            return
        target.close()


def test_a_store_that_is_gone_is_unavailable_until_it_is_back(tmp_path: Path, catalog: Catalog, home: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(start_redis(tmp_path))
        running = stack.enter_context(serving(catalog, home, server.url, read_timeout_s=0.2))
        before = running.client.predict("fraud", GOOD)[0]
        server.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^a store does not answer; the server's log has the details"):
            running.client.predict("fraud", GOOD, timeout_s=3.0)
        assert time.monotonic() - started < 3.0
        stack.enter_context(start_redis(tmp_path, port=server.port))
        assert running.client.predict("fraud", GOOD)[0] == before


def test_a_store_that_hangs_is_unavailable_within_the_deadline(
    store: RedisServer, catalog: Catalog, home: Path
) -> None:
    with HoldingProxy(store.port) as proxy, serving(catalog, home, proxy.url, read_timeout_s=0.2) as running:
        running.client.predict("fraud", GOOD)
        proxy.holding.set()
        with pytest.raises(StoreUnavailable, match="a store does not answer"):
            running.client.predict("fraud", GOOD, timeout_s=3.0)
        with pytest.raises(ServingError, match="did not answer in time"):
            running.client.predict("fraud", GOOD, timeout_s=0.05)


def outcome(client: InferenceClient) -> str:
    try:
        client.predict("fraud", GOOD, timeout_s=30)
    except ServingError as error:
        return error.message
    return "answered"


def test_more_calls_than_can_wait_are_refused_at_once_and_the_others_answered(
    store: RedisServer, catalog: Catalog, home: Path
) -> None:
    with (
        HoldingProxy(store.port) as proxy,
        serving(catalog, home, proxy.url, read_timeout_s=30) as running,
        ThreadPoolExecutor(160) as pool,
    ):
        proxy.holding.set()
        calls = [pool.submit(outcome, running.client) for _ in range(160)]
        refused = [call.result() for call in itertools.islice(as_completed(calls, timeout=20), 160 - 128)]
        assert all("the inference server has too much to do" in text for text in refused)
        proxy.released.set()
        assert [call.result(timeout=20) for call in calls].count("answered") == 128


# --- the commands


@dataclass(frozen=True)
class Process:
    process: subprocess.Popen[str]
    address: str
    metrics: str

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def serve_process(definitions: Path, home: Path, url: str) -> Iterator[Process]:
    program = "from streamfti.inference_pipeline.commands import serve; serve()"
    options = ["--store-timeout", "10", "--port", "0", "--metrics-port", "0", "--home", str(home), "--redis-url", url]
    command = [sys.executable, "-c", program, str(definitions), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(4)]
            assert lines[0].startswith("listening on 127.0.0.1:")
            assert lines[1:3] == ["model fraud version 1, features fraud_features", "feature services: fraud_features"]
            yield Process(process, lines[0].removeprefix("listening on "), lines[3].removeprefix("metrics at "))
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_answers_what_is_in_flight_and_exits_with_0(
    definitions: Path, home: Path, store: RedisServer, number: signal.Signals
) -> None:
    with (
        HoldingProxy(store.port) as proxy,
        serve_process(definitions, home, proxy.url) as server,
        InferenceClient(server.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.predict("fraud", GOOD)
        proxy.holding.set()
        in_flight = pool.submit(client.predict, "fraud", GOOD, timeout_s=10)
        assert proxy.caught.wait(10)
        server.process.send_signal(number)
        assert server.line() == f"{number.name}: answering what is in flight\n"
        proxy.released.set()
        assert in_flight.result(timeout=10).model.version == 1
        assert server.line() == "stopped\n"
        assert server.process.wait(timeout=10) == 0
        with pytest.raises(MissingPart, match="no inference server answers there"):
            client.predict("fraud", GOOD)


def test_a_served_process_publishes_its_metrics(definitions: Path, home: Path, store: RedisServer) -> None:
    with serve_process(definitions, home, store.url) as server, InferenceClient(server.address) as client:
        client.predict("fraud", GOOD)
        with urlopen(server.metrics, timeout=5) as response:  # noqa: S310  # the address that the server printed
            text = response.read().decode()
    assert 'streamfti_requests_total{code="OK",method="Predict"} 1.0' in text
    assert 'streamfti_model_info{model="fraud",version="1"} 1.0' in text


PAIRS = ["card_id=c1", "shop=7", "amount=12.5", "country=NL", "night=true"]


def run(command: click.Command, served: Served, *arguments: str) -> Result:
    options = ["--address", served.server.address, *arguments]
    return CliRunner().invoke(command, options, catch_exceptions=True)


def test_predict_reads_values_in_the_declared_types(served: Served) -> None:
    expected = served.client.predict("fraud", GOOD)[0]
    result = run(predict, served, "--model", "fraud", "--json", "--features", *PAIRS)
    document = json.loads(result.output)
    assert document["prediction"] == expected
    assert document["version"] == 1
    assert document["features"]["Shop.n_1h"] == {"value": 1, "status": "PRESENT"}
    assert document["progress"]["Card"]["40"]["next_offset"] == 2


def test_predict_prints_what_a_person_wants_to_know(served: Served) -> None:
    result = run(predict, served, "--model", "fraud", "--features", *PAIRS[:-2], "country", "night=0")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["prediction", "701.5"]
    assert lines[1] == ["model", "fraud", "version", "1"]
    assert ["country", "-", "MISSING"] in lines
    assert ["night", "False", "PRESENT"] in lines


def test_get_features_prints_values_and_statuses(served: Served) -> None:
    arguments = ("--service", "fraud_features", "--as-of", "2026-01-01T13:00:00+01:00", "card_id=c1")
    lines = [line.split() for line in run(get_features, served, *arguments).output.splitlines()]
    assert lines[0] == ["as", "of", NOW.isoformat()]
    assert ["Card.n_5m", "1", "PRESENT"] in lines
    assert ["Shop.most_1h", "-", "MISSING"] in lines
    document = json.loads(run(get_features, served, *arguments, "--json").output)
    assert document["query_time_us"] == to_us(NOW)
    assert document["features"]["Card.usual_1h"] == {"value": 145.0, "status": "PRESENT"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nigth=1"], r"model 'fraud' has no field 'nigth' \(did you mean 'night'\?\)"),
        (["amount=much"], r"field 'amount' must be float64, got 'much' \(a bare amount without '=' is null\)"),
        (["shop=1.5"], "field 'shop' must be int64, got '1.5'"),
        (["night=maybe"], "field 'night' must be bool, got 'maybe'"),
        (["--as-of", "yesterday"], "--as-of must be an ISO 8601 time with its zone, got 'yesterday'"),
        (["--as-of", "2026-01-01T12:00:00"], "--as-of must be an ISO 8601 time with its zone"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(served: Served, arguments: list[str], message: str) -> None:
    result = run(predict, served, "--model", "fraud", *arguments)
    assert isinstance(result.exception, InvalidRequest)
    assert re.search(message, str(result.exception))


def test_serve_says_that_the_store_is_not_there(definitions: Path, home: Path) -> None:
    arguments = [str(definitions), "--home", str(home), "--redis-url", "redis://127.0.0.1:1/0"]
    result = CliRunner().invoke(serve, arguments)
    assert isinstance(result.exception, StoreUnavailable)
    assert "127.0.0.1:1" in str(result.exception)


def test_serve_names_a_model_that_is_not_defined(definitions: Path, home: Path, store: RedisServer) -> None:
    arguments = [str(definitions), "--home", str(home), "--redis-url", store.url, "--model", "frand"]
    result = CliRunner().invoke(serve, arguments)
    assert isinstance(result.exception, DefinitionError)
    assert "did you mean 'fraud'?" in str(result.exception)
