"""Entities of any key are told apart, from the event to the value: texts with separators in them, long, empty, any."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import streamfti as fti
from streamfti.clock import to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.definitions.windows import Window
from streamfti.errors import DefinitionError
from streamfti.testing.harness import Harness
from streamfti.testing.strategies import entity_keys, event_streams, group_streams, key_texts, times_before_us

NOW = "2026-01-01T12:00:00+00:00"
NOW_US = 1_767_268_800_000_000


class Payment(fti.Event):
    at: fti.EventTime
    card: str
    shop: int | None
    country: str | None
    online: bool
    cents: int


payments = fti.KafkaSource("payments", Payment)


@fti.feature_group(source=payments, entity="card")
class ByCard:
    n = fti.count().over("1m", "1h")
    cents = fti.sum(Payment.cents).over("1h")
    last = fti.last(Payment.cents).lifetime()


@fti.feature_group(source=payments, entity=("card", "shop", "country", "online"))
class ByAll:
    n = fti.count().over("1h")
    last = fti.last(Payment.cents).over("1h", hop="1h")


GROUPS: list[Any] = [ByCard, ByAll]  # mypy ignores what class decorators return
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@every_group
@SLOW
@given(data=st.data())
def test_entities_of_odd_keys_have_their_own_values_online_and_offline(group: Any, data: st.DataObject) -> None:  # noqa: ANN401
    events = data.draw(group_streams(group, now=NOW))
    h = Harness(group, now=NOW)
    h.push(*events)
    h.assert_no_skew()
    h.restart()
    h.assert_no_skew()


@SLOW
@given(keys=st.lists(entity_keys(GROUPS[1]), unique_by=lambda key: tuple(key.values()), max_size=12))
def test_keys_of_a_group_have_texts_of_their_own(keys: list[dict[str, Any]]) -> None:
    assert len({encode_key(list(key.values())) for key in keys}) == len(keys)


@every_group
@SLOW
@given(data=st.data())
def test_a_stream_of_a_group_ends_before_now(group: Any, data: st.DataObject) -> None:  # noqa: ANN401
    events = data.draw(group_streams(group, now=NOW, max_size=10))
    assert len(events) <= 10
    assert all(0 <= to_us(event.values()["at"]) < NOW_US for event in events)


TAIL_US = NOW_US - 60_000_000


@pytest.mark.parametrize("at_us", [TAIL_US, TAIL_US - 1, TAIL_US + 1, NOW_US - 1, TAIL_US + 5_000_000])
def test_times_are_planted_on_edges_and_beside_them(at_us: int) -> None:
    times = times_before_us(NOW_US, [Window.of("1m", None)])
    assert find(times, lambda found: found == at_us, settings=settings(max_examples=2000)) == at_us


def test_a_window_of_a_lifetime_has_no_edges() -> None:
    assert find(times_before_us(NOW_US, []), lambda at_us: at_us < NOW_US - 1) < NOW_US


@pytest.mark.parametrize("text", ["", "k" * 10_240, "\0", "1:a1:b", "e\u0301", "*"])
def test_key_texts_hold_what_breaks_keys(text: str) -> None:
    assert find(key_texts(), lambda found: found == text, settings=settings(max_examples=5000)) == text


def test_an_entity_comes_again_and_events_tie_and_come_late() -> None:
    streams = group_streams(GROUPS[0], now=NOW)
    events = find(streams, lambda found: len(found) > 2 and found[0].values()["card"] == found[1].values()["card"])
    assert events[0].values()["card"] == events[1].values()["card"]
    times = [e.values()["at"] for e in find(streams, _is_late_and_tied, settings=settings(max_examples=5000))]
    assert len(set(times)) < len(times)


def _is_late_and_tied(events: list[fti.Event]) -> bool:
    times = [event.values()["at"] for event in events]
    return times != sorted(times) and len(set(times)) < len(times)


def test_fields_that_are_given_have_the_given_values_and_nulls_where_they_may() -> None:
    streams = event_streams(Payment, st.just(5), fields={"country": st.just("NL"), "card": st.just("c")})
    both = find(streams, lambda events: {e.values()["country"] for e in events} == {"NL", None})
    assert {event.values()["card"] for event in both} == {"c"}
    with pytest.raises(NoSuchExample):
        find(streams, lambda events: any(e.values()["card"] is None for e in events))


def test_what_is_no_group_has_no_streams() -> None:
    with pytest.raises(DefinitionError, match=r"group_streams\(\) must be given a feature group, got "):
        group_streams(Payment, now=NOW)
    with pytest.raises(ValueError, match="must be aware"):
        group_streams(GROUPS[0], now="2026-01-01T12:00")


class Refund(fti.Event):
    at: fti.EventTime
    card: str
    cents: int


refunds = fti.KafkaSource("refunds", Refund)
refunded = payments.join(refunds, on="card", within="10m")


@fti.feature_group(source=refunded, entity="card")
class RefundedCards:
    n = fti.count().over("1h")


@SLOW
@given(data=st.data())
def test_a_group_over_a_join_has_streams_of_both_sources(data: st.DataObject) -> None:
    events = data.draw(group_streams(RefundedCards, now=NOW, max_size=12))
    h = Harness(RefundedCards, now=NOW)
    h.push(*events)
    h.assert_no_skew()


def test_the_two_sources_of_a_join_have_keys_that_meet() -> None:
    def do_meet(events: list[fti.Event]) -> bool:
        cards = [{e.values()["card"] for e in events if isinstance(e, kind)} for kind in (Payment, Refund)]
        return bool(cards[0] & cards[1])

    assert find(group_streams(RefundedCards, now=NOW), do_meet)
