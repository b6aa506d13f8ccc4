"""Event frames from event instances: what decoding a topic would give for the same events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from streamfti.definitions.events import EventSchema
from streamfti.stores.offline.schema import polars_type
from streamfti.testing.naive import PlacedEvent

__all__ = ["event_frame", "frame_schema"]

_LOG_COLUMNS: Mapping[str, pl.DataType] = {
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_ingest_time_us": pl.Int64(),
    "_schema_id": pl.Int32(),
}


def frame_schema(schema: EventSchema) -> pl.Schema:
    """Return the columns of an event frame: the event's fields in order, then those of the log."""
    changes = {"_change": pl.Int8()} if schema.is_of_changes else {}
    return pl.Schema({**{f.name: polars_type(f.type) for f in schema.fields}, **_LOG_COLUMNS, **changes})


def event_frame(schema: EventSchema, events: Sequence[PlacedEvent], *, ingest_time_us: int = 0) -> pl.DataFrame:
    """Return the event frame of n events, in their order; also of none.

    Args:
        schema: the schema of all of them.
        events: the events and their places.
        ingest_time_us: when the broker took them.
    """
    rows = [
        {
            **placed.event.values(),
            "_partition": placed.partition,
            "_offset": placed.offset,
            "_ingest_time_us": ingest_time_us,
            "_schema_id": 0,
            **({"_change": placed.change} if schema.is_of_changes else {}),
        }
        for placed in events
    ]
    return pl.DataFrame(rows, schema=frame_schema(schema))
