from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfti.clock import EPOCH, Clock, ManualClock, SystemClock, from_us, to_us

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_microseconds_are_counted_from_the_epoch_in_utc() -> None:
    assert to_us(EPOCH) == 0
    assert to_us(datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))) == to_us(NOON) == 1_767_268_800_000_000


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_survives_both_ways_to_the_microsecond(at: datetime) -> None:
    assert from_us(to_us(at)) == at


def test_a_naive_time_is_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(ValueError, match=r"must be aware.*naive.*replace\(tzinfo=UTC\)"):
        to_us(naive)


def test_the_system_clock_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = from_us(clock.now_us())
    assert before - timedelta(milliseconds=1) <= now <= datetime.now(UTC)
    assert clock.monotonic() <= clock.monotonic()


def test_a_manual_clock_moves_only_when_told() -> None:
    clock: Clock = (manual := ManualClock(NOON))
    assert (clock.now_us(), clock.monotonic()) == (to_us(NOON), 0.0)
    manual.advance(timedelta(seconds=1, microseconds=1))
    assert (clock.now_us(), clock.monotonic()) == (to_us(NOON) + 1_000_001, 1.000001)


def test_a_manual_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        ManualClock(NOON).advance(timedelta(seconds=-1))
