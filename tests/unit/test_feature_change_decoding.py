"""Messages that are changes of rows: what each becomes, and what the dead letter of a bad one says."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pytest

import streamfti as fti
from streamfti.clock import from_us, to_us
from streamfti.definitions.sources import WireFormat
from streamfti.feature_pipeline.avro_schema import avro_schema, frame_message
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, DeadLetter, EventBatch, Message, MessageBatch
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.encoding import event_encoder
from streamfti.stores.offline.schema import checked_frame
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = to_us(NOW)
AT = "2026-05-01T11:00:00Z"
AT_US = NOW_US - 3_600_000_000
DONE_MS = AT_US // 1000 + 5


class Customer(fti.Event):
    customer: str
    country: str
    points: int
    limit: int | None
    at: fti.EventTime


class Seat(fti.Event):
    hall: str
    row: int
    aisle: bool
    price: int
    at: fti.EventTime


FORMATS: list[WireFormat] = ["avro", "json", "protobuf"]
ROW: dict[str, Any] = {"customer": "c1", "country": "PE", "points": 3, "limit": None, "at": AT}


def upserts(name: WireFormat = "json") -> fti.KafkaSource:
    return fti.KafkaSource("customers", Customer, format=name, changes="upsert", key="customer")


def debezium(name: WireFormat = "json", *, before_images: bool = False) -> fti.KafkaSource:
    return fti.KafkaSource(
        "customers", Customer, format=name, changes="debezium", key="customer", before_images=before_images
    )


def decode(source: fti.KafkaSource, messages: Sequence[tuple[bytes | None, bytes | None]], folder: Path) -> EventBatch:
    placed = [Message(0, offset, NOW_US, key, value) for offset, (key, value) in enumerate(messages)]
    found = EventDecoder(FileSchemaRegistry(folder)).decode(MessageBatch(source, placed, {0: len(placed)}))
    with_lateness = found.frame.with_columns(_too_late=False)
    checked_frame(source.schema, with_lateness)  # what is decoded is what the log takes
    return found


def envelope(op: str, before: object = None, after: object = None, **more: object) -> bytes:
    time = {"ts_ms": 99, "source": {"ts_ms": DONE_MS, "table": "customers"}}
    return json.dumps({"op": op, "before": before, "after": after, **time, **more}).encode()


def rows_of(found: EventBatch) -> list[tuple[Any, ...]]:
    names = ["_offset", "_change", "customer", "country", "points"]
    assert not found.dead_letters
    return [
        (*row[:5], to_us(row[5]) - AT_US)
        for row in found.frame.select([*names, "at"]).sort("_offset", "_change").iter_rows()
    ]


def letter_of(source: fti.KafkaSource, folder: Path, value: bytes | None, key: bytes | None = None) -> DeadLetter:
    found = decode(source, [(key, value)], folder)
    assert found.frame.is_empty()
    (letter,) = found.dead_letters
    assert letter.message.value == value
    return letter


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n", [1, 100])
def test_an_upsert_is_a_row_and_a_tombstone_says_that_it_is_gone(tmp_path: Path, name: WireFormat, n: int) -> None:
    source = upserts(name)
    encode = event_encoder(source, FileSchemaRegistry(tmp_path))
    row = Customer(customer="c1", country="PE", points=3, limit=None, at=from_us(AT_US))

    found = decode(source, [*[(b"c1", encode(row))] * n, (b"c1", None)], tmp_path)

    assert rows_of(found)[-2:] == [(n - 1, 1, "c1", "PE", 3, 0), (n, -2, "c1", None, None, NOW_US - AT_US)]
    assert len(rows_of(found)) == n + 1


def test_a_batch_of_tombstones_alone_is_read(tmp_path: Path) -> None:
    assert rows_of(decode(upserts(), [(b"c1", None)], tmp_path)) == [(0, -2, "c1", None, None, NOW_US - AT_US)]


@pytest.mark.parametrize(
    "key",
    [
        b"1:a1:74:true",
        b'{"hall": "a", "row": 7, "aisle": true}',
        b'{"schema": {"type": "struct"}, "payload": {"row": 7, "aisle": true, "hall": "a"}}',
    ],
)
def test_keys_of_several_fields_are_texts_or_objects(tmp_path: Path, key: bytes) -> None:
    seats = fti.KafkaSource("seats", Seat, format="json", changes="upsert", key=("hall", "row", "aisle"))
    found = decode(seats, [(key, None)], tmp_path)
    assert not found.dead_letters
    assert found.frame.select("hall", "row", "aisle", "price", "_change").rows() == [("a", 7, True, None, -2)]


def test_a_key_may_be_an_avro_record(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "Key", "fields": [{"name": "customer", "type": "string"}]}
    key = framed(FileSchemaRegistry(tmp_path), "customers-key", schema, {"customer": "c9"})
    assert rows_of(decode(upserts("avro"), [(key, None)], tmp_path))[0][2] == "c9"


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (None, "a deletion must have the key of its row, got a message without a key"),
        (b"\xff", "a message's key must be that of a row, customer (string), as text or as an object"),
    ],
)
def test_a_tombstone_without_a_key_of_a_row_is_a_dead_letter(tmp_path: Path, key: bytes | None, detail: str) -> None:
    letter = letter_of(upserts(), tmp_path, None, key)
    assert (letter.reason, letter.path) == ("malformed", "$")
    assert detail in letter.detail


@pytest.mark.parametrize("key", [b"1:a1:74:yes", b"1:a1:7", b"1:a2:074:true", b'{"hall": "a"}', b"9:a1:74:true", b""])
def test_a_key_that_is_not_exactly_one_is_a_dead_letter(tmp_path: Path, key: bytes) -> None:
    seats = fti.KafkaSource("seats", Seat, format="json", changes="upsert", key=("hall", "row", "aisle"))
    assert letter_of(seats, tmp_path, None, key).reason == "malformed"


def test_a_tombstone_without_a_time_is_a_dead_letter(tmp_path: Path) -> None:
    batch = MessageBatch(upserts(), [Message(0, 0, NO_INGEST_TIME, b"c1", None)], {0: 1})
    (letter,) = EventDecoder(FileSchemaRegistry(tmp_path)).decode(batch).dead_letters
    assert letter.detail == "a message without a value must have the broker's time, got none"


def test_what_debezium_says_of_a_row(tmp_path: Path) -> None:
    after = {**ROW, "points": 4, "at": "2026-05-01T11:30:00Z"}
    messages = [
        envelope("r", None, ROW),
        envelope("c", None, ROW),
        envelope("u", ROW, after),
        envelope("d", {**ROW, "country": None}),
        None,
    ]
    found = decode(debezium(), [(b'{"customer": "c1"}', value) for value in messages], tmp_path)
    assert rows_of(found) == [
        (0, 1, "c1", "PE", 3, 0),
        (1, 1, "c1", "PE", 3, 0),
        (2, 1, "c1", "PE", 4, 1_800_000_000),
        (3, -2, "c1", None, None, 5_000),
    ]


def test_before_images_are_rows_that_are_taken_back(tmp_path: Path) -> None:
    after = {**ROW, "country": "CL", "at": "2026-05-01T11:30:00Z"}
    messages = [envelope("c", None, ROW), envelope("u", ROW, after), envelope("d", after), None]
    found = decode(debezium(before_images=True), [(None, value) for value in messages], tmp_path)
    assert rows_of(found) == [
        (0, 1, "c1", "PE", 3, 0),
        (1, -1, "c1", "PE", 3, 1_800_000_000),  # taken back when the new one came to be
        (1, 1, "c1", "CL", 3, 1_800_000_000),
        (2, -2, "c1", "CL", 3, 1_800_000_000),  # the database's milliseconds are not before the row's own time
    ]


def test_the_schema_beside_the_payload_is_passed_over(tmp_path: Path) -> None:
    wrapped = json.dumps({"schema": {"type": "struct"}, "payload": json.loads(envelope("c", None, ROW))}).encode()
    assert rows_of(decode(debezium(), [(None, wrapped)], tmp_path)) == [(0, 1, "c1", "PE", 3, 0)]


@pytest.mark.parametrize(
    ("times", "expected_us"),
    [
        ({"source": {"ts_us": AT_US + 7, "ts_ms": 1}, "ts_us": 1}, 7),
        ({"source": {"ts_ms": AT_US // 1000 + 2}, "ts_us": 1}, 2_000),
        ({"source": {"ts_ms": 0}, "ts_us": AT_US + 3}, 3),
        ({"source": None, "ts_ms": AT_US // 1000 + 1}, 1_000),
    ],
)
def test_rows_without_a_time_were_changed_when_the_database_says(
    tmp_path: Path, times: dict[str, object], expected_us: int
) -> None:
    timeless = {name: value for name, value in ROW.items() if name != "at"}
    found = decode(debezium(), [(None, envelope("c", None, timeless, **{"ts_ms": None, **times}))], tmp_path)
    assert rows_of(found) == [(0, 1, "c1", "PE", 3, expected_us)]


def test_a_deletion_takes_its_key_from_the_message_where_before_has_none(tmp_path: Path) -> None:
    value = envelope("d", None, None, ts_ms=None, source=None)
    assert rows_of(decode(debezium(), [(b'{"customer": "c7"}', value)], tmp_path)) == [
        (0, -2, "c7", None, None, NOW_US - AT_US)  # the broker's time, as nobody else says one
    ]


@pytest.mark.parametrize(
    ("value", "reason", "path", "detail"),
    [
        (b"{", "malformed", "$", "must be a JSON object"),
        (b"", "malformed", "$", "got an empty message"),
        (json.dumps(ROW).encode(), "malformed", "$.op", "must be an envelope of Debezium, with op, before and after"),
        (b'{"schema": 1, "payload": null}', "malformed", "$.payload", "the payload must be an envelope"),
        (envelope("t"), "invalid", "$.op", "op must be c, u, d or r, the changes of a row, got t"),
        (envelope("c"), "invalid", "$.after", "a change of op 'c' must have the row after, got none"),
        (envelope("u", ROW), "invalid", "$.after", "a change of op 'u' must have the row after, got none"),
        (envelope("u", ROW, [1]), "malformed", "$.after", "after must be a row"),
        (envelope("c", None, {**ROW, "points": 1.5}), "invalid", "$.after.points", "must be int64, got 1.5"),
        (envelope("c", None, {"customer": "c1"}), "invalid", "$.after.country", "got no key 'country'"),
        (envelope("c", None, {**ROW, "country": None}), "invalid", "$.country", "must be string, got null"),
        (envelope("c", None, {**ROW, "at": "2026-05-01T13:00:00Z"}), "future", "$.at", "at most 30 s ahead"),
    ],
)
def test_what_is_no_change_is_a_dead_letter(tmp_path: Path, value: bytes, reason: str, path: str, detail: str) -> None:
    letter = letter_of(debezium(), tmp_path, value)
    assert (letter.reason, letter.path) == (reason, path)
    assert detail in letter.detail


@pytest.mark.parametrize(
    ("value", "path", "detail"),
    [
        (envelope("u", None, ROW), "$.before", "must have the row before (REPLICA IDENTITY FULL, in PostgreSQL)"),
        (envelope("d"), "$.before", "a change of op 'd' must have the row before"),
        (envelope("d", {**ROW, "country": None}), "$.country", "must be string, got null"),
        (envelope("u", {**ROW, "points": None}, ROW), "$.points", "must be int64, got null"),
        (envelope("u", {**ROW, "customer": "c2"}, ROW), "$.after.customer", "must keep the key of its row, got c2"),
        (envelope("u", {**ROW, "points": "3"}, ROW), "$.before.points", 'must be int64, got "3"'),
    ],
)
def test_where_before_images_are_promised_each_must_be_whole(
    tmp_path: Path, value: bytes, path: str, detail: str
) -> None:
    """The new state goes as well, or it would be counted without the former one being taken back."""
    letter = letter_of(debezium(before_images=True), tmp_path, value)
    assert (letter.reason, letter.path) == ("invalid", path)
    assert detail in letter.detail


def framed(registry: FileSchemaRegistry, subject: str, schema: Mapping[str, Any], datum: object) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(dict(schema)), datum)
    return frame_message(registry.register(subject, schema), body.getvalue())


def avro_envelope(row: Mapping[str, Any]) -> dict[str, Any]:
    source = {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}]}
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": "shop.customers",
        "fields": [
            {
                "name": "before",
                "type": ["null", {**row, "name": "Value", "namespace": "shop.customers"}],
                "default": None,
            },
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": source},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"], "default": None},
        ],
    }


@pytest.mark.parametrize("before_images", [False, True])
def test_envelopes_may_be_avro(tmp_path: Path, before_images: bool) -> None:  # noqa: FBT001  # a parameter
    registry = FileSchemaRegistry(tmp_path)
    row = avro_schema(debezium("avro").schema)
    before, after = {**ROW, "at": AT_US}, {**ROW, "at": AT_US + 9, "limit": 5, "country": "CL"}

    def message(op: str, old: object, new: object) -> tuple[bytes | None, bytes]:
        datum = {"op": op, "before": old, "after": new, "source": {"ts_ms": DONE_MS}, "ts_ms": 1}
        return None, framed(registry, "customers-value", avro_envelope(row), datum)

    messages = [message("c", None, before), message("u", before, after), message("d", after, None)]
    found = decode(debezium("avro", before_images=before_images), [*messages, (None, None)], tmp_path)

    gone = (2, -2, "c1", "CL", 3, 5_000) if before_images else (2, -2, "c1", None, None, 5_000)
    taken_back = [(1, -1, "c1", "PE", 3, 9)] if before_images else []
    assert rows_of(found) == [(0, 1, "c1", "PE", 3, 0), *taken_back, (1, 1, "c1", "CL", 3, 9), gone]
    assert found.frame["_schema_id"].unique().to_list() == [1]


def test_avro_rows_without_a_time_take_that_of_the_database(tmp_path: Path) -> None:
    registry = FileSchemaRegistry(tmp_path)
    row = avro_schema(debezium("avro").schema)
    timeless = {**row, "fields": [field for field in row["fields"] if field["name"] != "at"]}
    datum = {"op": "c", "before": None, "after": ROW, "source": {"ts_ms": DONE_MS}, "ts_ms": 1}
    value = framed(registry, "customers-value", avro_envelope(timeless), datum)
    assert rows_of(decode(debezium("avro"), [(None, value)], tmp_path)) == [(0, 1, "c1", "PE", 3, 5_000)]


def test_avro_that_is_no_envelope_is_a_dead_letter(tmp_path: Path) -> None:
    registry = FileSchemaRegistry(tmp_path)
    row = avro_schema(debezium("avro").schema)
    bare = letter_of(debezium("avro"), tmp_path, framed(registry, "rows", row, {**ROW, "at": AT_US}))
    assert (bare.reason, bare.path, bare.schema_id) == ("malformed", "$.op", None)
    cut = letter_of(debezium("avro"), tmp_path, frame_message(1, b"\x00"))
    assert (cut.reason, cut.path) == ("malformed", "$")
    unknown = letter_of(debezium("avro"), tmp_path, frame_message(77, b"\x00"))
    assert (unknown.reason, unknown.path) == ("schema", "$")


def test_other_messages_of_a_batch_are_not_touched_by_a_bad_one(tmp_path: Path) -> None:
    good, bad = envelope("u", ROW, ROW), envelope("u", {**ROW, "country": None}, ROW)
    found = decode(debezium(before_images=True), [(None, good), (None, bad), (None, good)], tmp_path)
    assert sorted(found.frame["_offset"]) == [0, 0, 2, 2]
    assert [letter.message.offset for letter in found.dead_letters] == [1]
