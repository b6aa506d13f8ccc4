"""What a dead letter holds is shown as far as it can be read, and never raises for what it is."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfti as fti
from streamfti.definitions.sources import WireFormat
from streamfti.errors import StoreUnavailable
from streamfti.feature_pipeline.avro_schema import frame_message
from streamfti.feature_pipeline.encoding import event_encoder
from streamfti.feature_pipeline.letter_payload import payload
from streamfti.stores.schemas.file_registry import FileSchemaRegistry
from streamfti.stores.schemas.http_registry import HttpSchemaRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Visit(fti.Event):
    at: fti.EventTime
    shop: str


VISIT = Visit(at=NOW, shop="ä")
EMPTY = FileSchemaRegistry(Path("/nonexistent"))
FORMATS: tuple[WireFormat, ...] = ("avro", "json", "protobuf")


def source(name: WireFormat) -> fti.KafkaSource:
    return fti.KafkaSource("visits", Visit, format=name)


@pytest.mark.parametrize(
    ("name", "at"),
    [("avro", NOW), ("json", "2026-05-01T12:00:00+00:00"), ("protobuf", str(int(NOW.timestamp()) * 1_000_000))],
)
def test_what_can_be_read_is_shown_by_its_fields(tmp_path: Path, name: WireFormat, at: object) -> None:
    registry = FileSchemaRegistry(tmp_path)
    value = event_encoder(source(name), registry)(VISIT)
    assert payload(source(name), value, registry) == {"at": at, "shop": "ä"}


def test_an_avro_message_is_shown_as_it_was_written(tmp_path: Path) -> None:
    """Also when its schema is none of an event."""
    registry = FileSchemaRegistry(tmp_path)
    schema = {"type": "record", "name": "Other", "fields": [{"name": "n", "type": "int"}]}
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(dict(schema)), {"n": 7})
    value = frame_message(registry.register("visits", schema), body.getvalue())
    assert payload(source("avro"), value, registry) == {"n": 7}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("avro", None, None),
        ("avro", b"plain text", "plain text"),
        ("avro", b"\x00\x00\x00\x00\x09\x01", "000000000901"),
        ("json", b'{"a": 1', '{"a": 1'),
        ("json", b"\xff", "\\xff"),
        ("json", b'{"a": 1}', {"a": 1}),
        ("protobuf", b"\x00\x00\x00\x00\x01\x00\xff", "000000000100ff"),
    ],
)
def test_what_cannot_be_read_is_text_or_hexadecimal(name: WireFormat, value: bytes | None, shown: object) -> None:
    assert payload(source(name), value, EMPTY) == shown


@pytest.mark.parametrize("name", FORMATS)
@given(st.binary(max_size=20) | st.binary(max_size=20).map(lambda b: b"\x00\x00\x00\x00\x01" + b))
def test_any_bytes_are_shown(name: WireFormat, value: bytes) -> None:
    assert payload(source(name), value, EMPTY) is not None


def test_a_registry_that_does_not_answer_is_no_unreadable_letter() -> None:
    with pytest.raises(StoreUnavailable, match="must answer"):
        payload(source("avro"), frame_message(1, b""), HttpSchemaRegistry("http://127.0.0.1:9"))
