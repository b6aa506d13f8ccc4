"""Avro in Confluent's framing: columnar first, one by one with fastavro, the reference, where that fails."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import fastavro.types
import polars as pl

from streamfti.definitions.decimals import exact_unscaled, from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.feature_pipeline.avro_container import decode_container
from streamfti.feature_pipeline.avro_resolution import ResolvedField, ResolvedWriter, resolve_writer
from streamfti.feature_pipeline.avro_schema import FRAME, MAGIC
from streamfti.feature_pipeline.batches import DeadLetter, Message
from streamfti.feature_pipeline.decimal_columns import NOT_EXACT, rescaled, unscaled_of_bytes
from streamfti.feature_pipeline.decoded import (
    COLUMNAR_FROM,
    INVALID,
    MALFORMED,
    SCHEMA,
    Decoded,
    FormatDecoder,
    Rejection,
    physical_type,
    rows_frame,
    shown,
    utf8_texts,
)
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["AvroDecoder", "avro_body", "avro_datum", "avro_values"]

_MILLIS = 1000
_MOST_MILLIS = 2**63 // _MILLIS - 1


class AvroDecoder(FormatDecoder):
    """Keeps how it reads the writers' schemas that it has met; everything else is pure."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._writers: dict[tuple[str, int], ResolvedWriter] = {}

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, by writer's schema, and add a dead letter for each other message.

        Raises:
            StoreError: if the schema registry cannot be read.
        """
        found: list[Decoded] = []
        for schema_id, group in _by_schema(messages, dead).items():
            try:
                writer = self._writer(source, schema_id)
            except Rejection as exc:
                detail = f"writer's schema {schema_id}: {exc.detail}"
                dead += [DeadLetter(m, exc.reason, detail, schema_id, exc.path) for m in group]
                continue
            found.append(_decode(source.schema, writer, schema_id, group, dead))
        return found

    def _writer(self, source: KafkaSource, schema_id: int) -> ResolvedWriter:
        key = source.name, schema_id
        if key not in self._writers:
            try:
                registered = self._registry.schema(schema_id)
            except ContractError as exc:
                raise Rejection(SCHEMA, "$", str(exc)) from exc
            self._writers[key] = resolve_writer(source.schema, registered)
        return self._writers[key]


def _by_schema(messages: Sequence[Message], dead: list[DeadLetter]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = defaultdict(list)
    for message in messages:
        try:
            found[avro_body(message.value)[0]].append(message)
        except Rejection as exc:
            dead.append(exc.letter(message, None))
    return found


def avro_body(value: bytes | None) -> tuple[int, bytes]:
    """Return the id of the writer's schema that bytes name, and what follows.

    Raises:
        Rejection: if they do not begin with one.
    """
    if value is None or len(value) < FRAME.size or value[0] != MAGIC:
        came = "an empty message" if value is None else f"{len(value)} bytes beginning {value[:5].hex()!r}"
        raise Rejection(MALFORMED, "$", f"a message must begin with a zero byte and a schema id, got {came}")
    schema_id: int = FRAME.unpack_from(value)[1]
    return schema_id, value[FRAME.size :]


def _decode(
    schema: EventSchema, writer: ResolvedWriter, schema_id: int, messages: Sequence[Message], dead: list[DeadLetter]
) -> Decoded:
    bodies = [m.value[FRAME.size :] for m in messages if m.value is not None]
    frame = _columnar(writer, bodies) if len(bodies) >= COLUMNAR_FROM else None
    if frame is not None:
        return Decoded(schema_id, messages, frame)
    good: list[Message] = []
    rows: list[dict[str, Any]] = []
    for message, body in zip(messages, bodies, strict=True):
        try:
            rows.append(_one(writer, body))
        except Rejection as exc:
            detail = f"{exc.detail} (writer's schema {schema_id})"
            dead.append(DeadLetter(message, exc.reason, detail, schema_id, exc.path))
        else:
            good.append(message)
    return Decoded(schema_id, good, rows_frame(schema, rows))


def _one(writer: ResolvedWriter, body: bytes) -> dict[str, Any]:
    return avro_values(writer, avro_datum(writer.parsed, body))


def avro_datum(parsed: fastavro.types.Schema, body: bytes) -> Any:  # noqa: ANN401  # of whatever was written
    """Read one body alone.

    Raises:
        Rejection: if it is no Avro of the writer's schema.
    """
    stream = io.BytesIO(body)
    try:
        found: Any = fastavro.schemaless_reader(stream, parsed, None)
    except Exception as exc:  # hostile bytes raise anything
        detail = f"the body must be Avro, got {len(body)} bytes and {type(exc).__name__}: {shown(str(exc))}"
        raise Rejection(MALFORMED, "$", detail) from exc
    if left := len(stream.read()):
        raise Rejection(MALFORMED, "$", f"the body must be Avro, got {left} bytes after its end")
    return found


def avro_values(writer: ResolvedWriter, datum: Mapping[str, Any]) -> dict[str, Any]:
    """Return the physical values of an event from what was written.

    Raises:
        Rejection: if a text is none, or a decimal does not fit.
    """
    return {f.field.name: None if f.written is None else _value(f, datum[f.written]) for f in writer.fields}


def _value(field: ResolvedField, value: Any) -> Any:  # noqa: ANN401  # of any Avro type
    match field.field.type.dtype:
        case _ if value is None:
            return None
        case DType.STRING if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError as exc:
                raise Rejection.of(field.field, value) from exc
        case DType.FLOAT64:
            return float(value)
        case DType.DATETIME if field.kind == "timestamp-millis":
            return value * _MILLIS if -_MOST_MILLIS <= value <= _MOST_MILLIS else NOT_EXACT
        case DType.DECIMAL:
            return _decimal(field, int.from_bytes(value, "big", signed=True))
    return value


def _decimal(field: ResolvedField, unscaled: int) -> int:
    value, value_type = from_unscaled(unscaled, field.scale), field.field.type
    found = exact_unscaled(value, value_type.precision, value_type.scale)
    if found is None:
        detail = f"{field.field} must fit {value_type} exactly, got {shown(str(value))}"
        raise Rejection(INVALID, f"$.{field.field.name}", detail)
    return found


def _columnar(writer: ResolvedWriter, bodies: Sequence[bytes]) -> pl.DataFrame | None:
    """Decode all bodies at once; None if that cannot be shown to be exact."""
    written = None if writer.container is None else decode_container(writer.container, bodies)
    if written is None:
        return None
    columns: list[pl.Series] = []
    for field in writer.fields:
        column = _column(field, written)
        if column is None:
            return None
        columns.append(column.cast(physical_type(field.field)).alias(field.field.name))
    return pl.DataFrame(columns)


def _column(field: ResolvedField, written: pl.DataFrame) -> pl.Series | None:
    if field.written is None:
        return pl.Series(field.field.name, [None] * written.height, physical_type(field.field))
    column = written[field.written]
    match field.kind:
        case "decimal":
            unscaled = unscaled_of_bytes(column)
            return None if unscaled is None else rescaled(unscaled, field.scale, field.field.type)
        case "timestamp-millis":
            fits = column.is_between(-_MOST_MILLIS, _MOST_MILLIS) | column.is_null()
            return pl.select(pl.when(fits).then(column * _MILLIS).otherwise(NOT_EXACT)).to_series()
        case "enum":
            column = column.replace_strict(
                list(range(len(field.symbols))), list(field.symbols), default=None, return_dtype=pl.String
            )
        case "bytes":
            column = utf8_texts(column)
        case _:
            return column
    return column if column.null_count() == written[field.written].null_count() else None
