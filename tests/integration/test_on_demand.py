"""On-demand features over a real server, Redis and log: what is predicted with is what the training set holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper

from streamfti.compute.values import Status
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.events import Event
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.sources import KafkaSource
from streamfti.dev.redis_server import start_redis
from streamfti.errors import FingerprintMismatch, InvalidRequest, ServingError, TrainingError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.stores.registry.golden import GoldenRows
from streamfti.stores.registry.manifest import ModelFacts
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent
from streamfti.training_pipeline.assembly import build_training_set
from streamfti.training_pipeline.feature_history import backfill_features
from tests.integration.conftest import (  # pytest has loaded it under this name before it loads a test
    DEFINITIONS,
    NOW,
    Served,
    apply,
    payments,
    serving,
)

ON_DEMAND = '''
import numpy as np

@fti.on_demand(amount=fti.request("amount", float), cents=Card.cents["1h"], n=Card.n["1h"], dtype=float, default=-1)
def times_usual(amount: fti.Column, cents: fti.Column, n: fti.Column) -> fti.Column:
    """How much more than the card's usual payment."""
    if (amount == 1234).any():
        raise RuntimeError("the secret of the function")
    return np.log1p(amount * 100 / (cents / n))

@fti.on_demand(times=times_usual, at=fti.query_time, night=fti.request("night", bool), dtype=bool)
def odd(times: fti.Column, at: fti.Column, night: fti.Column):
    return (times > 2) & (at % 86_400 >= 43_200) & (night == 1)

@fti.on_demand(country=fti.request("country", str), dtype=str)
def abroad(country):
    return np.array([None if c is None else "home" if c == "NL" else "abroad" for c in country], np.object_)
