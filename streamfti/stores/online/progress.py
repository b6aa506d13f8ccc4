"""Progress: how far a group has applied one partition. Written in the same transaction as the tiles it stands for."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.errors import CorruptRecord

__all__ = ["Progress", "applied_until"]

_LAYOUT = struct.Struct("<5q")
_LAYOUT_OF_BEFORE = struct.Struct("<4q")
"""As it was stored before `applied_until_us` was kept."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one group has applied one partition, and how fresh that is.

    Attributes:
        next_offset: the offset after the last one applied.
        newest_event_time_us: the highest event time applied.
        newest_ingest_time_us: the highest broker's time applied.
        processed_at_us: when the last flush was made, by the writer's clock.
        applied_until_us: the broker's time up to which everything in the partition is known to be applied; 0 where
            that is not known. Never later than the writer's clock was.
    """

    next_offset: int
    newest_event_time_us: int
    newest_ingest_time_us: int
    processed_at_us: int
    applied_until_us: int = 0

    def dump(self) -> bytes:
        """Return the stored form: five little-endian int64."""
        return _LAYOUT.pack(*astuple(self))

    @classmethod
    def load(cls, stored: bytes) -> Progress:
        """Read the stored form.

        Raises:
            CorruptRecord: if it has neither that length nor that of before.
        """
        if len(stored) == _LAYOUT_OF_BEFORE.size:
            return cls(*_LAYOUT_OF_BEFORE.unpack(stored))
        if len(stored) != _LAYOUT.size:
            msg = f"stored progress must be {_LAYOUT.size} bytes, got {len(stored)}"
            raise CorruptRecord(msg)
        return cls(*_LAYOUT.unpack(stored))


def applied_until(lanes: Mapping[int, Progress]) -> int | None:
    """Return the broker's time up to which everything in a group's topics is known to be applied to it.

    That of the partition that is furthest behind; history is none of them, as nothing is added to it.

    Args:
        lanes: the group's progress, by partition, or by lane of several sources.

    Returns:
        Microseconds since the epoch; None if no partition has begun, or one does not know it.
    """
    times = [progress.applied_until_us for lane, progress in lanes.items() if lane < HISTORY_PARTITION]
    return min(times, default=0) or None
