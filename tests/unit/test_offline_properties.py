"""However appends, flushes, replays and crashes fall, the offline log is the one of an undisturbed run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from streamfti.definitions.events import Event, EventTime
from streamfti.definitions.sources import KafkaSource
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import frame_schema
from streamfti.stores.offline.writer import LogWriter


class Reading(Event):
    value: int
    at: EventTime


READINGS = KafkaSource("readings", Reading)
PARTITIONS = 2
END = 24
"""Offsets of each partition are in [0, END)."""


@st.composite
def topics(draw: st.DrawFn) -> pl.DataFrame:
    """What a topic holds: some offsets give no row, event times are in no order, equal ones and dates among them."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        (draw(st.integers()) % 97, start + timedelta(hours=draw(st.integers(-30, 30))), partition, offset, 0, 1, False)
        for partition in range(PARTITIONS)
        for offset in draw(st.lists(st.integers(0, END - 1), unique=True))
    ]
    return pl.DataFrame(rows, schema=frame_schema(READINGS.schema), orient="row")


@dataclass(frozen=True)
class Append:
    """Take the next so many offsets of a partition, after stepping back some of them (a replay)."""

    partition: int
    back: int
    offsets: int


@dataclass(frozen=True)
class Flush:
    """Flush; if a step is named, the writer dies there."""

    dies_at: int | None


actions = st.one_of(
    st.builds(Append, st.integers(0, PARTITIONS - 1), st.integers(0, 6), st.integers(0, 9)),
    st.builds(Flush, st.none() | st.integers(1, 8)),
)


class PowerCut(Exception):
    """Ends a writer between two steps."""


class Pipeline:
    """Reads the topic from the log's positions on; starts again when it dies."""

    def __init__(self, log: OfflineLog, topic: pl.DataFrame) -> None:
        self.log, self.topic = log, topic
        self.writer: LogWriter
        self.at: dict[int, int]
        self.start()

    def start(self) -> None:
        self.dies_at: int | None = None
        self.writer = self.log.writer(READINGS, on_step=self.step)
        self.at = self.log.positions(READINGS)
        assert self.at == self.writer.positions

    def step(self, reached: int) -> None:
        if reached == self.dies_at:
            raise PowerCut

    def append(self, action: Append) -> None:
        first = max(0, self.at.get(action.partition, 0) - action.back)
        end = min(END, first + action.offsets)
        rows = (pl.col("_partition") == action.partition) & pl.col("_offset").is_between(first, end, closed="left")
        self.writer.append(self.topic.filter(rows), {action.partition: end})
        self.at[action.partition] = max(end, self.at.get(action.partition, 0))

    def flush(self, dies_at: int | None) -> None:
        self.dies_at = dies_at
        try:
            self.writer.flush()
        except PowerCut:
            self.start()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(topic=topics(), happened=st.lists(actions, max_size=14))
def test_log_holds_each_event_once_whatever_happened(topic: pl.DataFrame, happened: list[Append | Flush]) -> None:
    with tempfile.TemporaryDirectory() as root:
        log = OfflineLog(Path(root))
        pipeline = Pipeline(log, topic)
        for action in happened:
            if isinstance(action, Append):
                pipeline.append(action)
            else:
                pipeline.flush(action.dies_at)
            seen = log.read(READINGS)
            for partition in range(PARTITIONS):
                below = pl.col("_offset") < log.positions(READINGS).get(partition, 0)
                mine = pl.col("_partition") == partition
                assert_frame_equal(seen.filter(mine), ordered(topic.filter(mine & below)))
        for partition in range(PARTITIONS):
            pipeline.append(Append(partition, 0, END))
        pipeline.flush(None)
        assert_frame_equal(log.read(READINGS), ordered(topic))
        assert log.positions(READINGS) == dict.fromkeys(range(PARTITIONS), END)


def ordered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("at", "_partition", "_offset")
