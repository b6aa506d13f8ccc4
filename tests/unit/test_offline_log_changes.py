"""Changes of rows in the offline log: two rows of one offset, and rows of which only the key is known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import streamfti as fti
from streamfti.errors import ContractError
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.offline.schema import columns_fingerprint, frame_schema, log_schema


class Account(fti.Event):
    account: str
    balance: int
    at: fti.EventTime


SOURCE = fti.KafkaSource("accounts", Account, changes="debezium", key="account", before_images=True)
EVENTS = fti.KafkaSource("accounts", Account)


def frame(*rows: tuple[int, int, int | None]) -> pl.DataFrame:
    """Offset, change and balance of each row, all of one time."""
    at = datetime(2026, 5, 1, tzinfo=UTC)
    values = [("a", balance, at, 0, offset, 0, 0, False, change) for offset, change, balance in rows]
    return pl.DataFrame(values, schema=frame_schema(SOURCE.schema), orient="row")


def read(log: OfflineLog) -> list[tuple[int, ...]]:
    return log.read(SOURCE, columns=["_offset", "_change", "balance"]).select("_offset", "_change", "balance").rows()


def test_both_rows_of_an_update_are_kept_once_and_in_order(tmp_path: Path) -> None:
    log = OfflineLog(tmp_path)
    with log.writer(SOURCE) as writer:
        writer.append(frame((1, 1, 6), (0, 1, 5), (1, -1, 5)), {0: 2})
        writer.append(frame((1, -1, 5), (1, 1, 6), (2, -2, None)), {0: 3})  # a replay from offset 1
        writer.flush()
    assert read(log) == [(0, 1, 5), (1, -1, 5), (1, 1, 6), (2, -2, None)]
    with log.writer(SOURCE) as writer:
        writer.append(frame((2, -2, None), (3, 1, 9)), {0: 4})
        writer.flush()
    assert read(log)[-2:] == [(2, -2, None), (3, 1, 9)]


def test_one_change_twice_at_one_offset_is_refused(tmp_path: Path) -> None:
    with (
        OfflineLog(tmp_path).writer(SOURCE) as writer,
        pytest.raises(ContractError, match="offsets of partition 0 must differ from each other, got one twice"),
    ):
        writer.append(frame((0, 1, 5), (1, 1, 5), (1, 1, 6)), {0: 2})


def test_the_columns_of_changes_are_others_than_those_of_events() -> None:
    assert log_schema(SOURCE.schema).field("_change").nullable is False
    assert log_schema(SOURCE.schema).field("balance").nullable is True
    assert log_schema(SOURCE.schema).field("account").nullable is False
    assert "_change" not in log_schema(EVENTS.schema).names
    assert columns_fingerprint(SOURCE.schema) != columns_fingerprint(EVENTS.schema)
