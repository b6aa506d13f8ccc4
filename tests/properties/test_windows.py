"""Windows: where they start, and which hop they get."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

import streamfti as fti
from streamfti.compute.layout import RecordLayout
from streamfti.definitions.windows import HOPS_US, Window, default_hop_us, floor_us

_SECOND_US = 1_000_000
_TIMES = st.integers(-(2**55), 2**55)


@given(_TIMES, st.integers(1, 2**45))
def test_floor_is_the_last_multiple_that_is_not_after(time_us: int, hop_us: int) -> None:
    floored = floor_us(time_us, hop_us)
    assert floored % hop_us == 0
    assert floored <= time_us < floored + hop_us


@given(st.integers(12, 400 * 86_400))
def test_the_default_hop_is_the_largest_of_the_ladder_that_divides_and_is_at_most_a_twelfth(seconds: int) -> None:
    length_us = seconds * _SECOND_US
    fitting = [hop for hop in HOPS_US if length_us % hop == 0 and hop <= length_us / 12]
    assert default_hop_us(length_us) == max(fitting)


@given(st.integers(1, 1000), st.integers(1, 5000), _TIMES)
def test_a_window_reaches_back_its_length_and_less_than_a_hop_more(hop_s: int, n_hops: int, q_us: int) -> None:
    window = Window.of(timedelta(seconds=hop_s * n_hops), timedelta(seconds=hop_s))
    start_us = window.start_us(q_us)
    assert start_us % window.hop_us == 0
    assert window.length_us <= q_us - start_us < window.length_us + window.hop_us


class Tick(fti.Event):
    key: str
    at: fti.EventTime


@given(st.integers(1, 90), st.integers(1, 50), st.integers(1, 200), st.integers(0, 2**50), st.data())
def test_a_ring_never_overwrites_a_tile_of_a_window_that_may_be_asked_for(
    hop_s: int, n_hops: int, skew_s: int, now_us: int, data: st.DataObject
) -> None:
    """Not by any event that may be accepted now; and it has no slot too many: the worst case needs the last one."""
    skew, hop = timedelta(seconds=skew_s), timedelta(seconds=hop_s)
    source = fti.KafkaSource("ticks", Tick, max_future_skew=skew)
    body = {"n": fti.count().over(hop * n_hops, hop=hop)}
    (ring,) = RecordLayout.of(fti.feature_group(source=source, entity="key")(type("Ticks", (), body))).rings
    window = Window.of(hop * n_hops, hop)

    def tiles_apart(at_us: int, ahead_us: int) -> int:
        return (at_us + ahead_us) // ring.hop_us - window.start_us(at_us) // ring.hop_us

    assert tiles_apart(now_us, data.draw(st.integers(0, source.max_future_skew_us))) < ring.n_slots
    just_before_a_hop_us = floor_us(now_us, ring.hop_us) + ring.hop_us - 1
    assert tiles_apart(just_before_a_hop_us, source.max_future_skew_us) == ring.n_slots - 1
