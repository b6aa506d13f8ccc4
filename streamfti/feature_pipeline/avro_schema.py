"""Event schemas as Avro, and events as Avro messages in Confluent's framing: a zero byte, the schema id, the body."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

import fastavro
import fastavro.types

from streamfti.clock import to_us
from streamfti.definitions.decimals import exact_unscaled
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Event, EventSchema, Field, event_schema

__all__ = ["FRAME", "MAGIC", "avro_schema", "encode_event", "frame_message"]

MAGIC = 0
FRAME = struct.Struct(">bI")
"""The five bytes before an Avro body: the magic byte and the id of the writer's schema."""

_TYPES: dict[DType, Any] = {
    DType.STRING: "string",
    DType.INT64: "long",
    DType.FLOAT64: "double",
    DType.BOOL: "boolean",
    DType.DATETIME: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(schema: EventSchema) -> dict[str, Any]:
    """Return the Avro record schema of an event class; nullable fields are unions with null."""
    fields = []
    for field in schema.fields:
        avro_type = _avro_type(field.type)
        if field.type.nullable:
            fields.append({"name": field.name, "type": ["null", avro_type], "default": None})
        else:
            fields.append({"name": field.name, "type": avro_type})
    return {"type": "record", "name": schema.name, "namespace": "streamfti.events", "fields": fields}


def _avro_type(value_type: ValueType) -> Any:  # noqa: ANN401  # JSON
    if value_type.dtype is DType.DECIMAL:
        digits = {"precision": value_type.precision, "scale": value_type.scale}
        return {"type": "bytes", "logicalType": "decimal", **digits}
    return _TYPES[value_type.dtype]


def frame_message(schema_id: int, body: bytes) -> bytes:
    """Put Confluent's five bytes before an Avro body."""
    return FRAME.pack(MAGIC, schema_id) + body


def encode_event(event: Event, parsed_schema: fastavro.types.Schema, schema_id: int) -> bytes:
    """Return one event as a framed Avro message.

    Args:
        event: the event.
        parsed_schema: `fastavro.parse_schema(avro_schema(...))`, parsed once by the caller.
        schema_id: its id in the schema registry.
    """
    body = io.BytesIO()
    fastavro.schemaless_writer(body, parsed_schema, _wire_values(event_schema(type(event)), event.values()))
    return frame_message(schema_id, body.getvalue())


def _wire_values(schema: EventSchema, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: _wire_value(field, values[field.name]) for field in schema.fields}


def _wire_value(field: Field, value: Any) -> Any:  # noqa: ANN401  # of the field's type
    """Datetimes become microseconds and decimals bytes: fastavro's own conversions go through floats and contexts."""
    if value is None:
        return None
    if field.type.dtype is DType.DATETIME:
        return to_us(value)
    if field.type.dtype is DType.DECIMAL:
        unscaled = exact_unscaled(value, field.type.precision, field.type.scale) or 0  # an event's value fits
        return unscaled.to_bytes((unscaled + (unscaled < 0)).bit_length() // 8 + 1, "big", signed=True)
    return value
