"""An online store in memory: the same bytes as the real one, written slot by slot as the stream writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns
from streamfti.compute.event_columns import event_columns, key_expression, operands_of
from streamfti.compute.layout import HEADER_BYTES, NEWEST_END, RecordLayout
from streamfti.compute.records import load_records, merge_tiles, read_features
from streamfti.compute.side_records import RingTiles, merge_side_records
from streamfti.compute.tiles import build_tiles
from streamfti.compute.transformations import transformed
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup

__all__ = ["OnlineTable"]

_KEY = "_key"


class OnlineTable:
    """The records of one feature group, by entity key.

    Nothing is shared between two calls but bytes, and the offsets applied: each batch loads the records that it
    touches, merges its tiles, and writes the changed slots back at their offsets, past which a record is not padded.

    Attributes:
        too_late: events that found their tile overwritten by a newer one.
    """

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        self.layout = RecordLayout.of(group)
        self.too_late = 0
        self._records: dict[str, bytearray] = {}
        self._side: dict[str, bytes] = {}
        self._next_offsets: dict[int, int] = {}

    def restarted(self) -> OnlineTable:
        """Return another table that has what this one has stored, and nothing else of it."""
        other = OnlineTable(self.group)
        other.too_late = self.too_late
        other._records = {key: bytearray(record) for key, record in self._records.items()}
        other._side = dict(self._side)
        other._next_offsets = dict(self._next_offsets)
        return other

    def apply_new(self, frame: pl.DataFrame) -> None:
        """Apply one batch, but for the events that have been applied: those below the next offset of their partition.

        The events of a partition come in the order of their offsets, as from a topic.
        """
        places = list(frame.select("_partition", "_offset").iter_rows())
        is_new = [offset >= self._next_offsets.get(partition, 0) for partition, offset in places]
        self.apply(frame.filter(pl.Series(is_new, dtype=pl.Boolean)))
        for partition, offset in places:
            self.advance(partition, offset + 1)

    def advance(self, lane: int, next_offset: int) -> bool:
        """Note how far a partition (of several sources, a lane) has been applied; return whether that is further."""
        before = self._next_offsets.get(lane, 0)
        self._next_offsets[lane] = max(before, next_offset)
        return next_offset > before

    def apply(self, frame: pl.DataFrame) -> None:
        """Apply one batch, whatever their offsets: an event frame of the origin of the group's stream, in any order.

        Those that its stream leaves out, and those in which a field of the entity key is null, are passed over.

        Args:
            frame: events of its source; of a joined stream, pairs.
        """
        events = transformed(self.group.stream, frame)
        keyed = events.with_columns(key_expression(self.group.entity_fields).alias(_KEY)).drop_nulls(_KEY)
        if keyed.is_empty():
            return
        numbered = keyed.select(_KEY).unique(maintain_order=True).with_row_index("_row")
        entity = keyed.join(numbered, on=_KEY, how="left", maintain_order="left")["_row"].to_numpy().astype(np.int64)
        operands = operands_of(self.group.features).values()
        self._merge(numbered[_KEY].to_list(), event_columns(keyed, self.group.stream.schema, operands, entity))

    def _merge(self, keys: Sequence[str], events: EventColumns) -> None:
        records = load_records(self.layout, self.records(keys)).copy()
        np.maximum.at(records[NEWEST_END], events.entity, events.event_time_us + 1)
        for row, key in enumerate(keys):
            self._write(key, 0, records[NEWEST_END][row].tobytes())
        batch: list[RingTiles] = []
        for number, ring in enumerate(self.layout.rings):
            tiles = build_tiles(events, ring)
            written = merge_tiles(records, ring, tiles)
            batch.append(RingTiles(number, tiles, written.kept))
            self.too_late += written.too_late
            for row, offset, slot in zip(written.rows, written.offsets_bytes, written.slots, strict=True):
                self._write(keys[row], int(offset), slot.tobytes())
        stored = self.side_records(keys)
        changed = merge_side_records(self.layout, stored.__getitem__, batch)
        self._side |= {keys[row]: record for row, record in changed.items()}

    def _write(self, key: str, offset_bytes: int, part: bytes) -> None:
        """Overwrite a part of a record; a gap before it reads as zeros."""
        record = self._records.setdefault(key, bytearray(HEADER_BYTES))
        record.extend(bytes(max(0, offset_bytes - len(record))))
        record[offset_bytes : offset_bytes + len(part)] = part

    def records(self, keys: Sequence[str | None]) -> list[bytes | None]:
        """Return the stored bytes of each key, None where there are none, in the order of the keys."""
        found = [None if key is None else self._records.get(key) for key in keys]
        return [None if record is None else bytes(record) for record in found]

    def side_records(self, keys: Sequence[str | None]) -> list[bytes | None]:
        """Return the stored side record of each key, None where there is none, in the order of the keys."""
        return [None if key is None else self._side.get(key) for key in keys]

    def read(
        self, features: Sequence[Feature], keys: Sequence[str | None], query_time_us: NDArray[np.int64]
    ) -> dict[str, FeatureColumn]:
        """Return features by qualified name, as of n query times, in the order of the keys; None names no entity."""
        has_entity = np.array([key is not None for key in keys], np.bool_)
        records = load_records(self.layout, self.records(keys))
        return read_features(self.layout, features, records, query_time_us, has_entity, self.side_records(keys))
