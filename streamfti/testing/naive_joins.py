"""The naive join: which pairs two streams have, by the rule and nothing else. An oracle of tests.

Every event is held against every other. It shares no code with `streamfti.compute` and may not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from streamfti.clock import to_us
from streamfti.definitions.streams import JoinedStream
from streamfti.testing.naive import PlacedEvent
from streamfti.testing.naive_expressions import naive_row

__all__ = ["PlacedPair", "naive_pairs"]

_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class PlacedPair:
    """A pair of events."""

    left: PlacedEvent
    right: PlacedEvent
    fields: dict[str, Any]
    """Those of both, under their names in the pair."""
    order: tuple[int, ...]
    """What breaks ties of event time."""

    @property
    def change(self) -> int:
        """No change of a row: a pair stays true."""
        return 1


def naive_pairs(
    stream: JoinedStream, left: Iterable[PlacedEvent], right: Iterable[PlacedEvent]
) -> Iterator[PlacedPair]:
    """Iterate over the pairs of a join.

    Args:
        stream: the join.
        left: all events of the left stream's source, in any order.
        right: all events of the right stream's source.
    """
    rights = [(placed, row) for placed in right if (row := naive_row(stream.right, placed.event.values())) is not None]
    for one in left:
        ours = naive_row(stream.left, one.event.values())
        if ours is None:
            continue
        for other, theirs in rights:
            if _is_pair(stream, ours, theirs) and not _is_same(stream, one, other):
                yield PlacedPair(one, other, _values(stream, ours, theirs), (_position(stream, one, other),))


def _is_pair(stream: JoinedStream, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    apart = abs(to_us(ours[stream.left.schema.event_time]) - to_us(theirs[stream.right.schema.event_time]))
    return apart < stream.within_us and all(ours[name] == theirs[name] is not None for name in stream.on)


def _is_same(stream: JoinedStream, one: PlacedEvent, other: PlacedEvent) -> bool:
    place, other_place = (one.partition, one.offset), (other.partition, other.offset)
    return stream.left.source == stream.right.source and place == other_place


def _values(stream: JoinedStream, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    renamed = {stream.right_names[name]: value for name, value in theirs.items() if name not in stream.on}
    later = max(ours[stream.left.schema.event_time], theirs[stream.right.schema.event_time])
    return {**ours, **renamed, stream.schema.event_time: later}


def _position(stream: JoinedStream, one: PlacedEvent, other: PlacedEvent) -> int:
    """Mix the four numbers as SplitMix64 does."""
    lanes = stream.lane(stream.left.source, one.partition), stream.lane(stream.right.source, other.partition)
    state = 0
    for number in (lanes[0], one.offset, lanes[1], other.offset):
        z = (state + number + 0x9E3779B97F4A7C15) & _BITS
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _BITS
        state = z ^ (z >> 31)
    return state >> 1
