"""hypothesis strategies for event streams, made to hurt: out of order, tied, at the edges of windows, with odd keys.

    @given(payments=group_streams(CardSpend, now="2026-01-01T12:00Z"))
    def test_no_order_of_payments_makes_skew(payments):
        h = Harness(CardSpend, now="2026-01-01T12:00Z")
        h.push(*payments)
        h.assert_no_skew()

Needs the package hypothesis, which StreamFTI does not install; nothing else imports this module.
"""

from __future__ import annotations

import decimal
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from hypothesis import strategies as st

from streamfti.clock import from_us, to_us
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, Field, event_schema
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.windows import Window
from streamfti.errors import DefinitionError
from streamfti.testing.change_tables import ChangeTable
from streamfti.testing.naive import PlacedEvent

__all__ = [
    "batches",
    "change_streams",
    "entity_keys",
    "event_streams",
    "event_times_us",
    "field_values",
    "group_streams",
    "key_texts",
    "placed_streams",
    "times_before_us",
]

_MOST_KEYS = 4
_DAY_US = 86_400_000_000

_Value = str | int | float | bool | datetime | decimal.Decimal | None

_KEY_POOL = ("a", "b", "", "1:a", "ä")
_ODD_TEXTS = (
    "", " ", "\0", "\n", "0", "-0", "00", "true", "null", "None", "1:a", "1:a1:b", ":", "{x}", "*", "?", "[a]", "\\",
    "fti:", "a:e:b", "'; --", '"', "é", "e\u0301", "ß", "ẞ", "😀", "\u202e", "\uffff", "\U0010ffff", "\r\n$3\r\n",
    "k" * 10_240, "é" * 5_000,
)  # fmt: skip
"""Texts that something between an event and its value may take for another, or for syntax."""


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


