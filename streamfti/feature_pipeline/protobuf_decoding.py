"""Protobuf in Confluent's framing: a zero byte, a schema id, the place of the message in its file, the message.

Read with the message of the event class: field numbers are the contract, and what has other numbers is ignored. The
writer's schema is not looked up. Columnar with ptars first; where one message of a batch is bad, one by one with the
package protobuf, the reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl
import ptars
import pyarrow as pa
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from streamfti.definitions.decimals import exact_unscaled, parse_decimal
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.avro_schema import FRAME, MAGIC
from streamfti.feature_pipeline.batches import DeadLetter, Message
from streamfti.feature_pipeline.decimal_columns import plain_decimals
from streamfti.feature_pipeline.decoded import (
    COLUMNAR_FROM,
    INVALID,
    MALFORMED,
    Decoded,
    FormatDecoder,
    Rejection,
    physical_type,
    rows_frame,
    shown,
)
from streamfti.feature_pipeline.protobuf_schema import message_class
from streamfti.stores.schemas.port import MAX_SCHEMA_ID

__all__ = ["ProtobufDecoder", "protobuf_body"]

_MOST_VARINT_BYTES = 5
_MOST_INDEXES = 64


class ProtobufDecoder(FormatDecoder):
    """Keeps the columnar decoders of the events that it has met; everything else is pure."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, by schema id, and add a dead letter for each other message."""
        groups: dict[int, tuple[list[Message], list[bytes]]] = defaultdict(lambda: ([], []))
        for message in messages:
            try:
                schema_id, body = protobuf_body(message.value)
            except Rejection as exc:
                dead.append(exc.letter(message, None))
                continue
            groups[schema_id][0].append(message)
            groups[schema_id][1].append(body)
        return [self._decode(source, i, group, bodies, dead) for i, (group, bodies) in groups.items()]

    def _decode(
        self,
        source: KafkaSource,
        schema_id: int,
        messages: Sequence[Message],
        bodies: Sequence[bytes],
        dead: list[DeadLetter],
    ) -> Decoded:
        frame = self._columnar(source, bodies) if len(bodies) >= COLUMNAR_FROM else None
        if frame is not None:
            return Decoded(schema_id, messages, frame)
        kind = message_class(source.schema)
        good: list[Message] = []
        rows: list[dict[str, Any]] = []
        for message, body in zip(messages, bodies, strict=True):
            try:
                rows.append(_one(source.schema, kind, body))
            except Rejection as exc:
                dead.append(exc.letter(message, schema_id))
            else:
                good.append(message)
        return Decoded(schema_id, good, rows_frame(source.schema, rows))

    def _columnar(self, source: KafkaSource, bodies: Sequence[bytes]) -> pl.DataFrame | None:
        """Decode all bodies at once; None if one of them is bad."""
        if source.name not in self._handlers:
            descriptor = message_class(source.schema).DESCRIPTOR
            self._handlers[source.name] = ptars.HandlerPool([descriptor.file]).get_for_message(descriptor)
        try:
            batch = self._handlers[source.name].array_to_record_batch(pa.array(bodies, pa.binary()))
        except ValueError:
            return None
        written = pl.DataFrame(batch)
        columns = [_column(field, written[field.name]) for field in source.schema.fields]
        return None if any(column is None for column in columns) else pl.DataFrame(columns)


def protobuf_body(value: bytes | None) -> tuple[int, bytes]:
    """Return the schema id of a message and the bytes of its Protobuf.

    Raises:
        Rejection: if it is not framed.
    """
    if value is None or len(value) <= FRAME.size or value[0] != MAGIC:
        came = "an empty message" if value is None else f"{len(value)} bytes beginning {value[:5].hex()!r}"
        detail = f"a message must begin with a zero byte, a schema id and a message index, got {came}"
        raise Rejection(MALFORMED, "$", detail)
    schema_id: int = FRAME.unpack_from(value)[1]
    if schema_id > MAX_SCHEMA_ID:
        raise Rejection(MALFORMED, "$", f"a schema id must be at most {MAX_SCHEMA_ID}, got {schema_id}")
    count, at = _varint(value, FRAME.size)
    if not 0 <= count <= _MOST_INDEXES:
        raise Rejection(MALFORMED, "$", f"a message must have at most {_MOST_INDEXES} indexes, got {count}")
    for _ in range(count):
        _, at = _varint(value, at)
    return schema_id, value[at:]


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """Return the zigzag number at a place, and the place after it."""
    number = 0
    for i, byte in enumerate(value[at : at + _MOST_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * i)
        if byte <= 0x7F:
            return (number >> 1) ^ -(number & 1), at + i + 1
    raise Rejection(MALFORMED, "$", "a message must have a whole message index before its Protobuf, got none")


def _one(schema: EventSchema, kind: type[ProtobufMessage], body: bytes) -> dict[str, Any]:
    """Read one message alone.

    Raises:
        Rejection: if it is no Protobuf, or a decimal is none.
    """
    try:
        message = kind.FromString(body)
    except DecodeError as exc:
        detail = f"the body must be Protobuf, got {len(body)} bytes and {shown(str(exc))}"
        raise Rejection(MALFORMED, "$", detail) from exc
    row = {f.name: getattr(message, f.name) if message.HasField(f.name) else None for f in schema.fields}
    return row | {f.name: _decimal(f, row[f.name]) for f in schema.fields if f.type.dtype is DType.DECIMAL}


def _decimal(field: Field, text: str | None) -> int | None:
    if text is None:
        return None
    number = parse_decimal(text)
    unscaled = None if number is None else exact_unscaled(number, field.type.precision, field.type.scale)
    if unscaled is None:
        raise Rejection(INVALID, f"$.{field.name}", f"{field} must fit {field.type} exactly, got {shown(text)}")
    return unscaled


def _column(field: Field, written: pl.Series) -> pl.Series | None:
    if field.type.dtype is not DType.DECIMAL:
        return written.cast(physical_type(field))
    unscaled = plain_decimals(written, field.type)
    return unscaled if unscaled.null_count() == written.null_count() else None
