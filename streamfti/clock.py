"""The only place that reads a clock. Everything else is handed one.

Times are int64 microseconds since 1970-01-01T00:00:00Z inside the package; durations are measured with a
monotonic clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["EPOCH", "Clock", "ManualClock", "SystemClock", "from_us", "to_us"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def to_us(at: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch, exactly.

    Raises:
        ValueError: if ``at`` is naive: a time without a zone has no meaning here.
    """
    if at.tzinfo is None:
        msg = f"a time must be aware (have a time zone), got the naive {at!r}; did you mean .replace(tzinfo=UTC)?"
        raise ValueError(msg)
    return (at - EPOCH) // _US


def from_us(us: int) -> datetime:
    """Return microseconds since the epoch as an aware UTC datetime."""
    return EPOCH + timedelta(microseconds=us)


class Clock(Protocol):
    """Where now comes from."""

    def now_us(self) -> int:
        """Return the current time in microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Return the wall clock in microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return the machine's monotonic clock in seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when it is told to: for tests and simulation."""

    def __init__(self, now: datetime) -> None:
        self._now_us = to_us(now)
        self._start_us = self._now_us

    def now_us(self) -> int:
        """Return the time that was last set."""
        return self._now_us

    def monotonic(self) -> float:
        """Return the seconds since the clock was made."""
        return (self._now_us - self._start_us) / 1e6

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: if it would go back, which a monotonic clock cannot.
        """
        if by < timedelta(0):
            msg = f"a clock cannot go back: advance() got {by!r}"
            raise ValueError(msg)
        self._now_us += by // _US
