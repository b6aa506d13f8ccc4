"""What a dead letter holds, for people: read as far as it can be, in the format of its source."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import StoreError
from streamfti.feature_pipeline.avro_schema import FRAME
from streamfti.feature_pipeline.decoded import Rejection
from streamfti.feature_pipeline.json_decoding import json_body, json_object
from streamfti.feature_pipeline.protobuf_decoding import protobuf_body
from streamfti.feature_pipeline.protobuf_schema import message_class
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["payload"]


def payload(source: KafkaSource, value: bytes | None, registry: SchemaRegistry) -> Any:  # noqa: ANN401  # JSON
    """Return the fields of a message by name, else its text, else its bytes in hexadecimal, else None.

    Raises:
        StoreError: if the schema registry cannot be read.
    """
    if value is None:
        return None
    found = _READ[source.format](source, value, registry)
    if found is not None:
        return found
    text = value.decode(errors="replace")
    return text if "\ufffd" not in text and text.isprintable() else value.hex()


def _avro(_: KafkaSource, value: bytes, registry: SchemaRegistry) -> dict[str, Any] | None:
    if len(value) < FRAME.size or value[0]:
        return None
    try:
        schema = fastavro.parse_schema(registry.schema(FRAME.unpack_from(value)[1]))
        row: Any = fastavro.schemaless_reader(io.BytesIO(value[FRAME.size :]), schema, None)
    except StoreError:
        raise
    except Exception:  # noqa: BLE001  # hostile bytes raise anything; they are shown as they are
        return None
    return row if isinstance(row, dict) else None


def _json(_: KafkaSource, value: bytes, __: SchemaRegistry) -> Any:  # noqa: ANN401  # JSON
    try:
        body = json_body(value)[1]
    except Rejection:
        return None
    try:
        json_object(body)  # as strict as decoding is, so that what is wrong is seen
        return json.loads(body)
    except Rejection:
        return body.decode(errors="backslashreplace")


def _protobuf(source: KafkaSource, value: bytes, _: SchemaRegistry) -> dict[str, Any] | None:
    try:
        message = message_class(source.schema).FromString(protobuf_body(value)[1])
    except (Rejection, DecodeError):
        return None
    return MessageToDict(message, preserving_proto_field_name=True)


_READ = {"avro": _avro, "json": _json, "protobuf": _protobuf}
