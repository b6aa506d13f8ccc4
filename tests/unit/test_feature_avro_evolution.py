"""Writers evolve: what they wrote with a schema of their own is read as Avro promotes it, or the schema is refused."""

from __future__ import annotations

import decimal
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import fastavro
import pytest

import streamfti as fti
from streamfti.clock import to_us
from streamfti.feature_pipeline.avro_schema import avro_schema, frame_message
from streamfti.feature_pipeline.batches import EventBatch, Message, MessageBatch
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.stores.schemas.file_registry import FileSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOW_US = to_us(NOW)
BEFORE = datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)
COLUMNAR = 64


class Order(fti.Event):
    at: fti.EventTime
    shop: str
    items: int
    weight: float
    note: str | None
    paid: bool | None
    price: Annotated[decimal.Decimal, fti.Decimal(6, 2)] | None
    due: datetime | None


ORDERS = fti.KafkaSource("orders", Order)
SCHEMA = avro_schema(ORDERS.schema)
GOOD: Mapping[str, Any] = {
    "at": NOW_US, "shop": "s", "items": 3, "weight": 1.5, "note": None, "paid": None, "price": None, "due": None,
}  # fmt: skip
TYPES: Mapping[str, Any] = {f["name"]: f["type"] for f in SCHEMA["fields"]}
ENUM = {"type": "enum", "name": "Shop", "symbols": ["r", "s", "t"]}
FIXED = {"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 3}
BYTES = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}


def written_as(types: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "W", "fields": [{"name": n, "type": t} for n, t in types.items()]}


def decode(folder: Path, schema: Any, rows: Sequence[Mapping[str, Any]], copies: int) -> EventBatch:  # noqa: ANN401  # JSON
    registry = FileSchemaRegistry(folder)
    schema_id = registry.register("orders", schema)
    parsed = fastavro.parse_schema(dict(schema))
    values = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, dict(row))
        values.append(frame_message(schema_id, out.getvalue()))
    messages = [Message(0, i, NOW_US, None, value) for i, value in enumerate(values * copies)]
    return EventDecoder(registry).decode(MessageBatch(ORDERS, messages, {0: len(messages)}))


