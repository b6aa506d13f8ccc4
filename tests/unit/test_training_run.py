"""From a log on disk to a registered model, by the function and by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from streamfti.cli import main
from streamfti.clock import to_us
from streamfti.compute.vectorize import InputPlan, ModelInput
from streamfti.definitions.catalog import Catalog, load_catalog
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.models import Model
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ParityError, TrainingError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import frame_schema
from streamfti.stores.registry.filesystem import ModelRegistry
from streamfti.training_pipeline import onnx_export, run
from streamfti.training_pipeline.assembly import build_training_set
from streamfti.training_pipeline.onnx_answers import graph_answers
from streamfti.training_pipeline.run import STAGES, fit_and_evaluate, train_model
from streamfti.training_pipeline.training_set import TrainingSet

DEFINITIONS = '''
import streamfti as fti
from lightgbm import LGBMClassifier, LGBMRegressor


class Schedule(fti.Event):
    flight: str
    carrier: str
    origin: str
    hour: int
    distance: float | None
    at: fti.EventTime


class Departure(fti.Event):
    flight: str
    carrier: str
    delay: float
    at: fti.EventTime


schedules = fti.KafkaSource("schedules", Schedule)
departures = fti.KafkaSource("departures", Departure)


@fti.feature_group(source=departures, entity="carrier")
class Carrier:
    departures = fti.count().over("1h")
    delay = fti.mean(Departure.delay).over("1h", "3h")


service = fti.FeatureService(
    "late", [fti.request("carrier", str), fti.request("hour", int), fti.request("distance", float), Carrier]
)
label = fti.label(Departure.delay >= 15, source=departures, on="flight", within="1d")


@fti.model("late", features=service, spine=schedules, label=label)
def train(data: fti.TrainingSet) -> LGBMClassifier:
    """Whether a flight leaves late."""
    estimator = LGBMClassifier(n_estimators=40, random_state=data.seed, n_jobs=1, verbose=-1)
    return estimator.fit(data.X, data.y, categorical_feature=data.categorical)


minutes = fti.label(Departure.delay, source=departures, on="flight", within="1d")


@fti.model("delay", features=service, spine=schedules, label=minutes, task="regression")
def train_delay(data: fti.TrainingSet) -> LGBMRegressor:
    return LGBMRegressor(n_jobs=1, verbose=-1).fit(data.X, data.y, categorical_feature=data.categorical)
'''

START = datetime(2026, 1, 1, tzinfo=UTC)
FLIGHTS = 1500


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a definition file and ten days of flights, in which carriers have bad days."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "definitions.py").write_text(DEFINITIONS)
    catalog = load_catalog(folder / "definitions.py")
    rng = np.random.default_rng(5)
    minutes = np.sort(rng.integers(0, 10 * 24 * 60, FLIGHTS))
    carriers = rng.integers(0, 6, FLIGHTS)
    bad = rng.random((10 + 1, 6)) < 0.4
    late = bad[minutes // 1440, carriers] ^ (rng.random(FLIGHTS) < 0.15)
    delays = np.where(late, rng.integers(15, 90, FLIGHTS), rng.integers(-5, 15, FLIGHTS))
    spine, outcome = [], []
    for i in range(FLIGHTS):
        departs = START + int(minutes[i]) * timedelta(minutes=1)
        flight, carrier = f"f{i}", f"C{carriers[i]}"
        distance = None if i % 10 == 0 else float(rng.integers(100, 3000))
        own = {"flight": flight, "carrier": carrier, "origin": "JFK", "hour": departs.hour, "distance": distance}
        spine.append({**own, "at": departs - timedelta(hours=1)})
        outcome.append({"flight": flight, "carrier": carrier, "delay": float(delays[i]), "at": departs})
    log = OfflineLog(folder / "log")
    write(log, catalog.source("schedules"), spine)
    write(log, catalog.source("departures"), outcome)
    return folder


def write(log: OfflineLog, source: KafkaSource, events: list[dict[str, Any]]) -> None:
    framework = {"_partition": 0, "_ingest_time_us": 0, "_schema_id": 1, "_too_late": False}
    rows = [{**event, **framework, "_offset": offset} for offset, event in enumerate(events)]
    with log.writer(source) as writer:
        writer.append(pl.DataFrame(rows, schema=frame_schema(source.schema), orient="row"), {0: len(rows)})
        writer.flush()


@pytest.fixture(scope="module")
def catalog(home: Path) -> Catalog:
    return load_catalog(home / "definitions.py")


@pytest.fixture(scope="module")
def late(catalog: Catalog) -> Model:
    return catalog.model("late")


@pytest.fixture
def log(home: Path) -> OfflineLog:
    return OfflineLog(home / "log")


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


def test_a_run_registers_a_model_that_a_server_can_trust(late: Model, log: OfflineLog, registry: ModelRegistry) -> None:
    seen: list[tuple[str, int, int]] = []
    result = train_model(late, log, registry, seed=3, progress=lambda *step: seen.append(step))
    loaded = registry.load("late")
    assert loaded.manifest == result.manifest
    manifest = loaded.manifest
    assert (manifest.version, result.promoted) == (1, "champion")
    assert manifest.service_fingerprint == service_fingerprint(late.features)
    plan = InputPlan.of(late.features)
    assert (tuple(manifest.inputs["numeric"]), tuple(manifest.inputs["categories"])) == (plan.numeric, plan.categories)
    assert manifest.metrics == result.metrics
    assert manifest.metrics["auc"] > 0.7
    assert manifest.parity["flips"] == 0
    assert manifest.parameters["random_state"] == 3
    rows = manifest.training_set
    assert rows["train_rows"] + rows["validation_rows"] + rows["purged_at_the_cut"] == rows["rows"]
    assert rows["rows"] + rows["dropped_immature"] == FLIGHTS
    assert set(rows["snapshots"]) == {"schedules", "departures"}
    golden = loaded.golden
    assert len(golden) >= 64
    replayed = graph_answers(loaded.model_bytes, ModelInput(golden.numeric, golden.categories.astype(np.object_)))
    np.testing.assert_array_equal(replayed, golden.outputs)
    assert list(result.timings) == list(STAGES)
    assert [done for what, done, _ in seen if what == "train"] == list(range(len(STAGES) + 1))


def test_the_same_log_and_seed_give_the_same_graph(late: Model, log: OfflineLog, registry: ModelRegistry) -> None:
    first, second = (train_model(late, log, registry).manifest for _ in range(2))
    assert first.files == second.files
    assert first.metrics == second.metrics


def test_regression_runs_too(catalog: Catalog, log: OfflineLog, registry: ModelRegistry) -> None:
    result = train_model(catalog.model("delay"), log, registry, promote=None)
    assert set(result.metrics) == {"rmse", "mae", "r2"}
    assert registry.load("delay", 1).manifest.task == "regression"
    assert registry.aliases("delay") == {}


def test_the_trainer_sees_neither_the_validation_rows_nor_their_words(
    late: Model, log: OfflineLog, registry: ModelRegistry
) -> None:
    given: list[TrainingSet] = []

    def train(data: TrainingSet) -> object:
        given.append(data)
        return late.train(data)

    result = train_model(replace(late, train=train), log, registry)
    rows = result.manifest.training_set
    cut_us = to_us(datetime.fromisoformat(rows["validation_from"]))
    assert len(given[0]) == rows["train_rows"]
    assert given[0].event_time_us.max() < cut_us
    assert given[0].label_time_us.max() < cut_us
    assert set(given[0].vocabulary.words[0]) == set(given[0].frame["carrier"])


def test_streaming_features_can_be_compared_with_the_same_model_without_them(late: Model, log: OfflineLog) -> None:
    static = replace(late, features=FeatureService("static", late.features.request_features))
    with_stream, without = (fit_and_evaluate(model, build_training_set(model, log)) for model in (late, static))
    assert len(with_stream.split.validation) == len(without.split.validation)
    assert with_stream.metrics["auc"] > without.metrics["auc"] + 0.05


def test_a_graph_that_fails_the_gate_is_not_registered(
    late: Model, log: OfflineLog, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = onnx_export.export_graph

    def with_another_vocabulary(estimator: object, **options: Any) -> bytes:  # noqa: ANN401
        words = tuple(known[::-1] for known in options["vocabulary"].words)
        return export(estimator, **{**options, "vocabulary": type(options["vocabulary"])(words)})

    monkeypatch.setattr(run, "export_graph", with_another_vocabulary)
    with pytest.raises(ParityError, match="nothing was registered"):
        train_model(late, log, registry)
    assert registry.names() == []


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (lambda _: 1 / 0, "the trainer of model 'late' failed: ZeroDivisionError: division by zero"),
        (lambda _: None, r"must return an estimator with predict_proba\(\), got None"),
    ],
    ids=["raises", "returns nothing"],
)
def test_a_trainer_that_fails_gives_one_clear_error(
    late: Model,
    log: OfflineLog,
    registry: ModelRegistry,
    trainer: Callable[[TrainingSet], object],
    message: str,
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_model(replace(late, train=trainer), log, registry)
    assert registry.names() == []


def invoke(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--home", str(home)])


def test_the_commands_train_list_show_promote_and_roll_back(home: Path) -> None:
    definitions = str(home / "definitions.py")
    trained = invoke(home, "train", definitions, "--model", "late", "--json")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.count("\n") == 1
    document = json.loads(trained.stdout)
    assert (document["version"], document["promoted"]) == (1, "champion")
    again = invoke(home, "train", definitions, "--model", "late", "--no-promote", "--end", "2026-01-09")
    assert again.exit_code == 0, again.output
    assert "late version 2" in again.stdout
    assert json.loads(invoke(home, "registry", "list", "--json").stdout) == {
        "late": {"versions": [1, 2], "aliases": {"champion": 1}}
    }
    assert "champion" in invoke(home, "registry", "list").stdout
    assert invoke(home, "registry", "promote", "late", "2").stdout == "champion of late is version 2\n"
    shown = json.loads(invoke(home, "registry", "show", "late", "--json").stdout)
    assert (shown["version"], shown["training_set"]["end"]) == (2, "2026-01-09T00:00:00+00:00")
    assert "late version 1" in invoke(home, "registry", "show", "late", "1").stdout
    assert json.loads(invoke(home, "registry", "rollback", "late", "--json").stdout)["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("registry", "show", "lat"), "error: no model is named 'lat'"),
        (("registry", "promote", "lat", "1"), "error: no model is named 'lat'"),
        (("train", "nowhere.py", "--model", "late"), "error: definition file nowhere.py does not exist"),
    ],
)
def test_a_wrong_name_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(tmp_path, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_wrong_time_is_refused_as_usage(home: Path) -> None:
    result = invoke(home, "train", str(home / "definitions.py"), "--model", "late", "--start", "yesterday")
    assert result.exit_code == 2
    assert "a time must be like 2026-01-31" in result.stderr


def test_an_empty_registry_says_how_to_fill_it(tmp_path: Path) -> None:
    assert invoke(tmp_path, "registry", "list").stdout == "no models yet: `streamfti train` registers one\n"
