"""Enrichment: the newest row of a table that was known when an event came. Pure, vectorised.

Which row that is follows from the times that stand in the two logs: neither a late row nor a late event changes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.joins import key_numbers, lane_expression
from streamfti.definitions.streams import EnrichedStream

__all__ = ["enriched", "enriched_fields"]


def enriched(stream: EnrichedStream, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return events with fields of the rows of a table.

    Args:
        stream: the enrichment.
        events: events of its base: with the columns of the key, the event time, `_partition`, `_offset`,
            `_ingest_time_us`; any others are kept.
        rows: rows of its table, all that may have been known to one of the events, with the same columns.

    Returns:
        The events in their order, `_partition` being the lane. A field of the table that is no column of the rows is
        left out.
    """
    known = rows.sort(stream.table.schema.event_time, "_partition", "_offset")
    row = _newest_known(stream, events, known)
    place = pl.Series(np.where(row < 0, 0, row)).set(pl.Series(row < 0), None)
    columns = [known[of].gather(place).alias(name) for of, name in stream.names if of in known.columns]
    return events.with_columns(lane_expression(stream, stream.base.source).alias("_partition"), *columns)


def enriched_fields(stream: EnrichedStream, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return which fields of the base and of the table are needed to have some fields of the enriched events."""
    wanted, key = set(names), set(stream.on)
    base = {field.name for field in stream.base.schema.fields if field.name in wanted}
    table = {of for of, name in stream.names if name in wanted}
    return base | key | {stream.base.schema.event_time}, table | key | {stream.table.schema.event_time}


def _newest_known(stream: EnrichedStream, events: pl.DataFrame, rows: pl.DataFrame) -> NDArray[np.int64]:
    """Return int64[n]: the row of each event, -1 where there is none. The rows are sorted by time and position.

    From the newest that had happened it goes back, for all events at once, past those that were not known yet.
    """
    event_key, row_key = key_numbers([events.select(stream.on), rows.select(stream.on)])
    event_us = events[stream.base.schema.event_time].to_physical().to_numpy()
    row_us = rows[stream.table.schema.event_time].to_physical().to_numpy()
    times_us = np.unique(row_us)
    slots = len(times_us) + 1
    order = np.argsort(row_key, kind="stable")
    in_order = row_key[order] * slots + np.searchsorted(times_us, row_us[order])
    at = np.searchsorted(in_order, event_key * slots + np.searchsorted(times_us, event_us, "right")) - 1
    came_us, taken_us = events["_ingest_time_us"].to_numpy(), rows["_ingest_time_us"].to_numpy()[order]
    keys = row_key[order]
    at[event_key < 0] = -1
    open_ = np.flatnonzero(at >= 0)
    while len(open_):
        place = at[open_]
        is_own = keys[place] == event_key[open_]
        at[open_[~is_own]] = -1
        open_ = open_[is_own & (taken_us[place] >= came_us[open_])]
        at[open_] -= 1
        open_ = open_[at[open_] >= 0]
    return np.where(at < 0, -1, order[at] if len(order) else at)
