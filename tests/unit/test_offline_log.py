"""The offline log keeps every event once, in order, and reads back what was pinned. Real files."""

from __future__ import annotations

import dataclasses
import decimal
import json
import resource
import zlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from streamfti.clock import ManualClock, to_us
from streamfti.definitions.decimals import Decimal
from streamfti.definitions.events import Event, EventTime
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError, CorruptRecord, FencedWriter, StoreError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import columns_fingerprint, frame_schema, log_schema
from streamfti.stores.offline.snapshot import LogSnapshot

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Payment(Event):
    """One field of each type, required and nullable."""

    card: str
    cents: int
    rate: float
    online: bool
    settled: datetime
    at: EventTime
    note: str | None
    tip: int | None
    score: float | None
    gift: bool | None
    refunded: datetime | None
    fee: Annotated[decimal.Decimal, Decimal(18, 4)]
    rebate: Annotated[decimal.Decimal, Decimal(3, 2)] | None


PAYMENTS = KafkaSource("payments", Payment)
ORDER = ("at", "_partition", "_offset")
DAY = timedelta(days=1)


def payment(partition: int, offset: int, at: datetime = NOON) -> dict[str, object]:
    """A row of the log; every other one has nulls wherever it may."""
    known = offset % 2 == 0
    return {
        "card": f"card-{offset} \u00e9\u4e2d",
        "cents": (-1) ** offset * (2**62 + offset),
        "rate": offset / 3,
        "online": known,
        "settled": at + timedelta(microseconds=offset),
        "at": at,
        "note": "" if known else None,
        "tip": offset if known else None,
        "score": -0.0 if known else None,
        "gift": False if known else None,
        "refunded": at - DAY if known else None,
        "fee": decimal.Decimal(-(10**14) - offset).scaleb(-4),
        "rebate": decimal.Decimal("-9.99") if known else None,
        "_partition": partition,
        "_offset": offset,
        "_ingest_time_us": to_us(at) + 7,
        "_schema_id": 1,
        "_too_late": not known,
    }


def frame(*rows: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=frame_schema(PAYMENTS.schema), orient="row")


def run(partition: int, first: int, end: int, *, every: timedelta = timedelta(hours=5)) -> pl.DataFrame:
    """Payments of one partition, one `every` so much time."""
    return frame(*(payment(partition, offset, NOON + offset * every) for offset in range(first, end)))


@pytest.fixture
def log(tmp_path: Path) -> OfflineLog:
    return OfflineLog(tmp_path / "log", clock=ManualClock(NOON))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log" / "payments"


def fill(log: OfflineLog, partition: int, first: int, end: int) -> None:
    """Commit one range, with a writer of its own."""
    with log.writer(PAYMENTS) as writer:
        writer.append(run(partition, first, end), {partition: end})
        writer.flush()


def commit_path(folder: Path, first: int, partition: int = 0) -> Path:
    return folder / f"_commits/p{partition}/{first:020d}.json"


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("event_date=*/*.parquet"))


def test_every_type_and_every_null_comes_back(log: OfflineLog) -> None:
    rows = pl.concat([run(0, 0, 9), run(3, 0, 7)])
    with log.writer(PAYMENTS) as writer:
        writer.append(rows, {0: 9, 3: 7})
        flushed = writer.flush()
    assert (flushed.rows, flushed.next_offsets) == (16, {0: 9, 3: 7})
    assert_frame_equal(log.read(PAYMENTS), rows.sort(*ORDER))


def test_events_come_sorted_by_event_time_then_partition_then_offset(log: OfflineLog) -> None:
    with log.writer(PAYMENTS) as writer:
        writer.append(frame(payment(1, 0), payment(0, 0, NOON + DAY), payment(0, 1), payment(0, 2)), {0: 3, 1: 1})
        writer.flush()
        writer.append(frame(payment(0, 3), payment(1, 1, NOON - DAY)), {0: 4, 1: 2})
        writer.flush()
    got = log.read(PAYMENTS, columns=["_partition", "_offset"]).rows()
    assert got == [(1, 1), (0, 1), (0, 2), (0, 3), (1, 0), (0, 0)]


def test_empty_log_reads_as_an_empty_frame_with_all_columns(log: OfflineLog) -> None:
    assert log.positions(PAYMENTS) == {}
    assert dict(log.read(PAYMENTS).schema) == frame_schema(PAYMENTS.schema)
    assert log.snapshot(PAYMENTS).rows == 0


