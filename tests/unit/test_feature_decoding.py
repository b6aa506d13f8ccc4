"""Decoding: no message whatever stops the pipeline; each is an event or a dead letter, and its neighbours count."""

from __future__ import annotations

import decimal
import io
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import fastavro
import polars as pl
import pytest

import streamfti as fti
from streamfti.clock import ManualClock, to_us
from streamfti.definitions.decimals import from_unscaled
from streamfti.feature_pipeline.avro_schema import avro_schema, encode_event, frame_message
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, EventBatch, Message, MessageBatch
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = to_us(NOW)


class Sale(fti.Event):
    at: fti.EventTime
    shop: str
    due: datetime | None
    price: float
    paid: bool


class Visit(fti.Event):
    at: fti.EventTime
    shop: str


SALES = fti.KafkaSource("sales", Sale)
VISITS = fti.KafkaSource("visits", Visit)
GOOD: Mapping[str, Any] = {"at": NOW_US, "shop": "s1", "due": None, "price": 1.5, "paid": True}
SCHEMA = avro_schema(SALES.schema)


@pytest.fixture
def registry(tmp_path: Path) -> FileSchemaRegistry:
    return FileSchemaRegistry(tmp_path / "schemas")


def body(values: Mapping[str, Any], schema: Mapping[str, Any] = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(dict(schema)), dict(values))
    return out.getvalue()


def decode(
    registry: FileSchemaRegistry, *values: bytes | None, source: fti.KafkaSource = SALES, ingest_time_us: int = NOW_US
) -> EventBatch:
    """Decode messages of one partition, offsets from 0 on."""
    messages = [Message(0, offset, ingest_time_us, None, value) for offset, value in enumerate(values)]
    return EventDecoder(registry).decode(MessageBatch(source, messages, {0: len(messages)}))


def outcomes(batch: EventBatch) -> tuple[list[int], list[tuple[int, str]]]:
    """Return the offsets of the events, and the offset and reason of each dead letter."""
    letters = [(letter.message.offset, letter.reason) for letter in batch.dead_letters]
    return batch.frame["_offset"].to_list(), sorted(letters)


@pytest.mark.parametrize("at_us", [-(2**63), -1, to_us(datetime.max.replace(tzinfo=UTC)) + 1, 2**62, 2**63 - 1])
@pytest.mark.parametrize("ingest_time_us", [NOW_US, NO_INGEST_TIME, 2**62])
def test_event_time_that_is_no_time_is_a_dead_letter_and_not_the_end(
    registry: FileSchemaRegistry, tmp_path: Path, at_us: int, ingest_time_us: int
) -> None:
    schema_id = registry.register("sales", SCHEMA)
    values = [frame_message(schema_id, body({**GOOD, "at": at})) for at in (NOW_US, at_us)]
    batch = decode(registry, *values, ingest_time_us=ingest_time_us)
    assert outcomes(batch) == ([0], [(1, "invalid")])
    log = OfflineLog(tmp_path / "log", clock=ManualClock(NOW))
    with log.writer(SALES) as writer:
        writer.append(batch.frame.with_columns(_too_late=False), batch.next_offsets)


def test_future_event_with_a_time_field_that_no_datetime_holds_is_a_dead_letter(registry: FileSchemaRegistry) -> None:
    schema_id = registry.register("sales", SCHEMA)
    ahead = {**GOOD, "at": NOW_US + 31_000_000, "due": 2**62}
    batch = decode(registry, frame_message(schema_id, body(GOOD)), frame_message(schema_id, body(ahead)))
    assert outcomes(batch) == ([0], [(1, "future")])


