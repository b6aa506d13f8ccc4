"""Reading the topic of a source's dead letters: each letter with what its headers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import SourceError
from streamfti.feature_pipeline.dead_letters import HEADER_PREFIX
from streamfti.feature_pipeline.kafka_source import topic_partitions

__all__ = ["StoredLetter", "read_letters"]

_BATCH = 1_000
_ANSWER_S = 30.0
_GROUP = "streamfti-dead-letters"  # for access control; nothing is committed under it


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it stands in its topic.

    Attributes:
        partition: of the topic of dead letters.
        offset: there.
        reason: the word that letters are counted by.
        path: where in the record.
        detail: what it must be and what came.
        source_partition: where the message came from; None where no header says it.
        source_offset: there.
        schema_id: that the message named.
        replays: how often it had been replayed before it became this letter.
        key: of the message.
        value: of the message.
    """

    partition: int
    offset: int
    reason: str
    path: str
    detail: str
    source_partition: int | None
    source_offset: int | None
    schema_id: int | None
    replays: int
    key: bytes | None
    value: bytes | None

    @property
    def place(self) -> str:
        """Partition and offset in the topic of dead letters, such as `0/15`."""
        return f"{self.partition}/{self.offset}"


def read_letters(
    bootstrap_servers: str,
    source: KafkaSource,
    *,
    ends: Mapping[int, int] | None = None,
) -> Iterator[StoredLetter]:
    """Iterate over the dead letters of a source, of each partition in the order of their offsets.

    Args:
        bootstrap_servers: the brokers.
        source: whose letters.
        ends: by partition, the offset to stop before, and no other partitions; by default all of them to their ends,
            as those are when they are reached.

    Raises:
        SourceError: if the broker does not answer, or the topic does not exist.
    """
    partitions = topic_partitions(bootstrap_servers, [source.dead_letter_topic])[source.dead_letter_topic]
    wanted = {p for p in partitions if ends is None or p in ends}
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": _GROUP,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.assign([TopicPartition(source.dead_letter_topic, p, OFFSET_BEGINNING) for p in wanted])
        yield from _until_end(consumer, source, wanted, ends or {})
    finally:
        consumer.close()


def _until_end(
    consumer: Any,  # noqa: ANN401  # the driver has no types
    source: KafkaSource,
    waiting: set[int],
    stops: Mapping[int, int],
) -> Iterator[StoredLetter]:
    while waiting:
        first = consumer.poll(_ANSWER_S)
        if first is None:
            msg = f"the dead letters of {source.name!r} must be readable, got nothing in {_ANSWER_S:g} s"
            raise SourceError(msg)
        for message in [first, *consumer.consume(_BATCH, 0)]:
            partition, error = message.partition(), message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # a public code
                waiting.discard(partition)
            elif error is not None:
                msg = f"the dead letters of {source.name!r} must be readable, got {error.str()}"
                raise SourceError(msg)
            elif message.offset() >= stops.get(partition, message.offset() + 1):
                waiting.discard(partition)
            else:
                yield _letter(message)


def _letter(message: Any) -> StoredLetter:  # noqa: ANN401  # the driver has no types
    headers = {name.removeprefix(HEADER_PREFIX): value for name, value in message.headers() or ()}
    said = {name: (value or b"").decode(errors="replace") for name, value in headers.items()}
    return StoredLetter(
        partition=message.partition(),
        offset=message.offset(),
        reason=said.get("reason", "unknown"),
        path=said.get("path", "$"),
        detail=said.get("detail", ""),
        source_partition=_number(said.get("partition")),
        source_offset=_number(said.get("offset")),
        schema_id=_number(said.get("schema_id")),
        replays=_number(said.get("replays")) or 0,
        key=message.key(),
        value=message.value(),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
