"""Sources: where events come from, and what time and lateness mean there."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.events import Event, EventSchema, event_schema
from streamfti.errors import DefinitionError

__all__ = ["KafkaSource"]


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A Kafka topic whose messages are events of one class.

    Args:
        topic: the topic's name; also the name of the source, and of its part of the offline log.
        event: the event class.
        max_future_skew: an event may be this far ahead of the broker's time (clocks differ); further ahead, it
            is a dead letter.
    """

    topic: str
    event: type[Event]
    max_future_skew: Duration = field(default="30s", kw_only=True)

    def __post_init__(self) -> None:
        if not self.topic:
            msg = "a KafkaSource must name its topic, got ''"
            raise DefinitionError(msg)
        duration_us(self.max_future_skew, subject=f"max_future_skew of source {self.topic!r}")
        event_schema(self.event)

    @property
    def name(self) -> str:
        """The source's name: that of its topic."""
        return self.topic

    @property
    def schema(self) -> EventSchema:
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
