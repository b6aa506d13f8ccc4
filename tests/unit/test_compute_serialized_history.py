"""States of any length at many points in time: more than are in memory at once, against plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute import serialized_history
from streamfti.compute.accumulators import EventColumns, FieldColumn, State
from streamfti.compute.serialized import SerializedAccumulator, objects, valid_runs
from streamfti.compute.serialized_history import serialized_states
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field
from streamfti.definitions.expressions import Expression

HOP_US = 10
LIFETIME_US = 1 << 62
WORD = Field("E", "word", ValueType(DType.STRING, nullable=True))


@dataclass(frozen=True)
class Letters(SerializedAccumulator):
    """All letters of all strings, sorted: it shows every event, once."""

    operand: Expression

    @property
    @override
    def name(self) -> str:
        return "letters"

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        places, begin, end = valid_runs(events, self.operand, starts)
        words = events.fields[self.operand.name].values[places].tolist()
        return {
            self.name: objects([self.fold([w.encode() for w in words[a:b]]) for a, b in zip(begin, end, strict=True)])
        }

    @override
    def fold(self, states: Sequence[bytes]) -> bytes:
        return b",".join(sorted(word for state in states for word in state.split(b",")))


def drawn(n: int, n_entities: int, seed: int) -> EventColumns:
    dice = np.random.default_rng(seed)
    entity, time_us = dice.integers(0, n_entities, n), dice.integers(0, 40 * HOP_US, n)
    order = np.lexsort((time_us, entity))
    words = np.array([f"w{i}" for i in range(n)], np.object_)
    column = FieldColumn(words, dice.random(n) < 0.8)
    return EventColumns(entity[order], time_us[order], np.arange(n), {"word": column})


@pytest.mark.parametrize("hop_us", [HOP_US, LIFETIME_US])
@pytest.mark.parametrize("at_once", [1, 3, 7, 4_096])
def test_every_window_holds_just_its_events(monkeypatch: pytest.MonkeyPatch, hop_us: int, at_once: int) -> None:
    monkeypatch.setattr(serialized_history, "_QUERIES_AT_ONCE", at_once)
    monkeypatch.setattr(serialized_history, "_RUNS_AT_ONCE", at_once)
    dice, events = np.random.default_rng(at_once), drawn(120, 4, at_once)
    entity = dice.integers(0, 5, 200)  # one of them has no events
    until_us = dice.integers(-5, 45 * HOP_US, 200)
    tail_us = until_us - 3 * HOP_US
    tail_us -= tail_us % HOP_US
    if hop_us == LIFETIME_US:
        tail_us[:] = -1
    where = events.entity * 1_000 + events.event_time_us + 100
    start = np.searchsorted(where, entity * 1_000 + tail_us + 100)
    stop = np.searchsorted(where, entity * 1_000 + until_us + 100)

    found = [b"?"] * 200
    for queries, state in serialized_states([Letters(WORD)], events, hop_us, start, stop):
        assert len(queries) <= at_once
        for query, one in zip(queries.tolist(), state["letters"].tolist(), strict=True):
            assert found[query] == b"?"
            found[query] = one

    column = events.fields["word"]
    assert column.valid is not None
    expected = [
        b",".join(sorted(w.encode() for w in column.values[a:b][column.valid[a:b]]))
        for a, b in zip(start, stop, strict=True)
    ]
    assert found == expected


def test_without_events_every_window_is_empty() -> None:
    events = drawn(0, 1, 1)
    nothing = np.zeros(3, np.int64)
    ((queries, state),) = serialized_states([Letters(WORD)], events, HOP_US, nothing, nothing)
    assert (sorted(queries.tolist()), state["letters"].tolist()) == ([0, 1, 2], [b""] * 3)


def test_without_queries_there_is_nothing() -> None:
    none = np.zeros(0, np.int64)
    assert list(serialized_states([Letters(WORD)], drawn(5, 1, 1), HOP_US, none, none)) == []
