"""An event frame taken apart once, for all groups of its source: numpy arrays and entity keys.

A profile of batches of three events, which is what a live topic gives, showed five sixths of the time in a hundred
small table operations, a few for each group. Now the table library is asked once a batch, and groups work on arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.accumulators import EventColumns
from streamfti.compute.event_columns import EventArrays, event_times_us, key_expression, operands_of
from streamfti.compute.transformations import StreamFrames, transformed
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.streams import Stream
from streamfti.feature_pipeline.batches import EventBatch

__all__ = ["BatchColumns"]


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """n events of one stream, which are what it makes of the events that came from its source.

    Attributes:
        partition: int64[n].
        offset: int64[n].
        arrays: the times, positions and aggregated fields, in the order of the events.
        keys: by group, the text of each event's entity key; None where a key field is null.
        newest_event_time_us: by partition the highest event time of what came, also of events that are not of the
            stream: they have been considered as well.
        newest_ingest_time_us: by partition the highest of the broker's times, likewise.
    """

    partition: NDArray[np.int64]
    offset: NDArray[np.int64]
    arrays: EventArrays
    keys: Mapping[str, Sequence[str | None]]
    newest_event_time_us: Mapping[int, int]
    newest_ingest_time_us: Mapping[int, int]

    @classmethod
    def by_group(cls, frame: pl.DataFrame, groups: Iterable[FeatureGroup]) -> dict[str, BatchColumns]:
        """Take an event frame apart for groups of its origin, by their names; those of one stream share the work."""
        by_stream: dict[Stream, list[FeatureGroup]] = {}
        for group in groups:
            by_stream.setdefault(group.stream, []).append(group)
        if not by_stream:
            return {}
        partition = frame["_partition"].to_numpy()
        event_time_us = event_times_us(frame, next(iter(by_stream)).origin.schema)
        newest = [_highest(partition, times) for times in (event_time_us, frame["_ingest_time_us"].to_numpy())]
        frames = StreamFrames(frame)
        found: dict[str, BatchColumns] = {}
        for stream, readers in by_stream.items():
            columns = cls._of(frames.of(stream), stream, readers, *newest)
            found |= dict.fromkeys((group.name for group in readers), columns)
        return found

    @classmethod
    def of_made(cls, pairs: pl.DataFrame, group: FeatureGroup, batch: EventBatch) -> BatchColumns:
        """Take the pairs apart that a batch of one of its sources has made for a group.

        Their partitions are lanes; so are those of the newest times, which are the batch's.
        """
        partition = batch.frame["_partition"].to_numpy()
        times_us = event_times_us(batch.frame, batch.source.schema), batch.frame["_ingest_time_us"].to_numpy()
        lane = functools.partial(group.stream.lane, batch.source)
        newest = [{lane(p): us for p, us in _highest(partition, times).items()} for times in times_us]
        return cls._of(transformed(group.stream, pairs), group.stream, [group], *newest)

    @classmethod
    def _of(
        cls,
        events: pl.DataFrame,
        stream: Stream,
        groups: Iterable[FeatureGroup],
        newest_event_time_us: Mapping[int, int],
        newest_ingest_time_us: Mapping[int, int],
    ) -> BatchColumns:
        groups = list(groups)
        operands = {name: operand for group in groups for name, operand in operands_of(group.features).items()}
        keyed = events.select(key_expression(group.entity_fields).alias(group.name) for group in groups)
        return cls(
            events["_partition"].to_numpy().astype(np.int64),
            events["_offset"].to_numpy(),
            EventArrays.of(events, stream.schema, operands.values()),
            {name: series.to_list() for name, series in keyed.to_dict().items()},
            newest_event_time_us,
            newest_ingest_time_us,
        )

    def not_applied(self, group: FeatureGroup, applied: Mapping[int, int]) -> NDArray[np.int64]:
        """Return the places of the events that have an entity of a group, at or after its applied offsets."""
        keys = self.keys[group.name]
        has_entity = np.fromiter((key is not None for key in keys), np.bool_, len(keys))
        for partition, next_offset in applied.items():
            has_entity &= (self.partition != partition) | (self.offset >= next_offset)
        return np.flatnonzero(has_entity)

    def sorted_by(self, entity: NDArray[np.int64], places: NDArray[np.int64], group: FeatureGroup) -> EventColumns:
        """Return the events at some places, sorted for a group by (entity, event time, position)."""
        return self.arrays.sorted_by(entity, places, operands_of(group.features))


def _highest(partition: NDArray[np.int32], values: NDArray[np.int64]) -> dict[int, int]:
    return {int(p): int(values[partition == p].max()) for p in np.unique(partition)}