def test_nothing_is_in_the_log_before_flush(log: OfflineLog) -> None:
    writer = log.writer(PAYMENTS)
    writer.append(run(0, 0, 5), {0: 5})
    assert writer.buffered_rows == 5
    assert writer.buffered_bytes > 0
    assert log.read(PAYMENTS).is_empty()
    writer.flush()
    assert (writer.buffered_rows, writer.buffered_bytes) == (0, 0)
    assert log.positions(PAYMENTS) == writer.positions == {0: 5}


def test_flush_of_nothing_does_nothing(log: OfflineLog, folder: Path) -> None:
    writer = log.writer(PAYMENTS)
    writer.append(run(0, 0, 0), {0: 0})
    flushed = writer.flush()
    assert (flushed.rows, flushed.files, flushed.next_offsets) == (0, 0, {})
    assert not list(folder.rglob("*.json"))


def test_range_without_a_row_moves_the_position(log: OfflineLog) -> None:
    with log.writer(PAYMENTS) as writer:
        writer.append(run(0, 0, 0), {0: 40, 1: 2})
        assert writer.flush().files == 0
    assert log.positions(PAYMENTS) == {0: 40, 1: 2}
    assert log.read(PAYMENTS).is_empty()


def test_gaps_between_offsets_belong_to_the_range(log: OfflineLog) -> None:
    with log.writer(PAYMENTS) as writer:
        writer.append(frame(payment(0, 100), payment(0, 150)), {0: 160})
        writer.flush()
        writer.append(frame(payment(0, 170)), {0: 171})
        writer.flush()
    assert log.positions(PAYMENTS) == {0: 171}
    assert log.read(PAYMENTS)["_offset"].to_list() == [100, 150, 170]


def test_replayed_rows_are_dropped(log: OfflineLog) -> None:
    fill(log, 0, 0, 6)
    with log.writer(PAYMENTS) as writer:
        writer.append(run(0, 0, 4), {0: 4})
        assert writer.buffered_rows == 0
        writer.append(run(0, 3, 9), {0: 9})
        writer.append(run(0, 7, 10), {0: 10})
        assert writer.buffered_rows == 4
        writer.flush()
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 10))


def test_each_utc_event_date_has_a_hive_folder(log: OfflineLog, folder: Path) -> None:
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    before = midnight - timedelta(microseconds=1)
    with log.writer(PAYMENTS) as writer:
        writer.append(frame(payment(0, 0, midnight), payment(0, 1, before), payment(1, 0, before)), {0: 2, 1: 1})
        assert writer.flush().files == 3
    assert [path.parent.name for path in data_files(folder)] == ["event_date=2026-01-01"] * 2 + [
        "event_date=2026-01-02"
    ]
    assert [file.event_date for file in log.snapshot(PAYMENTS).files] == [
        date(2026, 1, 1),
        date(2026, 1, 2),
        date(2026, 1, 1),
    ]


@pytest.mark.parametrize("at", [datetime(1901, 5, 5, 5, 5, 5, 5, UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)])
def test_event_times_far_from_now_come_back(log: OfflineLog, at: datetime) -> None:
    row = payment(0, 0, at)
    with log.writer(PAYMENTS) as writer:
        writer.append(frame(row), {0: 1})
        writer.flush()
    assert_frame_equal(log.read(PAYMENTS, start=at), frame(row))


def test_data_file_says_what_it_is(log: OfflineLog, folder: Path) -> None:
    fill(log, 2, 0, 1)
    (path,) = data_files(folder)
    said = {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}
    assert said["streamfti.topic"] == "payments"
    assert said["streamfti.event"] == "Payment"
    assert [said[f"streamfti.{name}"] for name in ("partition", "first_offset", "next_offset")] == ["2", "0", "1"]
    stored = pq.read_schema(path)
    assert stored.equals(log_schema(PAYMENTS.schema))
    column = pq.read_metadata(path).row_group(0).column(0)
    assert (column.compression, column.is_stats_set) == ("ZSTD", True)


def footer_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[-8 - int.from_bytes(content[-8:-4], "little") :]


