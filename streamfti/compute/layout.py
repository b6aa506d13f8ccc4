"""The layout of an entity's record in the online store: one string of ring buffers, one ring for each hop.

    offset 0            a microsecond after the newest event applied, int64 µs (0: none)
    then, per ring      n_slots slots, hop ascending
    slot                tile end, int64 µs (0: never written), then the columns of the ring's accumulators, 8 bytes each

All numbers are little-endian. Tile `[start, start + hop)` lives in slot `start / hop mod n_slots` of its ring, so
writing a tile overwrites the one that has left the window and nothing needs pruning. Ends are stored instead of
starts, because zeros, with which Redis pads a string, must read as an empty slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamfti.compute.accumulators import Accumulator
from streamfti.compute.aggregators import aggregator
from streamfti.compute.serialized import SerializedAccumulator
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.windows import LIFETIME, Window
from streamfti.errors import DefinitionError

__all__ = ["HEADER_BYTES", "NEWEST_END", "TILE_END", "RecordLayout", "Ring"]

NEWEST_END = "newest_end_us"
TILE_END = "tile_end_us"
HEADER_BYTES = 8


@dataclass(frozen=True)
class Ring:
    """The tiles of one hop.

    Attributes:
        hop_us: length of a tile.
        n_slots: how many tiles it keeps.
        accumulators: what a tile holds, by name, in stored order.
        offset_bytes: where it begins in the record.
        serialized: what a tile holds beside that in the side record, by name, in stored order.
    """

    hop_us: int
    n_slots: int
    accumulators: Mapping[str, Accumulator]
    offset_bytes: int
    serialized: Mapping[str, SerializedAccumulator] = field(default_factory=dict)

    @property
    def is_lifetime(self) -> bool:
        """Whether its one tile is of all events that there ever were."""
        return self.hop_us == LIFETIME.hop_us

    @property
    def name(self) -> str:
        """The ring's field in the record's dtype."""
        return f"ring_{self.hop_us}"

    @property
    def columns(self) -> tuple[str, ...]:
        """What a slot holds, in stored order, each of 8 bytes: the tile's end, then the accumulators' columns."""
        return (TILE_END, *(name for accumulator in self.accumulators.values() for name in accumulator.columns))

    @property
    def slot_dtype(self) -> np.dtype[Any]:
        """The structured type of one slot."""
        columns = [(name, dtype) for a in self.accumulators.values() for name, dtype in a.columns.items()]
        return np.dtype([(TILE_END, np.dtype("<i8")), *columns])

    @property
    def slot_bytes(self) -> int:
        """The size of one slot."""
        return self.slot_dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """The size of the ring."""
        return self.n_slots * self.slot_bytes

    @property
    def span_us(self) -> int:
        """How much event time the ring covers: an event older than the newest tile by that much is too late."""
        return self.n_slots * self.hop_us


@dataclass(frozen=True)
class RecordLayout:
    """Where everything of an entity's record stands. Derived from the group, never configured."""

    rings: tuple[Ring, ...]
    dtype: np.dtype[Any]
    """The structured type of a whole record: the header, then an array of slots for each ring."""

    @classmethod
    def of(cls, group: FeatureGroup) -> RecordLayout:
        """Build the layout of a group's records."""
        rings = tuple(_rings(group.features, group.max_future_skew_us))
        dtype = np.dtype([(NEWEST_END, "<i8"), *((r.name, r.slot_dtype, (r.n_slots,)) for r in rings)])
        return cls(rings, dtype)

    @property
    def record_bytes(self) -> int:
        """The size of a record whose rings are all in use: the most that an entity takes in the store."""
        return self.dtype.itemsize

    @property
    def has_side_record(self) -> bool:
        """Whether entities have state of any length, in a string of its own."""
        return any(ring.serialized for ring in self.rings)

    def ring_of(self, feature: Feature) -> Ring:
        """Return the ring that a feature's window is read from."""
        return next(r for r in self.rings if r.hop_us == feature.window.hop_us)


def _rings(features: Iterable[Feature], max_future_skew_us: int) -> Iterable[Ring]:
    by_hop: dict[int, list[Feature]] = {}
    for feature in features:
        by_hop.setdefault(feature.window.hop_us, []).append(feature)
    offset_bytes = HEADER_BYTES
    for hop_us, members in sorted(by_hop.items()):
        longest = max((f.window for f in members), key=lambda window: window.length_us)
        accumulators = {a.name: a for f in members for a in _accumulators(f)}
        by_name = dict(sorted(accumulators.items()))  # not by the order of features, which means nothing
        serialized = {name: a for name, a in by_name.items() if isinstance(a, SerializedAccumulator)}
        fixed = {name: a for name, a in by_name.items() if name not in serialized}
        ring = Ring(hop_us, _n_slots(longest, max_future_skew_us), fixed, offset_bytes, serialized)
        offset_bytes += ring.n_bytes
        yield ring


def _accumulators(feature: Feature) -> tuple[Accumulator, ...]:
    found = aggregator(feature.aggregation).accumulators
    if len({isinstance(a, SerializedAccumulator) for a in found}) > 1:
        msg = f"the accumulators of {feature.aggregation} must all be of fixed width or all serialized, got {found}"
        raise DefinitionError(msg)
    return found


def _n_slots(window: Window, max_future_skew_us: int) -> int:
    """The tiles of a window, the open one, and those that events ahead of the clock may open; one for a lifetime."""
    if window.is_lifetime:
        return 1
    return window.length_us // window.hop_us + 1 + -(-max_future_skew_us // window.hop_us)
