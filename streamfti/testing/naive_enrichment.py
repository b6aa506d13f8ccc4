"""The naive enrichment: the row of a table that an event has, by the rule and nothing else. An oracle of tests.

Every event is held against every row. It shares no code with `streamfti.compute` and may not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamfti.clock import to_us
from streamfti.definitions.streams import EnrichedStream
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.naive_expressions import naive_row

__all__ = ["EnrichedEvent", "naive_enriched"]

Taken = tuple[PlacedEvent, int]
"""An event, and when the broker took it, in microseconds."""


@dataclass(frozen=True, slots=True)
class EnrichedEvent:
    """An event with fields of a row."""

    fields: dict[str, Any]
    """Its own, and those of the row under their names in the stream."""
    order: tuple[int, ...]
    """What breaks ties of event time."""

    @property
    def change(self) -> int:
        """No change of a row: an event stays true."""
        return 1


def naive_enriched(stream: EnrichedStream, events: Iterable[Taken], rows: Iterable[Taken]) -> Iterator[EnrichedEvent]:
    """Iterate over the events of an enrichment, in their order.

    Args:
        stream: the enrichment.
        events: all events of the base's source.
        rows: all messages of the table's source, in any order.
    """
    known = [
        ((to_us(row[stream.table.schema.event_time]), placed.partition, placed.offset), taken_us, row)
        for placed, taken_us in rows
        if (row := naive_row(stream.table, placed.fields)) is not None
    ]
    for placed, came_us in events:
        event = naive_row(stream.base, placed.fields)
        if event is None:
            continue
        at_us = to_us(event[stream.base.schema.event_time])
        own = [
            (order, row)
            for order, taken_us, row in known
            if order[0] <= at_us
            and taken_us < came_us
            and all(row[name] == event[name] is not None for name in stream.on)
        ]
        newest: Mapping[str, Any] = max(own, key=lambda found: found[0])[1] if own else {}
        added = {name: newest.get(of) for of, name in stream.names}
        yield EnrichedEvent({**event, **added}, placed.order)
