"""The offline log: every valid event of every source, in Parquet files of a local folder. Reading, and the way in.

How a file becomes part of the log is in `writer`; how it is named, in `layout`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from streamfti.clock import Clock, SystemClock, to_us
from streamfti.definitions.events import EventSchema
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError, did_you_mean
from streamfti.stores.offline.commits import LogFile, chains, positions
from streamfti.stores.offline.data_files import read_data_file
from streamfti.stores.offline.layout import topic_folder
from streamfti.stores.offline.schema import frame_schema, log_schema
from streamfti.stores.offline.snapshot import LogSnapshot
from streamfti.stores.offline.writer import LogWriter

__all__ = ["OfflineLog"]

_THREADS = 4  # many small files: while one is opened, another is decoded


class OfflineLog:
    """The offline logs of all sources below one folder.

    Guarantees: a reader sees whole commits only, each event once, while writers are at work; nothing that was read
    ever changes or goes away. Safe for use by several threads and processes at once.

    Args:
        root: a folder on a file system with hard links; made by the first writer.
        clock: what commits say about when they were made.
    """

    def __init__(self, root: Path, *, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()

    def _folder(self, source: KafkaSource) -> Path:
        return self._root / topic_folder(source.topic)

    def positions(self, source: KafkaSource) -> dict[int, int]:
        """Return by partition the offset below which every event is durable; one without a commit is absent.

        Raises:
            CorruptRecord: if a commit is damaged, or the chain of a partition has a gap or an overlap.
            ContractError: if the topic's name is none, or a newer release wrote the log.
            StoreError: if the folder cannot be read.
        """
        return positions(chains(self._folder(source), source.topic))

    def writer(self, source: KafkaSource, *, on_step: Callable[[int], None] | None = None) -> LogWriter:
        """Return a new writer, which goes on where the log ends.

        Args:
            source: whose events it appends.
            on_step: called after each step of a flush with the step's number; a test kills itself there.

        Raises:
            CorruptRecord: if a commit is damaged, or the chain of a partition has a gap or an overlap.
            ContractError: if the topic's name is none, or a newer release wrote the log.
            StoreError: if the folder cannot be made or read.
        """
        return LogWriter(
            self._folder(source), source, clock=self._clock, writer_id=secrets.token_hex(8), on_step=on_step
        )

    def snapshot(self, source: KafkaSource) -> LogSnapshot:
        """Return what is in the log now: an empty snapshot if nothing is.

        Raises:
            CorruptRecord: if a commit is damaged, or the chain of a partition has a gap or an overlap.
            ContractError: if the topic's name is none, or a newer release wrote the log.
            StoreError: if the folder cannot be read.
        """
        return LogSnapshot.of(source.topic, chains(self._folder(source), source.topic))

    def read(
        self,
        source: KafkaSource,
        snapshot: LogSnapshot | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Collection[str] | None = None,
    ) -> pl.DataFrame:
        """Return events, sorted by (event time, `_partition`, `_offset`), and changes of one offset by `_change`.

        Args:
            source: whose events, with the schema that the result has.
            snapshot: what to read; by default what is in the log now.
            start: events at or after this time; aware.
            end: events before this time; aware.
            columns: the columns of the result, which come in the order of the log; by default all.

        Raises:
            ContractError: if the arguments contradict each other or the schema, or a file cannot be read by it.
            CorruptRecord: if a file is missing or damaged, or the chain is broken.
            StoreError: if the operating system refused.
        """
        chosen = _chosen_columns(source.schema, columns)
        start_us, end_us = _bounds_us(start, end)
        pinned = self.snapshot(source) if snapshot is None else snapshot
        if pinned.topic != source.topic:
            msg = f"the snapshot must be of topic {source.topic!r}, got one of {pinned.topic!r}"
            raise ContractError(msg)
        files = [file for file in pinned.files if _overlaps(file, start_us, end_us)]
        frame = self._read_files(source, files, {*chosen, *_order(source)})
        return _within(frame, source.schema.event_time, start, end).select(chosen)

    def _read_files(self, source: KafkaSource, files: list[LogFile], columns: set[str]) -> pl.DataFrame:
        schema = log_schema(source.schema)
        types = {name: dtype for name, dtype in frame_schema(source.schema).items() if name in columns}
        read = partial(read_data_file, self._folder(source), schema=schema, columns=columns)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="log-reader") as pool:
            tables = list(pool.map(read, files))
        if not tables:
            return pl.DataFrame(schema=types)
        frame = pl.DataFrame(pa.concat_tables(tables), schema_overrides=types)
        return frame.sort(_order(source))


def _order(source: KafkaSource) -> list[str]:
    columns = [source.schema.event_time, "_partition", "_offset"]
    return [*columns, "_change"] if source.schema.is_of_changes else columns


def _chosen_columns(event: EventSchema, columns: Collection[str] | None) -> list[str]:
    known = list(frame_schema(event))
    for name in columns or ():
        if name not in known:
            msg = f"columns must be those of the log of {event.name!r}, got {name!r}"
            raise ContractError(msg, hint=did_you_mean(name, known))
    return known if columns is None else [name for name in known if name in columns]


def _bounds_us(start: datetime | None, end: datetime | None) -> tuple[int | None, int | None]:
    try:
        start_us, end_us = (None if at is None else to_us(at) for at in (start, end))
    except ValueError as exc:
        msg = f"start and end of a read: {exc}"
        raise ContractError(msg) from exc
    if start_us is not None and end_us is not None and start_us > end_us:
        msg = f"start must not be after end, got {start} and {end}"
        raise ContractError(msg)
    return start_us, end_us


def _overlaps(file: LogFile, start_us: int | None, end_us: int | None) -> bool:
    after_start = start_us is None or file.max_event_time_us >= start_us
    return after_start and (end_us is None or file.min_event_time_us < end_us)


def _within(frame: pl.DataFrame, event_time: str, start: datetime | None, end: datetime | None) -> pl.DataFrame:
    if start is not None:
        frame = frame.filter(pl.col(event_time) >= start)
    if end is not None:
        frame = frame.filter(pl.col(event_time) < end)
    return frame
