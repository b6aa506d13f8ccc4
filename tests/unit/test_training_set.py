"""Training sets: labels within their bound, features as of the spine's time, splits by time. Real log files."""

from __future__ import annotations

import decimal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import to_us
from streamfti.compute.vectorize import InputPlan, model_input
from streamfti.definitions.events import Event, EventTime
from streamfti.errors import TrainingError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import frame_schema
from streamfti.training_pipeline.assembly import build_training_set
from streamfti.training_pipeline.feature_history import backfill_features
from streamfti.training_pipeline.training_set import TrainingSet, split_by_time
from streamfti.training_pipeline.vocabulary import Vocabulary

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = timedelta(microseconds=1)


class Schedule(Event):
    flight: str | None
    carrier: str | None
    distance: float | None
    weekend: bool
    at: EventTime


class Departure(Event):
    flight: str | None
    carrier: str | None
    delay: int | None
    at: EventTime


SCHEDULES = fti.KafkaSource("schedules", Schedule)
DEPARTURES = fti.KafkaSource("departures", Departure)


@fti.feature_group(source=DEPARTURES, entity="carrier")
class Carrier:
    departures = fti.count().over("1h", "24h")
    delay = fti.mean(Departure.delay).over("1h")


SERVICE = fti.FeatureService(
    "late", [fti.request("carrier", str), fti.request("distance", float), fti.request("weekend", bool), Carrier]
)
LATE = Departure.delay >= 15  # type: ignore[operator]  # to a checker, the value of a nullable field
LABEL = fti.label(LATE, source=DEPARTURES, on="flight", within="2d")


@fti.model("late", features=SERVICE, spine=SCHEDULES, label=LABEL)
def late(data: TrainingSet) -> None:
    """Never called here."""


def write(log: OfflineLog, source: fti.KafkaSource, events: Sequence[dict[str, Any]]) -> None:
    framework = {"_partition": 0, "_ingest_time_us": 0, "_schema_id": 1, "_too_late": False}
    rows = [{**event, **framework, "_offset": offset} for offset, event in enumerate(events)]
    with log.writer(source) as writer:
        writer.append(pl.DataFrame(rows, schema=frame_schema(source.schema), orient="row"), {0: len(rows)})
        writer.flush()


def schedule(flight: str | None, at: datetime, carrier: str | None = "AA", **changes: object) -> dict[str, Any]:
    return {"flight": flight, "carrier": carrier, "distance": 100.0, "weekend": False, "at": at, **changes}


def departure(flight: str | None, at: datetime, delay: int | None, carrier: str | None = "AA") -> dict[str, Any]:
    return {"flight": flight, "carrier": carrier, "delay": delay, "at": at}


