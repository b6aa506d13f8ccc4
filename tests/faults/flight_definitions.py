"""The groups of the flights example that read departures, and one more, whose state is of any length."""

from __future__ import annotations

from typing import Any

import streamfti as fti
from examples.flights.definitions import (
    Aircraft,
    Airport,
    AirportPlan,
    Carrier,
    Departure,
    FlightNumber,
    Route,
    arrivals,
    departures,
    schedules,
)

__all__ = [
    "Aircraft",
    "Airport",
    "AirportPlan",
    "Carrier",
    "FlightNumber",
    "Route",
    "arrivals",
    "departures",
    "schedules",
]

tailnum: Any = Departure.tailnum


@fti.feature_group(source=departures, entity="origin")
class Gate:
    """What leaves an airport."""

    last_dest = fti.last(Departure.dest).over("3h")
    first_tail = fti.first(tailnum).over("24h")
    carriers = fti.last_n(Departure.carrier, 5).lifetime()
    dests = fti.approx_distinct(Departure.dest).over("3h")
    tails = fti.approx_distinct(tailnum).lifetime()
    top_carriers = fti.top_k(Departure.carrier, 3).over("24h")
