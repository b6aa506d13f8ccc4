"""Dead letters: messages that are no valid event go to a topic of their own, key and value unchanged.

The reason, the path in the record, where the message came from, and how often it has been replayed, stand in headers;
those that it had itself are not carried over.

They are delivered before the offsets of their batch count as done, at least once: a replay may deliver them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import confluent_kafka

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import SourceError
from streamfti.feature_pipeline.batches import DeadLetter

__all__ = ["HEADER_PREFIX", "DeadLetterProducer"]

HEADER_PREFIX = "streamfti-"

_DELIVERY_S = 30.0
_MAX_MESSAGE_BYTES = 1_000_000_000  # what is too large is for the topic to say, not for this client


class DeadLetterProducer:
    """Delivers dead letters and waits for the broker's word."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.max.bytes": _MAX_MESSAGE_BYTES,
            }
        )

    def deliver(self, source: KafkaSource, letters: Sequence[DeadLetter]) -> None:
        """Return when the broker has acknowledged all of them.

        Raises:
            SourceError: if it has not; the batch must not count as done.
        """
        failed: list[str] = []

        def on_delivery(error: Any, _: Any) -> None:  # noqa: ANN401  # the driver has no types
            if error is not None:
                failed.append(error.str())

        for letter in letters:
            try:
                self._producer.produce(
                    source.dead_letter_topic,
                    value=letter.message.value,
                    key=letter.message.key,
                    headers=_headers(source, letter),
                    on_delivery=on_delivery,
                )
            except (confluent_kafka.KafkaException, BufferError) as exc:
                failed.append(str(exc))
                break
            self._producer.poll(0)
        undelivered = self._producer.flush(_DELIVERY_S)
        if failed or undelivered:
            msg = f"dead letters must reach {source.dead_letter_topic!r}, got {failed[0] if failed else 'no answer'}"
            raise SourceError(
                msg, hint="`streamfti apply` creates the topic; a letter is a bit larger than its message"
            )


def _headers(source: KafkaSource, letter: DeadLetter) -> dict[str, str | bytes | None]:
    values = {
        "reason": letter.reason,
        "path": letter.path,
        "detail": letter.detail,
        "topic": source.topic,
        "partition": letter.message.partition,
        "offset": letter.message.offset,
        "ingest_time_us": letter.message.ingest_time_us,
        "schema_id": "" if letter.schema_id is None else letter.schema_id,
        "replays": letter.message.replays,
    }
    return {f"{HEADER_PREFIX}{name}": str(value).encode() for name, value in values.items()}
