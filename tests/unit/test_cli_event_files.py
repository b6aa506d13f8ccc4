from __future__ import annotations

import decimal
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import polars as pl
import pytest

import streamfti as fti
from streamfti.errors import ContractError
from streamfti.feature_pipeline.event_files import BadRow, Deletion, count_rows, read_events

_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
_AT_US = 1_769_860_800_000_000


class Reading(fti.Event):
    sensor: str
    note: str | None
    count: int
    level: float | None
    is_ok: bool
    at: fti.EventTime


_SOURCE = fti.KafkaSource("readings", Reading)
_FULL = Reading(sensor="a", note="x", count=3, level=1.5, is_ok=True, at=_AT)
_BARE = Reading(sensor="a", note=None, count=3, level=None, is_ok=False, at=_AT)


def _read(path: Path) -> list[fti.Event | Deletion | BadRow]:
    return list(read_events(path, io.BytesIO(), _SOURCE))


def _lines(*lines: object) -> list[fti.Event | Deletion | BadRow]:
    text = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    return list(read_events(None, io.BytesIO(text), _SOURCE))


def _row(**changes: object) -> dict[str, object]:
    return {"sensor": "a", "note": "x", "count": 3, "level": 1.5, "is_ok": True, "at": _AT_US} | changes


def test_json_lines_become_events_and_empty_lines_nothing() -> None:
    bare = {"sensor": "a", "count": 3, "is_ok": False, "at": "2026-01-31T13:00:00+01:00"}
    assert _lines(b"\xef\xbb\xbf", _row(), b"\n", b"  \r\n", bare) == [_FULL, _BARE]


def test_csv_becomes_events_and_an_empty_cell_null(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        "sensor,note,count,level,is_ok,at\r\n"
        f"a,x,3,1.5,TRUE,{_AT_US}\r\n"
        "a,,3,,0,2026-01-31T12:00:00Z\r\n"
        '"a","two\nlines",3,,0,2026-01-31T12:00:00Z\r\n',
        encoding="utf-8-sig",
        newline="",
    )
    two_lines = Reading(sensor="a", note="two\nlines", count=3, level=None, is_ok=False, at=_AT)
    assert _read(path) == [_FULL, _BARE, two_lines]


