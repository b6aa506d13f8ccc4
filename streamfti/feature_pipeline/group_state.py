"""One feature group on the stream: merges batches of events into records and says which bytes have changed.

Its memory is a cache of records as the online store holds them, never more: what is not in it is read back and
merged, and all of it may be forgotten after any flush. That the store expires records is no exception: what has not
been renewed for the retention is read back too, while the store keeps it for longer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns
from streamfti.compute.layout import NEWEST_END, RecordLayout
from streamfti.compute.records import load_records, merge_tiles
from streamfti.compute.side_records import RingTiles, merge_side_records
from streamfti.compute.tiles import build_tiles
from streamfti.definitions.groups import FeatureGroup
from streamfti.feature_pipeline.batch_columns import BatchColumns
from streamfti.stores.online.keys import progress_key, record_prefix, side_prefix
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.slot_writes import SideWrite, SlotWrites

__all__ = ["GroupChange", "GroupId", "GroupState", "group_id", "progress_after"]

_CACHE_BYTES = 256 << 20
_ENTRY_BYTES = 400  # about what the key of a cached record takes beside it
_REFRESH_SHARE = 8  # an expiry is renewed once an eighth of the retention has gone


GroupId = tuple[str, int]


def group_id(group: FeatureGroup) -> GroupId:
    """Return its name and version: two versions may be kept up to date side by side."""
    return group.name, group.version


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What a batch changes in the online store."""

    slots: SlotWrites
    expiries_ms: Mapping[bytes, int]
    tiles: int
    too_late: int
    newest_event_time_us: Mapping[int, int]
    """By partition (of several sources, by lane): the highest event time of the batch."""
    newest_ingest_time_us: Mapping[int, int]
    side: Sequence[SideWrite] = ()


