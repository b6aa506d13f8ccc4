"""Debezium's envelopes, as JSON and as Avro: what a change says, and the rows in it by the rules of their format.

An envelope has `op`, `before`, `after`, the time of the connector (`ts_us`, `ts_ms`), and in `source` that of the
database, which counts where it is there: a connector that was down reports old changes late.

References:
    https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-change-events-value
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import fastavro
import fastavro.types

from streamfti.definitions.events import EventSchema
from streamfti.errors import ContractError
from streamfti.feature_pipeline.avro_decoding import avro_body, avro_datum, avro_values
from streamfti.feature_pipeline.avro_resolution import (
    ResolvedWriter,
    record_of,
    resolve_writer,
    without_logical_types,
)
from streamfti.feature_pipeline.batches import Message
from streamfti.feature_pipeline.decoded import MALFORMED, SCHEMA, Rejection, shown
from streamfti.feature_pipeline.json_decoding import json_body, json_integer, json_object, json_values
from streamfti.feature_pipeline.row_keys import payload_of
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["AvroEnvelopes", "Envelope", "EnvelopeReader", "JsonEnvelopes"]

Row = Mapping[str, Any]
_MILLIS = 1000


@dataclass(frozen=True, slots=True)
class Envelope:
    """What one message says.

    Attributes:
        schema_id: of the writer's schema; `NO_SCHEMA_ID` if the message names none.
        op: what was done: c, u, d, r, or something else.
        before: the row's former state as it was written; None if there is none.
        after: the row as it is from then on, likewise.
        time_us: when the database, or else the connector, says that it was done; None if neither does.
    """

    schema_id: int
    op: object
    before: Row | None
    after: Row | None
    time_us: int | None


class EnvelopeReader(Protocol):
    """Reads the envelopes of one format, and the rows in them."""

    def read(self, message: Message) -> Envelope:
        """Return what a message says.

        Raises:
            Rejection: if it is no envelope.
            StoreError: if the schema registry cannot be read.
        """
        ...

    def values(self, schema: EventSchema, envelope: Envelope, row: Row) -> dict[str, Any]:
        """Return the physical values of some fields of a row.

        Raises:
            Rejection: if a required field is missing, or a value is none of its field.
        """
        ...


class JsonEnvelopes(EnvelopeReader):
    """JSON, bare or under `payload` beside its `schema`."""

    def read(self, message: Message) -> Envelope:
        """Return what a message says.

        Raises:
            Rejection: if it is no envelope.
        """
        schema_id, body = json_body(message.value)
        found = payload_of(json_object(body))
        if not isinstance(found, dict):
            raise Rejection(MALFORMED, "$.payload", f"the payload must be an envelope, got {shown(found)}")
        return _envelope(schema_id, found, json_integer)

    def values(self, schema: EventSchema, envelope: Envelope, row: Row) -> dict[str, Any]:  # noqa: ARG002  # a port's
        """Return the physical values of some fields of a row.

        Raises:
            Rejection: if a required field is missing, or a value is none of its field.
        """
        return json_values(schema.fields, row)


class AvroEnvelopes(EnvelopeReader):
    """Avro in Confluent's framing. Keeps the writers' schemas that it has met.

    Args:
        registry: the schemas of the writers.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry
        self._registered: dict[int, tuple[Mapping[str, Any], fastavro.types.Schema]] = {}
        self._rows: dict[tuple[EventSchema, int], ResolvedWriter] = {}

    def read(self, message: Message) -> Envelope:
        """Return what a message says.

        Raises:
            Rejection: if it is no envelope.
            StoreError: if the schema registry cannot be read.
        """
        schema_id, body = avro_body(message.value)
        _, parsed = self._schema(schema_id)
        found = avro_datum(parsed, body)
        if not isinstance(found, dict):
            raise Rejection(MALFORMED, "$", f"a message must be an envelope, got {shown(found)}")
        return _envelope(schema_id, found, lambda value: value if type(value) is int else None)

    def values(self, schema: EventSchema, envelope: Envelope, row: Row) -> dict[str, Any]:
        """Return the physical values of some fields of a row.

        Raises:
            Rejection: if a required field is missing, or a value is none of its field.
        """
        key = schema, envelope.schema_id
        if key not in self._rows:
            registered, _ = self._schema(envelope.schema_id)
            self._rows[key] = resolve_writer(schema, record_of(registered, "after"))
        return avro_values(self._rows[key], row)

    def _schema(self, schema_id: int) -> tuple[Mapping[str, Any], fastavro.types.Schema]:
        if schema_id not in self._registered:
            try:
                registered = self._registry.schema(schema_id)
                parsed = fastavro.parse_schema(without_logical_types(registered))
            except ContractError as exc:
                raise Rejection(SCHEMA, "$", str(exc)) from exc
            except Exception as exc:  # what somebody registered raises anything
                msg = f"writer's schema {schema_id} must be an Avro schema, got {type(exc).__name__}: {shown(str(exc))}"
                raise Rejection(SCHEMA, "$", msg) from exc
            self._registered[schema_id] = registered, parsed
        return self._registered[schema_id]


class _IntegerOf(Protocol):
    def __call__(self, value: object) -> int | None: ...


def _envelope(schema_id: int, found: Mapping[str, Any], integer: _IntegerOf) -> Envelope:
    if "op" not in found:
        names = ", ".join(sorted(map(str, found)))
        detail = f"a message must be an envelope of Debezium, with op, before and after, got {shown(names)}"
        raise Rejection(MALFORMED, "$.op", detail + "; changes='upsert' reads bare rows")
    rows: dict[str, Row | None] = {}
    for name in ("before", "after"):
        row = found.get(name)
        if row is not None and not isinstance(row, dict):
            raise Rejection(MALFORMED, f"$.{name}", f"{name} must be a row, got {shown(row)}")
        rows[name] = row
    return Envelope(schema_id, found["op"], rows["before"], rows["after"], _time_us(found, integer))


def _time_us(found: Mapping[str, Any], integer: _IntegerOf) -> int | None:
    source = found.get("source")
    for record in (source if isinstance(source, dict) else {}, found):
        for name, unit in (("ts_us", 1), ("ts_ms", _MILLIS)):
            value = integer(record.get(name))
            if value is not None and 0 < value < 2**63 // unit:  # connectors write 0 for what they do not know
                return value * unit
    return None