def times_before_us(now_us: int, windows: Collection[Window]) -> st.SearchStrategy[int]:
    """Return times before a query time: on the edges that windows and their hops have then, next to them, or any.

    Args:
        now_us: the query time.
        windows: lifetimes have no edge and may be among them.
    """
    bounded = sorted((w for w in windows if not w.is_lifetime), key=lambda window: (window.length_us, window.hop_us))
    longest_us = max((window.length_us for window in bounded), default=_DAY_US)
    edges = [
        st.builds(
            lambda n, nudge, tail_us, hop_us: min(max(0, tail_us + n * hop_us + nudge), now_us - 1),
            st.just(0) | st.integers(-2, window.length_us // window.hop_us + 1),
            st.sampled_from((-1, 0, 0, 1)),
            st.just((now_us - window.length_us) // window.hop_us * window.hop_us),
            st.just(window.hop_us),
        )
        for window in bounded
    ]
    return st.one_of(*edges, st.integers(max(0, now_us - 3 * longest_us), now_us - 1))


def key_texts() -> st.SearchStrategy[str]:
    """Return texts that make odd keys: empty, very long, of any script, with separators or digits in them."""
    return st.sampled_from(_ODD_TEXTS) | st.text("ab1:{}*\0é😀", max_size=4) | st.text(max_size=8)


def entity_keys(group: FeatureGroup) -> st.SearchStrategy[dict[str, _Value]]:
    """Return entity keys of a group, by field: odd texts, whole numbers of 64 bits, truth values."""
    return st.fixed_dictionaries({field.name: _key_values(field) for field in group.entity_fields})


def _key_values(field: Field) -> st.SearchStrategy[_Value]:
    if field.type.dtype is DType.STRING:
        return key_texts()
    whole = st.sampled_from((-(2**63), -1, 0, 1, 2**63 - 1)) | st.integers(-(2**63), 2**63 - 1)
    return (
        whole
        if field.type.dtype is DType.INT64
        else field_values(replace(field, type=replace(field.type, nullable=False)))
    )


def group_streams(
    group: FeatureGroup | type, *, now: datetime | str, max_size: int = 30
) -> st.SearchStrategy[list[Event]]:
    """Return streams of events for a group, all before now: few entities, odd keys, times on the edges of windows.

    For a group over a join they are of both sources, in any order, with keys that meet.

    Args:
        group: the feature group.
        now: the query time: an aware datetime, or one in ISO 8601 with its offset.
        max_size: the most events of a stream.

    Raises:
        DefinitionError: if it is no feature group.
        ValueError: if `now` has no time zone or cannot be read.
    """
    # To a type checker a decorated class stays a class, so `type` stands in the signature; only groups pass.
    if not isinstance(group, FeatureGroup):
        msg = f"group_streams() must be given a feature group, got {group!r}"
        raise DefinitionError(msg, hint="is @fti.feature_group(...) missing?")
    now_us = to_us(datetime.fromisoformat(now) if isinstance(now, str) else now)
    times_us = times_before_us(now_us, {feature.window for feature in group.features})
    if len(group.stream.sources) > 1:  # a join, for whose pairs odd keys would rarely meet
        sides = [event_streams(source.event, times_us, max_size=max_size // 2) for source in group.stream.sources]
        return st.tuples(*sides).map(_chained).flatmap(st.permutations)
    known = {field.name for field in group.source.schema.fields}
    fields = {field.name: _key_values(field) for field in group.entity_fields if field.name in known}
    return event_streams(group.source.event, times_us, fields=fields, max_size=max_size)


def _chained(streams: Iterable[Iterable[Event]]) -> list[Event]:
    return [event for stream in streams for event in stream]


def event_streams(
    event: type[Event],
    times_us: st.SearchStrategy[int],
    *,
    fields: Mapping[str, st.SearchStrategy[Any]] | None = None,
    max_size: int = 40,
) -> st.SearchStrategy[list[Event]]:
    """Return lists of events in the order in which they come, which is any order of event time; ties are common.

    Args:
        event: the event class.
        times_us: event times, such as `event_times_us(...)`.
        fields: what the values of some fields may be; a stream has few of them, so that they come again. By default
            they are those of `field_values`.
        max_size: the most events of a stream.
    """
    schema = event_schema(event)
    given = fields or {}
    own = {f.name: field_values(f) for f in schema.fields if f.name not in {schema.event_time, *given}}
    nullable = {f.name for f in schema.fields if f.type.nullable}

    def of_pools(pools: dict[str, list[Any]]) -> st.SearchStrategy[list[Event]]:
        at = st.sampled_from(pools[schema.event_time]) | times_us
        chosen = {name: st.sampled_from([*pools[name], *[None] * (name in nullable)]) for name in given}
        one = st.fixed_dictionaries({**own, **chosen, schema.event_time: at.map(from_us)})
        return st.lists(one.map(lambda values: event(**values)), max_size=max_size)

    pools = {name: st.lists(values, min_size=1, max_size=_MOST_KEYS) for name, values in given.items()}
    pools[schema.event_time] = st.lists(times_us, min_size=1, max_size=8)
    return st.fixed_dictionaries(pools).flatmap(of_pools)


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


def change_streams(
    source: KafkaSource, times_us: st.SearchStrategy[int], *, partitions: int = 2, max_size: int = 30
) -> st.SearchStrategy[list[PlacedEvent]]:
    """Return the changes of a table's rows, as a topic would give them.

    With before images, the changes of a row come in the order of their times, and each takes back the former one. With
    none, they come in any order.

    Args:
        source: a source of changes.
        times_us: event times, such as `event_times_us(...)`.
        partitions: over how many the rows are spread.
        max_size: the most messages.
    """

    def drawn(rows: list[Event]) -> st.SearchStrategy[list[PlacedEvent]]:
        gone = st.lists(st.integers(0, 2).map(lambda n: n == 0), min_size=len(rows), max_size=len(rows))
        return gone.map(lambda flags: _changes(source, rows, flags, partitions))

    return event_streams(source.event, times_us, max_size=max_size).flatmap(drawn)


def _changes(source: KafkaSource, rows: list[Event], gone: list[bool], partitions: int) -> list[PlacedEvent]:
    schema, table = source.schema, ChangeTable(source)
    pairs = list(zip(rows, gone, strict=True))
    if source.before_images:
        pairs.sort(key=lambda pair: pair[0].values()[schema.event_time])
    next_offset = dict.fromkeys(range(partitions), 0)
    placed: list[PlacedEvent] = []
    for row, is_gone in pairs:
        values = row.values()
        key = {name: values[name] for name in schema.row_key}
        partition = sum(repr(key).encode()) % partitions
        offset = next_offset[partition]
        next_offset[partition] += 1
        if not is_gone:
            placed += table.upsert(row, partition, offset)
        elif not source.before_images or tuple(key.values()) in table:
            placed += table.delete(key, values[schema.event_time], partition, offset)
    return placed


def batches(events: list[PlacedEvent]) -> st.SearchStrategy[list[list[PlacedEvent]]]:
    """Return a stream cut into batches, in its order; batches may be empty."""
    cuts = st.lists(st.integers(0, len(events)), max_size=5).map(sorted)
    return cuts.map(lambda at: [events[a:b] for a, b in zip([0, *at], [*at, len(events)], strict=True)])
