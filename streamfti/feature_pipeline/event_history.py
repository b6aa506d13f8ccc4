"""The events of one side of a join that have been read: what is new meets its partners among them.

The newest are in memory, found by key. Older ones are in the offline log, which is read when an event comes so late
that its partners may be there: nothing is too late to be paired, and no second store holds anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.clock import from_us
from streamfti.compute.event_columns import event_times_us
from streamfti.compute.transformations import LOG_COLUMNS, transformed
from streamfti.definitions.durations import HOUR_US, MINUTE_US
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import Stream, source_fields
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.snapshot import LogSnapshot

__all__ = ["EventHistories", "EventHistory"]

_LATE_US = 10 * MINUTE_US
"""An event that is later than this is looked up in the log."""

_TAIL_ROWS, _TAIL_SHARE, _TAIL_PARTS = 4_096, 16, 8
_EVERYTHING_US = np.iinfo(np.int64).min
_KEY = "_key_hash"


class EventHistory:
    """What has been read of one stream of one source. Begins with what the log holds.

    Guarantee: an event that was read is found, in memory or in the log, however old it is. In memory are those of
    the last `within_us` and ten minutes of event time, and all that the log does not hold yet.

    Args:
        stream: the stream.
        key: its fields that partners are found by; events in which one is null have none, and are not kept.
        within_us: how far apart partners may be; None: any time, and then all events are kept in memory.
        log: the offline log, of which this process writes the part of the stream's source.
    """

    def __init__(self, stream: Stream, key: tuple[str, ...], within_us: int | None, log: OfflineLog) -> None:
        self._stream, self._key, self._within_us, self._log = stream, list(key), within_us, log
        fields = [field.name for field in stream.schema.fields]
        self._columns, self._kept = source_fields(stream, fields) | LOG_COLUMNS, [*fields, *sorted(LOG_COLUMNS)]
        self._snapshot: LogSnapshot | None = log.snapshot(stream.source)
        self._read = dict(self._snapshot.positions)
        self._newest_us = max((file.max_event_time_us for file in self._snapshot.files), default=_EVERYTHING_US)
        self._horizon_us = self._oldest_kept_us()
        self._sorted = self._logged(self._horizon_us, None)
        self._tail: list[pl.DataFrame] = []
        self._merge()

    @property
    def empty(self) -> pl.DataFrame:
        """No events, with the columns of those that are kept."""
        none: pl.DataFrame = self._sorted.clear()
        return none.drop(_KEY)

    @property
    def positions(self) -> Mapping[int, int]:
        """By partition, the offset after the last event that was read; one that has not begun is absent."""
        return self._read

    def take(self, frame: pl.DataFrame, next_offsets: Mapping[int, int]) -> None:
        """Take an event frame of the source; what had been read before is passed over.

        Raises:
            FunctionError: if a batch function of the stream fails.
        """
        new = frame.filter(pl.col("_offset") >= _by_partition(self._read))
        if len(new):
            self._newest_us = max(self._newest_us, int(event_times_us(new, self._stream.source.schema).max()))
            self._tail.append(self._keyed(transformed(self._stream, new)))
        self._read |= {p: max(offset, self._read.get(p, 0)) for p, offset in next_offsets.items()}
        if sum(map(len, self._tail)) > max(_TAIL_ROWS, len(self._sorted) // _TAIL_SHARE):
            self._merge()
        elif len(self._tail) > _TAIL_PARTS:  # each is looked through for every batch
            self._tail = [pl.concat(self._tail, rechunk=True)]

    def log_moved(self) -> None:
        """Learn that the log holds more than before."""
        self._snapshot = None

    def partners(self, events: pl.DataFrame, times_us: NDArray[np.int64]) -> pl.DataFrame:
        """Return all events that may be partners of some others: of one of their keys. More than are near may come.

        Args:
            events: n events of the other stream, with the columns of the key.
            times_us: int64[n], when they happened.

        Raises:
            StoreError: if the log cannot be read.
            CorruptRecord: if the log is damaged.
        """
        keys = np.unique(_hashes(events.drop_nulls(self._key).select(self._key)).to_numpy())
        found = [self._in_memory(keys)]
        for start_us, end_us in self._reaches(np.sort(times_us)):
            logged = self._logged(start_us, end_us)
            found.append(logged.filter(np.isin(logged[_KEY].to_numpy(), keys)))
        together = found[0] if len(found) == 1 else pl.concat(found).unique(["_partition", "_offset"])
        return together.drop(_KEY)

    def _in_memory(self, keys: NDArray[np.uint64]) -> pl.DataFrame:
        in_order = self._sorted[_KEY].to_numpy()
        first, stop = np.searchsorted(in_order, keys, "left"), np.searchsorted(in_order, keys, "right")
        count = stop - first
        rows = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        found: pl.DataFrame = self._sorted[rows]
        return pl.concat([found, *(part.filter(np.isin(part[_KEY].to_numpy(), keys)) for part in self._tail)])

    def _reaches(self, times_us: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Cut the times of late events, sorted, where much lies between two; return where each run's partners are."""
        if self._within_us is None:
            return
        late_us = times_us[times_us - self._within_us < self._horizon_us]
        gaps = np.flatnonzero(np.diff(late_us) > 2 * self._within_us + HOUR_US) + 1
        for run in np.split(late_us, gaps):
            if len(run):
                yield int(run[0]) - self._within_us, min(int(run[-1]) + self._within_us, self._horizon_us)

    def _logged(self, start_us: int, end_us: int | None) -> pl.DataFrame:
        start = None if start_us == _EVERYTHING_US else from_us(max(0, start_us))
        end = None if end_us is None else from_us(max(0, end_us))
        if self._snapshot is None:
            self._snapshot = self._log.snapshot(self._stream.source)
        read = self._log.read(self._stream.source, self._snapshot, start=start, end=end, columns=self._columns)
        return self._keyed(transformed(self._stream, read))

    def _keyed(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the events that have a key, with its hash."""
        kept = events.select(self._kept).drop_nulls(self._key)
        return kept.with_columns(_hashes(kept.select(self._key)))

    def _oldest_kept_us(self) -> int:
        if self._within_us is None or self._newest_us == _EVERYTHING_US:
            return _EVERYTHING_US
        return self._newest_us - self._within_us - _LATE_US

    def _merge(self) -> None:
        """Sort what came since the last time by key, and leave to the log what is old and stands there."""
        events = pl.concat([self._sorted, *self._tail])
        horizon_us = self._oldest_kept_us()
        if self._snapshot is None:
            self._snapshot = self._log.snapshot(self._stream.source)
        time_us = pl.col(self._stream.schema.event_time).to_physical()
        is_needed = (time_us >= horizon_us) | (pl.col("_offset") >= _by_partition(self._snapshot.positions))
        self._sorted, self._tail = events.filter(is_needed).sort(_KEY), []
        self._horizon_us = horizon_us


def _hashes(keys: pl.DataFrame) -> pl.Series:
    """Return one number a row, equal where the key is; it means nothing outside this process."""
    return keys.hash_rows().alias(_KEY)


def _by_partition(offsets: Mapping[int, int]) -> pl.Expr:
    """Return the offset of each row's partition, 0 where there is none."""
    found = pl.lit(0, pl.Int64)
    for partition, offset in offsets.items():
        found = pl.when(pl.col("_partition") == partition).then(pl.lit(offset, pl.Int64)).otherwise(found)
    return found


class EventHistories:
    """The histories of some streams, each found by one key.

    Args:
        histories: by stream and key.
    """

    def __init__(self, histories: Mapping[tuple[Stream, tuple[str, ...]], EventHistory]) -> None:
        self._histories = histories

    def history(self, stream: Stream, key: tuple[str, ...]) -> EventHistory:
        """Return the history of a stream by a key."""
        return self._histories[stream, key]

    def take(self, batch: EventBatch) -> None:
        """Take the events of a batch: from now on they are among those that have been read.

        Raises:
            FunctionError: if a batch function of a stream fails.
        """
        for history in self._of(batch.source):
            history.take(batch.frame, batch.next_offsets)

    def log_moved(self, source: KafkaSource) -> None:
        """Learn that the log of a source holds more than before."""
        for history in self._of(source):
            history.log_moved()

    def _of(self, source: KafkaSource) -> Iterator[EventHistory]:
        return (history for (stream, _), history in self._histories.items() if stream.source.name == source.name)