def build(
    folder: Path,
    schedules: Sequence[dict[str, Any]],
    departures: Sequence[dict[str, Any]],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> TrainingSet:
    log = OfflineLog(folder)
    write(log, SCHEDULES, schedules)
    write(log, DEPARTURES, departures)
    return build_training_set(late, log, start=start, end=end)


class Fare(Event):
    flight: str | None
    price: Annotated[decimal.Decimal, fti.Decimal(18, 4)]
    at: EventTime


FARES = fti.KafkaSource("fares", Fare)


@fti.model("price", features=fti.FeatureService("price", [fti.request("price", float)]), spine=FARES, label=LABEL)
def price(data: TrainingSet) -> None:
    """Never called here."""


def test_a_decimal_of_the_spine_is_the_float_that_a_request_would_carry(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path)
    prices = [decimal.Decimal("0.1"), decimal.Decimal("99999999999999.9999")]
    write(log, FARES, [{"flight": str(n), "price": p, "at": NOON} for n, p in enumerate(prices)])
    write(log, DEPARTURES, [departure(str(n), NOON, 20 * n) for n in range(2)] + [KNOWN])
    assert build_training_set(price, log).frame["price"].to_list() == [0.1, 99999999999999.9999]


KNOWN = departure("end", NOON + 5 * 24 * HOUR, None)  # knowledge reaches up to here


def test_a_label_counts_within_its_half_open_bound_and_the_earliest_wins(tmp_path: Path) -> None:
    bound = timedelta(days=2)
    data = build(
        tmp_path,
        [schedule(flight, NOON) for flight in ("at once", "last", "too late", "before", "twice", "never", "null")],
        [
            departure("at once", NOON, 20),
            departure("last", NOON + bound - US, 0),
            departure("too late", NOON + bound, 20),
            departure("before", NOON - US, 20),
            departure("twice", NOON + 2 * HOUR, 0),
            departure("twice", NOON + HOUR, 20),
            departure("null", NOON + HOUR, None),
            departure("null", NOON + 2 * HOUR, 20),
            KNOWN,
        ],
    )
    assert dict(zip(data.frame["flight"], data.y.tolist(), strict=True)) == {"at once": 1, "last": 0, "twice": 1}
    assert data.origin["dropped_without_label"] == 4
    assert data.label_time_us.tolist() == [to_us(NOON), to_us(NOON + bound - US), to_us(NOON + HOUR)]


def test_rows_whose_bound_has_not_passed_are_left_out_with_their_early_labels(tmp_path: Path) -> None:
    end = NOON + timedelta(days=3)
    schedules = [schedule("old", NOON), schedule("edge", NOON + 24 * HOUR), schedule("young", NOON + 24 * HOUR + US)]
    departures = [departure(row["flight"], row["at"] + HOUR, 20 * i) for i, row in enumerate(schedules)]
    data = build(tmp_path, schedules, [*departures, KNOWN], end=end)
    assert data.frame["flight"].to_list() == ["old", "edge"]
    assert data.origin["dropped_immature"] == 1


def test_null_keys_match_nothing(tmp_path: Path) -> None:
    data = build(
        tmp_path,
        [schedule(None, NOON), schedule("a", NOON), schedule("b", NOON)],
        [departure(None, NOON, 20), departure("a", NOON, 20), departure("b", NOON, 0), KNOWN],
    )
    assert data.frame["flight"].to_list() == ["a", "b"]


def test_an_event_at_the_query_time_does_not_count_for_its_features(tmp_path: Path) -> None:
    data = build(
        tmp_path,
        [schedule("a", NOON), schedule("b", NOON, carrier="BB"), schedule("c", NOON, carrier=None)],
        [
            departure("a", NOON, 100),
            departure("b", NOON + HOUR, 0, carrier="BB"),
            departure("c", NOON, 0),
            departure("p", NOON - US, 30),
            departure("q", NOON - HOUR, 10),
            departure("r", NOON - 24 * HOUR, 10),
            KNOWN,
        ],
    )
    assert data.frame.select("Carrier.departures_1h", "Carrier.departures_24h", "Carrier.delay_1h").rows() == [
        (2.0, 3.0, 20.0),
        (0.0, 0.0, None),
        (None, None, None),
    ]


def test_columns_are_numbers_then_codes_with_nan_and_0_where_missing(tmp_path: Path) -> None:
    data = build(
        tmp_path,
        [schedule("a", NOON, distance=None), schedule("b", NOON + HOUR, weekend=True), schedule("c", NOON, None)],
        [departure("a", NOON + HOUR, 20), departure("b", NOON + HOUR, 0), departure("c", NOON + HOUR, 0), KNOWN],
    )
    numbers = ["distance", "weekend", "Carrier.departures_1h", "Carrier.departures_24h", "Carrier.delay_1h"]
    assert data.names == [*numbers, "carrier"]
    assert data.categorical == [5]
    assert data.X.dtype == np.float32
    assert data.frame["flight"].to_list() == ["a", "c", "b"]
    np.testing.assert_array_equal(
        data.X,
        np.array(
            [[np.nan, 0, 0, 0, np.nan, 1], [100, 0, np.nan, np.nan, np.nan, 0], [100, 1, 0, 0, np.nan, 1]], np.float32
        ),
    )


def test_every_feature_is_what_a_plain_loop_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    carriers = ["AA", "BB", "CC"]
    departures = [
        departure(f"f{i}", NOON + int(m) * timedelta(minutes=1), int(rng.integers(-5, 60)), carriers[i % 3])
        for i, m in enumerate(rng.integers(0, 3 * 24 * 60, 400))
    ]
    schedules = [schedule(d["flight"], d["at"] - HOUR, d["carrier"]) for d in departures]
    data = build(tmp_path, schedules, [*departures, KNOWN])
    assert len(data) == 400
    for row in data.frame.rows(named=True):
        q = to_us(row["_query_time"])
        own = [(to_us(d["at"]), d["delay"]) for d in departures if d["carrier"] == row["carrier"]]
        for window, length, hop in (("1h", 3600, 300), ("24h", 86_400, 7200)):
            tail = q - length * 1_000_000
            tail -= tail % (hop * 1_000_000)
            inside = [delay for at, delay in own if tail <= at < q]
            assert row[f"Carrier.departures_{window}"] == len(inside)
            if window == "1h":
                assert row["Carrier.delay_1h"] == (pytest.approx(np.mean(inside)) if inside else None)


def test_the_origin_pins_the_log_and_counts(tmp_path: Path) -> None:
    data = build(
        tmp_path,
        [schedule("a", NOON), schedule("b", NOON)],
        [departure("a", NOON, 20), departure("b", NOON, 0), KNOWN],
        start=NOON,
    )
    log = OfflineLog(tmp_path)
    assert data.origin["snapshots"] == {s.name: log.snapshot(s).id for s in (DEPARTURES, SCHEDULES)}
    assert data.origin["rows"] == 2
    assert data.origin["start"] == NOON.isoformat()
    assert data.origin["label"] == "Departure.delay >= 15"


def test_without_label_events_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"'departures' must hold label events.*run the feature pipeline"):
        build_training_set(late, OfflineLog(tmp_path))


