"""Durations as the user writes them (`"5m"`, `timedelta`) and as the package counts them (int microseconds)."""

from __future__ import annotations

import re
from datetime import timedelta

from streamfti.errors import DefinitionError

__all__ = ["DAY_US", "HOUR_US", "MINUTE_US", "SECOND_US", "Duration", "duration_label", "duration_us"]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US  # always 86,400 s: a calendar day would make a window's length depend on the date

Duration = str | timedelta
"""What the public API takes wherever a length of time is meant."""

_UNITS = {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US}
_PATTERN = re.compile(r"(\d+)(s|m|h|d)")


def duration_us(duration: Duration, *, subject: str) -> int:
    """Return a positive duration in microseconds.

    Args:
        duration: a `timedelta`, or digits and one of `s`, `m`, `h`, `d`.
        subject: what the duration is of, for the message.

    Raises:
        DefinitionError: if it cannot be read or is not positive.
    """
    if isinstance(duration, timedelta):
        us = duration // timedelta(microseconds=1)
    else:
        match = _PATTERN.fullmatch(str(duration))  # an unchecked file may hold anything
        if match is None:
            msg = f"{subject} must be a duration such as '30s', '5m', '24h' or '7d', got {duration!r}"
            raise DefinitionError(msg, hint="use digits and one of s, m, h, d, or a timedelta")
        us = int(match[1]) * _UNITS[match[2]]
    if us <= 0:
        msg = f"{subject} must be longer than zero, got {duration!r}"
        raise DefinitionError(msg)
    return us


def duration_label(duration: Duration) -> str:
    """Return the suffix that a window gives to its feature's name: as written, or in the largest whole unit.

    >>> duration_label("24h"), duration_label(timedelta(minutes=90))
    ('24h', '90m')

    Raises:
        DefinitionError: if it is not of whole seconds.
    """
    if isinstance(duration, str):
        return duration
    us = duration_us(duration, subject="a window")
    for unit, size in reversed(_UNITS.items()):
        if us % size == 0:
            return f"{us // size}{unit}"
    msg = f"a window must be a whole number of seconds, got {duration!r}"
    raise DefinitionError(msg)
