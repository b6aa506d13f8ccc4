"""Filling the online records of one group from the offline log: for a new group or version, or after a lost Redis.

The same `GroupState` computes what is stored as on the stream, and progress is stored as there, so that the stream
goes on behind the last event that the log held, without a gap and without an overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from streamfti.clock import Clock
from streamfti.compute.enrichment import enriched, enriched_fields
from streamfti.compute.event_columns import fields_read
from streamfti.compute.stored_state import stored_state
from streamfti.compute.transformations import LOG_COLUMNS, transformed
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import EnrichedStream, JoinedStream, source_fields
from streamfti.errors import ContractError, FencedWriter
from streamfti.feature_pipeline.group_state import GroupChange, GroupState, progress_after
from streamfti.feature_pipeline.history import import_history
from streamfti.feature_pipeline.logged_pairs import logged_pairs
from streamfti.stores.offline.commits import LogFile
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.snapshot import LogSnapshot
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.meaning import begin_filling, end_filling
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineWriter, delete_values, has_values
from streamfti.stores.online.slot_writes import SlotWrites

__all__ = ["CHUNK_ROWS", "Materialized", "materialize"]

CHUNK_ROWS = 20_000  # as the largest batch of the stream: one transaction must not hold up readers
_NOTHING = GroupChange(SlotWrites(), {}, 0, 0, {}, {})


@dataclass(frozen=True, slots=True)
class Materialized:
    """What was done.

    Attributes:
        events: the events of the log that were applied; of a joined stream, the pairs.
        deleted_keys: what was deleted first.
        positions: by partition (of several sources, by lane), where the stream goes on.
    """

    events: int
    deleted_keys: int
    positions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Events of one partition in the order of their offsets, and the offset after what they stand for; or pairs."""

    frame: pl.DataFrame
    next_offsets: Mapping[int, int]
    """By partition; nothing for pairs."""


