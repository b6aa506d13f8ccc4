"""The stored form of progress is frozen; what is known of a group is what is known of its slowest partition."""

from __future__ import annotations

import pytest

from streamfti.definitions.sources import HISTORY_PARTITION
from streamfti.errors import CorruptRecord
from streamfti.stores.online.progress import Progress, applied_until

STORED = bytes.fromhex("0100000000000000 0002000000000000 0000030000000000 0000000400000000 0000000005000000")


def test_the_stored_form_is_frozen() -> None:
    progress = Progress(1, 2 << 8, 3 << 16, 4 << 24, 5 << 32)
    assert progress.dump() == STORED
    assert Progress.load(STORED) == progress


def test_what_was_stored_before_freshness_was_kept_is_read_as_of_unknown_freshness() -> None:
    assert Progress.load(STORED[:32]) == Progress(1, 2 << 8, 3 << 16, 4 << 24, applied_until_us=0)


@pytest.mark.parametrize("stored", [b"", STORED[:31], STORED[:39], STORED + b"\0"])
def test_other_lengths_are_corrupt(stored: bytes) -> None:
    with pytest.raises(CorruptRecord, match=rf"stored progress must be 40 bytes, got {len(stored)}"):
        Progress.load(stored)


def progress(applied_until_us: int) -> Progress:
    return Progress(1, 1, 1, 1, applied_until_us)


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        ({}, None),
        ({0: progress(7), 3: progress(5), 4: progress(9)}, 5),
        ({0: progress(7), 3: progress(0)}, None),
        ({0: progress(7), HISTORY_PARTITION: progress(0)}, 7),
        ({0: progress(7), HISTORY_PARTITION: progress(5), HISTORY_PARTITION + 1: progress(0)}, 7),
        ({HISTORY_PARTITION: progress(5)}, None),
    ],
    ids=["nothing", "the slowest", "one unknown", "history, unknown", "history, old", "history alone"],
)
def test_a_group_is_as_far_as_its_slowest_partition(partitions: dict[int, Progress], expected: int | None) -> None:
    assert applied_until(partitions) == expected
