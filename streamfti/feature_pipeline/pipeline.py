"""The feature pipeline: from message batches to dead letters, the offline log and the online store.

Progress lives with the data it produced. Nothing else is kept: no checkpoint, no second store. What one batch does,
and what a death in between means, stands in `FeaturePipeline.process`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from streamfti.clock import Clock
from streamfti.compute.layout import RecordLayout
from streamfti.compute.stored_state import stored_state
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import HISTORY_PARTITION, KafkaSource
from streamfti.definitions.streams import JoinedStream
from streamfti.errors import ContractError, DefinitionError
from streamfti.feature_pipeline.batch_columns import BatchColumns
from streamfti.feature_pipeline.batches import EventBatch, MessageBatch
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.freshness import freshness_s, progress_at_ends
from streamfti.feature_pipeline.group_state import GroupId, GroupState, group_id, progress_after
from streamfti.feature_pipeline.kafka_source import Partition
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.runner import BatchReader
from streamfti.feature_pipeline.two_sources import TwoSources
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import columns_fingerprint
from streamfti.stores.offline.writer import LogWriter
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.meaning import register_group
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineWriter
from streamfti.stores.online.slot_writes import SideWrite, SlotWrites

__all__ = ["FeaturePipeline", "LogPolicy", "start_positions"]

_REPORT_S = 1.0


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """When buffered events are made durable in the offline log: whichever comes first.

    A crash replays what was not; the log itself never misses or repeats an event.
    """

    max_rows: int = 200_000
    max_age_s: float = 30.0


class FeaturePipeline:
    """The stateful part of a feature pipeline: one process, one owner of its partitions.

    Args:
        catalog: the definitions.
        partitions: which of its sources to run, and the partitions of each that this process owns.
        redis_url: the online store.
        log: the offline log.
        decoder: makes events of messages.
        dead_letters: takes what is no event.
        clock: the time.
        metrics: counts.
        log_policy: when the log is flushed.
        also: other definitions of the same events, whose groups are kept up to date as well: the versions before.

    Raises:
        FingerprintMismatch: if a group is stored in another form under the same version.
        ContractError: if a `materialize` of a group has begun and not ended, or the other definitions are of other
            events.
    """

    def __init__(
        self,
        catalog: Catalog,
        partitions: Mapping[str, Sequence[int]],
        *,
        redis_url: str,
        log: OfflineLog,
        decoder: EventDecoder,
        dead_letters: DeadLetterProducer,
        clock: Clock,
        metrics: FeaturePipelineMetrics,
        log_policy: LogPolicy | None = None,
        also: Catalog | None = None,
    ) -> None:
        sources = [catalog.source(name) for name in partitions]
        self._sources = {s.name: s for s in sources}
        self._families = {s.name: (catalog.groups_of(s), _others(catalog, also, s)) for s in sources}
        self._groups = {name: own + others for name, (own, others) in self._families.items()}
        self._partitions = partitions
        self._decoder, self._dead_letters, self._clock, self._metrics = decoder, dead_letters, clock, metrics
        self._log_policy = log_policy or LogPolicy()
        for group in self._all_groups():
            _check_sources(group, partitions)
            register_group(redis_url, group, stored_state(group))
        keys = [progress_key(g, lane) for g in self._all_groups() for lane in self._lanes(g)]
        self._online = OnlineWriter(redis_url, keys)
        self._applied = self._online.progress
        self._states = {group_id(g): GroupState(g, self._online.read) for g in self._all_groups()}
        self._span_us = {name: _longest_span_us(groups) for name, groups in self._groups.items()}
        self._log_positions = {s.name: log.positions(s) for s in sources}
        self._log_writers: dict[str, LogWriter] = {s.name: log.writer(s) for s in sources}
        self._two_sources = TwoSources(self._all_groups(), log)
        self._reader: BatchReader | None = None
        self._buffered_since: dict[str, float] = {}
        self._committed: dict[Partition, int] = {}
        self._reported = clock.monotonic()

    def _all_groups(self) -> Iterable[FeatureGroup]:
        """Return the groups of all sources, each once."""
        return {group_id(group): group for groups in self._groups.values() for group in groups}.values()

    def _lanes(self, group: FeatureGroup) -> list[int]:
        return [
            group.stream.lane(s, p)
            for s in group.stream.sources
            for p in (*self._partitions[s.name], HISTORY_PARTITION)
        ]

    def positions(self) -> dict[Partition, int | None]:
        """Return where reading of each partition must begin: the lowest position of its sinks; None is the oldest.

        Raises:
            ContractError: if a group is new while the log of its source is not.
        """
        positions: dict[Partition, int | None] = {}
        for name, partitions in self._partitions.items():
            self._refuse_without_history(name)
            for partition in partitions:
                logged = self._log_positions[name].get(partition)
                own, others = self._families[name]
                applied = {g.name: self._next_offset(g, name, partition) for g in own}
                applied |= {f"{g.name} version {g.version}": self._next_offset(g, name, partition) for g in others}
                positions[name, partition] = start_positions(name, logged, applied)
        return positions

    def _refuse_without_history(self, name: str) -> None:
        """Refuse a new group where there is history; one that had begun before it was imported goes on without it."""
        if HISTORY_PARTITION not in self._log_positions[name]:
            return
        for group in self._groups[name]:
            partitions = (*self._partitions[name], HISTORY_PARTITION)
            if all(self._next_offset(group, name, partition) is None for partition in partitions):
                raise _not_filled(group.name, name)

    def _next_offset(self, group: FeatureGroup, source: str, partition: int) -> int | None:
        return self._applied_offsets(group).get(group.stream.lane(self._sources[source], partition))

    def decode(self, batch: MessageBatch) -> EventBatch:
        """Make events of messages; no effect on anything."""
        return self._decoder.decode(batch)

    def process(self, batch: EventBatch) -> None:
        """Do all that a batch is for, in a fixed order.

        1. deliver its dead letters and wait for the broker's word;
        2. buffer its events for the offline log;
        3. merge them, or the pairs that they make, into tiles, and write tiles and progress of all groups in one
           transaction;
        4. make the log durable, if it is due.

        A death after 1 delivers the dead letters again. A death before the end of 3 leaves the online store as it
        was. A death after 3 leaves the log behind: the next start reads from the log's position, and the groups
        drop what they have applied. Neither store ever holds an event twice. A group of two sources does nothing
        after a restart until all that it had applied has been read again, from the log and from Kafka: batches wait
        for that in memory. Events that are enriched wait until the rows that came before them have been read, which
        `idle` finds out.

        Raises:
            FencedWriter: if another process writes the same partitions.
            StoreError: if a store cannot be written: the process must end, a new one starts from the stores.
            SourceError: if dead letters cannot be delivered.
        """
        name = batch.source.name
        if batch.dead_letters:  # 1.
            self._dead_letters.deliver(batch.source, batch.dead_letters)
            for letter in batch.dead_letters:
                self._metrics.dead_letters.labels(name, letter.reason).inc()
        self._log_writers[name].append(self._with_lateness(batch), batch.next_offsets)  # 2.
        self._buffered_since.setdefault(name, self._clock.monotonic())
        self._apply(batch)  # 3.
        self._metrics.events.labels(name).inc(batch.frame.height)
        self.flush_log(only_if_due=True)  # 4.

    def _with_lateness(self, batch: EventBatch) -> pl.DataFrame:
        """Mark the events that were too old for every window of the source's groups when the broker got them."""
        span_us = self._span_us[batch.source.name]
        time_us = pl.col(batch.source.schema.event_time).to_physical()
        ingest_us = pl.col("_ingest_time_us")
        too_late = (ingest_us >= 0) & (time_us < ingest_us - span_us) if span_us else pl.lit(value=False)
        return batch.frame.with_columns(too_late.alias("_too_late"))

    def _apply(self, batch: EventBatch) -> None:
        """Step 3: all groups that can take the batch now, then what has waited and can be taken with it."""
        self._two_sources.take(batch)
        groups = self._groups[batch.source.name]
        late = [g for g in groups if self._two_sources.must_wait(g, batch, self._applied_offsets(g))]
        self._apply_to([group for group in groups if group not in late], batch)
        for group in late:
            self._two_sources.wait(group, batch)
        self._apply_waiting(None)

    def _apply_waiting(self, reader: BatchReader | None) -> None:
        """Apply what has waited for long enough, group by group in its order; enrichments only with a reader."""
        for group in self._all_groups():
            while (ready := self._two_sources.next_ready(group, self._applied_offsets(group), reader)) is not None:
                self._apply_to([group], ready)

    def _apply_to(self, groups: Sequence[FeatureGroup], batch: EventBatch) -> None:
        """Let each group drop what it has applied already, then write all of them at once."""
        began = self._clock.monotonic()
        now_us = self._clock.now_us()
        slots = SlotWrites()
        side: list[SideWrite] = []
        expiries: dict[bytes, int] = {}
        progress: dict[bytes, Progress] = {}
        news = {group_id(group): self._news(group, batch) for group in groups}
        behind = [group for group in groups if news[group_id(group)]]
        columns = self._columns(behind, batch)
        for group in behind:
            is_of_pairs = isinstance(group.stream.origin, JoinedStream)
            applied = {} if is_of_pairs else self._applied_offsets(group)  # pairs are all new
            change = self._states[group_id(group)].merge(columns[group_id(group)], applied, now_us)
            slots.extend(change.slots)
            side += change.side
            expiries |= change.expiries_ms
            progress |= progress_after(group, self._applied, news[group_id(group)], change, now_us)
            self._metrics.tiles.labels(group.name).inc(change.tiles)
            self._metrics.too_late.labels(group.name).inc(change.too_late)
        if progress:
            self._online.commit(slots, expiries, progress, side)
            self._applied |= progress
            self._measure(batch, began)

    def _columns(self, groups: Collection[FeatureGroup], batch: EventBatch) -> dict[GroupId, BatchColumns]:
        """Return, by group, the events of a batch, or what it makes of them with another source's."""
        found: dict[GroupId, BatchColumns] = {}
        wanted = {group_id(group) for group in groups if group not in self._two_sources}
        for family in self._families[batch.source.name]:
            alone = [group for group in family if group_id(group) in wanted]
            columns = BatchColumns.by_group(batch.frame, alone)
            found |= {group_id(group): columns[group.name] for group in alone}
        for group in groups:
            if group in self._two_sources:
                found[group_id(group)] = self._two_sources.columns(group, batch, self._applied_offsets(group))
        return found

    def _applied_offsets(self, group: FeatureGroup) -> dict[int, int]:
        """Return how far a group has applied its lanes; one that has not begun is left out."""
        found = ((lane, self._applied.get(progress_key(group, lane))) for lane in self._lanes(group))
        return {lane: progress.next_offset for lane, progress in found if progress is not None}

    def _news(self, group: FeatureGroup, batch: EventBatch) -> dict[int, int]:
        """Return the lanes that a batch moves forward for a group, and where to."""
        applied = self._applied_offsets(group)
        lanes = {group.stream.lane(batch.source, p): offset for p, offset in batch.next_offsets.items()}
        return {lane: offset for lane, offset in lanes.items() if offset > applied.get(lane, 0)}

    def _measure(self, batch: EventBatch, began: float) -> None:
        name = batch.source.name
        self._metrics.flush.labels("online").observe(self._clock.monotonic() - began)
        if batch.frame.height:
            newest: object = batch.frame["_ingest_time_us"].max()
            if isinstance(newest, int) and newest >= 0:
                self._metrics.freshness.labels(name).observe(max(0.0, (self._clock.now_us() - newest) / 1e6))

    def flush_log(self, *, only_if_due: bool = False) -> None:
        """Make the buffered events durable in the offline log."""
        for name, writer in self._log_writers.items():
            since = self._buffered_since.get(name)
            if since is None or (only_if_due and not self._is_due(writer.buffered_rows, since)):
                continue
            began, rows = self._clock.monotonic(), writer.buffered_rows
            writer.flush()
            del self._buffered_since[name]
            self._log_positions[name] = writer.positions
            self._two_sources.log_moved(self._sources[name])
            self._metrics.flush.labels("offline").observe(self._clock.monotonic() - began)
            self._metrics.log_rows.labels(name).inc(rows)

    def _is_due(self, rows: int, since: float) -> bool:
        policy = self._log_policy
        return rows >= policy.max_rows or self._clock.monotonic() - since >= policy.max_age_s

    def idle(self, reader: BatchReader) -> None:
        """Apply what has waited and flush the log if it is due; once a second, tell everybody where things stand.

        These are the online store, lag tools and metrics.

        Raises:
            FencedWriter: if another process writes the same partitions.
            StoreError: if a store cannot be written.
        """
        self._reader = reader
        self._apply_waiting(reader)
        self.flush_log(only_if_due=True)
        if self._clock.monotonic() - self._reported < _REPORT_S:
            return
        self._reported = self._clock.monotonic()
        for (topic, partition), lag in reader.lags().items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)
        durable = {p: offset for p, offset in self.durable_offsets().items() if offset != self._committed.get(p, 0)}
        reader.commit(durable)
        self._committed |= durable
        self._say_how_fresh(reader.ends())

    def _say_how_fresh(self, ends: Mapping[Partition, int]) -> None:
        """Write that groups are up to date with what has ended, and measure; of two versions, the one behind."""
        now_us, progress, seconds = self._clock.now_us(), dict[bytes, Progress](), dict[str, float]()
        for group in self._all_groups():
            progress |= progress_at_ends(group, self._lanes(group), self._applied, ends, now_us)
        if progress:
            self._online.commit(SlotWrites(), {}, progress)
            self._applied |= progress
        for group in self._all_groups():
            age_s = freshness_s(group, self._lanes(group), self._applied, now_us)
            if age_s is not None:
                seconds[group.name] = max(seconds.get(group.name, 0.0), age_s)
        for name, age_s in seconds.items():
            self._metrics.group_freshness.labels(name).set(age_s)

    def durable_offsets(self) -> dict[Partition, int]:
        """Return, for each partition, the offset up to which every sink is durable."""
        durable: dict[Partition, int] = {}
        for name, partitions in self._partitions.items():
            for partition in partitions:
                offsets = [self._log_positions[name].get(partition, 0)]
                offsets += [self._next_offset(g, name, partition) or 0 for g in self._groups[name]]
                durable[name, partition] = min(offsets)
        return durable

    def close(self) -> None:
        """Make everything durable and let go of the online store; what still waits is read again by the next run."""
        self._apply_waiting(self._reader)
        self.flush_log()
        self._online.close()


