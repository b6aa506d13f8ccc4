"""Replaying dead letters: the messages go back to the topic that they came from, key and value unchanged.

A replayed message carries how often it has been replayed; if it fails again, its new letter says so. How far each
reason has been replayed stands in the offsets of a consumer group of its own, so that a second replay goes on where the
first ended. A process that dies between the two replays the letters of at most one step again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import SourceError
from streamfti.feature_pipeline.batches import REPLAYS_HEADER
from streamfti.feature_pipeline.kafka_source import topic_partitions
from streamfti.feature_pipeline.letter_topic import StoredLetter, read_letters

__all__ = ["LetterChoice", "Replayed", "replay_letters"]

_STEP = 1_000
"""So many letters are delivered before their positions are committed."""
_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class LetterChoice:
    """Which letters are replayed.

    Attributes:
        reasons: of these only; none means any.
        first: from this offset of the topic of dead letters on; those before count as passed over from now on.
        end: before this offset.
        again: also those that were replayed or passed over before.
    """

    reasons: Collection[str] = ()
    first: int = 0
    end: int | None = None
    again: bool = False

    def __contains__(self, letter: StoredLetter) -> bool:
        in_range = self.first <= letter.offset and (self.end is None or letter.offset < self.end)
        return in_range and (not self.reasons or letter.reason in self.reasons)


@dataclass(slots=True)
class Replayed:
    """What a replay did, or would do: numbers of letters, by reason."""

    replayed: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    """Replayed or passed over earlier, and left alone now."""
    not_chosen: Counter[str] = field(default_factory=Counter)


def replay_letters(
    bootstrap_servers: str, source: KafkaSource, choice: LetterChoice, *, dry_run: bool = False
) -> Replayed:
    """Send the chosen dead letters back to the topic of their source, each to the partition that it came from.

    The letters that there are when it begins; what fails again meanwhile is for the next replay.

    Args:
        bootstrap_servers: the brokers.
        source: whose letters.
        choice: which of them.
        dry_run: count only.

    Raises:
        SourceError: if the broker does not answer, or does not take a message; a replay after that goes on with it.
    """
    ends = {letter.partition: letter.offset + 1 for letter in read_letters(bootstrap_servers, source)}
    if not ends:
        return Replayed()
    positions = _Positions(bootstrap_servers, source, sorted(ends))
    done = Replayed()
    chosen = _chosen(read_letters(bootstrap_servers, source, ends=ends), choice, positions, done)
    try:
        if dry_run:
            done.replayed.update(letter.reason for letter in chosen)
            return done
        sender = _Sender(bootstrap_servers, source)
        while step := list(islice(chosen, _STEP)):
            sender.send(step)
            positions.commit(step)
            done.replayed.update(letter.reason for letter in step)
    finally:
        positions.close()
    return done


def _chosen(
    letters: Iterable[StoredLetter], choice: LetterChoice, positions: _Positions, done: Replayed
) -> Iterator[StoredLetter]:
    for letter in letters:
        if letter not in choice:
            done.not_chosen[letter.reason] += 1
        elif not choice.again and letter.offset < positions.next(letter):
            done.before[letter.reason] += 1
        else:
            yield letter


class _Positions:
    """By reason and partition, the offset after the last letter that was replayed: a consumer group for each reason."""

    def __init__(self, bootstrap_servers: str, source: KafkaSource, partitions: Collection[int]) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = source.dead_letter_topic
        self._partitions = partitions
        self._consumers: dict[str, Any] = {}
        self._next: dict[str, dict[int, int]] = {}

    def next(self, letter: StoredLetter) -> int:
        return self._of(letter.reason).get(letter.partition, 0)

    def _of(self, reason: str) -> dict[int, int]:
        if reason not in self._next:
            consumer = confluent_kafka.Consumer(
                {
                    "bootstrap.servers": self._bootstrap_servers,
                    "group.id": f"streamfti-replay-{reason}",
                    "enable.auto.commit": False,
                }
            )
            self._consumers[reason] = consumer
            try:
                found = consumer.committed([TopicPartition(self._topic, p) for p in self._partitions], _ANSWER_S)
            except KafkaException as exc:
                msg = f"the broker must tell how far {self._topic!r} has been replayed, got {exc.args[0].str()}"
                raise SourceError(msg) from exc
            self._next[reason] = {p.partition: p.offset for p in found if p.offset >= 0}
        return self._next[reason]

    def commit(self, letters: Iterable[StoredLetter]) -> None:
        """Return when the broker has written down that these letters were replayed."""
        reached: dict[str, dict[int, int]] = {}
        for letter in letters:
            if letter.offset >= self.next(letter):
                reached.setdefault(letter.reason, {})[letter.partition] = letter.offset + 1
        for reason, offsets in reached.items():
            places = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
            try:
                self._consumers[reason].commit(offsets=places, asynchronous=False)
            except KafkaException as exc:
                msg = f"the broker must write down how far {self._topic!r} was replayed, got {exc.args[0].str()}"
                raise SourceError(msg, hint="the next replay sends the last letters again") from exc
            self._next[reason].update(offsets)

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()


class _Sender:
    """Delivers messages to the topic of a source and waits for the broker's word."""

    def __init__(self, bootstrap_servers: str, source: KafkaSource) -> None:
        self._topic = source.topic
        self._partitions = set(topic_partitions(bootstrap_servers, [source.topic])[source.topic])
        self._failed: list[str] = []
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "message.max.bytes": 1_000_000_000}
        )

    def send(self, letters: Iterable[StoredLetter]) -> None:
        for letter in letters:
            # The same partition keeps an entity's events in one; the key decides where that is gone.
            there = letter.source_partition in self._partitions
            headers: dict[str, str | bytes | None] = {REPLAYS_HEADER: str(letter.replays + 1).encode()}
            try:
                self._producer.produce(
                    self._topic,
                    value=letter.value,
                    key=letter.key,
                    partition=letter.source_partition if there and letter.source_partition is not None else -1,
                    headers=headers,
                    on_delivery=self._on_delivery,
                )
            except (KafkaException, BufferError) as exc:
                self._failed.append(str(exc))
                break
            self._producer.poll(0)
        waiting = self._producer.flush(_ANSWER_S)
        if waiting or self._failed:
            msg = f"replayed letters must reach topic {self._topic!r}, got {(self._failed or ['no answer'])[0]}"
            raise SourceError(msg)

    def _on_delivery(self, error: Any, _: Any) -> None:  # noqa: ANN401  # the driver has no types
        if error is not None:
            self._failed.append(error.str())