def test_commit_says_what_became_part_of_the_log(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    said = json.loads(commit_path(folder, 0).read_text())
    (file,) = said.pop("files")
    (path,) = data_files(folder)
    assert file == {
        "path": str(path.relative_to(folder)),
        "rows": 3,
        "size_bytes": path.stat().st_size,
        "footer_crc32": zlib.crc32(footer_of(path)),
        "min_event_time_us": to_us(NOON),
        "max_event_time_us": to_us(NOON + timedelta(hours=10)),
    }
    assert said == {
        "format": 1,
        "topic": "payments",
        "event": "Payment",
        "columns_fingerprint": columns_fingerprint(PAYMENTS.schema),
        "partition": 0,
        "first_offset": 0,
        "next_offset": 3,
        "rows": 3,
        "processed_at_us": to_us(NOON),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_too_late": None}, r"column '_too_late' .* must be Boolean, got absent"),
        ({"extra": pl.lit(1)}, r"column 'extra' .* must be absent, got Int32"),
        ({"cents": pl.col("cents").cast(pl.Float64)}, r"column 'cents' .* must be Int64, got Float64"),
        ({"at": pl.col("at").dt.replace_time_zone(None)}, r"column 'at' .* must be Datetime.*UTC"),
        ({"card": pl.lit(None, pl.String)}, r"column 'card' .* must have no nulls, got 2 in 2 rows"),
        ({"_offset": pl.lit(4, pl.Int64)}, "must differ from each other"),
        ({"_offset": pl.col("_offset") - 1}, r"must be in \[0, 2\), got -1 to 0"),
        ({"_offset": pl.col("_offset") + 1}, r"must be in \[0, 2\), got 1 to 2"),
        ({"_partition": pl.lit(5, pl.Int32)}, r"must name every partition of the frame, got \[0\] and rows of 5"),
        ({"at": pl.lit(2**62).cast(pl.Datetime("us", "UTC"))}, "must be in the years 1 to 9999"),
    ],
)
def test_wrong_frame_is_refused_whole(log: OfflineLog, change: dict[str, pl.Expr | None], message: str) -> None:
    columns = {name: expression for name, expression in change.items() if expression is not None}
    wrong = run(0, 0, 2).with_columns(**columns).drop([name for name in change if name not in columns])
    end = 5 if "differ" in message else 2
    writer = log.writer(PAYMENTS)
    with pytest.raises(ContractError, match=message):
        writer.append(wrong, {0: end})
    assert writer.flush().next_offsets == {}


@pytest.mark.parametrize("next_offsets", [{-1: 3}, {0: -3}])
def test_impossible_next_offset_is_refused(log: OfflineLog, next_offsets: dict[int, int]) -> None:
    with pytest.raises(ContractError, match="must map partitions to offsets of 0 or more"):
        log.writer(PAYMENTS).append(run(0, 0, 0), next_offsets)


@pytest.mark.parametrize("topic", ["..", ".", "a/b", "a b", "\u00e9", "x" * 250, "a\n"])
def test_topic_that_is_no_folder_is_refused(log: OfflineLog, topic: str) -> None:
    with pytest.raises(ContractError, match="a topic must be 1 to 249 of"):
        log.writer(KafkaSource(topic, Payment))


def test_two_sources_share_nothing(log: OfflineLog) -> None:
    other = KafkaSource("payments.v2", Payment)
    fill(log, 0, 0, 3)
    assert log.positions(other) == {}
    with pytest.raises(ContractError, match=r"snapshot must be of topic 'payments\.v2', got one of 'payments'"):
        log.read(other, log.snapshot(PAYMENTS))


# -- two writers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [4, 6, 9])
def test_second_writer_from_the_same_position_is_fenced(log: OfflineLog, folder: Path, end: int) -> None:
    fill(log, 0, 0, 3)
    zombie, successor = log.writer(PAYMENTS), log.writer(PAYMENTS)
    zombie.append(run(0, 3, end), {0: end})
    successor.append(run(0, 3, 6), {0: 6})
    successor.flush()
    with pytest.raises(FencedWriter, match="partition 0 of 'payments' must go on at 3, got a commit there"):
        zombie.flush()
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 6))
    with pytest.raises(StoreError, match="must not be used after a failed flush"):
        zombie.append(run(0, 6, 7), {0: 7})
    log.writer(PAYMENTS)
    assert len(data_files(folder)) == len(log.snapshot(PAYMENTS).files)


