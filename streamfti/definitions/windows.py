"""Windows and their hops: which past events a value at query time `q` is made of.

A window of length W with hop h covers `[floor(q - W, h), q)`: the head is exact, the tail moves in hops. This is
the definition online and offline alike, so it adds no skew; what it costs is that a window reaches back up to one
hop further than W.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfti.definitions.durations import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    Duration,
    duration_label,
    duration_us,
)
from streamfti.errors import DefinitionError

__all__ = ["HOPS_US", "LIFETIME", "Window", "default_hop_us", "floor_us"]

HOPS_US = (
    SECOND_US,
    5 * SECOND_US,
    10 * SECOND_US,
    30 * SECOND_US,
    MINUTE_US,
    5 * MINUTE_US,
    10 * MINUTE_US,
    30 * MINUTE_US,
    HOUR_US,
    2 * HOUR_US,
    6 * HOUR_US,
    12 * HOUR_US,
    DAY_US,
)
"""The sizes that a hop may have by default, ascending, in microseconds."""

_SHARE = 12  # a tail of at most a twelfth of the window: at most 8.4 % more than W, at most 13 tiles a window


def floor_us(time_us: int, hop_us: int) -> int:
    """Return the start of the hop that holds `time_us`; hops are aligned to the epoch, also before it."""
    return time_us - time_us % hop_us


def default_hop_us(length_us: int) -> int:
    """Return the largest hop of the ladder that divides the window and is at most a twelfth of it.

    Raises:
        DefinitionError: if no hop fits, which is so for windows under 12 s or of broken seconds.
    """
    fitting = [hop for hop in HOPS_US if length_us % hop == 0 and hop * _SHARE <= length_us]
    if not fitting:
        msg = f"a window must be whole seconds and at least 12s, got {length_us / SECOND_US:g}s"
        raise DefinitionError(msg, hint="give a hop of your own: .over('5s', hop='1s')")
    return fitting[-1]


@dataclass(frozen=True, slots=True)
class Window:
    """A window's length and hop in microseconds, and the label that it gives to feature names."""

    label: str
    length_us: int
    hop_us: int

    @property
    def is_lifetime(self) -> bool:
        """Whether it holds all events that there ever were."""
        return self.length_us == _LIFETIME_US

    @classmethod
    def of(cls, length: Duration, hop: Duration | None = None) -> Window:
        """Build a window from what the user wrote.

        Raises:
            DefinitionError: if the hop does not divide the length.
        """
        length_us = duration_us(length, subject="a window")
        hop_us = default_hop_us(length_us) if hop is None else duration_us(hop, subject="a hop")
        if length_us % hop_us:
            msg = f"a hop must divide its window, got hop {hop!r} of window {length!r}"
            raise DefinitionError(msg)
        return cls(duration_label(length), length_us, hop_us)

    def start_us(self, query_time_us: int) -> int:
        """Return the (included) start of the window at a query time."""
        return floor_us(query_time_us - self.length_us, self.hop_us)


_LIFETIME_US = 1 << 62
"""Longer than any time that an event can have, so that all event times lie in the first hop, and no tail reaches it."""

LIFETIME = Window("", _LIFETIME_US, _LIFETIME_US)
"""The window of all events: one tile, which never leaves it. It gives no label to feature names."""
