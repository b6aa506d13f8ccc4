"""The side record of an entity: its state of any length, beside the record of fixed width. Bytes in, bytes out, no I/O.

    an entry for each tile that has such state, ascending
        ring        u16, its number among those of the layout
        tile end    int64 µs
        states      for each serialized accumulator of the ring: length u32, and so many bytes

All numbers are little-endian. A tile has one slot, as in the record: which of two tiles for it stays is decided
there. An entry that has left its ring's span is dropped when another is written. So the bytes depend on which
events were applied, never on their order, as far as those of the states do not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.layout import RecordLayout, Ring
from streamfti.compute.tiles import Tiles
from streamfti.errors import CorruptRecord

__all__ = ["RingTiles", "SideTiles", "dump_side_record", "load_side_record", "merge_side_records"]

_ENTRY = struct.Struct("<Hq")
_LENGTH = struct.Struct("<I")

SideTiles = dict[int, dict[int, list[bytes]]]
"""By ring and tile end: the states of the ring's serialized accumulators, in their order."""


@dataclass(frozen=True, slots=True)
class RingTiles:
    """The tiles of a batch for one ring, and what `merge_tiles` made of them.

    Attributes:
        ring: the ring's number in the layout.
        tiles: at most one a (row, slot).
        kept: bool[n_tiles]: false where a tile was too late.
    """

    ring: int
    tiles: Tiles
    kept: NDArray[np.bool_]


def load_side_record(layout: RecordLayout, stored: bytes | None) -> SideTiles:
    """Return what a side record holds; an entity without one has nothing.

    Raises:
        CorruptRecord: if it is not made as the layout says.
    """
    tiles: SideTiles = {}
    at = 0
    data = stored or b""
    try:
        while at < len(data):
            number, end_us = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            states: list[bytes] = []
            for _ in layout.rings[number].serialized:
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size + length
                states.append(data[at - length : at])
            tiles.setdefault(number, {})[end_us] = states
    except (struct.error, IndexError) as exc:
        raise _corrupt(data) from exc
    if at != len(data):
        raise _corrupt(data)
    return tiles


def _corrupt(data: bytes) -> CorruptRecord:
    msg = f"a stored side record must be made as its definition says, got {len(data)} bytes that are not"
    return CorruptRecord(msg, hint="was the definition changed without a new version?")


def dump_side_record(tiles: SideTiles) -> bytes:
    """Return the stored form; tiles without any state are left out."""
    parts: list[bytes] = []
    for number, by_end in sorted(tiles.items()):
        for end_us, states in sorted(by_end.items()):
            if any(states):
                parts.append(_ENTRY.pack(number, end_us))
                parts += [part for state in states for part in (_LENGTH.pack(len(state)), state)]
    return b"".join(parts)


def merge_side_records(
    layout: RecordLayout, stored: Callable[[int], bytes | None], batch: Sequence[RingTiles]
) -> dict[int, bytes]:
    """Merge the tiles of a batch into side records, and return those that changed, by row.

    Args:
        layout: says what the records are made of.
        stored: returns the side record of a row.
        batch: the tiles for each ring that has serialized accumulators; for others, they are passed over.

    Raises:
        CorruptRecord: if a stored one is not made as the layout says.
    """
    loaded: dict[int, SideTiles] = {}
    for part in batch:
        ring = layout.rings[part.ring]
        if not ring.serialized:
            continue
        kept = np.flatnonzero(part.kept)
        columns = [part.tiles.state[name][kept].tolist() for name in ring.serialized]
        rows, ends_us = part.tiles.rows[kept].tolist(), part.tiles.ends_us[kept].tolist()
        for row, end_us, *states in zip(rows, ends_us, *columns, strict=True):
            if row not in loaded:
                loaded[row] = load_side_record(layout, stored(row))
            _merge_tile(ring, loaded[row].setdefault(part.ring, {}), end_us, states)
    changed: dict[int, bytes] = {}
    for row, tiles in loaded.items():
        dumped = dump_side_record(_within_span(layout, tiles))
        if dumped != (stored(row) or b""):
            changed[row] = dumped
    return changed


def _merge_tile(ring: Ring, by_end: dict[int, list[bytes]], end_us: int, states: list[bytes]) -> None:
    """Merge one tile into those of its ring, in place: it has its slot for itself."""
    old = by_end.get(end_us)
    if old is None:
        for other_us in [other for other in by_end if (other - end_us) % ring.span_us == 0]:
            del by_end[other_us]
        by_end[end_us] = states
    else:
        pairs = zip(ring.serialized.values(), old, states, strict=True)
        by_end[end_us] = [accumulator.together(pair) for accumulator, *pair in pairs]


def _within_span(layout: RecordLayout, tiles: SideTiles) -> SideTiles:
    """Return the tiles that a window may still ask for."""
    found: SideTiles = {}
    for number, by_end in tiles.items():
        in_use = {end_us: states for end_us, states in by_end.items() if any(states)}
        oldest_us = max(in_use, default=0) - layout.rings[number].span_us
        found[number] = {end_us: states for end_us, states in in_use.items() if end_us > oldest_us}
    return found
