"""A real server, a real client, a real Redis and a real model: what is asked, what is answered, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import polars as pl
import pytest
import redis
from prometheus_client import CollectorRegistry

from streamfti.clock import SystemClock, to_us
from streamfti.compute.point_in_time import point_in_time
from streamfti.compute.stored_state import stored_state
from streamfti.compute.values import Status
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.dev.redis_server import RedisServer
from streamfti.errors import (
    CorruptRecord,
    FingerprintMismatch,
    InvalidRequest,
    ModelNotReady,
    ServingError,
    StreamFTIError,
)
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.request_contract import MAX_ROWS
from streamfti.inference_pipeline.routes import Routes
from streamfti.inference_pipeline.server import InferenceServer
from streamfti.stores.online.keys import record_key
from streamfti.stores.online.meaning import check_stored_meaning
from streamfti.stores.online.redis_store import OnlineReader
from tests.integration.conftest import (  # pytest has loaded it under this name before it loads a test
    DEFINITIONS,
    GOOD,
    NOW,
    PARTITIONS,
    Served,
    payments,
    publish,
    serving,
)

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
        check_stored_meaning([(g, stored_state(g)) for g in load_catalog(changed).groups.values()], online)
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
