"""Columnar decoding is exact: what it returns is what fastavro reads of each body alone, or it returns nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import fastavro.types
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamfti.feature_pipeline.avro_container import decode_container

Schema = Mapping[str, Any]

LONGS = st.integers(-(2**63), 2**63 - 1) | st.integers(-70, 70)
VALUES: Mapping[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "string": ("string", st.text(max_size=6) | st.just("x" * 70)),
    "java_string": ({"type": "string", "avro.java.string": "String"}, st.text(max_size=3)),
    "long": ("long", LONGS),
    "long_object": ({"type": "long"}, LONGS),
    "micros": ({"type": "long", "logicalType": "timestamp-micros"}, LONGS),
    "millis": ({"type": "long", "logicalType": "timestamp-millis"}, LONGS),
    "time_micros": ({"type": "long", "logicalType": "time-micros"}, st.integers(0, 86_399_999_999)),
    "double": ("double", st.floats(allow_nan=False)),
    "boolean": ("boolean", st.booleans()),
    "boolean_object": ({"type": "boolean"}, st.booleans()),
    "bytes": ("bytes", st.binary(max_size=3)),
    # What is not decoded in columns must be refused, not misread.
    "int": ("int", st.integers(-(2**31), 2**31 - 1)),
    "date": ({"type": "int", "logicalType": "date"}, st.integers(-(2**31), 2**31 - 1)),
    "float": ("float", st.floats(width=32, allow_nan=False)),
    "enum": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, st.sampled_from("AB")),
    "uuid": ({"type": "string", "logicalType": "uuid"}, st.text(max_size=3)),
}
COLUMNAR = ("string", "java_string", "long", "long_object", "micros", "double", "boolean", "boolean_object", "bytes")


@st.composite
def written(draw: st.DrawFn, kinds: Sequence[str] = tuple(VALUES)) -> tuple[Schema, list[bytes]]:
    """Return a schema and bodies written with it; a named type occurs once."""
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5).filter(lambda k: k.count("enum") < 2))
    fields, values = [], {}
    for number, kind in enumerate(chosen):
        avro_type, strategy = VALUES[kind]
        form = draw(st.sampled_from(("plain", "null first", "null last")))
        union = {"plain": avro_type, "null first": ["null", avro_type], "null last": [avro_type, "null"]}[form]
        extra: dict[str, Any] = draw(st.sampled_from(({}, {"doc": "a field"}, {"aliases": ["old"]})))
        fields.append({"name": f"f{number}", "type": union, **extra})
        values[f"f{number}"] = strategy if form == "plain" else st.none() | strategy
    schema = {"type": "record", "name": "R", "namespace": "a.b", "doc": "d", "aliases": ["Q"], "fields": fields}
    parsed = fastavro.parse_schema(without_logical_types(schema))
    return schema, [
        encoded(parsed, row) for row in draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=5))
    ]


def without_logical_types(schema: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(schema, dict):
        return {k: without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return [without_logical_types(v) for v in schema] if isinstance(schema, list) else schema


def encoded(parsed: fastavro.types.Schema, row: Mapping[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, parsed, dict(row))
    return body.getvalue()


def read_alone(parsed: fastavro.types.Schema, body: bytes) -> Any:  # noqa: ANN401  # a record
    """Read one body with fastavro; fail if it is not just one record."""
    stream = io.BytesIO(body)
    row = fastavro.schemaless_reader(stream, parsed, None)
    assert not stream.read()
    return row


def assert_exact(schema: Schema, bodies: Sequence[bytes]) -> pl.DataFrame | None:
    frame = decode_container(schema, bodies)
    if frame is not None:
        parsed = fastavro.parse_schema(without_logical_types(schema))
        rows = [read_alone(parsed, body) for body in bodies]
        for field in schema["fields"]:
            column = frame[field["name"]]
            found = column if column.dtype in {pl.String, pl.Boolean, pl.Binary} else column.to_physical()
            assert found.to_list() == [row[field["name"]] for row in rows]
    return frame


QUICK = settings(suppress_health_check=[HealthCheck.too_slow])


@given(written())
@QUICK
def test_what_was_written_is_read_exactly_or_not_at_all(data: tuple[Schema, list[bytes]]) -> None:
    assert_exact(*data)


@given(written(COLUMNAR))
@QUICK
def test_the_types_of_event_schemas_are_read_in_columns(data: tuple[Schema, list[bytes]]) -> None:
    assert assert_exact(*data) is not None


@given(written(), st.data())
@QUICK
def test_damaged_bodies_are_read_exactly_or_not_at_all(data: tuple[Schema, list[bytes]], draw: st.DataObject) -> None:
    """A changed, a lost and an added byte, and a boundary that has moved between two bodies."""
    schema, bodies = data
    victim = draw.draw(st.integers(0, len(bodies) - 1))
    body = bytearray(bodies[victim])
    place = draw.draw(st.integers(0, len(body)))
    byte = draw.draw(st.sampled_from((0, 1, 2, 3, 4, 0x7F, 0x80, 0xFF)) | st.integers(0, 255))
    match draw.draw(st.sampled_from(("change", "remove", "insert", "move"))):
        case "change" if place < len(body):
            body[place] = byte
        case "remove":
            del body[place : place + 1]
        case "insert":
            body.insert(place, byte)
        case _ if victim + 1 < len(bodies):
            bodies[victim + 1] = bytes(body[place:]) + bodies[victim + 1]
            del body[place:]
        case _:
            pass
    bodies[victim] = bytes(body)
    assert_exact(schema, bodies)


SCHEMA: Schema = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "s", "type": "string"},
        {"name": "b", "type": "boolean"},
        {"name": "n", "type": ["null", "long"]},
        {"name": "m", "type": ["long", "null"]},
    ],
}
GOOD = b"\x04ab" + b"\x01" + b"\x02\x06" + b"\x00\x08"


@pytest.mark.parametrize(
    "body",
    [
        b"\x04ab" + b"\x02" + b"\x02\x06" + b"\x00\x08",
        b"\x04ab" + b"\x01" + b"\x04\x06" + b"\x00\x08",
        b"\x04ab" + b"\x01" + b"\x02\x06" + b"\x04",
        b"\x04ab" + b"\x01" + b"\x02\x06" + b"\x01\x08",
        b"\x04\xff\xfe" + b"\x01" + b"\x02\x06" + b"\x00\x08",
        b"\x84\x00ab" + b"\x01" + b"\x02\x06" + b"\x00\x08",
    ],
    ids=["boolean 2", "branch 2 of 2", "branch 2 as null", "branch -1", "no UTF-8", "long form of a length"],
)
def test_bytes_of_the_right_length_and_no_canonical_meaning_are_refused(body: bytes) -> None:
    assert decode_container(SCHEMA, [GOOD, body, GOOD]) is None
    assert decode_container(SCHEMA, [GOOD, GOOD]) is not None


def test_a_time_of_day_is_not_measured_by_the_nanoseconds_that_polars_makes_of_it() -> None:
    """One microsecond is a byte; a thousand nanoseconds would be two, and hide the byte left over at the end."""
    types = [{"type": "long", "logicalType": "time-micros"}, "string", "long", "string"]
    fields = [{"name": f"f{number}", "type": avro_type} for number, avro_type in enumerate(types)]
    body = b"\x02" + b"\x8c\x01\x01" + b"x" * 70 + b"\x00\x00"
    assert decode_container({"type": "record", "name": "R", "fields": fields}, [body]) is None


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4))
@example([GOOD, GOOD])
@QUICK
def test_foreign_bytes_are_read_exactly_or_not_at_all(bodies: list[bytes]) -> None:
    assert_exact(SCHEMA, bodies)
