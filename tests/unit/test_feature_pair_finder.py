"""Where the partners of an event may be: in memory, in the log, and after a restart for a while nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import to_us
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline import event_history
from streamfti.feature_pipeline.batches import EventBatch
from streamfti.feature_pipeline.event_history import EventHistory
from streamfti.feature_pipeline.pair_finder import PairFinder
from streamfti.stores.offline.log import OfflineLog
from streamfti.testing.event_frames import event_frame
from streamfti.testing.naive import PlacedEvent

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Click(fti.Event):
    ad: str | None
    at: fti.EventTime


class View(fti.Event):
    ad: str | None
    at: fti.EventTime


clicks = fti.KafkaSource("clicks", Click)
views = fti.KafkaSource("views", View)
join = clicks.join(views, on="ad", within="1m")


@fti.feature_group(source=join, entity="ad")
class Ads:
    n = fti.count().over("1h")


ADS: Any = Ads  # mypy ignores what class decorators return


@pytest.fixture
def log(tmp_path: Path) -> OfflineLog:
    return OfflineLog(tmp_path)


def batch(source: KafkaSource, minutes: Iterable[float], first: int = 0, ad: str | None = "a") -> EventBatch:
    """Events of one partition at so many minutes after noon."""
    events = [
        PlacedEvent(source.event(ad=ad, at=NOON + timedelta(minutes=at)), 0, first + i) for i, at in enumerate(minutes)
    ]
    return EventBatch(
        source, event_frame(source.schema, events, ingest_time_us=to_us(NOON)), [], {0: first + len(events)}
    )


def write(log: OfflineLog, taken: EventBatch) -> None:
    writer = log.writer(taken.source)
    writer.append(taken.frame.with_columns(pl.lit(value=False).alias("_too_late")), taken.next_offsets)
    writer.flush()


def found(pairs: PairFinder, of: EventBatch, applied: dict[int, int]) -> list[tuple[int, int]]:
    """The offsets of the pairs that a batch makes."""
    pairs.take(of)
    return sorted(pairs.pairs(join, of, applied).select("_offset", "_right_offset").rows())


def test_partners_are_less_than_the_bound_apart_whichever_comes_first(log: OfflineLog) -> None:
    pairs = PairFinder([ADS], log)
    assert found(pairs, batch(clicks, [0, 1, 1.5, 3]), {}) == []
    assert found(pairs, batch(views, [2, 0.5]), {0: 4}) == [(0, 1), (1, 1), (2, 0)]


def test_events_that_are_not_applied_yet_make_no_pair_yet(log: OfflineLog) -> None:
    pairs = PairFinder([ADS], log)
    pairs.take(batch(clicks, [0, 0, 0]))
    assert found(pairs, batch(views, [0, 0]), {0: 2, 1: 1}) == [(0, 1), (1, 1)]


def test_a_partner_that_has_left_memory_is_found_in_the_log(log: OfflineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_history, "_TAIL_ROWS", 1)
    pairs = PairFinder([ADS], log)
    old, new = batch(clicks, [0, 0.2, 30]), batch(clicks, [600, 601], first=3)
    for taken in (old, new):
        pairs.take(taken)
        write(log, taken)
        pairs.log_moved(clicks)
    pairs.take(batch(clicks, [602, 603], first=5))  # memory is sorted anew
    assert len(pairs._history(join, join.left)._sorted) == 4
    assert found(pairs, batch(views, [0.1, 30.5, 602.1]), {0: 7}) == [(0, 0), (1, 0), (2, 1), (5, 2), (6, 2)]


def test_memory_keeps_what_the_log_does_not_hold(log: OfflineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_history, "_TAIL_ROWS", 1)
    history = EventHistory(clicks, ("ad",), join.within_us, log)
    history.take(batch(clicks, [0, 0.2]).frame, {0: 2})
    history.take(batch(clicks, [600, 601], first=2).frame, {0: 4})
    assert len(history._sorted) == 4


def test_a_new_process_knows_what_is_logged_and_waits_for_what_was_applied_beyond(log: OfflineLog) -> None:
    write(log, batch(clicks, [0]))
    pairs = PairFinder([ADS], log)
    applied = {0: 2, 1: 0}  # the second click was applied and is not in the log
    assert pairs.has_read(join, {0: 1})
    assert not pairs.has_read(join, applied)
    pairs.take(batch(views, [0]))
    assert not pairs.has_read(join, applied)
    pairs.take(batch(clicks, [0, 0.5]))  # Kafka gives both again
    assert pairs.has_read(join, applied)
    assert found(pairs, batch(views, [0]), applied) == [(0, 0), (1, 0)]


def test_an_event_without_a_key_is_not_kept(log: OfflineLog) -> None:
    pairs = PairFinder([ADS], log)
    pairs.take(batch(clicks, [0, 0], ad=None))
    assert found(pairs, batch(views, [0], ad=None), {0: 2}) == []
    history: EventHistory = pairs._history(join, join.left)
    assert (len(history._sorted), sum(map(len, history._tail))) == (0, 0)


def test_groups_of_one_join_share_their_memory(log: OfflineLog) -> None:
    def group_of(name: str) -> FeatureGroup:
        return fti.feature_group(source=join, entity="ad")(type(name, (), {"n": fti.count().over("1h")}))

    assert len(PairFinder([group_of("One"), group_of("Other")], log)._histories) == 2  # the two sides


def test_many_small_batches_do_not_make_many_parts(log: OfflineLog) -> None:
    pairs = PairFinder([ADS], log)
    for offset in range(100):
        pairs.take(batch(clicks, [0], first=offset))
    assert len(pairs._history(join, join.left)._tail) <= event_history._TAIL_PARTS
    assert len(found(pairs, batch(views, [0]), {0: 100})) == 100
