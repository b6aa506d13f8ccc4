"""Parts of records to be written, many at once: column by column, and as commands of Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["SideWrite", "SlotWrite", "SlotWrites"]


class SideWrite(NamedTuple):
    """A side record to be written whole, and after how long it expires; None: never."""

    key: bytes
    data: bytes
    expiry_ms: int | None


class SlotWrite(NamedTuple):
    """Bytes to be written into a record."""

    key: bytes
    offset_bytes: int
    data: bytes


@dataclass(slots=True)
class SlotWrites:
    """n writes, in their order.

    They are columns because an event makes a dozen of them: an object for each, and a command packed one by one,
    took half the time of a pipeline's batch.
    """

    keys: list[bytes] = field(default_factory=list)
    offsets_bytes: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, writes: Iterable[SlotWrite]) -> SlotWrites:
        """Take writes apart into columns."""
        found = cls()
        for write in writes:
            found.add([write.key], [write.offset_bytes], [write.data])
        return found

    def add(self, keys: list[bytes], offsets_bytes: list[int], data: list[bytes]) -> None:
        """Append some writes, given as columns of one length."""
        self.keys += keys
        self.offsets_bytes += offsets_bytes
        self.data += data

    def extend(self, others: SlotWrites) -> None:
        """Append other writes."""
        self.add(others.keys, others.offsets_bytes, others.data)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[SlotWrite]:
        return map(SlotWrite, self.keys, self.offsets_bytes, self.data)

    def commands(self) -> bytes:
        """Return one SETRANGE for each, in the form in which Redis takes commands (RESP arrays of bulk strings)."""
        heads = {key: b"*4\r\n$8\r\nSETRANGE\r\n$%d\r\n%b\r\n" % (len(key), key) for key in set(self.keys)}
        sizes = list(map(len, self.data))
        places = set(zip(self.offsets_bytes, sizes, strict=True))  # few: they are of the layout, not of the entity
        middles = {
            (offset, size): b"$%d\r\n%d\r\n$%d\r\n" % (len(str(offset)), offset, size) for offset, size in places
        }
        pieces = [b"\r\n"] * (4 * len(self))
        pieces[0::4] = map(heads.__getitem__, self.keys)
        pieces[1::4] = map(middles.__getitem__, zip(self.offsets_bytes, sizes, strict=True))
        pieces[2::4] = self.data
        return b"".join(pieces)
