"""From messages to an event frame, whatever the wire format: nothing is dropped, and nothing is thrown for bad data.

A message that is no valid event becomes a dead letter with its reason and the place in the record. What a valid event
is: a message in the format of its source that has every required field of the event class, each of its type, finite
numbers, decimals that fit exactly, and an event time from 1970 on, before the year 10000, and not too far ahead of the
broker's.

Events for a second of one core, messages to frame, in one run with nine fields, two of them decimals, as shares of Avro
in columns: Avro 1, JSON 0.64, Protobuf 0.86; one by one, which is how fewer than 64 messages are read, Avro 0.11, JSON
0.13, Protobuf 0.15.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from streamfti.compute.event_columns import CHANGE
from streamfti.definitions.events import EventSchema
from streamfti.definitions.sources import KafkaSource, WireFormat
from streamfti.feature_pipeline.avro_decoding import AvroDecoder
from streamfti.feature_pipeline.batches import DeadLetter, EventBatch, MessageBatch
from streamfti.feature_pipeline.debezium import DebeziumDecoder
from streamfti.feature_pipeline.debezium_envelopes import AvroEnvelopes, JsonEnvelopes
from streamfti.feature_pipeline.decoded import Decoded, FormatDecoder, physical_type
from streamfti.feature_pipeline.event_rules import finished, validated
from streamfti.feature_pipeline.json_decoding import JsonDecoder
from streamfti.feature_pipeline.protobuf_decoding import ProtobufDecoder
from streamfti.feature_pipeline.row_keys import RowKeys
from streamfti.feature_pipeline.upserts import UpsertDecoder
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["EventDecoder"]

_META: dict[str, pl.DataType] = {
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_ingest_time_us": pl.Int64(),
    "_schema_id": pl.Int32(),
}


class EventDecoder:
    """Decodes message batches. Keeps what its formats' decoders have learned of the writers; everything else is pure.

    Args:
        registry: the schemas of the writers.
    """

    def __init__(self, registry: SchemaRegistry) -> None:
        self._formats: Mapping[WireFormat, FormatDecoder] = {
            "avro": AvroDecoder(registry),
            "json": JsonDecoder(),
            "protobuf": ProtobufDecoder(),
        }
        self._keys = RowKeys(registry)
        self._envelopes: Mapping[WireFormat, FormatDecoder] = {
            "avro": DebeziumDecoder(AvroEnvelopes(registry), self._keys),
            "json": DebeziumDecoder(JsonEnvelopes(), self._keys),
        }

    def decode(self, batch: MessageBatch) -> EventBatch:
        """Return the valid events of a batch, and a dead letter for each other message.

        The events of one writer's schema stand together, in the order of their messages.

        Raises:
            StoreError: if the schema registry cannot be read.
        """
        schema = batch.source.schema
        dead: list[DeadLetter] = []
        decoded = self._decoder(batch.source).decode(batch.source, batch.messages, dead)
        frames = [_with_meta(part) for part in decoded if part.messages]
        frame = pl.concat(frames) if len(frames) > 1 else (frames or [_empty_frame(schema)])[0]
        return EventBatch(batch.source, finished(schema, validated(frame, batch, dead)), dead, batch.next_offsets)

    def _decoder(self, source: KafkaSource) -> FormatDecoder:
        of_format = self._formats[source.format]
        if source.changes is None:
            return of_format
        return UpsertDecoder(of_format, self._keys) if source.changes == "upsert" else self._envelopes[source.format]


def _with_meta(part: Decoded) -> pl.DataFrame:
    partitions, offsets, ingest_times, *_ = zip(*part.messages, strict=True)
    meta = [partitions, offsets, ingest_times, [part.schema_id] * len(part.messages)]
    return part.frame.with_columns(pl.Series(n, v, t) for (n, t), v in zip(_META.items(), meta, strict=True))


def _empty_frame(schema: EventSchema) -> pl.DataFrame:
    columns = {f.name: physical_type(f) for f in schema.fields}
    return pl.DataFrame(schema=columns | ({CHANGE: pl.Int8()} if schema.is_of_changes else {}) | _META)
