"""Groups over two sources: what their events are made of, and the batches that cannot be applied to them yet.

Batches of a group wait in the order in which they came. What waits is in memory only: it is not applied, and so it is
read again after a death.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import EnrichedStream, JoinedStream
from streamfti.feature_pipeline.batch_columns import BatchColumns
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.feature_pipeline.group_state import GroupId, group_id
from streamfti.feature_pipeline.pair_finder import PairFinder
from streamfti.feature_pipeline.row_finder import RowFinder, WaitingBatch
from streamfti.feature_pipeline.runner import BatchReader
from streamfti.stores.offline.log import OfflineLog

__all__ = ["TwoSources"]

Lanes = Mapping[int, int]
"""By lane, the offset after the last event that a group has applied."""


class TwoSources:
    """Makes the events of joins and enrichments, and keeps the batches that wait for their other side.

    Args:
        groups: the groups of a pipeline; those over one source are passed over.
        log: the offline log.
    """

    def __init__(self, groups: Iterable[FeatureGroup], log: OfflineLog) -> None:
        groups = list(groups)
        origins = ((group_id(group), group.stream.origin) for group in groups)
        self._origins = {own: o for own, o in origins if isinstance(o, JoinedStream | EnrichedStream)}
        self._pairs = PairFinder(groups, log)
        self._rows = RowFinder(groups, log)
        self._waiting: dict[GroupId, deque[WaitingBatch]] = {own: deque() for own in self._origins}

    def __contains__(self, group: FeatureGroup) -> bool:
        return group_id(group) in self._origins

    def take(self, batch: EventBatch) -> None:
        """Take the events of a batch: from now on they are among those that have been read.

        Raises:
            FunctionError: if a batch function of a side fails.
        """
        self._pairs.take(batch)
        self._rows.take(batch)

    def log_moved(self, source: KafkaSource) -> None:
        """Learn that the log of a source holds more than before."""
        self._pairs.log_moved(source)
        self._rows.log_moved(source)

    def must_wait(self, group: FeatureGroup, batch: EventBatch, applied: Lanes) -> bool:
        """Say whether a group cannot take a batch yet.

        Of a join: after a restart, until the partners of what comes are known. Of an enrichment, events until the
        broker has been asked where the table ends, which is when the reader is at hand.
        """
        origin = self._origins.get(group_id(group))
        if isinstance(origin, JoinedStream):
            return bool(self._waiting[group_id(group)]) or not self._pairs.has_read(origin, applied)
        return origin is not None and batch.source.name == origin.base.source.name

    def wait(self, group: FeatureGroup, batch: EventBatch) -> None:
        """Keep a batch until the group can take it."""
        self._waiting[group_id(group)].append(WaitingBatch(batch))

    def next_ready(self, group: FeatureGroup, applied: Lanes, reader: BatchReader | None) -> EventBatch | None:
        """Return the batch of a group that has waited longest, if it can be taken now, and keep it no more.

        Raises:
            SourceError: if the broker does not answer.
        """
        waiting = self._waiting.get(group_id(group))
        if not waiting:
            return None
        origin = self._origins[group_id(group)]
        if isinstance(origin, JoinedStream):
            ready = self._pairs.has_read(origin, applied)
        else:
            ready = reader is not None and self._rows.is_ready(origin, waiting[0], reader)
        return waiting.popleft().batch if ready else None

    def columns(self, group: FeatureGroup, batch: EventBatch, applied: Lanes) -> BatchColumns:
        """Return the events that a batch makes for a group: pairs with what was applied, or events with their rows.

        Raises:
            FunctionError: if a batch function of a side fails.
            StoreError: if the log cannot be read, for partners of late events.
            CorruptRecord: if the log is damaged.
        """
        origin = self._origins[group_id(group)]
        if isinstance(origin, JoinedStream):
            return BatchColumns.of_made(self._pairs.pairs(origin, batch, applied), group, batch)
        return BatchColumns.of_made(self._rows.enriched(origin, batch), group, batch)
