"""Progress: how far a group has applied one partition. Written in the same transaction as the tiles it stands for."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

from streamfti.errors import CorruptRecord

__all__ = ["Progress"]

_LAYOUT = struct.Struct("<4q")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one group has applied one partition, and how fresh that is.

    Attributes:
        next_offset: the offset after the last one applied.
        newest_event_time_us: the highest event time applied.
        newest_ingest_time_us: the highest broker's time applied.
        processed_at_us: when the last flush was made, by the writer's clock.
    """

    next_offset: int
    newest_event_time_us: int
    newest_ingest_time_us: int
    processed_at_us: int

    def dump(self) -> bytes:
        """Return the stored form: four little-endian int64."""
        return _LAYOUT.pack(*astuple(self))

    @classmethod
    def load(cls, stored: bytes) -> Progress:
        """Read the stored form.

        Raises:
            CorruptRecord: if it has not that length.
        """
        if len(stored) != _LAYOUT.size:
            msg = f"stored progress must be {_LAYOUT.size} bytes, got {len(stored)}"
            raise CorruptRecord(msg)
        return cls(*_LAYOUT.unpack(stored))