class GroupState:
    """The cached records of one group, and how far it has applied each partition.

    Args:
        group: the group.
        read: reads records by key from the online store.
        cache_bytes: about so much memory is used for records and their keys at most, and as much for side records; at
            least one batch's.
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
        self._limit = max(1, cache_bytes // (self.layout.record_bytes + _ENTRY_BYTES))
        self._expiry_ms = None if group.retention_us is None else _expiry_us(group, group.retention_us) // 1000
        self._prefix, self._side_prefix = record_prefix(group), side_prefix(group)
        self._side = _SideCache(cache_bytes) if self.layout.has_side_record else None
        self._rows: dict[str, int] = {}
        self._records = np.zeros(0, self.layout.dtype)
        self._keys: list[bytes] = []
        self._renewed_us = np.zeros(0, np.int64)

    def apply(self, frame: pl.DataFrame, now_us: int) -> GroupChange:
        """Merge an event frame of the group's source into the cached records and return what must be written.

        The cache is ahead of the store until the change has been committed; if that fails, this object must be
        thrown away.
        """
        return self.merge(BatchColumns.by_group(frame, [self.group])[self.group.name], {}, now_us)

    def merge(self, batch: BatchColumns, applied: Mapping[int, int], now_us: int) -> GroupChange:
        """Do the same with the columns of a frame, for the events that the group has not applied yet.

        Args:
            batch: taken apart for this group, among others.
            applied: by partition, the offset after the last event applied.
            now_us: when it is written.
        """
        places = batch.not_applied(self.group, applied)
        slots = SlotWrites()
        expiries: dict[bytes, int] = {}
        side: list[SideWrite] = []
        tiles = too_late = 0
        if len(places):
            keys = batch.keys[self.group.name]
            rows, touched = self._locate([str(keys[place]) for place in places.tolist()], now_us)
            events = batch.sorted_by(rows, places, self.group)
            batch_tiles: list[RingTiles] = []
            for number, ring in enumerate(self.layout.rings):
                of_ring = build_tiles(events, ring)
                written = merge_tiles(self._records, ring, of_ring)
                batch_tiles.append(RingTiles(number, of_ring, written.kept))
                self._add_writes(slots, written.rows, written.offsets_bytes, written.slots)
                tiles += len(written.rows)
                too_late += written.too_late
            side = self._merge_side(batch_tiles)
            due = self._due(touched, now_us)
            self._add_header_writes(slots, events, due)
            if self._expiry_ms is not None:
                expiries = self._expiries(due.tolist(), self._expiry_ms)
        return GroupChange(
            slots, expiries, tiles, too_late, batch.newest_event_time_us, batch.newest_ingest_time_us, side
        )

    def _merge_side(self, batch: Sequence[RingTiles]) -> list[SideWrite]:
        """Merge tiles into the cached side records, and return those that changed."""
        if self._side is None:
            return []
        changed = merge_side_records(self.layout, self._side.get, batch)
        for row, data in changed.items():
            self._side.put(row, data)
        return [SideWrite(self._side_key(row), data, self._expiry_ms) for row, data in changed.items()]

    def _side_key(self, row: int) -> bytes:
        return self._side_prefix + self._keys[row].removeprefix(self._prefix)

    def _expiries(self, due: Sequence[int], expiry_ms: int) -> dict[bytes, int]:
        """Return when the records that are due expire, and their side records with them."""
        keys = [self._keys[row] for row in due]
        if self._side is not None:
            keys += [self._side_key(row) for row in due if self._side.get(row)]
        return dict.fromkeys(keys, expiry_ms)

    def _locate(self, keys: Sequence[str], now_us: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row of each event's record, and the rows touched; records not cached are read back."""
        texts = list(dict.fromkeys(keys))
        missing = [text for text in texts if text not in self._rows]
        full = len(self._rows) + len(missing) > self._limit
        if (full and missing) or (self._side is not None and self._side.is_full):
            self._forget()
            missing = texts
        if missing:
            self._load(missing)
        touched = np.fromiter((self._rows[text] for text in texts), np.int64, len(texts))
        self._read_back_idle(touched, now_us)
        return np.fromiter(map(self._rows.__getitem__, keys), np.int64, len(keys)), touched

    def _read_back_idle(self, touched: NDArray[np.int64], now_us: int) -> None:
        """Read again what has not been renewed for so long that the store may soon, or does, no longer have it."""
        if self.group.retention_us is None:
            return
        renewed_us = self._renewed_us[touched]
        idle = touched[(renewed_us > 0) & (now_us - renewed_us >= self.group.retention_us)]
        if len(idle):
            self._records[idle] = np.zeros((), self.layout.dtype)
            self._read_rows(idle.tolist())

    def _read_rows(self, rows: Sequence[int]) -> None:
        """Read what the store holds of some rows, which are empty, in one read."""
        keys = [self._keys[row] for row in rows]
        if self._side is not None:
            keys += [self._side_key(row) for row in rows]
        found = self._read(keys)
        there = [(row, record) for row, record in zip(rows, found, strict=False) if record is not None]
        if there:  # memory of zeros that nothing is written to costs nothing
            places, records = zip(*there, strict=True)
            self._records[list(places)] = load_records(self.layout, records)
        if self._side is not None:
            for row, data in zip(rows, found[len(rows) :], strict=True):
                self._side.put(row, data or b"")

    def _forget(self) -> None:
        self._rows.clear()
        self._keys.clear()
        self._records = np.zeros(0, self.layout.dtype)
        self._renewed_us = np.zeros(0, np.int64)
        if self._side is not None:
            self._side.clear()

    def _load(self, texts: Sequence[str]) -> None:
        first = len(self._keys)
        self._keys += [self._prefix + text.encode() for text in texts]
        self._grow(len(self._keys))
        self._read_rows(range(first, len(self._keys)))
        self._rows.update(zip(texts, range(first, first + len(texts)), strict=True))

    def _grow(self, n: int) -> None:
        """Make room for n records; all there is at once, as memory of zeros costs nothing before it is used."""
        if n > len(self._records):
            records, renewed_us = self._records, self._renewed_us
            self._records = np.zeros(max(n, self._limit), self.layout.dtype)
            self._renewed_us = np.zeros(len(self._records), np.int64)
            self._records[: len(records)], self._renewed_us[: len(records)] = records, renewed_us

    def _add_writes(
        self, writes: SlotWrites, rows: NDArray[np.int64], offsets_bytes: NDArray[np.int64], slots: NDArray[Any]
    ) -> None:
        """Add the bytes of n slots of one size, at their addresses."""
        data: list[bytes] = slots.view(f"V{slots.itemsize}").tolist()
        writes.add(list(map(self._keys.__getitem__, rows.tolist())), offsets_bytes.tolist(), data)

    def _add_header_writes(self, writes: SlotWrites, events: EventColumns, due: NDArray[np.int64]) -> None:
        """Raise the newest event time of the records that have a newer event, and repeat that of those due.

        A record that expires between being read and being written is thus made anew with its header. Events come
        sorted by record.
        """
        ends = np.flatnonzero(np.append(events.entity[1:] != events.entity[:-1], True))  # a value
        rows, newest = events.entity[ends], events.event_time_us[ends] + 1
        header = self._records[NEWEST_END]
        newer = newest > header[rows]
        header[rows[newer]] = newest[newer]
        rows = np.union1d(rows[newer], due)
        self._add_writes(writes, rows, np.zeros(len(rows), np.int64), header[rows].astype("<i8"))

    def _due(self, touched: NDArray[np.int64], now_us: int) -> NDArray[np.int64]:
        """Return the records whose expiry must be renewed now; also after a step of the clock, back or forth."""
        if self.group.retention_us is None:
            return touched[:0]
        age_us = np.abs(now_us - self._renewed_us[touched])
        due = touched[age_us > self.group.retention_us // _REFRESH_SHARE]
        self._renewed_us[due] = now_us
        return due


class _SideCache:
    """The side records of cached rows, by row; one that is empty stands for none."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._records: dict[int, bytes] = {}

    @property
    def is_full(self) -> bool:
        """Whether they take more than they may."""
        return self._bytes > self._max_bytes

    def get(self, row: int) -> bytes:
        return self._records.get(row, b"")

    def put(self, row: int, data: bytes) -> None:
        self._bytes += len(data) - len(self.get(row))
        self._records[row] = data

    def clear(self) -> None:
        self._records.clear()
        self._bytes = 0


def _expiry_us(group: FeatureGroup, retention_us: int) -> int:
    """Return after how long the store may drop a record that is not renewed.

    Longer than the retention by as much as a renewal may be late, and as an event counts after it has left the
    length of its window: it may be ahead of the clock, and windows end at hops.
    """
    hop_us = max(feature.window.hop_us for feature in group.features)
    return retention_us * (_REFRESH_SHARE + 1) // _REFRESH_SHARE + hop_us + group.max_future_skew_us


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
        next_offsets: by partition that moves (of several sources, by lane), the offset after the last one considered.
        change: what `GroupState.apply` gave.
        now_us: when it is written.
    """
    progress: dict[bytes, Progress] = {}
    for partition, offset in next_offsets.items():
        key = progress_key(group, partition)
        old = before.get(key, Progress(0, 0, 0, 0))
        newest_ingest_time_us = max(old.newest_ingest_time_us, change.newest_ingest_time_us.get(partition, 0))
        progress[key] = Progress(
            next_offset=offset,
            newest_event_time_us=max(old.newest_event_time_us, change.newest_event_time_us.get(partition, 0)),
            newest_ingest_time_us=newest_ingest_time_us,
            processed_at_us=now_us,
            # A producer's clock that is ahead must not make a group fresher than now.
            applied_until_us=max(old.applied_until_us, min(newest_ingest_time_us, now_us)),
        )
    return progress
