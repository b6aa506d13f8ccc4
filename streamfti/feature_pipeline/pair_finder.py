"""Pairs on the stream: what a batch of one source adds to the joins that its source is a side of.

A pair is made once, when its second event is applied: then the first is among those that had been applied. So a group
needs no memory of the pairs that it has had, only its progress in both sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from streamfti.compute.event_columns import event_times_us
from streamfti.compute.joins import joined
from streamfti.compute.transformations import transformed
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import JoinedStream, Stream
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.feature_pipeline.event_history import EventHistories, EventHistory
from streamfti.stores.offline.log import OfflineLog

__all__ = ["PairFinder"]

Lanes = Mapping[int, int]
"""By lane, the offset after the last event applied."""


class PairFinder(EventHistories):
    """Finds the pairs of some joins.

    Args:
        groups: whose streams they are; those of other streams are passed over.
        log: the offline log.
    """

    def __init__(self, groups: Iterable[FeatureGroup], log: OfflineLog) -> None:
        joins = dict.fromkeys(o for o in (group.stream.origin for group in groups) if isinstance(o, JoinedStream))
        within_us: dict[tuple[Stream, tuple[str, ...]], int] = {}
        for join in joins:
            for side in (join.left, join.right):
                within_us[side, join.on] = max(join.within_us, within_us.get((side, join.on), 0))
        super().__init__({(side, key): EventHistory(side, key, us, log) for (side, key), us in within_us.items()})

    def has_read(self, join: JoinedStream, applied: Lanes) -> bool:
        """Say whether all that had been applied has been read: then every partner of what comes can be found.

        After a restart that is so once Kafka has given again what the log did not hold yet.
        """
        for side in (join.left, join.right):
            read = self._history(join, side).positions
            if any(read.get(partition, 0) < offset for partition, offset in _applied_of(join, side, applied)):
                return False
        return True

    def _history(self, join: JoinedStream, side: Stream) -> EventHistory:
        return self.history(side, join.on)

    def pairs(self, join: JoinedStream, batch: EventBatch, applied: Lanes) -> pl.DataFrame:
        """Return the pairs of a batch's events that are not applied, with those that are and with each other.

        Args:
            join: the join.
            batch: of one of its sources; it has been taken.
            applied: by lane, the offset after the last event applied.

        Raises:
            FunctionError: if a batch function of a side fails.
            StoreError: if the log cannot be read, for partners of late events.
            CorruptRecord: if the log is damaged.
        """
        new_left, new_right = (self._news(join, side, batch, applied) for side in (join.left, join.right))
        old_left = self._partners(join, join.left, new_right, join.right, applied)
        old_right = self._partners(join, join.right, new_left, join.left, applied)
        left_of_new_right = pl.concat([old_left, new_left])
        return pl.concat([joined(join, new_left, old_right), joined(join, left_of_new_right, new_right)])

    def _news(self, join: JoinedStream, side: Stream, batch: EventBatch, applied: Lanes) -> pl.DataFrame:
        """Return the events of a side in a batch that are not applied; none, if the batch is of the other source."""
        if side.source.name != batch.source.name:
            return self._history(join, side).empty
        events = transformed(side, batch.frame.filter(~_was_applied(join, side, applied)))
        return events.select(self._history(join, side).empty.columns)

    def _partners(
        self, join: JoinedStream, side: Stream, of: pl.DataFrame, of_side: Stream, applied: Lanes
    ) -> pl.DataFrame:
        """Return the applied events of a side that may be partners of some of the other side."""
        history = self._history(join, side)
        if of.is_empty():
            return history.empty
        found = history.partners(of, event_times_us(of, of_side.schema))
        return found.filter(_was_applied(join, side, applied))


def _was_applied(join: JoinedStream, side: Stream, applied: Lanes) -> pl.Expr:
    """Return whether an event of a side is before the applied offset of its partition."""
    tests = [
        (pl.col("_partition") == partition) & (pl.col("_offset") < offset)
        for partition, offset in _applied_of(join, side, applied)
    ]
    return pl.any_horizontal(tests) if tests else pl.lit(value=False)


def _applied_of(join: JoinedStream, side: Stream, applied: Lanes) -> Iterator[tuple[int, int]]:
    """Iterate over the partitions of a side's source, and the offsets after the last event applied."""
    for lane, offset in applied.items():
        source, partition = join.place(lane)
        if source.name == side.source.name:
            yield partition, offset
