"""Writing the offline log: a buffer of events, and a flush that makes them part of the log exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from streamfti.clock import EPOCH, Clock, to_us
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError, FencedWriter, StoreError
from streamfti.stores.offline.commits import Commit, LogFile, chains, positions
from streamfti.stores.offline.data_files import write_data_file
from streamfti.stores.offline.debris import Debris, find_debris
from streamfti.stores.offline.durable import link_new, make_folder, store_errors, sync, write_synced
from streamfti.stores.offline.layout import COMMITS, DataPath, commit_folder, temporary_name
from streamfti.stores.offline.schema import checked_frame, columns_fingerprint, log_schema

__all__ = ["Flushed", "LogWriter"]

_DAY_US = 86_400_000_000
_EVENT_TIMES_US = (to_us(datetime.min.replace(tzinfo=UTC)), to_us(datetime.max.replace(tzinfo=UTC)))
_THREADS = 8  # forced to the device together, files share its waits


@dataclass(frozen=True, slots=True)
class Flushed:
    """What one flush added to the log."""

    rows: int
    files: int
    next_offsets: dict[int, int]
    """By partition that moved, the position that is now committed."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows of one future data file, sorted by (event time, offset, change)."""

    path: DataPath
    table: pa.Table
    min_event_time_us: int
    max_event_time_us: int

    def written(self, size_bytes: int, footer_crc32: int) -> LogFile:
        return LogFile(
            path=str(self.path),
            rows=self.table.num_rows,
            size_bytes=size_bytes,
            footer_crc32=footer_crc32,
            min_event_time_us=self.min_event_time_us,
            max_event_time_us=self.max_event_time_us,
        )


def _no_step(_step: int) -> None:
    """Do nothing between the steps of a flush."""


