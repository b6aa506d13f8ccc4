"""SIGKILL at every step of a flush of the offline log: the log goes on as if nothing had happened.

The writer runs in a process of its own: this file, as a program. It replays the topic from the log's positions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from streamfti.definitions.events import Event, EventTime
from streamfti.definitions.sources import KafkaSource
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import frame_schema

ROOT = Path(__file__).parents[2]
EVENTS = 60
"""In each of two partitions, a third of them without a row."""
BATCH = 20


class Reading(Event):
    value: int
    note: str | None
    at: EventTime


READINGS = KafkaSource("readings", Reading)


def topic(partition: int, first: int, end: int) -> pl.DataFrame:
    """What the topic holds: four dates in each batch, and some offsets that give no row."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        (
            offset * 7,
            None if offset % 5 else "five",
            start + timedelta(hours=offset % 4 * 24),
            partition,
            offset,
            0,
            1,
            False,
        )
        for offset in range(first, end)
        if offset % 3
    ]
    return pl.DataFrame(rows, schema=frame_schema(READINGS.schema), orient="row")


def run(root: Path, kill_at: tuple[int, int] | None = None) -> list[int]:
    """Write the whole topic from the log's positions on; return the steps that were taken.

    Args:
        root: of the log.
        kill_at: a step, and which of its occurrences in this process is the last.
    """
    steps: list[int] = []

    def on_step(step: int) -> None:
        steps.append(step)
        if kill_at is not None and (step, steps.count(step)) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    writer = OfflineLog(root).writer(READINGS, on_step=on_step)
    for first in range(0, EVENTS, BATCH):
        end = first + BATCH
        writer.append(pl.concat([topic(0, first, end), topic(1, first, end)]), {0: end, 1: end})
        writer.flush()
    return steps


def killed(root: Path, step: int, occurrence: int) -> int:
    """Run in a process that kills itself; return its exit code."""
    command = [sys.executable, __file__, str(root), str(step), str(occurrence)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, env=environment, timeout=120).returncode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    root = tmp_path_factory.mktemp("undisturbed")
    steps = run(root)
    assert set(steps) == set(range(1, 9))
    return OfflineLog(root).read(READINGS)


# In the first flush and in a later one; from step 5 on, each flush takes every step once for each partition.
# In the last cases the first partition of a flush is committed when the kill comes, and the second is not.
POINTS = [
    *((step, 1) for step in range(1, 9)),
    (1, 13),
    (3, 12),
    (5, 4),
    (6, 3),
]


@pytest.mark.parametrize(("step", "occurrence"), POINTS)
def test_killed_writer_leaves_a_log_that_goes_on(
    tmp_path: Path, undisturbed: pl.DataFrame, step: int, occurrence: int
) -> None:
    assert killed(tmp_path, step, occurrence) == -signal.SIGKILL
    log = OfflineLog(tmp_path)
    before = log.read(READINGS)
    for partition in (0, 1):
        position = log.positions(READINGS).get(partition, 0)
        of_range = (pl.col("_partition") == partition) & (pl.col("_offset") < position)
        assert_frame_equal(before.filter(pl.col("_partition") == partition), undisturbed.filter(of_range))
    run(tmp_path)
    assert_frame_equal(log.read(READINGS), undisturbed)
    assert not log.read(READINGS).select("_partition", "_offset").is_duplicated().any()
    assert unnamed_files(tmp_path) == set()


def test_kill_upon_kill_loses_and_doubles_nothing(tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    for step in (1, 3, 4, 5, 6, 7):
        assert killed(tmp_path, step, 1) == -signal.SIGKILL
    run(tmp_path)
    assert_frame_equal(OfflineLog(tmp_path).read(READINGS), undisturbed)
    assert unnamed_files(tmp_path) == set()


def unnamed_files(root: Path) -> set[Path]:
    """Files of the log that are neither commits nor named by one."""
    folder = root / READINGS.topic
    named = {folder / file.path for file in OfflineLog(root).snapshot(READINGS).files}
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"} - named


if __name__ == "__main__":
    run(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])))