def test_parquet_becomes_events(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pl.DataFrame([_FULL.values(), _BARE.values()]).write_parquet(path)
    assert _read(path) == [_FULL, _BARE]
    assert count_rows(path) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (_row(count="3"), "Reading.count must be int64, got '3'"),
        (_row(count=True), "Reading.count must be int64, got True"),
        (_row(count=2**63), "Reading.count must fit in 64 bits"),
        (_row(level=float("nan")), "Reading.level must be finite"),
        (_row(sensor=None), "Reading.sensor must be string, got nothing"),
        (_row(at="yesterday"), "Reading.at must be an ISO 8601 time"),
        (_row(at="2026-01-31T12:00:00"), "must be aware"),
        (_row(at=2**62), "Reading.at must be an ISO 8601 time"),
        (_row(at=True), "Reading.at must be datetime, got True"),
        (_row(level=10**400), "Reading.level must fit in 64 bits"),
        (_row(colour="red"), "has no field 'colour'"),
        ([1], "must be a JSON object, got list"),
        (b"{\n", "must be JSON"),
        (b'{"sensor": "\xff"}\n', "must be JSON"),
    ],
)
def test_a_line_that_is_no_event_is_told_with_its_number(row: object, words: str) -> None:
    good, bad, after = _lines(_row(), row, _row())
    assert (good, after) == (_FULL, _FULL)
    assert isinstance(bad, BadRow)
    assert bad.place == "line 2"
    assert words in bad.error.message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"a,x,three,1.5,1,{_AT_US}", "Reading.count must be int64, got 'three'"),
        (f"a,x,,1.5,1,{_AT_US}", "Reading.count must be int64, got ''"),
        (f"a,x,3,1.5,maybe,{_AT_US}", "Reading.is_ok must be bool, got 'maybe'"),
        ("a,x,3", "got fewer"),
        (f"a,x,3,1.5,1,{_AT_US},more", "got more"),
    ],
)
def test_a_csv_line_that_is_no_event_is_told_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"sensor,note,count,level,is_ok,at\na,x,3,1.5,1,{_AT_US}\n{line}\n")
    good, bad = _read(path)
    assert good == _FULL
    assert isinstance(bad, BadRow)
    assert bad.place == "line 3"
    assert words in bad.error.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("events.txt", b"", "must end in .jsonl, .ndjson, .csv, .parquet, got 'events.txt'"),
        ("events.csv", b"sensor\n\xff\n", "must be a readable file of events"),
        ("events.parquet", b"no parquet", "must be a readable file of events"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_an_error(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=words):
        _read(tmp_path / name)


class Bill(fti.Event):
    at: fti.EventTime
    amount: Annotated[decimal.Decimal, fti.Decimal(18, 2)]
    tip: Annotated[decimal.Decimal, fti.Decimal(3, 1)] | None
    rate: float


_BILLS = fti.KafkaSource("bills", Bill)
_BILL = Bill(at=_AT, amount=decimal.Decimal("9007199254740993.01"), tip=None, rate=0.1)


@pytest.mark.parametrize("amount", ["9007199254740993.01", '"9007199254740993.01"', "900719925474099301e-2"])
def test_a_decimal_is_exact_as_a_number_and_as_text(amount: str) -> None:
    line = f'{{"at": {_AT_US}, "amount": {amount}, "rate": 0.1}}'.encode()
    assert list(read_events(None, io.BytesIO(line), _BILLS)) == [_BILL]


@pytest.mark.parametrize(
    ("amount", "complaint"),
    [("1.005", "must fit"), ('"1 000"', "must be decimal"), ("true", "must be decimal"), ("NaN", "got nan")],
)
def test_a_decimal_that_is_none_is_a_bad_row(amount: str, complaint: str) -> None:
    line = f'{{"at": {_AT_US}, "amount": {amount}, "rate": 1}}'.encode()
    (row,) = read_events(None, io.BytesIO(line), _BILLS)
    assert isinstance(row, BadRow)
    assert complaint in row.error.message


def test_decimals_in_csv_and_parquet_are_exact(tmp_path: Path) -> None:
    text, table = tmp_path / "bills.csv", tmp_path / "bills.parquet"
    text.write_text(f"at,amount,tip,rate\n{_AT_US},9007199254740993.01,,0.1\n")
    types = {"amount": pl.Decimal(18, 2), "tip": pl.Decimal(3, 1)}
    pl.DataFrame([_BILL.values()], schema_overrides=types).write_parquet(table)
    assert [list(read_events(path, io.BytesIO(), _BILLS)) for path in (text, table)] == [[_BILL], [_BILL]]


_ROWS = fti.KafkaSource("readings", Reading, changes="upsert", key=("sensor", "count"))


def _upserts(*lines: object) -> list[fti.Event | Deletion | BadRow]:
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return list(read_events(None, io.BytesIO(text), _ROWS))


def test_a_deleted_row_needs_its_key_alone() -> None:
    gone = {"sensor": "a", "count": 3, "_deleted": True}
    read = _upserts(gone, gone | {"at": _AT_US}, _row(_deleted=False), _row(_deleted=None))
    assert read == [Deletion(("a", 3), None), Deletion(("a", 3), _AT), _FULL, _FULL]


def test_deleted_rows_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"sensor,note,count,level,is_ok,at,_deleted\na,x,3,1.5,true,{_AT_US},\na,,3,,false,{_AT_US},TRUE\n")
    assert list(read_events(path, io.BytesIO(), _ROWS)) == [_FULL, Deletion(("a", 3), _AT)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sensor": "a", "_deleted": True}, "a deleted row must have its key, Reading.count, int64, got None"),
        ({"sensor": "a", "count": 3, "_deleted": "maybe"}, "_deleted must be true or false, got 'maybe'"),
    ],
)
def test_a_deletion_that_is_none_is_a_bad_row(row: dict[str, object], message: str) -> None:
    (bad,) = _upserts(row)
    assert isinstance(bad, BadRow)
    assert bad.error.message == message


def test_events_have_no_deletions() -> None:
    (bad,) = _lines(_row(_deleted=True))
    assert isinstance(bad, BadRow)
    assert "no field '_deleted'" in bad.error.message