def _others(catalog: Catalog, also: Catalog | None, source: KafkaSource) -> tuple[FeatureGroup, ...]:
    """Return the groups of other definitions of a source that the catalog has not itself in that version."""
    if also is None or source.name not in also.sources:
        return ()
    if columns_fingerprint(also.source(source.name).schema) != columns_fingerprint(source.schema):
        msg = f"the other definitions of source {source.name!r} must be of the same events, got other fields or types"
        raise ContractError(msg)
    own = {(group.name, group.version) for group in catalog.groups_of(source)}
    return tuple(group for group in also.groups_of(source) if (group.name, group.version) not in own)


def _check_sources(group: FeatureGroup, partitions: Mapping[str, Sequence[int]]) -> None:
    """Refuse a group that would see only one side of its join.

    Raises:
        DefinitionError: if a source of the group is not run.
    """
    missing = [source.name for source in group.stream.sources if source.name not in partitions]
    if missing:
        msg = f"feature group {group.name!r} must be run with all of its sources, got none of {missing[0]!r}"
        raise DefinitionError(msg, hint=f"add --source {missing[0]}: one process pairs the events of both")


def _longest_span_us(groups: Iterable[FeatureGroup]) -> int:
    """Return how much event time the longest ring of some groups covers; 0 if there is none."""
    return max((ring.span_us for group in groups for ring in RecordLayout.of(group).rings), default=0)


def start_positions(source: str, logged: int | None, applied: Mapping[str, int | None]) -> int | None:
    """Return where to begin one partition: the lowest of its sinks' positions, None if none has any.

    Raises:
        ContractError: if a group has no progress while the log has: the topic may no longer hold its past.
    """
    new = [group for group, offset in applied.items() if offset is None]
    known = [offset for offset in (logged, *applied.values()) if offset is not None]
    if logged is None and len(new) == len(applied):
        return None
    if new:
        raise _not_filled(new[0], source)
    return None if logged is None else min(known)


def _not_filled(group: str, source: str) -> ContractError:
    msg = f"feature group {group!r} must be filled from the log of {source!r} before it joins the stream"
    return ContractError(msg, hint=f"run `streamfti materialize DEFINITIONS --group {group}` once")
