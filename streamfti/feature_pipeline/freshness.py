"""What is known of a group without any event: that its partitions have ended, and how fresh it is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.feature_pipeline.kafka_source import Partition
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress, applied_until

__all__ = ["freshness_s", "progress_at_ends"]


def progress_at_ends(
    group: FeatureGroup,
    lanes: Collection[int],
    applied: Mapping[bytes, Progress],
    ends: Mapping[Partition, int],
    now_us: int,
) -> dict[bytes, Progress]:
    """Return, by key, the progress of the lanes that are up to date: so an idle topic keeps a group fresh.

    A group that has not begun a lane in which there is something is up to date with none, whatever it has of others.

    Args:
        group: the group.
        lanes: its lanes, those of history among them.
        applied: what is stored, by key, of any group.
        ends: for each partition that has ended, the offset after its last message. It counts for a group that has
            applied as much: batches may be on their way through the engine.
        now_us: when it was so.
    """
    progress: dict[bytes, Progress] = {}
    for lane in _live(lanes):
        source, partition = group.stream.place(lane)
        key, end = progress_key(group, lane), ends.get((source.name, partition))
        old = applied.get(key)
        if old is None and end is None:
            return {}
        if old is not None and end is not None and old.next_offset >= end:
            progress[key] = replace(old, applied_until_us=max(old.applied_until_us, now_us))
    return progress


def freshness_s(
    group: FeatureGroup, lanes: Collection[int], applied: Mapping[bytes, Progress], now_us: int
) -> float | None:
    """Return how long ago, in seconds, all that was in a group's topics was applied; None if that is not known."""
    found = {lane: applied.get(progress_key(group, lane)) for lane in _live(lanes)}
    until_us = applied_until({lane: progress for lane, progress in found.items() if progress is not None})
    return None if until_us is None else max(0, now_us - until_us) / 1e6


def _live(lanes: Collection[int]) -> list[int]:
    """Leave out history: nothing is added to it."""
    return [lane for lane in lanes if lane < HISTORY_PARTITION]