@pytest.mark.parametrize("n_bytes", range(len(body(GOOD))))
def test_body_that_ends_early_anywhere_is_a_dead_letter(registry: FileSchemaRegistry, n_bytes: int) -> None:
    schema_id = registry.register("sales", SCHEMA)
    whole = frame_message(schema_id, body(GOOD))
    assert outcomes(decode(registry, whole, whole[: 5 + n_bytes], whole)) == ([0, 2], [(1, "malformed")])
    assert outcomes(decode(registry, whole[: 5 + n_bytes])) == ([], [(0, "malformed")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [((b"\x04s1", b"\x04\xff\xfe"), "malformed"), ((b"\x04s1\x00", b"\x04s1\x04"), "malformed")],
    ids=["no UTF-8", "no such branch"],
)
def test_body_of_the_right_length_that_is_no_avro_is_a_dead_letter(
    registry: FileSchemaRegistry, change: tuple[bytes, bytes], reason: str
) -> None:
    whole = frame_message(registry.register("sales", SCHEMA), body(GOOD))
    bad = whole.replace(*change)
    assert bad != whole
    assert outcomes(decode(registry, whole, bad, whole)) == ([0, 2], [(1, reason)])


def test_any_byte_but_zero_is_true_in_columns_as_one_by_one(registry: FileSchemaRegistry) -> None:
    whole = frame_message(registry.register("sales", SCHEMA), body(GOOD))
    odd = whole[:-1] + b"\x02"
    assert decode(registry, odd).frame["paid"].to_list() == decode(registry, odd, whole).frame["paid"].to_list()[:1]
    assert decode(registry, whole, odd, whole[:-1] + b"\x00").frame["paid"].to_list() == [True, True, False]


def test_schema_of_another_source_is_judged_for_each_source(registry: FileSchemaRegistry) -> None:
    """The decoder has just seen the schema and found it good, for the other topic."""
    visits = avro_schema(VISITS.schema)
    message = frame_message(registry.register("visits", visits), body({"at": NOW_US, "shop": "s1"}, visits))
    decoder = EventDecoder(registry)
    batches = [MessageBatch(source, [Message(0, 0, NOW_US, None, message)], {0: 1}) for source in (VISITS, SALES)]
    assert [outcomes(decoder.decode(batch)) for batch in batches] == [([0], []), ([], [(0, "schema")])]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "enum", "name": "E", "symbols": ["A"]},
        {"type": "record", "name": "R"},
        {"type": "record", "name": "R", "fields": [{"name": "at"}]},
        {"type": "record", "name": "R", "fields": [{"name": "at", "type": "nothing"}]},
        {},
        SCHEMA | {"fields": [f | {"type": {"type": "array", "items": "long"}} for f in SCHEMA["fields"]]},
        SCHEMA | {"fields": [f | {"type": {"type": {"type": "long"}}} for f in SCHEMA["fields"]]},
    ],
    ids=["enum", "no fields", "no type", "unknown type", "empty", "arrays", "type in type"],
)
def test_registered_schema_that_is_no_event_makes_dead_letters(
    registry: FileSchemaRegistry, schema: Mapping[str, Any]
) -> None:
    bad, good = registry.register("sales", schema), registry.register("sales", SCHEMA)
    batch = decode(registry, frame_message(bad, b"\x00"), frame_message(good, body(GOOD)))
    assert outcomes(batch) == ([1], [(0, "schema")])


def wrapped(avro_type: object) -> object:
    """Return a type as an object with an attribute of its own, as other languages' libraries write it."""
    if isinstance(avro_type, list):
        return [wrapped(member) for member in avro_type]
    return {"owner": "us", **(avro_type if isinstance(avro_type, dict) else {"type": avro_type})}


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA | {"fields": list(reversed(SCHEMA["fields"]))},
        SCHEMA | {"fields": [{"name": "more", "type": ["null", "int"]}, *SCHEMA["fields"]]},
        SCHEMA | {"fields": [*SCHEMA["fields"], {"name": "tags", "type": {"type": "map", "values": "string"}}]},
        SCHEMA | {"fields": [f | {"type": wrapped(f["type"])} for f in SCHEMA["fields"]]},
        SCHEMA | {"namespace": "org.example", "doc": "d", "aliases": ["Old"]},
    ],
    ids=["other order", "an int more", "a map more", "types as objects", "names"],
)
def test_writers_schema_with_every_field_in_another_form_is_read(
    registry: FileSchemaRegistry, schema: Mapping[str, Any]
) -> None:
    rows = [{**GOOD, "more": 3, "tags": {}, "due": due} for due in (None, NOW_US + 5)]
    schema_id = registry.register("sales", schema)
    wanted = [(NOW, "s1", None, 1.5, True), (NOW, "s1", NOW + timedelta(microseconds=5), 1.5, True)]
    for copies in (1, 32):
        batch = decode(registry, *[frame_message(schema_id, body(row, schema)) for row in rows] * copies)
        assert batch.frame.select("at", "shop", "due", "price", "paid").rows() == wanted * copies
        assert not batch.dead_letters


