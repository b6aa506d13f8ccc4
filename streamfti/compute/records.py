"""Records in memory: merging tiles into them (the write path) and reading windows from them (the read path).

Both sides see the same numpy layout that the online store holds as bytes. No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.accumulators import State
from streamfti.compute.aggregators import aggregator
from streamfti.compute.layout import NEWEST, TILE_END, RecordLayout, Ring
from streamfti.compute.tiles import Tiles
from streamfti.compute.values import FeatureColumn, feature_column
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.windows import Window
from streamfti.errors import CorruptRecord

__all__ = ["WrittenTiles", "load_records", "merge_tiles", "newest_event_time_us", "read_features"]

AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class WrittenTiles:
    """The slots that a merge changed.

    Attributes:
        rows: int64[n], the record of each slot.
        offsets_bytes: int64[n], where the slot begins in its record.
        slots: structured[n], the new content.
        too_late: events whose tile has been overwritten already; they were not applied.
    """

    rows: NDArray[np.int64]
    offsets_bytes: NDArray[np.int64]
    slots: AnyArray
    too_late: int


def load_records(layout: RecordLayout, records: Sequence[bytes | None]) -> AnyArray:
    """Return structured[n] from stored records; an entity without one reads as all empty.

    Raises:
        CorruptRecord: if a record is longer than the layout.
    """
    size = layout.record_bytes
    parts = []
    for record in records:
        stored = record or b""
        if len(stored) > size:
            msg = f"a stored record must be at most {size} bytes by its definition, got {len(stored)}"
            raise CorruptRecord(msg, hint="was the definition changed without a new version?")
        parts.append(stored if len(stored) == size else stored.ljust(size, b"\0"))
    return np.frombuffer(b"".join(parts), dtype=layout.dtype)


def merge_tiles(records: AnyArray, ring: Ring, tiles: Tiles) -> WrittenTiles:
    """Merge tiles into records, in place, and return the slots that changed.

    A tile whose slot holds a newer one has left every window that a query from now on can ask for: it is not
    applied, and its events are counted as too late.

    Args:
        records: structured[n_records], writable.
        ring: the ring of the tiles' hop.
        tiles: at most one tile a (row, slot).
    """
    view = records[ring.name]
    slot = (tiles.ends_us // ring.hop_us - 1) % ring.n_slots
    stored = view[tiles.rows, slot]
    keep = tiles.ends_us >= stored[TILE_END]
    too_late = int(tiles.n_events[~keep].sum())
    rows, slot, ends, stored = tiles.rows[keep], slot[keep], tiles.ends_us[keep], stored[keep]
    merged = np.empty(len(rows), ring.slot_dtype)
    merged[TILE_END] = ends
    same = stored[TILE_END] == ends
    for accumulator in ring.accumulators.values():
        new = {name: tiles.state[name][keep] for name in accumulator.columns}
        both = accumulator.merge({name: stored[name] for name in accumulator.columns}, new)
        for name, column in new.items():
            merged[name] = np.where(same, both[name], column)
    view[rows, slot] = merged
    return WrittenTiles(rows, ring.offset_bytes + slot * ring.slot_bytes, merged, too_late)


def newest_event_time_us(records: AnyArray) -> NDArray[np.int64]:
    """Return int64[n]: the newest event time applied to each record, 0 where there is none."""
    return np.asarray(records[NEWEST])


def read_features(
    layout: RecordLayout,
    features: Sequence[Feature],
    records: AnyArray,
    query_time_us: NDArray[np.int64],
    has_entity: NDArray[np.bool_] | None = None,
) -> dict[str, FeatureColumn]:
    """Return the features of n records as of n query times, by qualified name.

    A window's tail is `floor(q - W, h)`; its head is what has been applied. Tiles of one window are reduced once,
    however many features stand on them.

    Args:
        layout: the group's layout.
        features: features of the group.
        records: structured[n], from `load_records`.
        query_time_us: int64[n].
        has_entity: bool[n]: false where the request names no entity, which makes all its features missing.
    """
    masks: dict[Window, NDArray[np.bool_]] = {}
    reduced: dict[tuple[Window, str], State] = {}
    columns: dict[str, FeatureColumn] = {}
    for feature in features:
        window, kind = feature.window, aggregator(feature.aggregation)
        slots = records[layout.ring_of(feature).name]
        if window not in masks:
            masks[window] = _inside(slots, window, query_time_us)
        state: dict[str, AnyArray] = {}
        for accumulator in kind.accumulators:
            key = (window, accumulator.name)
            if key not in reduced:
                stored = {name: slots[name] for name in accumulator.columns}
                reduced[key] = accumulator.reduce(stored, masks[window])
            state |= reduced[key]
        values, present = kind.result(state)
        columns[feature.qualified_name] = feature_column(feature, values, present, has_entity)
    return columns


def _inside(slots: AnyArray, window: Window, query_time_us: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool[n, n_slots]: which tiles start at or after the window's tail; empty slots never do."""
    tail = query_time_us - window.length_us
    tail -= tail % window.hop_us
    tail = np.maximum(tail, 0)  # an empty slot ends at 0, which a tail before the epoch would let in
    return np.asarray(slots[TILE_END] > tail[:, np.newaxis])
