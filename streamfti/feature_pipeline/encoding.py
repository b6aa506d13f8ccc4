"""Events as messages, and event classes as schemas, in the format of their source: what producers and `apply` need.

Avro and Protobuf stand in Confluent's framing. JSON stands bare: a message is readable by anything that reads JSON.
Its times are ISO 8601 in UTC, and its decimals text, because many readers of JSON take every number for a double.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import fastavro

from streamfti.clock import to_us
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, EventSchema, Field, event_schema
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.avro_schema import avro_schema, encode_event, frame_message
from streamfti.feature_pipeline.protobuf_schema import message_class, proto_text
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["event_encoder", "json_schema", "wire_schema"]

_FIRST_MESSAGE = b"\x00"
"""The place of the message in its file, as Confluent's framing has it: the first."""

_JSON_TYPES: dict[DType, dict[str, Any]] = {
    DType.STRING: {"type": "string"},
    DType.INT64: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    DType.FLOAT64: {"type": "number"},
    DType.BOOL: {"type": "boolean"},
    DType.DATETIME: {"type": ["string", "integer"], "format": "date-time"},
    DType.DECIMAL: {"type": ["string", "number"]},
}


def wire_schema(source: KafkaSource) -> dict[str, Any] | str:
    """Return the schema of a source's events in its format: JSON, or the text of a .proto file."""
    if source.format == "protobuf":
        return proto_text(source.schema)
    return avro_schema(source.schema) if source.format == "avro" else json_schema(source.schema)


def json_schema(schema: EventSchema) -> dict[str, Any]:
    """Return an event class as a JSON Schema (draft 7)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": schema.name,
        "type": "object",
        "properties": {f.name: _property(f) for f in schema.fields},
        "required": [f.name for f in schema.fields if not f.type.nullable],
    }


def _property(field: Field) -> dict[str, Any]:
    found = dict(_JSON_TYPES[field.type.dtype])
    if field.type.dtype is DType.DECIMAL:
        found["description"] = str(field.type.required)
    if field.type.dtype is DType.DATETIME:
        found["description"] = "ISO 8601 with a zone, or microseconds since 1970-01-01T00:00:00Z"
    if field.type.nullable:
        kinds = found["type"] if isinstance(found["type"], list) else [found["type"]]
        found["type"] = [*kinds, "null"]
    return found


def event_encoder(source: KafkaSource, registry: SchemaRegistry) -> Callable[[Event], bytes]:
    """Return the function that makes a message of an event of a source; its schema is registered first.

    Raises:
        ContractError: if the registry refuses the schema.
        StoreError: if the registry cannot be used.
    """
    schema_id = registry.register(source.topic, wire_schema(source), source.format)
    if source.format == "json":
        return _json_message
    if source.format == "protobuf":
        return lambda event: _protobuf_message(event, schema_id)
    parsed = fastavro.parse_schema(avro_schema(source.schema))
    return lambda event: encode_event(event, parsed, schema_id)


def _json_message(event: Event) -> bytes:
    return json.dumps(event.values(), default=_json_value, ensure_ascii=False, separators=(",", ":")).encode()


def _json_value(value: datetime | decimal.Decimal) -> str:
    """Return what JSON has no form for: a time or a decimal."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else format(value, "f")


def _protobuf_message(event: Event, schema_id: int) -> bytes:
    values = {name: _protobuf_value(value) for name, value in event.values().items() if value is not None}
    message = message_class(event_schema(type(event)))(**values)
    return frame_message(schema_id, _FIRST_MESSAGE + message.SerializeToString())


def _protobuf_value(value: Any) -> Any:  # noqa: ANN401  # of any field's type
    if isinstance(value, datetime):
        return to_us(value)
    return format(value, "f") if isinstance(value, decimal.Decimal) else value
