"""The key of a row of a table, from the key of a message: what a deletion says of the row, often all that it says.

A key is the text of its field; of several fields, what `compute.entity_keys.encode_key` writes; or, of any number, an
object with their names: JSON, bare or under `payload` beside its `schema`, or Avro in Confluent's framing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fastavro
import fastavro.types

from streamfti.compute.entity_keys import encode_key
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.feature_pipeline.avro_decoding import avro_body, avro_datum
from streamfti.feature_pipeline.avro_resolution import without_logical_types
from streamfti.feature_pipeline.avro_schema import MAGIC
from streamfti.feature_pipeline.decoded import MALFORMED, SCHEMA, Rejection, shown
from streamfti.feature_pipeline.json_decoding import json_object, json_values
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["RowKeys", "gone_row", "payload_of"]

_BOOLS = {"true": True, "false": False}
_INT64 = range(-(2**63), 2**63)


class RowKeys:
    """Reads the keys of messages. Keeps the writers' schemas that it has met.

    Args:
        registry: the schemas of the writers.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._parsed: dict[int, fastavro.types.Schema] = {}

    def read(self, source: KafkaSource, key: bytes | None) -> dict[str, Any]:
        """Return the values of the fields of the key of a source's rows, by name.

        Raises:
            Rejection: if they are not in there.
            StoreError: if the schema registry cannot be read.
        """
        fields = [source.schema.field(name) for name in source.row_key]
        if key is None:
            raise Rejection(MALFORMED, "$", "a deletion must have the key of its row, got a message without a key")
        if source.format == "avro" and key[:1] == bytes([MAGIC]):
            return _of_datum(fields, self._datum(key))
        found = _json(key)
        if found is not None and found.keys() == set(source.row_key):
            return json_values(fields, found)
        return _of_text(fields, key)

    def _datum(self, key: bytes) -> Any:  # noqa: ANN401  # of whatever was written
        schema_id, body = avro_body(key)
        if schema_id not in self._parsed:
            try:
                self._parsed[schema_id] = fastavro.parse_schema(without_logical_types(self._registry.schema(schema_id)))
            except (ContractError, fastavro.schema.SchemaParseException) as exc:
                raise Rejection(SCHEMA, "$", f"the schema {schema_id} of a message's key: {exc}") from exc
        return avro_datum(self._parsed[schema_id], body)


def gone_row(schema: EventSchema, key: Mapping[str, Any], time_us: int) -> dict[str, Any]:
    """Return the physical values of a row that is gone, and of which only the key is known."""
    return {field.name: key.get(field.name) for field in schema.fields} | {schema.event_time: time_us}


def payload_of(found: dict[str, Any]) -> Any:  # noqa: ANN401  # JSON
    """Return what stands beside its schema, as Kafka Connect may write it; everything else as it is."""
    return found["payload"] if found.keys() == {"schema", "payload"} else found


def _json(key: bytes) -> dict[str, Any] | None:
    try:
        payload = payload_of(json_object(key))
    except Rejection:
        return None
    return payload if isinstance(payload, dict) else None


def _of_datum(fields: list[Field], datum: object) -> dict[str, Any]:
    """Take the values out of a record, or, of one field, a bare value."""
    found = datum if isinstance(datum, dict) else {fields[0].name: datum}
    values = {field.name: found.get(field.name) for field in fields}
    for field in fields:
        if type(values[field.name]) is not field.type.dtype.python:
            raise Rejection(
                MALFORMED, "$", f"a message's key must have {field}, {field.type}, got {shown(values[field.name])}"
            )
    return values


def _of_text(fields: list[Field], key: bytes) -> dict[str, Any]:
    try:
        texts = [key] if len(fields) == 1 else _parts(key)
        values = [_value(field, text.decode()) for field, text in zip(fields, texts, strict=True)]
        is_exact = encode_key(values).encode() == key
    except (ValueError, KeyError):  # UnicodeDecodeError is a ValueError
        is_exact = False
    if not is_exact:
        kinds = ", ".join(f"{field.name} ({field.type})" for field in fields)
        msg = f"a message's key must be that of a row, {kinds}, as text or as an object, got {shown(key)}"
        raise Rejection(MALFORMED, "$", msg)
    return {field.name: value for field, value in zip(fields, values, strict=True)}


def _parts(key: bytes) -> list[bytes]:
    """Cut what `encode_key` writes of several fields: each behind its length and a colon."""
    parts: list[bytes] = []
    while key:
        length, _, rest = key.partition(b":")
        n = int(length)
        parts.append(rest[:n])
        key = rest[n:]
    return parts


def _value(field: Field, text: str) -> Any:  # noqa: ANN401  # of the field's type
    """Read a value from its text; the caller sees whether it has that text."""
    if field.type.dtype is DType.STRING:
        return text
    if field.type.dtype is DType.BOOL:
        return _BOOLS[text]
    value = int(text)
    if value not in _INT64:
        msg = f"{value} does not fit 64 bits"
        raise ValueError(msg)
    return value