class LogWriter:
    """Appends the events of some partitions of one source to its log. Made by `OfflineLog.writer`.

    Guarantees: what `flush` returned for is in the log exactly once, whatever is killed afterwards. What was only
    appended is lost with the process, and comes again when the source is replayed from the log's positions. A second
    writer of the same partition is told apart at its next flush, and nothing of it becomes part of the log.
    After an error in `flush` the writer is spent: make a new one, and replay from its positions.
    Not safe for use by several threads at once.
    """

    def __init__(
        self,
        folder: Path,
        source: KafkaSource,
        *,
        clock: Clock,
        writer_id: str,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self._folder = folder
        self._source = source
        self._schema = source.schema
        self._clock = clock
        self._writer_id = writer_id
        self._step = on_step or _no_step
        self._parquet_schema = log_schema(self._schema)
        self._usable = True
        self._buffer: list[pl.DataFrame] = []
        self._open()

    def _open(self) -> None:
        make_folder(self._folder / COMMITS)
        committed = chains(self._folder, self._source.topic)
        # What a killed writer named may not be durable yet, and positions are about to be built on it.
        for place in [*(commit_folder(partition) for partition in committed), COMMITS, "."]:
            sync(self._folder / place)
        self._committed = positions(committed)
        self._appended = dict(self._committed)
        self._debris: list[Debris] = find_debris(self._folder, committed)
        self._remove_debris(self._committed)

    @property
    def positions(self) -> dict[int, int]:
        """By partition, the offset below which everything is durable; a partition without a commit is absent."""
        return dict(self._committed)

    @property
    def buffered_rows(self) -> int:
        """Events that were appended and not yet flushed."""
        return sum(frame.height for frame in self._buffer)

    @property
    def buffered_bytes(self) -> int:
        """About how much memory those events take."""
        return sum(int(frame.estimated_size()) for frame in self._buffer)

    def append(self, frame: pl.DataFrame, next_offsets: Mapping[int, int]) -> None:
        """Take events into the buffer; nothing is durable before `flush`.

        On replay, rows below the position that was appended or committed before are dropped.

        Args:
            frame: a frame of events with the framework's columns, `_too_late` among them, in any order.
            next_offsets: by partition, the offset after the last message that was considered, whether it gave a row
                or not. It names every partition of the frame.

        Raises:
            ContractError: if the frame is not one of this source's log, or a row is not below its partition's
                next offset, or an offset stands twice. Nothing was taken then.
            StoreError: if an earlier flush failed.
        """
        self._require_usable()
        new = _new_rows(checked_frame(self._schema, frame), self._appended, next_offsets)
        self._check_event_times(new)
        if new.height:
            self._buffer.append(new)
        for partition, offset in next_offsets.items():
            if offset > self._appended.get(partition, 0):
                self._appended[partition] = offset

    def flush(self) -> Flushed:
        """Make everything appended part of the log, durably.

        Commit order; a kill after any step leaves a log that readers and the next writer take for whole:

        1. Write the data files of all ranges, under temporary names.
        2. Force their bytes to the device.
        3. Give them their names. No reader looks at them yet.
        4. Force the names to the device.
        Then for each partition:
        5. Write its commit under a temporary name and force it to the device.
        6. Give it its name, unless a commit has that name: from here on, the range is in the log.
        7. Force the name to the device; remove the temporary one.
        8. Remove what earlier writers left of this range: it can no longer be committed.

        Returns:
            What was added: all zero if nothing was appended.

        Raises:
            FencedWriter: if another writer committed from the same position.
            StoreError: if the operating system refused; partitions that were reached are committed.
        """
        self._require_usable()
        moved = {p: n for p, n in sorted(self._appended.items()) if n > self._committed.get(p, 0)}
        if not moved:
            return Flushed(0, 0, {})
        self._usable = False
        slices = list(self._slices())
        files = self._write_files(slices)
        for partition in moved:
            self._commit(partition, tuple(file for file in files if file.partition == partition))
        self._buffer = []
        self._usable = True
        return Flushed(sum(file.rows for file in files), len(files), moved)

    def _require_usable(self) -> None:
        if not self._usable:
            msg = f"the log writer of {self._source.topic!r} must not be used after a failed flush"
            raise StoreError(msg, hint="make a new one, and replay from its positions")

    def _check_event_times(self, frame: pl.DataFrame) -> None:
        times_us = frame[self._schema.event_time].to_physical().to_numpy()
        least, most = _EVENT_TIMES_US
        if times_us.size and not least <= times_us.min() <= times_us.max() <= most:
            msg = f"event times of {self._schema.name!r} must be in the years 1 to 9999, got one outside"
            raise ContractError(msg, hint="such an event belongs to the dead letters")

    def _slices(self) -> Iterator[_Slice]:
        """Cut the buffer into one slice for each partition and event date."""
        if not self._buffer:
            return
        order = ["_partition", self._schema.event_time, "_offset"]
        order += ["_change"] if self._schema.is_of_changes else []
        frame = pl.concat(self._buffer).sort(order)
        table = frame.to_arrow().cast(self._parquet_schema)
        partitions = frame["_partition"].to_numpy()
        times_us = frame[self._schema.event_time].to_physical().to_numpy()
        days = times_us // _DAY_US
        changes = np.flatnonzero((np.diff(partitions) != 0) | (np.diff(days) != 0)) + 1
        for start, end in itertools.pairwise([0, *changes.tolist(), frame.height]):
            path = self._data_path(int(partitions[start]), int(days[start]))
            yield _Slice(path, table.slice(start, end - start), int(times_us[start]), int(times_us[end - 1]))

    def _data_path(self, partition: int, day: int) -> DataPath:
        return DataPath(
            event_date=(EPOCH + timedelta(days=day)).date(),
            partition=partition,
            first_offset=self._committed.get(partition, 0),
            next_offset=self._appended[partition],
            writer_id=self._writer_id,
        )

    def _write_files(self, slices: list[_Slice]) -> list[LogFile]:
        """Do the steps 1 to 4."""
        folders = sorted({self._folder / part.path.folder for part in slices})
        for folder in folders:
            make_folder(folder)
        temporaries = [self._folder / part.path.folder / self._temporary(part.path.name) for part in slices]
        try:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="log-writer") as pool:
                files = [self._stepped(1, file) for file in pool.map(self._write_file, slices, temporaries)]
                list(pool.map(sync, temporaries))
                self._step(2)
                for temporary, file in zip(temporaries, files, strict=True):
                    self._rename(temporary, self._folder / file.path)
                    self._step(3)
                list(pool.map(sync, [*folders, self._folder]))
                self._step(4)
        except StoreError:
            _remove(temporaries)  # a full disk needs the room
            raise
        return files

    def _stepped(self, step: int, file: LogFile) -> LogFile:
        self._step(step)
        return file

    def _temporary(self, name: str) -> str:
        return temporary_name(name, self._writer_id)

    def _write_file(self, part: _Slice, temporary: Path) -> LogFile:
        facts = {
            "topic": self._source.topic,
            "event": self._schema.name,
            "partition": str(part.path.partition),
            "first_offset": str(part.path.first_offset),
            "next_offset": str(part.path.next_offset),
        }
        return part.written(*write_data_file(temporary, part.table, facts))

    def _rename(self, temporary: Path, path: Path) -> None:
        with store_errors("rename", temporary):
            temporary.rename(path)

    def _commit(self, partition: int, files: tuple[LogFile, ...]) -> None:
        """Do the steps 5 to 8 for one partition."""
        commit = self._build_commit(partition, files)
        path = self._folder / commit.path
        temporary = path.parent / self._temporary(path.name)
        make_folder(path.parent)
        write_synced(temporary, commit.dump())
        self._step(5)
        if not link_new(temporary, path):
            _remove([temporary])
            msg = f"partition {partition} of {commit.topic!r} must go on at {commit.first_offset}, got a commit there"
            raise FencedWriter(msg, hint="another writer took over: start again from the log's positions")
        self._step(6)
        sync(path.parent)
        _remove([temporary])
        self._step(7)
        self._committed[partition] = commit.next_offset
        self._remove_debris({partition: commit.next_offset})
        self._step(8)

    def _build_commit(self, partition: int, files: tuple[LogFile, ...]) -> Commit:
        return Commit(
            topic=self._source.topic,
            event=self._schema.name,
            columns_fingerprint=columns_fingerprint(self._schema),
            partition=partition,
            first_offset=self._committed.get(partition, 0),
            next_offset=self._appended[partition],
            rows=sum(file.rows for file in files),
            files=files,
            processed_at_us=self._clock.now_us(),
        )

    def _remove_debris(self, passed: Mapping[int, int]) -> None:
        """Remove the debris of ranges that start below the given positions."""
        dead = {item for item in self._debris if item.first_offset < passed.get(item.partition, 0)}
        _remove(sorted(item.path for item in dead))
        self._debris = [item for item in self._debris if item not in dead]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the buffer; what was not flushed comes again on replay."""
        self._buffer = []
        self._usable = False


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with store_errors("remove", path):
            path.unlink(missing_ok=True)


def _new_rows(frame: pl.DataFrame, appended: Mapping[int, int], next_offsets: Mapping[int, int]) -> pl.DataFrame:
    """Return the rows at or above what was appended before; the offsets are checked."""
    for partition, offset in next_offsets.items():
        if partition < 0 or offset < 0:
            msg = f"next_offsets must map partitions to offsets of 0 or more, got {partition}: {offset}"
            raise ContractError(msg)
    partitions, of_row = np.unique(frame["_partition"].to_numpy(), return_inverse=True)
    offsets = frame["_offset"].to_numpy()
    rows = offsets * 4 + frame["_change"].to_numpy() if "_change" in frame.columns else offsets
    for index, partition in enumerate(partitions.tolist()):
        _check_offsets(partition, offsets[of_row == index], next_offsets)
        _check_once(partition, rows[of_row == index])
    low = np.array([appended.get(partition, 0) for partition in partitions.tolist()], dtype=np.int64)
    keep: NDArray[np.bool_] = offsets >= low[of_row]
    return frame if keep.all() else frame.filter(pl.Series(keep))


def _check_offsets(partition: int, offsets: NDArray[np.int64], next_offsets: Mapping[int, int]) -> None:
    if partition not in next_offsets:
        msg = f"next_offsets must name every partition of the frame, got {sorted(next_offsets)} and rows of {partition}"
        raise ContractError(msg)
    if offsets.min() < 0 or offsets.max() >= next_offsets[partition]:
        msg = (
            f"offsets of partition {partition} must be in [0, {next_offsets[partition]}), "
            f"got {offsets.min()} to {offsets.max()}"
        )
        raise ContractError(msg)


def _check_once(partition: int, rows: NDArray[np.int64]) -> None:
    """See that an offset gives one row; one of changes, one row for each kind of change."""
    if not (np.diff(rows) > 0).all() and np.unique(rows).size < rows.size:
        msg = f"offsets of partition {partition} must differ from each other, got one twice"
        raise ContractError(msg)
