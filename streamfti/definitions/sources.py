"""Sources: where events come from, and what time and lateness mean there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.events import Event, EventSchema, event_schema
from streamfti.definitions.steps import Step
from streamfti.definitions.streams import HISTORY_PARTITION, Stream
from streamfti.errors import DefinitionError

__all__ = ["HISTORY_PARTITION", "KafkaSource", "WireFormat"]

WireFormat = Literal["avro", "json", "protobuf"]
"""How an event stands in a message."""


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
    """

    topic: str
    event: type[Event]
    max_future_skew: Duration = field(default="30s", kw_only=True)
    format: WireFormat = field(default="avro", kw_only=True)

    def __post_init__(self) -> None:
        if not self.topic:
            msg = "a KafkaSource must name its topic, got ''"
            raise DefinitionError(msg)
        duration_us(self.max_future_skew, subject=f"max_future_skew of source {self.topic!r}")
        if self.format not in get_args(WireFormat):
            msg = f"the format of source {self.topic!r} must be avro, json or protobuf, got {self.format!r}"
            raise DefinitionError(msg)
        self._check_names(event_schema(self.event))

    def _check_names(self, schema: EventSchema) -> None:
        """Avro and Protobuf know fewer names than Python; JSON knows all."""
        for name in (schema.name, *(f.name for f in schema.fields)):
            if self.format != "json" and not name.isascii():
                msg = f"a name in a source of format {self.format!r} must be of ASCII letters, got {name!r}"
                raise DefinitionError(msg, hint=f"rename it, or read topic {self.topic!r} as JSON")

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
        return event_schema(self.event)

    @property
    def dead_letter_topic(self) -> str:
        """Where the messages go that are no valid events, with the reason."""
        return f"{self.topic}.dead-letters"

    @property
    def max_future_skew_us(self) -> int:
        """`max_future_skew` in microseconds."""
        return duration_us(self.max_future_skew, subject="max_future_skew")
