"""Records in memory: merging tiles into them (the write path), and a look at the windows of one group.

The numpy layout is that of the bytes in the online store. No I/O here; what serves reads is in `window_reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.layout import TILE_END, RecordLayout, Ring
from streamfti.compute.tiles import Tiles
from streamfti.compute.values import FeatureColumn
from streamfti.compute.window_reader import WindowReader, padded_record
from streamfti.definitions.aggregations import Feature

__all__ = ["WrittenTiles", "load_records", "merge_tiles", "read_features"]

AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class WrittenTiles:
    """The slots that a merge changed.

    Attributes:
        rows: int64[n], the record of each slot.
        offsets_bytes: int64[n], where the slot begins in its record.
        slots: structured[n], the new content.
        kept: bool[n_tiles]: false where a tile was too late.
        too_late: events whose tile has been overwritten already; they were not applied.
    """

    rows: NDArray[np.int64]
    offsets_bytes: NDArray[np.int64]
    slots: AnyArray
    kept: NDArray[np.bool_]
    too_late: int


def load_records(layout: RecordLayout, records: Sequence[bytes | None]) -> AnyArray:
    """Return structured[n] from stored records; an entity without one reads as all empty.

    Raises:
        CorruptRecord: if a record is longer than the layout.
    """
    size_bytes = layout.record_bytes
    return np.frombuffer(b"".join(padded_record(record, size_bytes) for record in records), dtype=layout.dtype)


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
    return WrittenTiles(rows, ring.offset_bytes + slot * ring.slot_bytes, merged, keep, too_late)


def read_features(
    layout: RecordLayout,
    features: Sequence[Feature],
    records: AnyArray,
    query_time_us: NDArray[np.int64],
    has_entity: NDArray[np.bool_] | None = None,
    side: Sequence[bytes | None] = (),
) -> dict[str, FeatureColumn]:
    """Return features of one group from n records as of n query times, by qualified name.

    For a single look: who reads more than once keeps a `WindowReader`, which this makes.

    Args:
        layout: the group's layout.
        features: features of the group.
        records: structured[n], from `load_records`.
        query_time_us: int64[n].
        has_entity: bool[n]: false where the request names no entity, which makes all its features missing.
        side: the n side records, needed if one of the features is made of them.
    """
    reader = WindowReader([(layout, features)])
    rows = np.ascontiguousarray(records).view("<i8").reshape(len(records), layout.record_bytes // 8)
    named = None if has_entity is None else has_entity[:, np.newaxis]
    return reader.read(rows, query_time_us, named, side if reader.side_parts else ()).by_name()
