"""One feature group on the stream: merges batches of events into records and says which bytes have changed.

Its memory is a cache of records as the online store holds them, never more: what is not in it is read back and
merged, and all of it may be forgotten after any flush.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns
from streamfti.compute.event_columns import aggregated_fields, event_columns, key_expression
from streamfti.compute.layout import NEWEST, RecordLayout
from streamfti.compute.records import load_records, merge_tiles
from streamfti.compute.tiles import build_tiles
from streamfti.definitions.groups import FeatureGroup
from streamfti.stores.online.keys import progress_key, record_prefix
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import SlotWrite

__all__ = ["GroupChange", "GroupState", "progress_after"]

_KEY = "_entity_key"
_CACHE_BYTES = 256 << 20
_REFRESH_SHARE = 8  # an expiry is renewed once an eighth of the retention has gone


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What a batch changes in the online store."""

    slots: Sequence[SlotWrite]
    expiries_ms: Mapping[bytes, int]
    tiles: int
    too_late: int
    newest_event_time_us: Mapping[int, int]
    """By partition: the highest event time of the batch."""
    newest_ingest_time_us: Mapping[int, int]


class GroupState:
    """The cached records of one group, and how far it has applied each partition.

    Args:
        group: the group.
        read: reads records by key from the online store.
        cache_bytes: at most so much of records is kept; at least one batch's.
    """

    def __init__(
        self,
        group: FeatureGroup,
        read: Callable[[Sequence[bytes]], list[bytes | None]],
        *,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.group = group
        self.layout = RecordLayout.of(group)
        self._read = read
        self._limit = max(1, cache_bytes // self.layout.record_bytes)
        self._prefix = record_prefix(group)
        self._fields = tuple(aggregated_fields(group).values())
        self._rows: dict[str, int] = {}
        self._records = np.zeros(0, self.layout.dtype)
        self._keys: list[bytes] = []
        self._renewed_us = np.zeros(0, np.int64)

    def apply(self, frame: pl.DataFrame, now_us: int) -> GroupChange:
        """Merge an event frame into the cached records and return what must be written.

        The cache is ahead of the store until the change has been committed; if that fails, this object must be
        thrown away.
        """
        keyed = frame.with_columns(key_expression(self.group.entity_fields).alias(_KEY)).drop_nulls(_KEY)
        slots: list[SlotWrite] = []
        expiries: dict[bytes, int] = {}
        tiles = too_late = 0
        if keyed.height:
            rows, touched = self._locate(keyed[_KEY])
            events = event_columns(keyed, self.group.source.schema, self._fields, rows)
            for ring in self.layout.rings:
                written = merge_tiles(self._records, ring, build_tiles(events, ring))
                slots += self._slot_writes(written.rows, written.offsets_bytes, written.slots.tobytes())
                tiles += len(written.rows)
                too_late += written.too_late
            slots += self._header_writes(events)
            expiries = self._expiries(touched, now_us)
        newest_event, newest_ingest = _newest(frame, self.group.source.schema.event_time)
        return GroupChange(slots, expiries, tiles, too_late, newest_event, newest_ingest)

    def _locate(self, keys: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row of each event's record, and the rows touched; records not cached are read back."""
        distinct = keys.unique()
        texts: list[str] = distinct.to_list()
        missing = [text for text in texts if text not in self._rows]
        if missing:
            if len(self._rows) + len(missing) > self._limit:
                self._forget()
                missing = texts
            self._load(missing)
        touched = np.fromiter((self._rows[text] for text in texts), np.int64, len(texts))
        numbered = pl.DataFrame({_KEY: distinct, "_row": touched})
        rows = keys.to_frame(_KEY).join(numbered, on=_KEY, how="left", maintain_order="left")["_row"].to_numpy()
        return rows, touched

    def _forget(self) -> None:
        self._rows.clear()
        self._keys.clear()
        self._records = np.zeros(0, self.layout.dtype)
        self._renewed_us = np.zeros(0, np.int64)

    def _load(self, texts: Sequence[str]) -> None:
        first = len(self._keys)
        keys = [self._prefix + text.encode() for text in texts]
        self._grow(first + len(keys))
        self._records[first : first + len(keys)] = load_records(self.layout, self._read(keys))
        self._keys += keys
        self._rows.update(zip(texts, range(first, first + len(texts)), strict=True))

    def _grow(self, n: int) -> None:
        if n > len(self._records):
            more = max(n, 2 * len(self._records)) - len(self._records)
            self._records = np.concatenate([self._records, np.zeros(more, self.layout.dtype)])
            self._renewed_us = np.concatenate([self._renewed_us, np.zeros(more, np.int64)])

    def _slot_writes(self, rows: NDArray[np.int64], offsets: NDArray[np.int64], data: bytes) -> list[SlotWrite]:
        """Cut the bytes of n equal slots and address them."""
        size = len(data) // max(1, len(rows))
        keys = self._keys
        return [
            SlotWrite(keys[row], offset, data[i * size : (i + 1) * size])
            for i, (row, offset) in enumerate(zip(rows.tolist(), offsets.tolist(), strict=True))
        ]

    def _header_writes(self, events: EventColumns) -> list[SlotWrite]:
        """Raise the newest event time of the records that have a newer event; events come sorted by record."""
        ends = np.flatnonzero(np.append(events.entity[1:] != events.entity[:-1], True))  # a value
        rows, newest = events.entity[ends], events.event_time_us[ends]
        newer = newest > self._records[NEWEST][rows]
        rows, newest = rows[newer], newest[newer]
        self._records[NEWEST][rows] = newest
        return self._slot_writes(rows, np.zeros(len(rows), np.int64), newest.astype("<i8").tobytes())

    def _expiries(self, touched: NDArray[np.int64], now_us: int) -> dict[bytes, int]:
        """Return the records whose expiry must be renewed now."""
        retention_us = self.group.retention_us
        due = touched[now_us - self._renewed_us[touched] > retention_us // _REFRESH_SHARE]
        self._renewed_us[due] = now_us
        return {self._keys[row]: retention_us // 1000 for row in due.tolist()}


def _newest(frame: pl.DataFrame, event_time: str) -> tuple[dict[int, int], dict[int, int]]:
    by_partition = frame.group_by("_partition").agg(
        pl.col(event_time).to_physical().max().alias("event"), pl.col("_ingest_time_us").max().alias("ingest")
    )
    newest = by_partition.rows()
    return {p: event for p, event, _ in newest}, {p: ingest for p, _, ingest in newest}


def progress_after(
    group: FeatureGroup,
    before: Mapping[bytes, Progress],
    next_offsets: Mapping[int, int],
    change: GroupChange,
    now_us: int,
) -> dict[bytes, Progress]:
    """Return what must be stored with a change, by key, for the partitions that it moves forward.

    Args:
        group: the group.
        before: what is stored, by key; a partition that is absent has not begun.
        next_offsets: by partition that moves, the offset after the last one considered.
        change: what `GroupState.apply` gave.
        now_us: when it is written.
    """
    progress: dict[bytes, Progress] = {}
    for partition, offset in next_offsets.items():
        key = progress_key(group, partition)
        old = before.get(key, Progress(0, 0, 0, 0))
        progress[key] = Progress(
            next_offset=offset,
            newest_event_time_us=max(old.newest_event_time_us, change.newest_event_time_us.get(partition, 0)),
            newest_ingest_time_us=max(old.newest_ingest_time_us, change.newest_ingest_time_us.get(partition, 0)),
            processed_at_us=now_us,
        )
    return progress
