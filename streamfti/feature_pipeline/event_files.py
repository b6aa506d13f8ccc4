"""Events in files: rows of JSON lines, CSV or Parquet become events of a class, and are sent to a topic.

What a file's row must be is what the event class says; a row that is something else is a value here, not an
exception, as it is for whoever reads the file to decide whether to stop.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import polars as pl

from streamfti.clock import Clock, from_us
from streamfti.definitions.decimals import parse_decimal
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.feature_pipeline.producer import EventProducer

__all__ = ["BadRow", "Deletion", "Sent", "count_rows", "read_events", "send_events"]

_SLICE_ROWS = 50_000
_REPORT_EVENTS = 500
_INT64 = range(-(2**63), 2**63)
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_BOM = b"\xef\xbb\xbf"
_DELETED = "_deleted"
_FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")

Row = Mapping[str, Any]


class _JsonNumber(float):
    """A number with a point or an exponent, and the text that it was read from, which decimals are taken from."""

    def __init__(self, text: str) -> None:
        self.text = text


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no event."""

    place: str
    """Such as `line 7`."""
    error: ContractError


@dataclass(frozen=True, slots=True)
class Deletion:
    """A row of a table that is gone: one with `_deleted` in a file of upserts."""

    key: tuple[Any, ...]
    """The values of the source's key, in order."""
    at: datetime | None
    """When, if the file says."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the rows of a file."""

    events: int
    skipped: int


def read_events(path: Path | None, stdin: IO[bytes], source: KafkaSource) -> Iterator[Event | Deletion | BadRow]:
    """Iterate over the rows of a file as events, in their order.

    Fields are found by name. Times are ISO 8601 with a zone, or whole microseconds since 1970. In CSV, an empty
    cell of a nullable field is null. Of upserts, a row whose `_deleted` is true says that the row of its key is gone.

    Args:
        path: a file that ends in .jsonl, .ndjson, .csv or .parquet; None reads JSON lines from `stdin`.
        stdin: what to read where there is no path.
        source: whose event class the rows must be.

    Raises:
        ContractError: if the file as a whole cannot be read.
    """
    try:
        yield from _read(path, stdin, source)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as exc:
        msg = f"{path or 'standard input'} must be a readable file of events, got: {exc}"
        raise ContractError(msg) from exc


def _read(path: Path | None, stdin: IO[bytes], source: KafkaSource) -> Iterator[Event | Deletion | BadRow]:
    if path is None:
        yield from _from_json_lines(stdin, source)
    elif path.suffix in {".jsonl", ".ndjson"}:
        with path.open("rb") as file:
            yield from _from_json_lines(file, source)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _from_csv(file, source)
    elif path.suffix == ".parquet":
        yield from _from_parquet(path, source)
    else:
        raise _unknown_format(path)


def _unknown_format(path: Path) -> ContractError:
    msg = f"a file of events must end in {', '.join(_FORMATS)}, got {path.name!r}"
    return ContractError(msg, hint="for JSON lines of another name: streamfti produce ... - < FILE")


def count_rows(path: Path) -> int:
    """Return about how many rows a file has: exact for Parquet, the lines for text."""
    if path.suffix == ".parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _from_json_lines(lines: Iterable[bytes], source: KafkaSource) -> Iterator[Event | Deletion | BadRow]:
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield _event(source, f"line {number}", partial(_json_row, source.schema, text))


def _json_row(schema: EventSchema, line: bytes) -> Row:
    try:
        row = json.loads(line, parse_float=_JsonNumber)
    except ValueError as exc:
        msg = f"a line must be JSON: {exc}"
        raise ContractError(msg) from exc
    if not isinstance(row, dict):
        msg = f"a line must be a JSON object, got {type(row).__name__}"
        raise ContractError(msg)
    return _typed(schema, row)


def _from_csv(file: IO[str], source: KafkaSource) -> Iterator[Event | Deletion | BadRow]:
    reader = csv.DictReader(file, strict=True)
    for row in reader:
        yield _event(source, f"line {reader.line_num}", partial(_csv_row, source.schema, row))


def _csv_row(schema: EventSchema, row: Mapping[str | None, Any]) -> Row:
    if None in row or None in row.values():
        msg = f"a line must have as many cells as the header, got {'more' if None in row else 'fewer'}"
        raise ContractError(msg)
    fields = {f.name: f for f in schema.fields}
    cells = {str(name): cell for name, cell in row.items()}
    return _typed(schema, {name: _cell(fields[name], c) if name in fields else c for name, c in cells.items()})


def _cell(field: Field, text: str) -> str | int | float | bool | None:
    """Read a cell as a value of the field's type; times and decimals are text still, or numbers."""
    if not text and field.type.nullable:
        return None
    try:
        match field.type.dtype:
            case DType.INT64:
                return int(text)
            case DType.FLOAT64:
                return float(text)
            case DType.BOOL:
                return _BOOLS[text.lower()]
            case DType.DATETIME if text.lstrip("-").isdecimal():
                return int(text)
            case _:
                return text
    except (ValueError, KeyError) as exc:
        msg = f"{field} must be {field.type}, got {text!r}"
        raise ContractError(msg) from exc