def materialize(
    group: FeatureGroup,
    log: OfflineLog,
    *,
    redis_url: str,
    clock: Clock,
    force_rebuild: bool = False,
    history: Path | None = None,
    chunk_rows: int = CHUNK_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Materialized:
    """Fill the records of a group from what the logs of its sources hold now.

    Commit order:

    1. See that nothing of the group is stored, unless `force_rebuild` says that it may go.
    2. Import history into the log, if there is any to import, and pin a snapshot of the log.
    3. Write down what the group means, and that filling it has begun; with `force_rebuild`, delete what is stored of
       it, its progress first.
    4. For each chunk, in the order of partition and offset: write tiles and progress in one transaction. Of pairs,
       which belong to two partitions, write tiles only.
    5. Write the progress of the partitions whose log reaches further than its last event, to where it reaches. Of
       pairs, that is all progress.
    6. Write down that it is whole.

    From 3 to 6, no feature pipeline and no server starts with the group, and after a death in between none does
    before a `force_rebuild` has come to its end. A feature pipeline that has the group already is fenced by the first
    write, or fences this.

    Args:
        group: the group.
        log: the offline log.
        redis_url: the online store.
        clock: for the time that progress carries, and from which records expire.
        force_rebuild: throw away what is stored of the group.
        history: Parquet files of events that are not in the topic: see `import_history`. Other groups of the source
            that have begun go on without it; they take it in when they are filled anew.
        chunk_rows: at most so many events are written in one transaction.
        on_progress: called after each chunk with the events done and those in all.

    Raises:
        ContractError: if the log holds nothing of the source, or the group has values already, or history cannot be
            imported.
        FingerprintMismatch: if the group is stored with another meaning under the same version.
        FencedWriter: if a feature pipeline writes the group at the same time.
        StoreError: if a store cannot be read or written.
    """
    if not force_rebuild and has_values(redis_url, group):  # 1.
        msg = f"feature group {group.name!r} version {group.version} must have nothing online, but it has values"
        raise ContractError(msg, hint="stop its feature pipeline, then use --force-rebuild to fill it anew")
    if history is not None:
        import_history(group.source, history, log, clock=clock)
    snapshots = {source: log.snapshot(source) for source in group.stream.sources}  # 2.
    positions = {
        group.stream.lane(source, p): offset for source, of in snapshots.items() for p, offset in of.positions.items()
    }
    if not positions:
        msg = f"the log of source {group.source.name!r} must hold something to fill {group.name!r} from, got nothing"
        raise ContractError(msg, hint="is --home the right folder? a group of a new source needs no materialize")
    begin_filling(redis_url, group, stored_state(group))  # 3.
    deleted = delete_values(redis_url, group) if force_rebuild else 0
    writer = OnlineWriter(redis_url, [progress_key(group, lane) for lane in positions])
    try:
        if writer.progress:
            msg = f"feature group {group.name!r} must have no writer while it is filled, but somebody began to write it"
            raise FencedWriter(msg, hint="stop its feature pipeline, then run this with --force-rebuild")
        filler, done = _Filler(group, writer, clock), 0
        for chunk in _chunks(group, log, snapshots, chunk_rows):
            filler.apply(chunk)  # 4.
            done += chunk.frame.height
            if on_progress is not None:
                on_progress(done, sum(snapshot.rows for snapshot in snapshots.values()))
        filler.advance(positions)  # 5.
    finally:
        writer.close()
    end_filling(redis_url, group, stored_state(group))  # 6.
    return Materialized(done, deleted, positions)


class _Filler:
    """Applies chunks to a group and writes them with their progress."""

    def __init__(self, group: FeatureGroup, writer: OnlineWriter, clock: Clock) -> None:
        self._group, self._writer, self._clock = group, writer, clock
        self._state = GroupState(group, writer.read)
        self._progress: dict[bytes, Progress] = {}
        self._newest_event_us: dict[int, int] = {}
        self._newest_ingest_us: dict[int, int] = {}

    def apply(self, chunk: _Chunk) -> None:
        now_us = self._clock.now_us()
        change = self._state.apply(chunk.frame, now_us)
        for newest, of in (
            (self._newest_event_us, change.newest_event_time_us),
            (self._newest_ingest_us, change.newest_ingest_time_us),
        ):
            newest.update({lane: max(us, newest.get(lane, 0)) for lane, us in of.items()})
        self._commit(chunk.next_offsets, change, now_us)

    def advance(self, positions: Mapping[int, int]) -> None:
        """Move the progress of the partitions that are behind the positions."""
        behind = {p: offset for p, offset in positions.items() if self._next_offset(p) < offset}
        if behind:
            newest = replace(
                _NOTHING, newest_event_time_us=self._newest_event_us, newest_ingest_time_us=self._newest_ingest_us
            )
            self._commit(behind, newest, self._clock.now_us())

    def _next_offset(self, partition: int) -> int:
        progress = self._progress.get(progress_key(self._group, partition))
        return 0 if progress is None else progress.next_offset

    def _commit(self, next_offsets: Mapping[int, int], change: GroupChange, now_us: int) -> None:
        progress = progress_after(self._group, self._progress, next_offsets, change, now_us)
        self._writer.commit(change.slots, change.expiries_ms, progress, change.side)
        self._progress |= progress


def _chunks(
    group: FeatureGroup, log: OfflineLog, snapshots: Mapping[KafkaSource, LogSnapshot], chunk_rows: int
) -> Iterator[_Chunk]:
    """Read snapshots by partition and offset, pairs by day; never more in memory than some commits, or days."""
    origin = group.stream.origin
    if isinstance(origin, JoinedStream):
        for pairs in logged_pairs(origin, fields_read(group), log, snapshots):
            yield from (_Chunk(part, {}) for part in pairs.iter_slices(chunk_rows))
        return
    enrich = _LoggedRows(origin, fields_read(group), log, snapshots) if isinstance(origin, EnrichedStream) else None
    columns = (fields_read(group) if enrich is None else enrich.base_columns) | LOG_COLUMNS
    snapshot = snapshots[group.source]
    for files in _runs(snapshot.files, chunk_rows):
        frame = log.read(group.source, replace(snapshot, files=tuple(files)), columns=columns).sort("_offset")
        lane = group.stream.lane(group.source, files[0].partition)
        for part in _cut(frame, chunk_rows):
            yield _Chunk(part if enrich is None else enrich.added_to(part), {lane: part["_offset"][-1] + 1})


class _LoggedRows:
    """The rows of the table of an enrichment that a snapshot holds, all of them in memory."""

    def __init__(
        self,
        stream: EnrichedStream,
        fields: Iterable[str],
        log: OfflineLog,
        snapshots: Mapping[KafkaSource, LogSnapshot],
    ) -> None:
        base, table = enriched_fields(stream, fields)
        self._stream, self.base_columns = stream, source_fields(stream.base, base)
        source, columns = stream.table.source, source_fields(stream.table, table) | LOG_COLUMNS
        self._rows = transformed(stream.table, log.read(source, snapshots[source], columns=columns))

    def added_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the events of the enrichment, from those of the base's source."""
        return enriched(self._stream, transformed(self._stream.base, frame), self._rows)


def _cut(frame: pl.DataFrame, chunk_rows: int) -> Iterator[pl.DataFrame]:
    """Cut rows that come by offset into parts of about a size; an update's two rows of one offset stay together."""
    offsets = frame["_offset"].to_numpy()
    start = 0
    while start < frame.height:
        last = offsets[min(start + chunk_rows, frame.height) - 1]
        stop = int(np.searchsorted(offsets, last, side="right"))
        yield frame[start:stop]
        start = stop


def _runs(files: Iterable[LogFile], enough_rows: int) -> Iterator[list[LogFile]]:
    """Cut files, which come by partition and offset, into runs of whole commits of one partition and some size."""
    run: list[LogFile] = []
    for (partition, _), commit in itertools.groupby(files, key=lambda file: (file.partition, file.first_offset)):
        if run and (run[0].partition != partition or sum(file.rows for file in run) >= enough_rows):
            yield run
            run = []
        run += commit
    if run:
        yield run
