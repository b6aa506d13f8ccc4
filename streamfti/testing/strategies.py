"""hypothesis strategies for event streams, made to hurt: out of order, tied, and at the edges of windows and hops.

Needs the package hypothesis, which StreamFTI does not install; nothing else imports this module.
"""

from __future__ import annotations

import decimal
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial

from hypothesis import strategies as st

from streamfti.clock import from_us
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, Field, event_schema
from streamfti.definitions.windows import Window
from streamfti.testing.naive import PlacedEvent

__all__ = ["batches", "event_streams", "event_times_us", "field_values", "placed_streams"]

_Value = str | int | float | bool | datetime | decimal.Decimal | None

_KEY_POOL = ("a", "b", "", "1:a", "ä")


def event_times_us(origin_us: int, windows: Collection[Window]) -> st.SearchStrategy[int]:
    """Return times from the origin on: on the hops of the windows, a microsecond either side of them, or any.

    Times of one window lie within two of its lengths, so that they meet in it, leave it, and overwrite its tiles.

    Args:
        origin_us: the earliest time, not negative.
        windows: at least one. The fewer, the closer together the times.
    """
    edges = [
        st.builds(
            lambda n, nudge, hop_us: max(origin_us, origin_us + n * hop_us + nudge),
            st.integers(0, 2 * (window.length_us // window.hop_us) + 2),
            st.sampled_from((-1, 0, 0, 1)),
            st.just(window.hop_us),
        )
        for window in sorted(windows, key=lambda window: window.length_us)
    ]
    longest_us = max(window.length_us for window in windows)
    return st.one_of(*edges, st.integers(origin_us, origin_us + 3 * longest_us))


def field_values(field: Field) -> st.SearchStrategy[_Value]:
    """Return values of a field: few different strings, numbers whose sums fit, None where it may be null."""
    largest = min(10**field.type.precision - 1, 2**52)
    unscaled = partial(from_unscaled, scale=field.type.scale)
    of_dtype: dict[DType, st.SearchStrategy[_Value]] = {
        DType.STRING: st.sampled_from(_KEY_POOL),
        DType.INT64: st.integers(-3, 3) | st.integers(-(2**52), 2**52),
        DType.FLOAT64: st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float),
        DType.BOOL: st.booleans(),
        DType.DATETIME: st.integers(0, 2**52).map(from_us),
        DType.DECIMAL: (st.integers(-3, 3) | st.integers(-largest, largest)).map(unscaled),
    }
    values = of_dtype[field.type.dtype]
    return st.none() | values if field.type.nullable else values


def event_streams(
    event: type[Event], times_us: st.SearchStrategy[int], *, max_size: int = 40
) -> st.SearchStrategy[list[Event]]:
    """Return lists of events in the order in which they come, which is any order of event time; ties are common.

    Args:
        event: the event class.
        times_us: event times, such as `event_times_us(...)`.
        max_size: the most events of a stream.
    """
    schema = event_schema(event)

    def of_pool(pool: list[int]) -> st.SearchStrategy[list[Event]]:
        fields = {f.name: field_values(f) for f in schema.fields if f.name != schema.event_time}
        at = st.sampled_from(pool) | times_us
        one = st.fixed_dictionaries({**fields, schema.event_time: at.map(from_us)})
        return st.lists(one.map(lambda values: event(**values)), max_size=max_size)

    return st.lists(times_us, min_size=1, max_size=8).flatmap(of_pool)


def placed_streams(
    event: type[Event], times_us: st.SearchStrategy[int], *, partitions: int = 2, max_size: int = 40
) -> st.SearchStrategy[list[PlacedEvent]]:
    """Return event streams spread over partitions, with the offsets that a topic would give them."""

    def place(events: list[Event], chosen: Iterable[int]) -> list[PlacedEvent]:
        next_offset = dict.fromkeys(range(partitions), 0)
        placed = []
        for one, partition in zip(events, chosen, strict=True):
            placed.append(PlacedEvent(one, partition, next_offset[partition]))
            next_offset[partition] += 1
        return placed

    def spread(events: list[Event]) -> st.SearchStrategy[list[PlacedEvent]]:
        n = len(events)
        chosen = st.lists(st.integers(0, partitions - 1), min_size=n, max_size=n)
        return chosen.map(lambda numbers: place(events, numbers))

    return event_streams(event, times_us, max_size=max_size).flatmap(spread)


def batches(events: list[PlacedEvent]) -> st.SearchStrategy[list[list[PlacedEvent]]]:
    """Return a stream cut into batches, in its order; batches may be empty."""
    cuts = st.lists(st.integers(0, len(events)), max_size=5).map(sorted)
    return cuts.map(lambda at: [events[a:b] for a, b in zip([0, *at], [*at, len(events)], strict=True)])
