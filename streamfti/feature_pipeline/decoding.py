"""From messages to an event frame: Avro, columnar first, one by one where that fails.

Nothing is dropped and nothing is thrown for bad data: a message that is no valid event becomes a dead letter with
its reason. What a valid event is: a framed Avro body whose writer's schema has every field of the event class with
its type, finite numbers, decimals that fit exactly, and an event time from 1970 on, before the year 10000, and not too
far ahead of the broker's.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fastavro
import fastavro.types
import polars as pl

from streamfti.clock import to_us
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema, Field
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError
from streamfti.feature_pipeline.avro_container import decode_container
from streamfti.feature_pipeline.avro_schema import FRAME, MAGIC
from streamfti.feature_pipeline.batches import DeadLetter, EventBatch, Message, MessageBatch
from streamfti.feature_pipeline.decimal_columns import decimal_series, field_unscaled, rescaled, unscaled_of_bytes
from streamfti.stores.offline.schema import polars_type
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["EventDecoder"]

_COLUMNAR_FROM = 64
"""Fewer messages are decoded one by one: below that, setting the columnar decoder up costs more than it saves."""

_META: dict[str, pl.DataType] = {
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_ingest_time_us": pl.Int64(),
    "_schema_id": pl.Int32(),
}
_LAST_TIME_US = to_us(datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class _Writer:
    """A writer's schema that holds every field of the event, as it was registered and as fastavro reads it."""

    schema: Mapping[str, Any]
    """Without logical types: times and decimals are read as the numbers and bytes that they are."""
    parsed: fastavro.types.Schema
    scales: Mapping[str, int]
    """By name, the scale of each decimal field as it was written."""


class EventDecoder:
    """Decodes message batches. Keeps the writers' schemas that it has judged; everything else is pure."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._writers: dict[tuple[str, int], _Writer] = {}

    def decode(self, batch: MessageBatch) -> EventBatch:
        """Return the valid events of a batch, and a dead letter for each other message.

        The events of one writer's schema stand together, in the order of their messages.
        """
        schema = batch.source.schema
        dead: list[DeadLetter] = []
        frames: list[pl.DataFrame] = []
        for schema_id, messages in _by_schema(batch.messages, dead).items():
            frames += self._decode_schema(batch.source, schema_id, messages, dead)
        frame = pl.concat(frames) if len(frames) > 1 else (frames or [_empty_frame(schema)])[0]
        valid = _with_decimals(schema, _validated(frame, batch, dead))
        return EventBatch(batch.source, valid, dead, batch.next_offsets)

    def _decode_schema(
        self, source: KafkaSource, schema_id: int, messages: Sequence[Message], dead: list[DeadLetter]
    ) -> list[pl.DataFrame]:
        """Decode the messages of one writer's schema."""
        try:
            writer = self._writer(source, schema_id)
        except ContractError as exc:
            dead += [DeadLetter(m, "schema", str(exc), schema_id) for m in messages]
            return []
        bodies = [m.value[FRAME.size :] for m in messages if m.value is not None]
        decoded = _columnar(writer, source.schema, bodies) if len(bodies) >= _COLUMNAR_FROM else None
        if decoded is None:
            messages, decoded = _one_by_one(writer, source.schema, schema_id, messages, dead)
        return [_event_frame(source.schema, schema_id, messages, decoded)] if messages else []

    def _writer(self, source: KafkaSource, schema_id: int) -> _Writer:
        """Return a writer's schema once it has been found to hold every field of a source's event.

        Raises:
            ContractError: if it is not known, is no Avro, or a field is missing or of another type.
        """
        key = source.name, schema_id
        if key not in self._writers:
            registered = self._registry.schema(schema_id)
            plain = _without_logical_types(registered)
            parsed = _parsed(schema_id, plain)
            _check_fields(source.schema, schema_id, registered)
            self._writers[key] = _Writer(plain, parsed, _scales(registered))
        return self._writers[key]


def _parsed(schema_id: int, plain: dict[str, Any]) -> fastavro.types.Schema:
    try:
        return fastavro.parse_schema(plain)
    except Exception as exc:  # what somebody registered raises anything
        msg = f"writer's schema {schema_id} must be an Avro schema, got {type(exc).__name__}: {exc}"
        raise ContractError(msg) from exc