def test_without_rows_the_error_counts_what_was_left_out(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"must have rows, got none \(1 immature and 1 without label"):
        build(tmp_path, [schedule("a", NOON), schedule("b", NOON + 4 * 24 * HOUR)], [KNOWN])


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must be of both classes, got only True"):
        build(tmp_path, [schedule("a", NOON)], [departure("a", NOON, 20), KNOWN])


def made(times: Sequence[int], label_delay: int = 1) -> TrainingSet:
    """A set of rows at these hours, whose labels come true so many hours later."""
    service = fti.FeatureService("s", [fti.request("distance", float), fti.request("carrier", str)])
    n = len(times)
    inputs = model_input(InputPlan.of(service), {"distance": np.arange(n), "carrier": np.array(["AA"] * n, np.object_)})
    return TrainingSet(
        plan=InputPlan.of(service),
        inputs=inputs,
        vocabulary=Vocabulary.learn(inputs.categories),
        y=np.arange(n) % 2,
        event_time_us=np.array([to_us(NOON + hour * HOUR) for hour in times], np.int64),
        label_time_us=np.array([to_us(NOON + (hour + label_delay) * HOUR) for hour in times], np.int64),
        frame=pl.DataFrame({"row": np.arange(n)}),
    )


def test_a_split_is_a_moment_and_rows_of_one_moment_stay_together() -> None:
    split = split_by_time(made([0, 1, 2, 3, 4, 4, 4, 4, 4, 9]), 0.5)
    assert split.train.frame["row"].to_list() == [0, 1, 2]
    assert split.validation.frame["row"].to_list() == [4, 5, 6, 7, 8, 9]
    assert split.purged == 1  # the row at 3 h learns its label at the cut
    assert split.cut_us == to_us(NOON + 4 * HOUR)


def test_labels_that_were_not_known_at_the_cut_are_not_trained_on() -> None:
    split = split_by_time(made(range(10), label_delay=3), 0.2)
    assert (split.train.label_time_us < split.cut_us).all()
    assert split.train.frame["row"].to_list() == [0, 1, 2, 3, 4]
    assert split.purged == 3


def test_parts_keep_the_vocabulary_and_align_every_column() -> None:
    data = made(range(10))
    split = split_by_time(data, 0.3)
    assert split.train.vocabulary == data.vocabulary
    for part in (split.train, split.validation):
        np.testing.assert_array_equal(part.X[:, 0], part.frame["row"].to_numpy())
        np.testing.assert_array_equal(part.y, part.frame["row"].to_numpy() % 2)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_outside_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(TrainingError, match="must be between 0 and 1"):
        split_by_time(made(range(4)), share)


@pytest.mark.parametrize("times", [[], [1], [2, 2, 2]])
def test_a_part_without_rows_is_refused(times: list[int]) -> None:
    with pytest.raises(TrainingError, match="must have rows"):
        split_by_time(made(times), 0.5)


