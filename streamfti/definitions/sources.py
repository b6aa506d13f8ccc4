"""Sources: where events come from, and what time and lateness mean there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, get_args

from streamfti.definitions.dtypes import KEY_TYPES
from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.events import Event, EventSchema, event_schema
from streamfti.definitions.steps import Step
from streamfti.definitions.streams import HISTORY_PARTITION, Stream
from streamfti.errors import DefinitionError

__all__ = ["HISTORY_PARTITION", "Changes", "KafkaSource", "WireFormat"]

WireFormat = Literal["avro", "json", "protobuf"]
"""How an event stands in a message."""

Changes = Literal["upsert", "debezium"]
"""How the changes of a table's rows stand in a topic."""


@dataclass(frozen=True, slots=True)
class KafkaSource(Stream):
    """A Kafka topic whose messages are events of one class. As a stream: all of them, as they come.

    Args:
        topic: the topic's name; also the name of the source, and of its part of the offline log.
        event: the event class.
        max_future_skew: an event may be this far ahead of the broker's time (clocks differ); further ahead, it
            is a dead letter.
        format: how an event stands in a message. `"avro"`: Avro in Confluent's framing, read with the schema that it
            was written with. `"json"`: a JSON object. `"protobuf"`: Protobuf in Confluent's framing, of the message
            that `streamfti plan definitions.py --json` writes out.
        changes: the messages are no events but changes of the rows of a table. `"upsert"`: each is a row as it is from
            then on; one without a value (a tombstone) deletes the row of its key. `"debezium"`: each is an envelope of
            Debezium, with the row as it is from then on, or the word that it is gone; its tombstones are no news. A
            row without the field of the event time happened when the database says that it was changed.
        key: of changes, the field or fields that identify a row. The key of a tombstone's message is their text, as
            that of an entity key, or a JSON object with their names.
        before_images: of Debezium: each update and deletion has the row's former state as well (in PostgreSQL, by
            `REPLICA IDENTITY FULL`); one that has not is a dead letter. Counts, sums and means need it.
    """

    topic: str
    event: type[Event]
    max_future_skew: Duration = field(default="30s", kw_only=True)
    format: WireFormat = field(default="avro", kw_only=True)
    changes: Changes | None = field(default=None, kw_only=True)
    key: str | tuple[str, ...] = field(default=(), kw_only=True)
    before_images: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.topic:
            msg = "a KafkaSource must name its topic, got ''"
            raise DefinitionError(msg)
        duration_us(self.max_future_skew, subject=f"max_future_skew of source {self.topic!r}")
        if self.format not in get_args(WireFormat):
            msg = f"the format of source {self.topic!r} must be avro, json or protobuf, got {self.format!r}"
            raise DefinitionError(msg)
        self._check_names(event_schema(self.event))
        self._check_changes()

    def _check_names(self, schema: EventSchema) -> None:
        """Avro and Protobuf know fewer names than Python; JSON knows all."""
        for name in (schema.name, *(f.name for f in schema.fields)):
            if self.format != "json" and not name.isascii():
                msg = f"a name in a source of format {self.format!r} must be of ASCII letters, got {name!r}"
                raise DefinitionError(msg, hint=f"rename it, or read topic {self.topic!r} as JSON")

    def _check_changes(self) -> None:
        subject = f"source {self.topic!r}"
        if self.changes is None:
            if self.row_key or self.before_images:
                msg = f"{subject} must have no key and no before_images, as its messages are no changes of rows"
                raise DefinitionError(msg, hint="changes='upsert' or changes='debezium' says that they are")
            return
        if self.changes not in get_args(Changes):
            msg = f"the changes of {subject} must be upsert or debezium, got {self.changes!r}"
            raise DefinitionError(msg)
        if self.before_images and self.changes != "debezium":
            msg = f"{subject} must be of changes='debezium' to have before images, got {self.changes!r}"
            raise DefinitionError(msg)
        if self.changes == "debezium" and self.format == "protobuf":
            msg = f"{subject} must be of format avro or json, as envelopes in protobuf are not read"
            raise DefinitionError(msg)
        key = self.row_key
        if not key or len(set(key)) < len(key):
            msg = f"{subject} must have a key of one or more fields that identify a row, each once, got {self.key!r}"
            raise DefinitionError(msg)
        for key_field in map(event_schema(self.event).field, key):
            if key_field.type.dtype not in KEY_TYPES or key_field.type.nullable:
                msg = f"field {key_field} of the key of {subject} must be str, int or bool, got {key_field.type}"
                raise DefinitionError(msg)

    @property
    def row_key(self) -> tuple[str, ...]:
        """The fields that identify a row, in order; empty if its messages are no changes."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def name(self) -> str:
        """The source's name: that of its topic."""
        return self.topic

    @property
    def source(self) -> KafkaSource:  # type: ignore[override]  # computed, as it never changes
        """Itself."""
        return self

    @property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]  # likewise
        """None."""
        return ()

    @property
    def schema(self) -> EventSchema:  # type: ignore[override]  # likewise
        """The schema of its events."""
        return _schema(self.event, self.row_key)

    @property
    def dead_letter_topic(self) -> str:
        """Where the messages go that are no valid events, with the reason."""
        return f"{self.topic}.dead-letters"

    @property
    def max_future_skew_us(self) -> int:
        """`max_future_skew` in microseconds."""
        return duration_us(self.max_future_skew, subject="max_future_skew")


@cache
def _schema(event: type[Event], row_key: tuple[str, ...]) -> EventSchema:
    return replace(event_schema(event), row_key=row_key)