'''
SERVICES = """
fraud_features = fti.FeatureService("fraud_features", [Card.n["5m"], times_usual, odd], groups=[Card])
told = fti.FeatureService("told", [abroad, times_usual, Shop], groups=[Card])
asked = fti.FeatureService("asked", [abroad])
"""
BEFORE, AFTER = DEFINITIONS.split("fraud_features = ")
WHOLE = BEFORE + ON_DEMAND + SERVICES + AFTER[AFTER.index("@fti.model") :]
INPUTS = ("Card.n_5m", "times_usual", "odd")


def graph() -> bytes:
    """Return the sum of all inputs."""
    built = helper.make_graph(
        [helper.make_node("ReduceSum", ["numeric", "axis"], ["prediction"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(INPUTS)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(built, opset_imports=[opset], ir_version=9).SerializeToString())


def write(log: OfflineLog, source: KafkaSource, frame: pl.DataFrame) -> None:
    next_offsets = dict(frame.group_by("_partition").agg(pl.col("_offset").max() + 1).iter_rows())
    with log.writer(source) as writer:
        writer.append(frame.with_columns(pl.lit(value=False).alias("_too_late")), next_offsets)
        writer.flush()


def events(source: KafkaSource, found: list[Event]) -> pl.DataFrame:
    return event_frame(source.schema, [PlacedEvent(event, 0, offset) for offset, event in enumerate(found)])


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    path = tmp_path_factory.mktemp("definitions") / "on_demand.py"
    path.write_text(WHOLE, encoding="utf-8")
    return load_catalog(path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> OfflineLog:
    """The payments, two checkouts at noon, and what became of them."""
    log = OfflineLog(tmp_path_factory.mktemp("log"))
    checkouts, chargebacks = catalog.source("checkouts"), catalog.source("chargebacks")
    asked = [("o1", "c1", 12.5, "NL", True), ("o2", "c2", 0.25, None, False), ("o3", "nobody", 7.0, "DE", True)]
    write(log, catalog.source("payments"), payments(catalog))
    found = [
        checkouts.event(order_id=o, card_id=card, shop=7, amount=amount, country=country, night=night, at=NOW)
        for o, card, amount, country, night in asked
    ]
    write(log, checkouts, events(checkouts, found))
    hour = timedelta(hours=1)
    outcomes = [chargebacks.event(order_id=o, disputed=o == "o1", at=NOW + hour) for o in ("o1", "o2", "o3")]
    outcomes.append(chargebacks.event(order_id="end", disputed=False, at=NOW + 48 * hour))
    write(log, chargebacks, events(chargebacks, outcomes))
    return log


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Path:
    folder = tmp_path_factory.mktemp("home")
    numbers = np.arange(2 * len(INPUTS), dtype=np.float32).reshape(2, -1)
    golden = GoldenRows(numbers, np.empty((2, 0), np.str_), numbers.sum(axis=1).astype(np.float32))
    facts = ModelFacts(
        service="fraud_features",
        service_fingerprint=service_fingerprint(catalog.service("fraud_features")),
        inputs={"numeric": INPUTS, "categories": []},
        task="binary",
    )
    registry = ModelRegistry(folder / "registry")
    registry.promote("fraud", registry.publish("fraud", facts, model=graph(), golden=golden).version)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Iterator[str]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        for group in catalog.groups.values():
            apply(server.url, group, payments(catalog))
        yield server.url


@pytest.fixture(scope="module")
def served(catalog: Catalog, home: Path, url: str) -> Iterator[Served]:
    with serving(catalog, home, url) as running:
        yield running


def test_a_prediction_is_made_with_what_the_training_set_holds(
    served: Served, catalog: Catalog, log: OfflineLog
) -> None:
    data = build_training_set(catalog.model("fraud"), log)
    rows = log.read(catalog.source("checkouts"))
    assert len(data) == len(rows) == 3
    columns = {name: rows[name].to_list() for name in ("card_id", "amount", "night")}
    many = served.client.predict_batch("fraud", columns, as_of=NOW, include_features=True)
    assert many.features is not None
    assert list(many.features.columns) == list(INPUTS)
    for row in range(len(rows)):
        one = served.client.predict(
            "fraud", {name: values[row] for name, values in columns.items()}, as_of=NOW, include_features=True
        )
        assert one.features is not None
        for name in INPUTS:
            trained = data.frame[name][row]
            for features, i in ((many.features, row), (one.features, 0)):
                column = features.columns[name]
                is_there = column.status[i] < Status.EXPIRED
                assert (float(column.values[i]) if is_there else None) == trained
        assert np.float32(one[0]) == many.values[row] == data.inputs.numeric[row].sum()
    assert data.frame["times_usual"].to_list() == [np.log1p(12.5 * 100 / (290 / 2)), np.log1p(0.25 * 100 / 1), -1.0]
    assert data.frame["odd"].to_list() == [1.0, 0.0, 0.0]
    assert many.features.columns["times_usual"].status.tolist() == [Status.PRESENT, Status.PRESENT, Status.DEFAULTED]
    assert many.features.columns["odd"].values.tolist() == [True, False, False]


def test_a_backfill_gives_the_same(served: Served, catalog: Catalog, log: OfflineLog) -> None:
    moments = log.read(catalog.source("checkouts"))
    history = backfill_features(catalog.service("told"), log, moments, at="at")
    columns = {name: moments[name].to_list() for name in ("card_id", "shop", "amount", "country")}
    told = served.client.get_features("told", columns, as_of=NOW).vectors.columns
    assert list(told) == ["abroad", "times_usual", "Shop.n_1h", "Shop.most_1h"]
    for name, column in told.items():
        values = zip(column.values.tolist(), column.status.tolist(), strict=True)
        assert [None if status >= Status.EXPIRED else value for value, status in values] == history[name].to_list()
    assert history["abroad"].to_list() == ["home", None, "abroad"]
    assert history.columns == ["shop", "card_id", "_query_time", *told]


def test_what_a_request_must_carry_and_may_carry(served: Served) -> None:
    model, told = served.client.model("fraud"), served.client.feature_service("told")
    assert {f.name: (f.nullable, f.optional) for f in model.fields} == {
        "card_id": (False, False),
        "amount": (True, False),
        "night": (True, False),
    }
    assert model.inputs == INPUTS
    assert {f.name: (f.nullable, f.optional) for f in told.fields} == {
        "card_id": (False, False),
        "shop": (True, True),
        "country": (True, True),
        "amount": (True, True),
    }
    assert told.features == ("abroad", "times_usual", "Shop.n_1h", "Shop.most_1h")
    with pytest.raises(InvalidRequest, match="field 'amount' of model 'fraud' must be float64 or null, got nothing"):
        served.client.predict("fraud", {"card_id": "c1", "night": True})


def test_what_is_not_sent_leaves_its_features_missing_and_a_null_does_not(served: Served) -> None:
    def statuses(**sent: float | None) -> dict[str, Status]:
        columns = {name: [value] for name, value in {"card_id": "c1", "shop": 7, **sent}.items()}
        got = served.client.get_features("told", columns).vectors.columns
        return {name: Status(int(column.status[0])) for name, column in got.items()}

    assert statuses()["times_usual"] is Status.MISSING
    assert statuses(amount=None)["times_usual"] is Status.DEFAULTED
    assert statuses(amount=1.0)["times_usual"] is Status.PRESENT
    assert set(statuses().values()) == {Status.MISSING, Status.PRESENT}


def test_a_service_without_stored_features_is_answered(served: Served) -> None:
    got = served.client.get_features("asked", {"country": ["NL", "DE", None]}).vectors
    assert got.columns["abroad"].values.tolist() == ["home", "abroad", ""]
    assert got.columns["abroad"].status.tolist() == [Status.PRESENT, Status.PRESENT, Status.MISSING]
    assert got.progress == ()


def test_a_function_that_fails_is_an_error_that_tells_nothing_of_the_inside(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ServingError, match=r"^the server could not answer; .* details under [0-9a-f]{32}$"):
        served.client.predict("fraud", {"card_id": "c1", "amount": 1234.0, "night": True})
    (logged,) = [r for r in caplog.records if r.name.endswith("rpc_boundary")]
    assert logged.exc_info is not None
    assert "on-demand feature 'times_usual' must not fail, got RuntimeError" in str(logged.exc_info[1])
    assert served.client.predict("fraud", {"card_id": "c1", "amount": 1.0, "night": True})[0] > 0


def test_a_function_that_fails_offline_ends_the_training(catalog: Catalog, log: OfflineLog) -> None:
    moments = log.read(catalog.source("checkouts")).with_columns(amount=1234.0)
    with pytest.raises(TrainingError, match="'times_usual' must not fail, got RuntimeError: the secret"):
        backfill_features(catalog.service("fraud_features"), log, moments, at="at")


def test_statuses_are_counted_by_feature(served: Served) -> None:
    def counted() -> float:
        labels = {"group": "times_usual", "status": "DEFAULTED"}
        return served.metrics.get_sample_value("streamfti_feature_status_total", labels) or 0.0

    before = counted()
    served.client.predict("fraud", {"card_id": "c1", "amount": None, "night": True})
    assert counted() == before + 1


def test_a_model_is_not_served_with_another_function(tmp_path: Path, home: Path, url: str) -> None:
    path = tmp_path / "changed.py"
    path.write_text(WHOLE.replace("amount * 100", "amount * 99"), encoding="utf-8")
    with (
        pytest.raises(FingerprintMismatch, match="must be served with the features that it was trained on"),
        serving(load_catalog(path), home, url),
    ):
        pass