def _from_parquet(path: Path, source: KafkaSource) -> Iterator[Event | Deletion | BadRow]:
    scan = pl.scan_parquet(path)
    for start in range(0, count_rows(path), _SLICE_ROWS):
        rows = scan.slice(start, _SLICE_ROWS).collect().iter_rows(named=True)
        for number, row in enumerate(rows, start + 1):
            yield _event(source, f"row {number}", partial(_typed, source.schema, row))


def _typed(schema: EventSchema, row: Row) -> Row:
    """Make datetimes of times and decimals of numbers; everything else is for the event class to judge."""
    fields = {f.name: f for f in schema.fields}
    return {name: _value(fields[name], value) if name in fields else value for name, value in row.items()}


def _value(field: Field, value: object) -> object:
    if type(value) is int and value not in _INT64:
        msg = f"{field} must fit in 64 bits, got {value}"
        raise ContractError(msg)
    if field.type.dtype is DType.DECIMAL:
        return _decimal(field, value)
    if isinstance(value, _JsonNumber):
        return float(value)
    if field.type.dtype is not DType.DATETIME or not isinstance(value, int | str) or isinstance(value, bool):
        return value
    try:
        return from_us(value) if isinstance(value, int) else datetime.fromisoformat(value)
    except (ValueError, OverflowError) as exc:
        msg = f"{field} must be an ISO 8601 time or microseconds since 1970, got {value!r}"
        raise ContractError(msg, hint="for example 2026-01-31T12:00:00Z") from exc


def _decimal(field: Field, value: object) -> object:
    """Read a decimal from text, or from a number as it was written; a float of a Parquet file stays one."""
    text = value.text if isinstance(value, _JsonNumber) else value
    if not isinstance(text, str):
        return value
    found = parse_decimal(text)
    if found is None:
        msg = f"{field} must be {field.type}, got {value!r}"
        raise ContractError(msg)
    return found


def _event(source: KafkaSource, place: str, row: Callable[[], Row]) -> Event | Deletion | BadRow:
    try:
        values = dict(row())
        if source.changes == "upsert" and _is_deleted(values.pop(_DELETED, None)):
            return _deletion(source, values)
        return source.event(**values)
    except ContractError as exc:
        return BadRow(place, exc)


def _is_deleted(flag: object) -> bool:
    if flag is None or flag == "" or isinstance(flag, bool):
        return bool(flag)
    if isinstance(flag, str) and flag.lower() in _BOOLS:
        return _BOOLS[flag.lower()]
    msg = f"{_DELETED} must be true or false, got {flag!r}"
    raise ContractError(msg)


def _deletion(source: KafkaSource, values: Row) -> Deletion:
    key = tuple(values.get(name) for name in source.row_key)
    for name, value in zip(source.row_key, key, strict=True):
        field = source.schema.field(name)
        if type(value) is not field.type.dtype.python:
            msg = f"a deleted row must have its key, {field}, {field.type}, got {value!r}"
            raise ContractError(msg)
    at = values.get(source.schema.event_time)
    return Deletion(key, at if isinstance(at, datetime) else None)


def send_events(
    rows: Iterable[Event | Deletion | BadRow],
    producer: EventProducer,
    source: KafkaSource,
    *,
    clock: Clock,
    per_second: float | None = None,
    ingest_time_from_event: bool = False,
    skip_invalid: bool = False,
    on_sent: Callable[[int], None] | None = None,
) -> Sent:
    """Send events in their order, and return when the broker has acknowledged all of them.

    Args:
        rows: from `read_events`.
        producer: where to.
        source: the source of the producer.
        clock: what the rate is kept by.
        per_second: at most so many events a second; by default as fast as the broker takes them.
        ingest_time_from_event: messages carry the event time as the broker's time.
        skip_invalid: count the rows that are no events and go on.
        on_sent: called now and then with the number of events so far.

    Raises:
        ContractError: at the first row that is no event, unless they are skipped; those before it were sent.
        SourceError: if the broker did not take an event.
    """
    began, sent, skipped = clock.monotonic(), 0, 0
    for row in rows:
        if isinstance(row, BadRow):
            if not skip_invalid:
                producer.flush()
                raise _stop_at(row, sent)
            skipped += 1
            continue
        if per_second is not None:
            time.sleep(max(0.0, began + sent / per_second - clock.monotonic()))
        _send(row, producer, source, ingest_time_from_event=ingest_time_from_event)
        sent += 1
        if on_sent is not None and sent % _REPORT_EVENTS == 0:
            on_sent(sent)
    producer.flush()
    return Sent(sent, skipped)


def _send(row: Event | Deletion, producer: EventProducer, source: KafkaSource, *, ingest_time_from_event: bool) -> None:
    if isinstance(row, Deletion):
        producer.delete(row.key, ingest_time=row.at if ingest_time_from_event else None)
    else:
        producer.send(row, ingest_time=getattr(row, source.schema.event_time) if ingest_time_from_event else None)


def _stop_at(row: BadRow, sent: int) -> ContractError:
    before = f"the {sent:,} events before it were sent" if sent else "nothing was sent"
    hints = (row.error.hint, f"{before}; --skip-invalid leaves such rows out")
    return ContractError(f"{row.place}: {row.error.message}", hint="; ".join(filter(None, hints)))
