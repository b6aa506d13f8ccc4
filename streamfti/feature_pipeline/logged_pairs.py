"""The pairs of a join, from the offline log: in parts, so that not all of the log is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import polars as pl

from streamfti.clock import from_us
from streamfti.compute.joins import joined, side_fields
from streamfti.compute.transformations import LOG_COLUMNS, transformed
from streamfti.definitions.durations import DAY_US
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import JoinedStream, Stream, source_fields
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.snapshot import LogSnapshot

__all__ = ["logged_pairs"]


def logged_pairs(
    join: JoinedStream, fields: Iterable[str], log: OfflineLog, snapshots: Mapping[KafkaSource, LogSnapshot]
) -> Iterator[pl.DataFrame]:
    """Iterate over the pairs of what some snapshots hold, each once: by the day of their left event.

    Args:
        join: the join.
        fields: which fields of the pairs are needed.
        log: the offline log.
        snapshots: of both sources.

    Raises:
        FunctionError: if a batch function of a side fails.
        StoreError: if the log cannot be read.
        CorruptRecord: if the log is damaged.
    """
    left_fields, right_fields = side_fields(join, fields)
    files = snapshots[join.left.source].files
    part_us, reach_us = max(DAY_US, join.within_us), join.within_us

    def read(side: Stream, names: set[str], start_us: int, end_us: int) -> pl.DataFrame:
        columns = source_fields(side, names) | LOG_COLUMNS
        start, end = from_us(max(0, start_us)), from_us(end_us)
        frame = log.read(side.source, snapshots[side.source], start=start, end=end, columns=columns)
        return transformed(side, frame)

    days = {
        us // part_us for file in files for us in range(file.min_event_time_us, file.max_event_time_us + 1, part_us)
    }
    days |= {file.max_event_time_us // part_us for file in files}
    for day in sorted(days):
        start_us, end_us = day * part_us, (day + 1) * part_us
        left = read(join.left, left_fields, start_us, end_us)
        right = read(join.right, right_fields, start_us - reach_us, end_us + reach_us)
        yield joined(join, left, right)