@pytest.mark.parametrize("copies", [1, COLUMNAR])
@pytest.mark.parametrize(
    ("name", "avro_type", "written", "read"),
    [
        ("items", "int", -7, -7),
        ("weight", "int", 7, 7.0),
        ("weight", "long", 2**53 + 1, float(2**53)),
        ("weight", "float", 0.5, 0.5),
        ("weight", ["null", "float"], 0.5, 0.5),
        ("weight", ["int", "double"], 0.5, 0.5),
        ("shop", "bytes", "ä".encode(), "ä"),
        ("shop", ENUM, "t", "t"),
        ("shop", [ENUM, "null"], "t", "t"),
        ("shop", {"type": "string", "logicalType": "uuid"}, "u", "u"),
        ("note", "string", "x", "x"),
        ("note", ["string", "null"], "x", "x"),
        ("paid", "boolean", True, True),
        ("at", {"type": "long", "logicalType": "timestamp-millis"}, NOW_US // 1000, NOW),
        ("at", ["null", TYPES["at"]], NOW_US, NOW),
        ("due", {"type": "long", "logicalType": "timestamp-millis"}, -1, BEFORE),
        ("price", BYTES, decimal.Decimal("1.230"), decimal.Decimal("1.23")),
        ("price", FIXED, decimal.Decimal("-1.230"), decimal.Decimal("-1.23")),
    ],
)  # fmt: skip
def test_a_promoted_type_is_read_as_the_fields(
    tmp_path: Path, copies: int, name: str, avro_type: object, written: object, read: object
) -> None:
    batch = decode(tmp_path, written_as({**TYPES, name: avro_type}), [{**GOOD, name: written}], copies)
    assert not batch.dead_letters
    assert batch.frame[name].to_list() == [read] * copies


@pytest.mark.parametrize(
    ("name", "avro_type", "says"),
    [
        ("items", "double", "field Order.items must be written as int or long, got double"),
        ("items", "string", "field Order.items must be written as int or long"),
        ("items", TYPES["at"], "field Order.items must be written as int or long"),
        ("items", ["int", "string"], "field Order.items must be written as int or long"),
        ("items", "null", "field Order.items must be written as int or long"),
        ("shop", "int", "field Order.shop must be written as bytes or enum or string"),
        ("shop", BYTES, "field Order.shop must be written as"),
        ("paid", "int", "field Order.paid must be written as boolean"),
        ("at", "long", "field Order.at must be written as timestamp-micros or timestamp-millis"),
        ("at", {"type": "long", "logicalType": "timestamp-nanos"}, "field Order.at must be written as"),
        ("price", "bytes", "field Order.price must be written as decimal"),
        ("price", "double", "field Order.price must be written as decimal"),
    ],
)
def test_a_type_that_avro_does_not_promote_refuses_the_schema(
    tmp_path: Path, name: str, avro_type: object, says: str
) -> None:
    registry = FileSchemaRegistry(tmp_path)
    schema_id = registry.register("orders", written_as({**TYPES, name: avro_type}))
    message = Message(0, 0, NOW_US, None, frame_message(schema_id, b"\x00"))
    (letter,) = EventDecoder(registry).decode(MessageBatch(ORDERS, [message], {0: 1})).dead_letters
    assert (letter.reason, letter.path, letter.schema_id) == ("schema", f"$.{name}", schema_id)
    assert letter.detail.startswith(f"writer's schema {schema_id}: {says}")


@pytest.mark.parametrize("copies", [1, COLUMNAR])
def test_a_field_that_the_writer_lacks_is_null_where_it_may_be(tmp_path: Path, copies: int) -> None:
    types = {n: t for n, t in TYPES.items() if n not in {"note", "price", "due", "paid"}}
    batch = decode(tmp_path, written_as(types), [GOOD], copies)
    assert batch.frame.select("note", "price", "due", "paid", "items").rows() == [(None, None, None, None, 3)] * copies
    assert not batch.dead_letters


@pytest.mark.parametrize("name", ["at", "shop", "items"])
def test_a_required_field_that_the_writer_lacks_refuses_the_schema(tmp_path: Path, name: str) -> None:
    batch = decode(tmp_path, written_as({n: t for n, t in TYPES.items() if n != name}), [GOOD], COLUMNAR)
    assert {(x.reason, x.path) for x in batch.dead_letters} == {("schema", f"$.{name}")}
    assert len(batch.dead_letters) == COLUMNAR


@pytest.mark.parametrize("copies", [1, COLUMNAR])
def test_a_renamed_field_is_found_by_the_alias_that_its_writer_gave_it(tmp_path: Path, copies: int) -> None:
    schema = written_as({("quantity" if n == "items" else n): t for n, t in TYPES.items()})
    next(f for f in schema["fields"] if f["name"] == "quantity")["aliases"] = ["items"]
    batch = decode(tmp_path, schema, [{**GOOD, "quantity": 9}], copies)
    assert batch.frame["items"].to_list() == [9] * copies


@pytest.mark.parametrize("copies", [1, COLUMNAR])
def test_a_null_in_a_required_field_is_invalid_and_its_neighbours_count(tmp_path: Path, copies: int) -> None:
    types = {**TYPES, "items": ["null", "long"]}
    batch = decode(tmp_path, written_as(types), [GOOD, {**GOOD, "items": None}], copies)
    assert batch.frame.height == copies == len(batch.dead_letters)
    assert {(x.reason, x.path, x.detail) for x in batch.dead_letters} == {
        ("invalid", "$.items", "Order.items must be int64, got null")
    }


@pytest.mark.parametrize("copies", [1, COLUMNAR])
def test_bytes_that_are_no_text_are_invalid(tmp_path: Path, copies: int) -> None:
    batch = decode(
        tmp_path, written_as({**TYPES, "shop": "bytes"}), [{**GOOD, "shop": b"\xff"}, {**GOOD, "shop": b"s"}], copies
    )
    assert batch.frame["shop"].to_list() == ["s"] * copies
    assert {(x.reason, x.path) for x in batch.dead_letters} == {("invalid", "$.shop")}


@pytest.mark.parametrize("copies", [1, COLUMNAR])
def test_milliseconds_that_no_time_holds_are_invalid(tmp_path: Path, copies: int) -> None:
    types = {**TYPES, "due": {"type": "long", "logicalType": "timestamp-millis"}}
    batch = decode(tmp_path, written_as(types), [{**GOOD, "due": d} for d in (2**62, -(2**63), 0)], copies)
    assert batch.frame["due"].to_list() == [datetime(1970, 1, 1, tzinfo=UTC)] * copies
    assert {(x.reason, x.path) for x in batch.dead_letters} == {("invalid", "$.due")}


def test_a_named_type_that_is_used_twice_is_one(tmp_path: Path) -> None:
    batch = decode(
        tmp_path, written_as({**TYPES, "shop": ENUM, "note": ["null", "Shop"]}), [{**GOOD, "note": "r"}], COLUMNAR
    )
    assert batch.frame.select("shop", "note").rows() == [("s", "r")] * COLUMNAR
