"""Producing events: for programs that feed a topic, for tests and for the examples."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import confluent_kafka

from streamfti.clock import to_us
from streamfti.compute.entity_keys import encode_key
from streamfti.definitions.events import Event
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import ContractError, SourceError
from streamfti.feature_pipeline.encoding import event_encoder
from streamfti.stores.schemas.port import SchemaRegistry

__all__ = ["EventProducer"]

_FLUSH_S = 60.0


class EventProducer:
    """Sends events of one source in its format. A context manager: leaving it waits for the broker's word.

    Args:
        bootstrap_servers: the brokers.
        source: where the events go.
        registry: knows, or gets, the schema of the events.
        key_field: the field whose text is the message key, which decides the partition; none spreads evenly. The
            messages of upserts have the key of their row.
        linger_ms: how long a message may wait for company: a few ms for throughput, 0 for freshness.

    Raises:
        ContractError: if the source is of Debezium's envelopes, which are written by Debezium, or of upserts, and the
            message key is to be another than that of a row.
        SourceError: from `send`, `flush` or the end of the block, if the broker did not take an event.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        source: KafkaSource,
        registry: SchemaRegistry,
        *,
        key_field: str | None = None,
        linger_ms: int = 5,
    ) -> None:
        self._source = source
        self._key_fields = _key_fields(source, key_field)
        self._encode = event_encoder(source, registry)
        self._failed: list[str] = []
        self._delivered: dict[int, int] = {}
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def send(self, event: Event, *, ingest_time: datetime | None = None) -> None:
        """Queue one event; returns at once unless the queue is full.

        Args:
            event: an event of the source's class.
            ingest_time: the time that the message carries as the broker's; for replays of history. By default the
                broker's clock.

        Raises:
            ContractError: if the event is of another class.
            SourceError: if the event cannot be queued, such as one that is too large.
        """
        if not isinstance(event, self._source.event):
            msg = f"source {self._source.name!r} must get {self._source.schema.name} events, got {event!r}"
            raise ContractError(msg)
        self.send_encoded(self._encode(event), self._key(event), ingest_time)

    def delete(self, key: Sequence[str | int | bool], *, ingest_time: datetime | None = None) -> None:
        """Queue a tombstone, by which a row of a source of upserts is gone.

        Args:
            key: the values of the source's key, in order.
            ingest_time: the time that the message carries as the broker's, which is that of the deletion. By default
                the broker's clock.

        Raises:
            ContractError: if the source is of no upserts, or its key has other fields.
            SourceError: if the tombstone cannot be queued.
        """
        types = [self._source.schema.field(name).type.dtype.python for name in self._source.row_key]
        if self._source.changes != "upsert" or [type(value) for value in key] != types:
            msg = f"a deletion must have the key {self._source.row_key!r} of source {self._source.name!r}, got {key!r}"
            raise ContractError(msg)
        self.send_encoded(None, encode_key(key).encode(), ingest_time)

    def send_encoded(self, value: bytes | None, key: bytes | None = None, ingest_time: datetime | None = None) -> None:
        """Queue one message that is encoded already; without a value, it is a tombstone.

        Raises:
            SourceError: if it cannot be queued, such as one that is too large.
        """
        extra: dict[str, Any] = {} if ingest_time is None else {"timestamp": to_us(ingest_time) // 1000}
        while True:
            try:
                self._producer.produce(self._source.topic, value=value, key=key, on_delivery=self._on_delivery, **extra)
            except BufferError:
                self._producer.poll(0.1)  # full: wait for deliveries
            except confluent_kafka.KafkaException as exc:
                msg = f"an event must reach topic {self._source.topic!r}, got {exc.args[0].str()}"
                raise SourceError(msg) from exc
            else:
                break
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when the broker has acknowledged every event so far.

        Raises:
            SourceError: if it has not.
        """
        waiting = self._producer.flush(_FLUSH_S)
        if waiting or self._failed:
            why = self._failed[0] if self._failed else f"no answer for {waiting} of them"
            msg = f"events must reach topic {self._source.topic!r}, got {why}"
            raise SourceError(msg, hint="does the topic exist? `streamfti apply` creates it")

    def _key(self, event: Event) -> bytes | None:
        values = [getattr(event, name) for name in self._key_fields]
        if self._source.changes is not None:
            return encode_key(values).encode()
        return None if not values or values[0] is None else str(values[0]).encode()

    @property
    def delivered(self) -> dict[int, int]:
        """By partition, the offset after the last event that the broker has acknowledged.

        Once a group's progress has reached it, the event can be read online.
        """
        return dict(self._delivered)

    def _on_delivery(self, error: Any, message: Any) -> None:  # noqa: ANN401  # the driver has no types
        if error is not None:
            self._failed.append(error.str())
        else:
            self._delivered[message.partition()] = message.offset() + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self._producer.close()


def _key_fields(source: KafkaSource, key_field: str | None) -> tuple[str, ...]:
    """Return the fields whose text is the key of a message; none if it has no key."""
    if source.changes is None:
        return () if key_field is None else (key_field,)
    if source.changes != "upsert":
        msg = f"source {source.name!r} must be of events or upserts to be produced, got {source.changes}"
        raise ContractError(msg, hint="Debezium writes the envelopes of its topics")
    if key_field is not None and (key_field,) != source.row_key:
        msg = f"messages of source {source.name!r} must have the key {source.row_key!r} of a row, got {key_field!r}"
        raise ContractError(msg)
    return source.row_key