def test_zombie_that_commits_first_keeps_its_files(log: OfflineLog) -> None:
    """The successor starts, and cleans up, while the zombie stands between its files and its commit."""
    successors = []
    zombie = log.writer(PAYMENTS, on_step=lambda step: successors.append(log.writer(PAYMENTS)) if step == 4 else None)
    zombie.append(run(0, 0, 5), {0: 5})
    zombie.flush()
    (successor,) = successors
    successor.append(run(0, 0, 5), {0: 5})
    with pytest.raises(FencedWriter, match="must go on at 0"):
        successor.flush()
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 5))


def test_writers_of_different_partitions_do_not_meet(log: OfflineLog) -> None:
    left, right = log.writer(PAYMENTS), log.writer(PAYMENTS)
    for first in (0, 3):
        left.append(run(0, first, first + 3), {0: first + 3})
        right.append(run(1, first, first + 3), {1: first + 3})
        left.flush()
        right.flush()
    assert log.positions(PAYMENTS) == {0: 6, 1: 6}
    assert log.read(PAYMENTS).height == 12


# -- damage ------------------------------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Ends a writer between two steps."""


def crash_at(log: OfflineLog, step: int, first: int, end: int) -> None:
    """Append with a writer that goes no further than a step of its flush."""

    def cut(reached: int) -> None:
        if reached == step:
            raise PowerCut

    writer = log.writer(PAYMENTS, on_step=cut)
    writer.append(run(0, first, end), {0: end})
    with pytest.raises(PowerCut):
        writer.flush()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_debris_of_a_crash_is_never_read_and_goes_with_the_next_commit(
    log: OfflineLog, folder: Path, step: int
) -> None:
    fill(log, 0, 0, 2)
    crash_at(log, step, 2, 12)
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 2))
    fill(log, 0, 2, 9)
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 9))
    named = {folder / file.path for file in log.snapshot(PAYMENTS).files}
    left = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert left == named


def test_debris_of_another_partition_stays_until_that_goes_on(log: OfflineLog, folder: Path) -> None:
    crash_at(log, 4, 0, 2)
    debris = data_files(folder)
    fill(log, 1, 0, 2)
    assert set(debris) < set(data_files(folder))
    fill(log, 0, 0, 2)
    assert not set(debris) & set(data_files(folder))


def test_removed_commit_is_a_gap(log: OfflineLog, folder: Path) -> None:
    for first in (0, 3, 6):
        fill(log, 0, first, first + 3)
    commit_path(folder, 3).unlink()
    message = rf"{commit_path(folder, 6)} must start where .* which is 3 by {commit_path(folder, 0)}, got a gap"
    with pytest.raises(CorruptRecord, match=message):
        log.positions(PAYMENTS)
    with pytest.raises(CorruptRecord, match="got a gap"):
        log.writer(PAYMENTS)


def test_removed_first_commit_is_named(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    fill(log, 0, 3, 6)
    commit_path(folder, 0).unlink()
    with pytest.raises(CorruptRecord, match=r"first commit .* must start at offset 0, got .*3\.json"):
        log.snapshot(PAYMENTS)


def test_commit_inside_another_is_an_overlap(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    commit_path(folder, 2).write_bytes(commit_path(folder, 0).read_bytes())
    with pytest.raises(CorruptRecord, match=rf"{commit_path(folder, 2)} must .* got an overlap"):
        log.read(PAYMENTS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "files": [{}]}',
        b"\xff",
    ],
)
def test_damaged_commit_is_named(log: OfflineLog, folder: Path, content: bytes) -> None:
    fill(log, 0, 0, 3)
    commit_path(folder, 0).write_bytes(content)
    with pytest.raises(CorruptRecord, match=rf"commit {commit_path(folder, 0)} must be whole and well-formed, got: "):
        log.positions(PAYMENTS)


OUTSIDE = {"path": "../../x.parquet", "rows": 3, "size_bytes": 1, "footer_crc32": 1} | dict.fromkeys(
    ("min_event_time_us", "max_event_time_us"), 0
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("next_offset", 0),
        ("next_offset", "3"),
        ("rows", 4),
        ("partition", 1),
        ("surplus", 1),
        ("files", [OUTSIDE]),
    ],
)
def test_commit_that_contradicts_itself_is_named(log: OfflineLog, folder: Path, name: str, value: object) -> None:
    fill(log, 0, 0, 3)
    path = commit_path(folder, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CorruptRecord, match=str(path)):
        log.positions(PAYMENTS)


