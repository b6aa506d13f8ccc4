"""Rows on the stream: what the tables of enrichments held when an event came.

A batch of events waits until all rows have been read that the broker took before it: that is, until each partition of
the table has been read to where it ended when it was asked after the batch had come. This bound does not move, so the
wait ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from streamfti.compute.enrichment import enriched
from streamfti.compute.event_columns import event_times_us
from streamfti.compute.transformations import transformed
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import EnrichedStream
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.feature_pipeline.event_history import EventHistories, EventHistory
from streamfti.feature_pipeline.runner import BatchReader
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import frame_schema

__all__ = ["RowFinder", "WaitingBatch"]


@dataclass(slots=True)
class WaitingBatch:
    """A batch of events that waits for the rows of a table."""

    batch: EventBatch
    ends: Mapping[int, int] = field(default_factory=dict)
    """By partition of the table, up to where it must have been read; empty before that has been asked."""


class RowFinder(EventHistories):
    """Finds the rows of some enrichments. All versions of all rows are in memory.

    Args:
        groups: whose streams they are; those of other streams are passed over.
        log: the offline log.
    """

    def __init__(self, groups: Iterable[FeatureGroup], log: OfflineLog) -> None:
        origins = (group.stream.origin for group in groups)
        sides = dict.fromkeys((o.table, o.on) for o in origins if isinstance(o, EnrichedStream))
        super().__init__({(table, key): EventHistory(table, key, None, log) for table, key in sides})

    def is_ready(self, stream: EnrichedStream, waiting: WaitingBatch, reader: BatchReader) -> bool:
        """Say whether all rows have been taken that a batch may need; the first time, ask where the table ends.

        Raises:
            SourceError: if the broker does not answer.
        """
        topic = stream.table.source.topic
        if not waiting.ends:
            waiting.ends = reader.end_offsets(topic)
        taken = self.history(stream.table, stream.on).positions
        reached = reader.reached(topic)
        return all(
            taken.get(partition, 0) >= end
            or (reached[partition].offset >= end and reached[partition].given <= taken.get(partition, 0))
            for partition, end in waiting.ends.items()
        )

    def enriched(self, stream: EnrichedStream, batch: EventBatch) -> pl.DataFrame:
        """Return the events of a batch with their rows; none, if it is of the table.

        Raises:
            FunctionError: if a batch function fails.
        """
        history = self.history(stream.table, stream.on)
        source = stream.base.source
        is_of_base = batch.source.name == source.name
        events = transformed(
            stream.base, batch.frame if is_of_base else pl.DataFrame(schema=frame_schema(source.schema))
        )
        rows = history.partners(events, event_times_us(events, stream.base.schema)) if len(events) else history.empty
        return enriched(stream, events, rows)
