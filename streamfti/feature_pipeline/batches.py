"""What flows through a feature pipeline: batches, never single events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from streamfti.definitions.sources import KafkaSource

__all__ = ["NO_INGEST_TIME", "REPLAYS_HEADER", "DeadLetter", "EventBatch", "Message", "MessageBatch"]

NO_INGEST_TIME = -1
REPLAYS_HEADER = "streamfti-replays"
"""The header of a message that was a dead letter and has been replayed: how often."""


class Message(NamedTuple):
    """One message of a topic, as it was found."""

    partition: int
    offset: int
    ingest_time_us: int
    """The broker's time of the message; `NO_INGEST_TIME` where it has none, or one beyond the year 9999."""
    key: bytes | None
    value: bytes | None
    replays: int = 0
    """How often it has been replayed from the dead letters."""


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """Messages of one source, of each partition in the order of their offsets."""

    source: KafkaSource
    messages: Sequence[Message]
    next_offsets: Mapping[int, int]
    """For each partition with news: the offset after the last message considered."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is no valid event, and why."""

    message: Message
    reason: str
    """One of a small set of words, for counting: `malformed`, `schema`, `invalid`, `future`."""
    detail: str
    """What the field must be and what came."""
    schema_id: int | None
    path: str = "$"
    """Where in the record: `$.amount`, or `$` for the whole."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The valid events of a message batch as an event frame, and what was not valid."""

    source: KafkaSource
    frame: pl.DataFrame
    dead_letters: Sequence[DeadLetter]
    next_offsets: Mapping[int, int]