def test_naming_the_training_set_in_a_definition_file_loads_no_training_library_and_no_arrow() -> None:
    code = (
        "import sys, streamfti\n"
        "assert 'polars' not in sys.modules\n"
        "streamfti.TrainingSet\n"
        "assert not {'pyarrow', 'onnx', 'onnxruntime', 'sklearn', 'lightgbm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def model_of(function: Callable[[fti.Column], fti.Column]) -> fti.Model:
    """The model with one on-demand feature more, of the distance and the hour's departures."""

    def centred(distance: fti.Column, n: fti.Column) -> fti.Column:
        return function(distance) + n

    inputs: dict[str, Any] = {"distance": fti.request("distance", float), "n": Carrier.departures["1h"]}
    feature = fti.on_demand(**inputs, dtype=float, version=1)(centred)
    return replace(late, features=fti.FeatureService("late", [Carrier, feature]))


def log_of(folder: Path) -> OfflineLog:
    log = OfflineLog(folder)
    flights = [schedule(str(i), NOON + i * HOUR, distance=100.0 * i if i % 5 else None) for i in range(20)]
    write(log, SCHEDULES, flights)
    delays = [departure(str(i), NOON + i * HOUR + timedelta(minutes=30), i) for i in range(20)]
    write(log, DEPARTURES, [*delays, KNOWN])
    return log


def test_on_demand_features_are_inputs_and_what_they_need_is_not(tmp_path: Path) -> None:
    data = build_training_set(model_of(lambda distance: distance / 100), log_of(tmp_path))
    assert data.names == ["Carrier.departures_1h", "Carrier.departures_24h", "Carrier.delay_1h", "centred"]
    assert data.frame["centred"].to_list() == [i + min(i, 1) if i % 5 else None for i in range(20)]
    assert "distance" not in data.frame.columns


def test_a_function_that_mixes_rows_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="on-demand feature 'centred' must give a row its value by that row alone"):
        build_training_set(model_of(lambda distance: distance - np.nansum(distance)), log_of(tmp_path))


def test_a_function_that_fails_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="on-demand feature 'centred' must not fail, got ValueError: operands"):
        build_training_set(model_of(lambda distance: distance + np.zeros(7)), log_of(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.clear(), "the moments of a backfill of feature service 'late' must have rows, got none"),
        (lambda m: m.drop("carrier"), "must have the column 'carrier'"),
        (lambda m: m.drop("at"), "must have the column 'at'"),
        (lambda m: m.with_columns(at=pl.col("at").dt.replace_time_zone(None)), "'at' of the moments must be of aware"),
        (lambda m: m.with_columns(at=None), "'at' of the moments must be of aware datetimes without nulls, got Null"),
        (lambda m: m.with_columns(distance=pl.lit("far")), "'distance' of the moments must be Float64, got String"),
        (lambda m: m.with_columns(weekend=1), "'weekend' of the moments must be Boolean, got Int32"),
    ],
)
def test_a_backfill_of_other_columns_is_refused(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    log = log_of(tmp_path)
    with pytest.raises(TrainingError, match=message):
        backfill_features(SERVICE, log, change(log.read(SCHEDULES)), at="at")


def test_a_backfill_is_what_a_training_set_holds_in_any_order(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    data = build_training_set(late, log)
    moments = log.read(SCHEDULES).reverse().with_columns(distance=pl.col("distance").cast(pl.Int64))
    found = backfill_features(SERVICE, log, moments, at="at").reverse()
    assert found.select(data.names).equals(data.frame.select(data.names))
    assert found["_query_time"].equals(data.frame["_query_time"])


@fti.feature_group(source=DEPARTURES, entity="carrier")
class CarrierFlights:
    last_flight = fti.last(Departure.flight).over("1h", default="none")
    flights = fti.approx_distinct(Departure.flight).over("24h")
    often = fti.top_k(Departure.flight, 1).lifetime()


@fti.model("flown", features=fti.FeatureService("flown", [CarrierFlights]), spine=SCHEDULES, label=LABEL)
def flown(data: TrainingSet) -> None:
    """Never called here."""


def test_features_of_strings_are_categories_beside_those_of_numbers(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path)
    write(log, SCHEDULES, [schedule("f1", NOON), schedule("f2", NOON + 2 * HOUR), schedule("f1", NOON, carrier="ZZ")])
    seen = [departure("old", NOON - HOUR / 2, 0), departure("f1", NOON + US, 20), departure("f2", NOON + 2 * HOUR, 0)]
    write(log, DEPARTURES, [*seen, KNOWN])
    data = build_training_set(flown, log)
    found = data.frame.select(pl.col("^CarrierFlights.*$")).sort("CarrierFlights.flights_24h").to_dict(as_series=False)
    assert found == {
        "CarrierFlights.last_flight_1h": ["none", "old", "none"],
        "CarrierFlights.flights_24h": [0.0, 1.0, 2.0],
        "CarrierFlights.often_1": [None, "old", "f1"],
    }
    assert set(data.vocabulary.words[0]) == {"none", "old"}
    assert data.X.shape == (3, 3)
