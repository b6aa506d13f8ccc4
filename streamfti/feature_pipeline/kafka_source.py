"""Reading topics: one Kafka consumer for all partitions of all sources, positions given by the stores.

Offsets in Kafka's consumer group are committed for lag tools only; nothing is ever read back from there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import confluent_kafka
import confluent_kafka.admin
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streamfti.definitions.sources import KafkaSource
from streamfti.errors import RetentionGap, SourceError
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, REPLAYS_HEADER, Message, MessageBatch

__all__ = ["KafkaSourceReader", "Reached", "topic_partitions"]

_CONNECT_S = 10.0
_STATISTICS_MS = 1_000
_SILENT_US = 1_000_000
"""A broker that has not answered for so long does not tell of new messages: it answers a fetch within milliseconds."""
_MIN_BATCH, _MAX_BATCH = 1_000, 20_000
_YEAR_10000_MS = 253_402_300_800_000  # a producer may write any number as a message's time
_MOST_DIGITS = 10
_STATES = {
    KafkaError._PARTITION_EOF,  # noqa: SLF001  # librdkafka's public codes are spelled so
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001
}
"""Codes that tell of a passing state; the client goes on by itself."""

Partition = tuple[str, int]
"""Topic and partition."""


class Reached(NamedTuple):
    """How far a partition has been read.

    Attributes:
        given: the offset after the last message that was given out; 0 if none was.
        offset: up to where it has been read, also past what is no message: markers of transactions.
    """

    given: int
    offset: int


def _settings(bootstrap_servers: str, group_id: str, on_statistics: Callable[[str], None]) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": group_id,  # a real group, for access control and lag tools
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # a gap made by retention is loud
        "isolation.level": "read_committed",
        "check.crcs": True,
        "enable.partition.eof": True,
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": 65_536,
        "fetch.wait.max.ms": 5,  # bounds freshness on brokers whose long poll does not wake on new data
        "fetch.queue.backoff.ms": 10,  # the default of a second stalls whoever fills the queue
        "socket.keepalive.enable": True,
        "statistics.interval.ms": _STATISTICS_MS,
        "stats_cb": on_statistics,
    }


def topic_partitions(bootstrap_servers: str, topics: Iterable[str]) -> dict[str, list[int]]:
    """Return the partitions of topics.

    Raises:
        SourceError: if the broker does not answer or a topic does not exist.
    """
    # Without a log: that nobody answers is told once, by the error below.
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        known = admin.list_topics(timeout=_CONNECT_S).topics
    except KafkaException as exc:
        msg = f"the Kafka broker at {bootstrap_servers} must answer, got {exc.args[0].str()}"
        raise SourceError(msg, hint="is it running there? `streamfti dev up` starts one") from exc
    missing = [topic for topic in topics if topic not in known]
    if missing:
        msg = f"topic {missing[0]!r} must exist on {bootstrap_servers}"
        raise SourceError(msg, hint="`streamfti apply` creates the topics of a definition file")
    return {topic: sorted(known[topic].partitions) for topic in topics}


class KafkaSourceReader:
    """Reads the given partitions from the given positions.

    Args:
        bootstrap_servers: the brokers.
        sources: what to read, each from a topic of its own.
        positions: for each partition of the sources' topics, the next offset, or None for the oldest there is.
        group_id: the name under which lag tools see this reader.

    After an error of `poll` it must be closed: what it had taken from the client with the error is not given out, and
    comes again from the positions of the stores.

    Raises:
        SourceError: if the broker does not answer; while polling, if it refuses.
        RetentionGap: if a position is no longer in the topic, now or while polling.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        sources: Sequence[KafkaSource],
        positions: Mapping[Partition, int | None],
        *,
        group_id: str,
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._consumer = confluent_kafka.Consumer(_settings(bootstrap_servers, group_id, self._on_statistics))
        self._limit = _MIN_BATCH
        self._at_end: set[Partition] = set()
        self._heard_of: set[Partition] = set()
        self._given: dict[Partition, int] = {}
        self._ended: dict[Partition, int] = {}
        self._positions = {p: self._resolved(p, offset) for p, offset in positions.items()}
        self._consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in self._positions.items()])

    def _resolved(self, partition: Partition, offset: int | None) -> int:
        """Return where to begin; a stored position must not be older than the topic.

        That it is not newer either is checked against what the fetches tell: not every broker answers this
        question rightly about its end.
        """
        low, _ = self._watermarks(partition)
        if offset is None:
            return low
        if offset < low:
            _raise_gap(partition, f"offset {offset} comes next, the oldest is {low}")
        return offset

    def poll(self, timeout_s: float) -> list[MessageBatch]:
        """Return what has arrived, by source; nothing if nothing has within the time-out.

        Waits for one message only and then takes what is there. The bound on a batch doubles while it is filled,
        so that small batches keep fresh what is live and large ones catch up.
        """
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        found = [first, *self._consumer.consume(self._limit - 1, 0)]
        self._limit = min(_MAX_BATCH, self._limit * 2) if len(found) == self._limit else _MIN_BATCH
        return self._batches(found)

    def _batches(self, found: Sequence[Any]) -> list[MessageBatch]:
        by_topic: dict[str, list[Message]] = defaultdict(list)
        next_offsets: dict[str, dict[int, int]] = defaultdict(dict)
        ended: set[Partition] = set()
        for message in found:
            topic, partition = message.topic(), message.partition()
            if message.error() is not None:
                if self._is_end(message.error(), (topic, partition)):
                    ended.add((topic, partition))
                    self._ended[topic, partition] = message.offset()
                continue
            if ended:
                ended.discard((topic, partition))
            offset = message.offset()
            ms = message.timestamp()[1]
            ingest_time_us = ms * 1000 if 0 <= ms < _YEAR_10000_MS else NO_INGEST_TIME
            replays = _replays(message)
            by_topic[topic].append(Message(partition, offset, ingest_time_us, message.key(), message.value(), replays))
            next_offsets[topic][partition] = offset + 1
        for topic, offsets in next_offsets.items():
            self._positions.update({(topic, p): offset for p, offset in offsets.items()})
            self._given.update({(topic, p): offset for p, offset in offsets.items()})
            self._at_end -= {(topic, p) for p in offsets}
        self._at_end |= ended
        return [MessageBatch(self._sources[t], m, next_offsets[t]) for t, m in by_topic.items()]

    def _is_end(self, error: Any, partition: tuple[str | None, int]) -> bool:  # noqa: ANN401  # the driver has no types
        """Judge what came instead of a message; say whether it is the end of the partition."""
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            _raise_gap((str(partition[0]), partition[1]), error.str())
        if error.code() not in _STATES:
            what = "the Kafka broker" if partition[0] is None else f"topic {partition[0]!r}"
            msg = f"{what} must be readable, got {error.str()}"
            raise SourceError(msg)
        return False

    @property
    def caught_up(self) -> bool:
        """Whether every partition has been read to its end, as of the last poll."""
        return self._at_end >= self._positions.keys()

    def ends(self) -> dict[Partition, int]:
        """Return the next offset of each partition that has been read to its end, while its broker answers; no I/O.

        The end is as of the last fetch; that a broker has become silent is known after two seconds.
        """
        return {partition: self._positions[partition] for partition in self._at_end & self._heard_of}

    def _on_statistics(self, document: str) -> None:
        """Take note of which partitions' brokers answer, from what the client tells of itself every second."""
        statistics = json.loads(document)
        heard = {b["nodeid"] for b in statistics["brokers"].values() if 0 <= b["rxidle"] <= _SILENT_US}
        self._heard_of = {
            (topic, partition["partition"])
            for topic, of_topic in statistics["topics"].items()
            for partition in of_topic["partitions"].values()
            if partition["broker"] in heard
        }

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return where the partitions of a topic end now: asks the broker, a millisecond or so for each.

        Raises:
            SourceError: if the broker does not answer.
        """
        return {p: self._watermarks((t, p))[1] for t, p in self._positions if t == topic}

    def reached(self, topic: str) -> dict[int, Reached]:
        """Return how far the partitions of a topic have been read; no I/O."""
        return {
            p: Reached(self._given.get((t, p), 0), max(position, self._ended.get((t, p), 0)))
            for (t, p), position in self._positions.items()
            if t == topic
        }

    def _watermarks(self, partition: Partition) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=_CONNECT_S)
        except KafkaException as exc:
            msg = f"the Kafka broker must tell the offsets of {partition[0]}[{partition[1]}], got {exc.args[0].str()}"
            raise SourceError(msg) from exc
        return int(low), int(high)

    def lags(self) -> dict[Partition, int]:
        """Return how many offsets of each partition have not been read, as far as the client knows; no I/O.

        Raises:
            RetentionGap: if a position is beyond the end of its partition: the topic was made anew.
        """
        lags: dict[Partition, int] = {}
        for (topic, partition), position in self._positions.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            if high >= 0 and position > high:
                _raise_gap((topic, partition), f"offset {position} comes next, the topic ends at {high}")
            lags[topic, partition] = max(0, int(high) - position)
        return lags

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the consumer group how far the stores are: for lag tools, not waited for."""
        if offsets:
            self._consumer.commit(
                offsets=[TopicPartition(t, p, offset) for (t, p), offset in offsets.items()], asynchronous=True
            )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _replays(message: Any) -> int:  # noqa: ANN401  # the driver has no types
    """Return how often a message has been replayed; 0 where its headers do not say so."""
    try:
        headers = message.headers()
    except ValueError:  # a name that is no UTF-8
        return 0
    for name, value in headers or ():
        if name == REPLAYS_HEADER and value is not None and value.isdigit() and len(value) < _MOST_DIGITS:
            return int(value)
    return 0


def _raise_gap(partition: Partition, found: str) -> NoReturn:
    msg = f"{partition[0]}[{partition[1]}] must still hold the next events, but {found}"
    raise RetentionGap(
        msg, hint="the topic was truncated or made anew: an in-memory broker forgets its topics when it stops"
    )
