"""Dead letters: messages that are no valid event go to a topic of their own, unchanged, with the reason in headers.

They are delivered before the offsets of their batch count as done, at least once: a replay may deliver them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import confluent_kafka

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import SourceError
from streamfti.feature_pipeline.batches import DeadLetter

__all__ = ["DeadLetterProducer"]

_DELIVERY_S = 30.0


class DeadLetterProducer:
    """Delivers dead letters and waits for the broker's word."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 0}
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
            self._producer.produce(
                source.dead_letter_topic,
                value=letter.message.value,
                key=letter.message.key,
                headers=_headers(source, letter),
                on_delivery=on_delivery,
            )
            self._producer.poll(0)
        undelivered = self._producer.flush(_DELIVERY_S)
        if failed or undelivered:
            msg = f"dead letters must reach {source.dead_letter_topic!r}, got {failed[0] if failed else 'no answer'}"
            raise SourceError(msg, hint="`streamfti apply` creates the topic")


def _headers(source: KafkaSource, letter: DeadLetter) -> dict[str, str | bytes | None]:
    values = {
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": source.topic,
        "partition": letter.message.partition,
        "offset": letter.message.offset,
        "ingest_time_us": letter.message.ingest_time_us,
        "schema_id": "" if letter.schema_id is None else letter.schema_id,
    }
    return {f"streamfti-{name}": str(value).encode() for name, value in values.items()}