def _by_schema(messages: Iterable[Message], dead: list[DeadLetter]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = defaultdict(list)
    for message in messages:
        value = message.value
        if value is None or len(value) < FRAME.size or value[0] != MAGIC:
            came = "an empty message" if value is None else f"{len(value)} bytes beginning {value[:5].hex()!r}"
            detail = f"a message must begin with a zero byte and a schema id, got {came}"
            dead.append(DeadLetter(message, "malformed", detail, None))
        else:
            found[FRAME.unpack_from(value)[1]].append(message)
    return found


def _check_fields(schema: EventSchema, schema_id: int, writer: Mapping[str, Any]) -> None:
    written = {f["name"]: f["type"] for f in writer.get("fields", [])}
    for field in schema.fields:
        if field.name not in written:
            msg = f"writer's schema {schema_id} must have the field {field}, got {', '.join(written)}"
            raise ContractError(msg)
        if not _is_readable(written[field.name], field):
            msg = f"field {field} must be {field.type}, got {written[field.name]!r} in writer's schema {schema_id}"
            raise ContractError(msg)


_AVRO_NAMES = {
    DType.STRING: {"string"},
    DType.INT64: {"long", "int"},
    DType.FLOAT64: {"double"},
    DType.BOOL: {"boolean"},
    DType.DATETIME: {"timestamp-micros"},
    DType.DECIMAL: {"decimal"},
}


def _is_readable(avro_type: Any, field: Field) -> bool:  # noqa: ANN401  # JSON
    """Say whether a written type is read as the field's; null is judged by the values, not by the schema."""
    names = {m.get("logicalType", m.get("type")) if isinstance(m, dict) else m for m in _members(avro_type)} - {"null"}
    return bool(names) and names <= _AVRO_NAMES[field.type.dtype]


def _members(avro_type: Any) -> list[Any]:  # noqa: ANN401  # JSON
    return avro_type if isinstance(avro_type, list) else [avro_type]


def _scales(registered: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for field in registered["fields"]:
        for member in _members(field["type"]):
            if isinstance(member, dict) and member.get("logicalType") == "decimal":
                found[field["name"]] = int(member.get("scale", 0))
    return found


def _columnar(writer: _Writer, schema: EventSchema, bodies: Sequence[bytes]) -> pl.DataFrame | None:
    """Decode all bodies at once; None if that cannot be shown to be exact."""
    decoded = decode_container(writer.schema, bodies)
    if decoded is None:
        return None
    for field in schema.fields:
        if field.type.dtype is DType.DECIMAL:
            unscaled = unscaled_of_bytes(decoded[field.name])
            if unscaled is None:
                return None
            scaled = rescaled(unscaled, writer.scales[field.name], field.type)
            decoded = decoded.with_columns(scaled.alias(field.name))
    return decoded


def _one_by_one(
    writer: _Writer, schema: EventSchema, schema_id: int, messages: Sequence[Message], dead: list[DeadLetter]
) -> tuple[list[Message], pl.DataFrame]:
    """Decode with fastavro, the reference: finds which bodies are bad."""
    decimals = [f for f in schema.fields if f.type.dtype is DType.DECIMAL]
    good: list[Message] = []
    rows: list[dict[str, Any]] = []
    for message in messages:
        body = io.BytesIO((message.value or b"")[FRAME.size :])
        try:
            row: Any = fastavro.schemaless_reader(body, writer.parsed, None)
        except Exception as exc:  # noqa: BLE001  # hostile bytes raise anything; each becomes a dead letter
            detail = f"the body must be Avro of schema {schema_id}, got {type(exc).__name__}: {exc}"
            dead.append(DeadLetter(message, "malformed", detail, schema_id))
            continue
        left = len(body.read())
        if left:
            detail = f"the body must be Avro of schema {schema_id}, got {left} bytes after its end"
            dead.append(DeadLetter(message, "malformed", detail, schema_id))
            continue
        row |= {f.name: _unscaled(row[f.name], writer.scales[f.name], f) for f in decimals}
        good.append(message)
        rows.append(row)
    columns = {f.name: pl.Series(f.name, [r[f.name] for r in rows], _physical(f)) for f in schema.fields}
    return good, pl.DataFrame(columns)


def _unscaled(data: bytes | None, scale: int, field: Field) -> int | None:
    if data is None:
        return None
    return field_unscaled(from_unscaled(int.from_bytes(data, "big", signed=True), scale), field.type)


def _physical(field: Field) -> pl.DataType:
    """Return the type of a decoded column: times and decimals are integers until they are known to fit."""
    is_integer = field.type.dtype in {DType.DATETIME, DType.DECIMAL}
    return pl.Int64() if is_integer else polars_type(field.type)


def _judged_type(field: Field) -> pl.DataType:
    """Return the type of a column that the rules judge: decimals are integers still."""
    return pl.Int64() if field.type.dtype is DType.DECIMAL else polars_type(field.type)


def _without_logical_types(writer: Any) -> Any:  # noqa: ANN401  # JSON
    """Times are read as plain microseconds: a datetime cannot hold every long."""
    if isinstance(writer, dict):
        return {k: _without_logical_types(v) for k, v in writer.items() if k != "logicalType"}
    if isinstance(writer, list):
        return [_without_logical_types(v) for v in writer]
    return writer


def _event_frame(
    schema: EventSchema, schema_id: int, messages: Sequence[Message], decoded: pl.DataFrame
) -> pl.DataFrame:
    fields = decoded.select(
        pl.col(f.name).to_physical().cast(_physical(f)).cast(_judged_type(f)) for f in schema.fields
    )
    partitions, offsets, ingest_times, _, _ = zip(*messages, strict=True)
    meta = [partitions, offsets, ingest_times, [schema_id] * len(messages)]
    columns = [pl.Series(n, v, t) for (n, t), v in zip(_META.items(), meta, strict=True)]
    return fields.with_columns(columns)


def _empty_frame(schema: EventSchema) -> pl.DataFrame:
    return pl.DataFrame(schema={f.name: _judged_type(f) for f in schema.fields} | _META)


def _validated(frame: pl.DataFrame, batch: MessageBatch, dead: list[DeadLetter]) -> pl.DataFrame:
    """Keep the rows that break no rule; the first rule that a row breaks is its reason."""
    rules = _rules(batch.source.schema, batch.source.max_future_skew_us)
    reason = pl.coalesce([pl.when(broken).then(pl.lit(i)) for i, (broken, _, _) in enumerate(rules)])
    judged = frame.with_columns(reason.alias("_reason"))
    if judged["_reason"].null_count() == judged.height:
        return frame
    by_place = {(m.partition, m.offset): m for m in batch.messages}
    # Without the fields: a time may be one that no datetime can hold.
    broken = judged.filter(pl.col("_reason").is_not_null()).select("_reason", "_partition", "_offset", "_schema_id")
    for rule, partition, offset, schema_id in broken.iter_rows():
        _, word, detail = rules[rule]
        dead.append(DeadLetter(by_place[partition, offset], word, detail, schema_id))
    return frame.filter(judged["_reason"].is_null())


def _with_decimals(schema: EventSchema, frame: pl.DataFrame) -> pl.DataFrame:
    decimals = [f for f in schema.fields if f.type.dtype is DType.DECIMAL]
    return frame.with_columns(decimal_series(frame[f.name], f.type) for f in decimals)


def _rules(schema: EventSchema, max_future_skew_us: int) -> list[tuple[pl.Expr, str, str]]:
    """Return what breaks the contract of an event: the condition, the word to count it under, the sentence."""
    rules: list[tuple[pl.Expr, str, str]] = []
    for field in schema.fields:
        column = pl.col(field.name)
        if not field.type.nullable:
            rules.append((column.is_null(), "invalid", f"{field} must be {field.type}, got null"))
        if field.type.dtype is DType.FLOAT64:
            finite = column.is_finite().fill_null(True)  # noqa: FBT003  # a value, not a flag
            rules.append((~finite, "invalid", f"{field} must be finite, got NaN or an infinity"))
        if field.type.dtype is DType.DECIMAL:
            limit = 10**field.type.precision
            too_long = (column >= limit) | (column <= -limit)
            rules.append((too_long, "invalid", f"{field} must fit {field.type} exactly"))
    time_us = pl.col(schema.event_time).to_physical()
    ingest_us = pl.col("_ingest_time_us")
    span = f"the event time {schema.event_time!r} must be from 1970 on and before the year 10000"
    rules.append(((time_us < 0) | (time_us > _LAST_TIME_US), "invalid", span))
    ahead = (ingest_us >= 0) & (time_us - ingest_us > max_future_skew_us)
    most = f"{max_future_skew_us / 1e6:g} s"
    rules.append((ahead, "future", f"the event time {schema.event_time!r} must be at most {most} ahead of the broker"))
    return rules
