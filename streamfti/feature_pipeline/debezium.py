"""Changes of rows from Debezium's envelopes: one row of an event frame for a new state, and one for a former one.

| op | rows | with before images |
|---|---|---|
| c, r | after: is so | after: is so |
| u | after: is so | before: was so, at the time of after; after: is so |
| d | the key: gone | before: gone |

A deletion happened when the envelope says; if it does not, when the broker got it; and not before the time of its
before image. Tombstones, which Debezium sends after deletions for compacted topics, are no news. An update must not
change the key: Debezium writes a deletion and a creation then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import polars as pl

from streamfti.compute.accumulators import Change
from streamfti.compute.event_columns import CHANGE
from streamfti.definitions.events import EventSchema
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, DeadLetter, Message
from streamfti.feature_pipeline.debezium_envelopes import Envelope, EnvelopeReader, Row
from streamfti.feature_pipeline.decoded import (
    INVALID,
    NO_SCHEMA_ID,
    Decoded,
    FormatDecoder,
    Rejection,
    rows_frame,
    shown,
)
from streamfti.feature_pipeline.row_keys import RowKeys, gone_row

__all__ = ["DebeziumDecoder"]

_ChangedRow = tuple[Change, dict[str, Any]]


@dataclass(slots=True)
class _Rows:
    """What was read from the messages of one writer's schema."""

    messages: list[Message] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


class DebeziumDecoder(FormatDecoder):
    """Reads envelopes one by one.

    Args:
        envelopes: reads them.
        keys: reads the keys of messages.
    """

    def __init__(self, envelopes: EnvelopeReader, keys: RowKeys) -> None:
        self._envelopes, self._keys = envelopes, keys

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, with the column `_change`, and add a dead letter for each other message.

        Raises:
            StoreError: if the schema registry cannot be read.
        """
        found: dict[int, _Rows] = {}
        for message in messages:
            if message.value is None:
                continue
            schema_id: int = NO_SCHEMA_ID
            try:
                envelope = self._envelopes.read(message)
                schema_id = envelope.schema_id
                changes = list(self._changes(source, message, envelope))
            except Rejection as exc:
                dead.append(exc.letter(message, schema_id or None))
                continue
            rows = found.setdefault(schema_id, _Rows())
            for change, row in changes:
                rows.messages.append(message)
                rows.changes.append(int(change))
                rows.rows.append(row)
        return [_decoded(source, schema_id, rows) for schema_id, rows in found.items()]

    def _changes(self, source: KafkaSource, message: Message, envelope: Envelope) -> Iterator[_ChangedRow]:
        match envelope.op:
            case "c" | "r":
                yield Change.IS, self._state(source, envelope, "after")
            case "u":
                after = self._state(source, envelope, "after")
                if source.before_images:
                    yield Change.WAS, self._former(source, envelope, after)
                yield Change.IS, after
            case "d":
                yield Change.GONE, self._gone(source, message, envelope)
            case _:
                detail = f"op must be c, u, d or r, the changes of a row, got {shown(envelope.op)}"
                raise Rejection(INVALID, "$.op", detail)

    def _state(self, source: KafkaSource, envelope: Envelope, name: str) -> dict[str, Any]:
        """Return the physical values of a row of an envelope that must be there."""
        row, event_time = _required(envelope, name), source.schema.event_time
        values = self._values(source.schema if event_time in row else _timeless(source.schema), envelope, name, row)
        if event_time not in values:
            if envelope.time_us is None:
                detail = (
                    f"a change must say when it was made, in the field {event_time!r} or in source.ts_ms, got neither"
                )
                raise Rejection(INVALID, f"$.{name}.{event_time}", detail)
            values[event_time] = envelope.time_us
        return values

    def _former(self, source: KafkaSource, envelope: Envelope, after: dict[str, Any]) -> dict[str, Any]:
        before = self._state(source, envelope, "before")
        for name in source.row_key:
            if before[name] != after[name]:
                detail = (
                    f"an update must keep the key of its row, got {shown(before[name])} before {shown(after[name])}"
                )
                raise Rejection(INVALID, f"$.after.{name}", detail)
        return before | {source.schema.event_time: after[source.schema.event_time]}

    def _gone(self, source: KafkaSource, message: Message, envelope: Envelope) -> dict[str, Any]:
        time_us = message.ingest_time_us if envelope.time_us is None else envelope.time_us
        if time_us == NO_INGEST_TIME:
            raise Rejection(INVALID, "$.source.ts_ms", "a deletion must say when it was made, got no time")
        event_time = source.schema.event_time
        if source.before_images:
            before = self._state(source, envelope, "before")
            ended_us = before[event_time]
            return before | {event_time: time_us if ended_us is None else max(time_us, ended_us)}
        return gone_row(source.schema, self._key(source, message, envelope), time_us)

    def _key(self, source: KafkaSource, message: Message, envelope: Envelope) -> dict[str, Any]:
        """Return the key of a row that is gone: from its former state, if that has it, else from the message's key."""
        row = envelope.before or {}
        if all(row.get(name) is not None for name in source.row_key):
            return self._values(_of_key(source.schema), envelope, "before", row)
        return self._keys.read(source, message.key)

    def _values(self, schema: EventSchema, envelope: Envelope, name: str, row: Row) -> dict[str, Any]:
        try:
            return self._envelopes.values(schema, envelope, row)
        except Rejection as exc:
            raise Rejection(exc.reason, f"$.{name}{exc.path.removeprefix('$')}", exc.detail) from exc


@cache
def _timeless(schema: EventSchema) -> EventSchema:
    """Return a schema without its event time: of rows that do not say when they were changed."""
    return replace(schema, fields=tuple(f for f in schema.fields if f.name != schema.event_time))


@cache
def _of_key(schema: EventSchema) -> EventSchema:
    return replace(schema, fields=tuple(schema.field(name) for name in schema.row_key))


def _required(envelope: Envelope, name: str) -> Row:
    row = envelope.before if name == "before" else envelope.after
    if row is None:
        hint = " (REPLICA IDENTITY FULL, in PostgreSQL)" if name == "before" else ""
        detail = f"a change of op {envelope.op!r} must have the row {name}{hint}, got none"
        raise Rejection(INVALID, f"$.{name}", detail)
    return row


def _decoded(source: KafkaSource, schema_id: int, rows: _Rows) -> Decoded:
    changes = pl.Series(CHANGE, rows.changes, pl.Int8())
    return Decoded(schema_id, rows.messages, rows_frame(source.schema, rows.rows).with_columns(changes))