def test_dead_letters_say_what_and_why(registry: FileSchemaRegistry) -> None:
    schema_id = registry.register("sales", SCHEMA)
    nan = frame_message(schema_id, body({**GOOD, "price": float("nan")}))
    batch = decode(registry, None, b"\x00", struct.pack(">bI", 0, 2**32 - 1), nan)
    details = {letter.message.offset: (letter.reason, letter.detail, letter.schema_id) for letter in batch.dead_letters}
    assert details[0][:2] == (
        "malformed",
        "a message must begin with a zero byte and a schema id, got an empty message",
    )
    assert details[1][2] is None
    assert details[2][::2] == ("schema", 2**32 - 1)
    assert details[3] == ("invalid", "Sale.price must be finite, got nan", schema_id)
    assert batch.frame.is_empty()
    assert batch.next_offsets == {0: 4}


class Bill(fti.Event):
    at: fti.EventTime
    amount: Annotated[decimal.Decimal, fti.Decimal(5, 2)]
    tip: Annotated[decimal.Decimal, fti.Decimal(3, 1)] | None


BILLS = fti.KafkaSource("bills", Bill)


def bills(registry: FileSchemaRegistry, rows: Sequence[tuple[str, str | None]], digits: tuple[int, int]) -> EventBatch:
    """Decode bills that somebody wrote with other digits."""
    schema = avro_schema(BILLS.schema)
    for field in schema["fields"][1:]:
        written = {"type": "bytes", "logicalType": "decimal", "precision": digits[0], "scale": digits[1]}
        field["type"] = [written, "null"] if isinstance(field["type"], list) else written
    schema_id = registry.register("bills", schema)
    values = [
        {"at": NOW_US, "amount": decimal.Decimal(amount), "tip": None if tip is None else decimal.Decimal(tip)}
        for amount, tip in rows
    ]
    return decode(registry, *(frame_message(schema_id, body(v, schema)) for v in values), source=BILLS)


@pytest.mark.parametrize("digits", [(18, 0), (12, 2), (38, 4)])
@pytest.mark.parametrize("copies", [1, 64])
def test_decimals_are_exact_whatever_the_writers_digits(
    registry: FileSchemaRegistry, digits: tuple[int, int], copies: int
) -> None:
    batch = bills(registry, [("7", "0"), ("-999", None), ("0", "-99"), ("1000", None), ("1", "100")] * copies, digits)
    exact = [
        (decimal.Decimal(a), t if t is None else decimal.Decimal(t))
        for a, t in (("7", "0"), ("-999", None), ("0", "-99"))
    ]
    assert batch.frame.select("amount", "tip").rows() == exact * copies
    assert batch.frame.schema["amount"] == pl.Decimal(5, 2)
    assert {(letter.message.offset % 5, letter.reason) for letter in batch.dead_letters} == {
        (3, "invalid"),
        (4, "invalid"),
    }


def test_a_decimal_that_would_be_rounded_is_a_dead_letter(registry: FileSchemaRegistry) -> None:
    batch = bills(registry, [("1.2300", None), ("1.2301", None), ("1", "0.05")], (18, 4))
    assert outcomes(batch) == ([0], [(1, "invalid"), (2, "invalid")])
    letter = batch.dead_letters[0]
    assert (letter.path, letter.detail) == (
        "$.amount",
        f"Bill.amount must fit decimal(5, 2) exactly, got 1.2301 (writer's schema {letter.schema_id})",
    )


def test_a_produced_decimal_is_the_decoded_one(registry: FileSchemaRegistry) -> None:
    schema = avro_schema(BILLS.schema)
    schema_id, parsed = registry.register("bills", schema), fastavro.parse_schema(schema)
    unscaled = [0, 1, -1, 127, 128, -128, -129, 32_767, 32_768, -32_768, 99_999, -99_999]
    events = [Bill(at=NOW, amount=from_unscaled(u, 2), tip=None) for u in unscaled]
    for copies in (1, 6):
        batch = decode(registry, *[encode_event(e, parsed, schema_id) for e in events] * copies, source=BILLS)
        assert batch.frame["amount"].to_list() == [e.amount for e in events] * copies
