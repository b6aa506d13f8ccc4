"""Will a flight leave New York 15 minutes late or more? Asked one hour before its scheduled departure.

Three topics, eight feature groups, one feature service, one model: everything that the pipelines need to know.
"""

from __future__ import annotations

from datetime import datetime

from lightgbm import LGBMClassifier

import streamfti as fti


class Schedule(fti.Event):
    """A flight that is to leave in an hour: the moment to predict at."""

    at: fti.EventTime
    flight_id: str
    flight_number: str
    carrier: str
    origin: str
    dest: str
    tailnum: str | None
    scheduled_departure: datetime
    hour: int
    weekday: int
    distance: float
    scheduled_minutes: int


class Departure(fti.Event):
    """A flight that has left; cancelled ones never do."""

    at: fti.EventTime
    flight_id: str
    flight_number: str
    carrier: str
    origin: str
    dest: str
    tailnum: str | None
    delay_minutes: int


class Arrival(fti.Event):
    """A flight that has landed at its destination."""

    at: fti.EventTime
    flight_id: str
    carrier: str
    origin: str
    dest: str
    tailnum: str | None
    delay_minutes: int


schedules = fti.KafkaSource("schedules", Schedule)
departures = fti.KafkaSource("departures", Departure)
arrivals = fti.KafkaSource("arrivals", Arrival)


@fti.feature_group(source=departures, entity="origin")
class Airport:
    """How departures from an airport have been going."""

    delay = fti.mean(Departure.delay_minutes).over("1h", "3h", "24h")
    departed = fti.count().over("1h", "3h")
    worst = fti.max(Departure.delay_minutes).over("1h")
    best = fti.min(Departure.delay_minutes).over("1h")


@fti.feature_group(source=schedules, entity="origin")
class AirportPlan:
    """How busy an airport is about to be: beside what has left, the backlog."""

    scheduled = fti.count().over("1h", "3h")


@fti.feature_group(source=departures, entity="carrier")
class Carrier:
    """How an airline's departures have been going."""

    delay = fti.mean(Departure.delay_minutes).over("1h", "3h", "24h")


@fti.feature_group(source=departures, entity=("origin", "carrier"))
class CarrierAtAirport:
    """The same for an airline at one airport."""

    delay = fti.mean(Departure.delay_minutes).over("3h")
    last_delay = fti.last(Departure.delay_minutes).over("3h")


@fti.feature_group(source=departures, entity=("origin", "dest"))
class Route:
    """How departures to one destination have been going."""

    delay = fti.mean(Departure.delay_minutes).over("3h", "7d")


@fti.feature_group(source=departures, entity=("flight_number", "origin"))
class FlightNumber:
    """The same flight on the days before."""

    delay = fti.mean(Departure.delay_minutes).over("7d")
    total_delay = fti.sum(Departure.delay_minutes).over("7d", default=0)


@fti.feature_group(source=departures, entity="tailnum")
class Aircraft:
    """How an aircraft's own departures have been going."""

    delay = fti.mean(Departure.delay_minutes).over("3h", "24h")
    last_delay = fti.last(Departure.delay_minutes).over("24h")


@fti.feature_group(source=arrivals, entity="tailnum")
class AircraftArrivals:
    """An aircraft that lands late leaves late."""

    landed = fti.count().over("1h", "3h")
    worst = fti.max(Arrival.delay_minutes).over("3h")
    last_delay = fti.last(Arrival.delay_minutes).over("24h")


known_in_advance = [
    fti.request("carrier", str),
    fti.request("origin", str),
    fti.request("dest", str),
    fti.request("hour", int),
    fti.request("weekday", int),
    fti.request("distance", float),
    fti.request("scheduled_minutes", int),
]
flight_features = fti.FeatureService(
    "flight_features",
    [
        *known_in_advance,
        Airport,
        AirportPlan,
        Carrier,
        CarrierAtAirport,
        Route,
        FlightNumber,
        Aircraft,
        AircraftArrivals,
    ],
)
static_features = fti.FeatureService("static_features", known_in_advance)
late = fti.label(Departure.delay_minutes >= 15, source=departures, on="flight_id", within="2d")


def fit(data: fti.TrainingSet) -> LGBMClassifier:
    """Fit gradient-boosted trees; categories come as codes by frequency."""
    small = len(data.y) < 50_000
    classifier = LGBMClassifier(
        n_estimators=200 if small else 300,
        learning_rate=0.03 if small else 0.05,
        num_leaves=15 if small else 31,
        min_child_samples=100 if small else 200,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.6,
        reg_lambda=5,
        random_state=7,
        n_jobs=2,
        verbose=-1,
    )
    return classifier.fit(data.X, data.y)


@fti.model("late_departure", features=flight_features, spine=schedules, label=late)
def late_departure(data: fti.TrainingSet) -> LGBMClassifier:
    """Live features beside what the timetable says."""
    return fit(data)


@fti.model("late_departure_static", features=static_features, spine=schedules, label=late)
def late_departure_static(data: fti.TrainingSet) -> LGBMClassifier:
    """The same without the live features: what they must beat."""
    return fit(data)