def test_commit_of_another_topic_is_named(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    folder.rename(folder.with_name("Payments"))
    with pytest.raises(CorruptRecord, match=r"must be of topic 'Payments', .* got 'payments'"):
        log.positions(KafkaSource("Payments", Payment))


def test_commit_of_a_newer_release_asks_for_an_upgrade(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    commit_path(folder, 0).write_text('{"format": 2}')
    with pytest.raises(ContractError, match=r"must be at most 1, got 2 .*upgrade"):
        log.positions(PAYMENTS)


def test_missing_data_file_is_named(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    (path,) = data_files(folder)
    path.unlink()
    with pytest.raises(CorruptRecord, match=f"data file {path} must exist"):
        log.read(PAYMENTS)


def test_torn_data_file_is_named(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 3)
    (path,) = data_files(folder)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptRecord, match=f"data file {path} must have .* bytes, as its commit says"):
        log.read(PAYMENTS)


@pytest.mark.parametrize("first", range(6))
def test_flipped_bit_never_changes_what_is_read(log: OfflineLog, folder: Path, first: int) -> None:
    fill(log, 0, 0, 3)
    (path,) = data_files(folder)
    content, expected = path.read_bytes(), log.read(PAYMENTS)
    noticed = 0
    for position in range(first, len(content), 31):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert log.read(PAYMENTS).equals(expected), position
        except CorruptRecord as error:
            assert str(path) in error.message  # noqa: PT017  # a flip in what a reader does not look at may pass
            noticed += 1
    assert noticed > len(content) // 31 // 2


def test_refusal_of_the_operating_system_is_a_store_error_and_leaves_no_debris(log: OfflineLog, folder: Path) -> None:
    fill(log, 0, 0, 2)
    writer = log.writer(PAYMENTS)
    small = run(0, 2, 40)
    large = run(0, 40, 3000, every=timedelta(microseconds=1))
    writer.append(pl.concat([small, large]), {0: 3000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*parquet.*ulimit -f"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert log.positions(PAYMENTS) == {0: 2}
    fill(log, 0, 0, 40)
    assert_frame_equal(log.read(PAYMENTS), run(0, 0, 40))


def test_root_that_is_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    log = OfflineLog(tmp_path / "log")
    with pytest.raises(StoreError, match=f"{tmp_path / 'log'}"):
        log.writer(PAYMENTS)
    with pytest.raises(StoreError, match="cannot list"):
        log.positions(PAYMENTS)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "offsets"),
    [
        (None, None, [0, 1, 2, 3, 4]),
        (NOON + DAY, None, [1, 2, 3, 4]),
        (NOON + DAY + timedelta(microseconds=1), None, [2, 3, 4]),
        (None, NOON + 3 * DAY, [0, 1, 2]),
        (None, NOON + 3 * DAY + timedelta(microseconds=1), [0, 1, 2, 3]),
        (NOON + DAY, NOON + 3 * DAY, [1, 2]),
        (NOON + DAY, NOON + DAY, []),
        (NOON + 9 * DAY, None, []),
    ],
)
def test_read_is_half_open(log: OfflineLog, start: datetime | None, end: datetime | None, offsets: list[int]) -> None:
    with log.writer(PAYMENTS) as writer:
        writer.append(run(0, 0, 5, every=DAY), {0: 5})
        writer.flush()
    assert log.read(PAYMENTS, start=start, end=end)["_offset"].to_list() == offsets


def test_files_outside_the_time_are_not_opened(log: OfflineLog, folder: Path) -> None:
    with log.writer(PAYMENTS) as writer:
        writer.append(run(0, 0, 5, every=DAY), {0: 5})
        writer.flush()
    paths = data_files(folder)
    for path in (*paths[:1], *paths[3:]):
        path.unlink()
    assert log.read(PAYMENTS, start=NOON + DAY, end=NOON + 3 * DAY)["_offset"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (NOON + DAY, NOON, "start must not be after end"),
        (NOON.replace(tzinfo=None), None, "must be aware"),
    ],
)
def test_impossible_interval_is_refused(log: OfflineLog, start: datetime, end: datetime | None, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        log.read(PAYMENTS, start=start, end=end)


def test_columns_are_chosen_in_the_order_of_the_log(log: OfflineLog) -> None:
    fill(log, 0, 0, 4)
    assert_frame_equal(log.read(PAYMENTS, columns=["_offset", "card"]), run(0, 0, 4).select("card", "_offset"))
    with pytest.raises(ContractError, match=r"got 'crad' .*did you mean 'card'"):
        log.read(PAYMENTS, columns=["crad"])


def test_snapshot_pins_what_is_read(log: OfflineLog) -> None:
    fill(log, 0, 0, 4)
    pinned = log.snapshot(PAYMENTS)
    fill(log, 0, 4, 9)
    fill(log, 1, 0, 2)
    assert_frame_equal(log.read(PAYMENTS, pinned), run(0, 0, 4))
    assert (pinned.positions, pinned.rows) == ({0: 4}, 4)
    assert log.snapshot(PAYMENTS).id != pinned.id


def test_snapshot_survives_its_json(log: OfflineLog) -> None:
    fill(log, 1, 0, 4)
    fill(log, 0, 0, 30)
    pinned = log.snapshot(PAYMENTS)
    again = LogSnapshot.from_json(pinned.to_json())
    assert (again, again.id) == (pinned, pinned.id)
    assert [(f.partition, f.first_offset, f.next_offset) for f in pinned.files][-1] == (1, 0, 4)
    assert log.snapshot(PAYMENTS).id == pinned.id


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "files": [], "positions": []}'])
def test_json_of_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(CorruptRecord, match="must be the JSON of one"):
        LogSnapshot.from_json(text)


def test_snapshot_with_other_size_than_the_file_is_refused(log: OfflineLog) -> None:
    fill(log, 0, 0, 1)
    pinned = log.snapshot(PAYMENTS)
    wrong = dataclasses.replace(pinned.files[0], size_bytes=1)
    with pytest.raises(CorruptRecord, match="must have 1 bytes"):
        log.read(PAYMENTS, dataclasses.replace(pinned, files=(wrong,)))


# -- a changed event class ---------------------------------------------------------------------------------------------


def source_of(event: type[Event]) -> KafkaSource:
    return KafkaSource("visits", event)


class Visit(Event):
    page: str
    weight: int | None
    at: EventTime


def visits() -> pl.DataFrame:
    framework = {"_partition": 0, "_ingest_time_us": 0, "_schema_id": 1, "_too_late": False}
    rows = [{"page": "a", "weight": w, "at": NOON, "_offset": i, **framework} for i, w in enumerate([1, None])]
    return pl.DataFrame(rows, schema=frame_schema(source_of(Visit).schema))


@pytest.fixture
def visited(log: OfflineLog) -> OfflineLog:
    with log.writer(source_of(Visit)) as writer:
        writer.append(visits(), {0: 2})
        writer.flush()
    return log


def test_later_added_nullable_field_is_null_in_old_rows(visited: OfflineLog) -> None:
    class Later(Event):
        page: str
        weight: int | None
        referrer: str | None
        at: EventTime

    got = visited.read(source_of(Later))
    expected = visits().with_columns(referrer=pl.lit(None, pl.String))
    assert_frame_equal(got, expected.select(got.columns))


def test_removed_field_is_not_read(visited: OfflineLog) -> None:
    class Less(Event):
        page: str
        at: EventTime

    assert_frame_equal(visited.read(source_of(Less)), visits().drop("weight"))


def test_later_added_required_field_is_refused(visited: OfflineLog) -> None:
    class Later(Event):
        page: str
        referrer: str
        at: EventTime

    with pytest.raises(ContractError, match=r"column 'referrer' must be in data file .*referrer: \.\.\. \| None"):
        visited.read(source_of(Later))


def test_field_of_another_type_is_refused(visited: OfflineLog) -> None:
    class Other(Event):
        page: int
        at: EventTime

    with pytest.raises(ContractError, match=r"column 'page' of data file .* must be int64, got large_string"):
        visited.read(source_of(Other))


def test_field_that_became_required_is_refused_where_it_is_null(visited: OfflineLog) -> None:
    class Required(Event):
        page: str
        weight: int
        at: EventTime

    with pytest.raises(ContractError, match=r"column 'weight' of data file .* must have no nulls, got 1"):
        visited.read(source_of(Required))


def test_schema_is_explicit_about_types_and_nulls() -> None:
    schema = log_schema(PAYMENTS.schema)
    assert schema.field("at") == pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False)
    assert schema.field("tip") == pa.field("tip", pa.int64(), nullable=True)
    assert schema.names[-5:] == ["_partition", "_offset", "_ingest_time_us", "_schema_id", "_too_late"]
