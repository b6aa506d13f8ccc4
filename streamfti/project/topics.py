"""Kafka topics: which there are, and making those that are missing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streamfti.clock import SystemClock
from streamfti.errors import SourceError

__all__ = ["Topic", "Topics"]

_ANSWER_S = 5.0
_CREATE_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic to be made."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Topics:
    """The topics of one cluster.

    Topics are listed all at once and never asked for by name: on some brokers, asking creates.

    Args:
        bootstrap_servers: the brokers.
        replication_factor: of new topics; -1 is the broker's default.
    """

    def __init__(self, bootstrap_servers: str, *, replication_factor: int = -1) -> None:
        self._servers = bootstrap_servers
        self._replication_factor = replication_factor
        # Without a log: that nobody answers is told once, by the error.
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})

    def partitions(self) -> dict[str, int]:
        """Return the number of partitions of every topic.

        Raises:
            SourceError: if the broker does not answer.
        """
        return {name: len(leaders) for name, leaders in self._leaders().items()}

    def _leaders(self) -> dict[str, list[int]]:
        """Return the leader of each partition by topic; below zero is none."""
        try:
            found = self._admin.list_topics(timeout=_ANSWER_S).topics
        except KafkaException as exc:
            msg = f"the Kafka broker at {self._servers} must answer, got {exc.args[0].str()}"
            raise SourceError(msg, hint="is it running there? `streamfti dev up` starts one") from exc
        return {name: [p.leader for p in topic.partitions.values()] for name, topic in found.items()}

    def create(self, topics: Sequence[Topic]) -> None:
        """Make topics, and return when every partition of them has a leader. One that is there stays as it is.

        Raises:
            SourceError: if the broker refuses one, or does not answer.
        """
        if not topics:
            return
        wanted = [NewTopic(t.name, t.partitions, self._replication_factor, config=dict(t.config)) for t in topics]
        for name, created in self._admin.create_topics(wanted, request_timeout=_CREATE_S).items():
            self._wait_created(name, created)
        self._wait_visible({t.name for t in topics})

    def _wait_created(self, name: str, created: Future[None]) -> None:
        try:
            created.result(timeout=_CREATE_S)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return  # somebody was quicker
            msg = f"topic {name!r} must be creatable on {self._servers}, got {exc.args[0].str()}"
            raise SourceError(msg) from exc

    def _wait_visible(self, names: set[str]) -> None:
        clock = SystemClock()
        deadline = clock.monotonic() + _CREATE_S
        while True:
            leaders = self._leaders()
            missing = [name for name in names if min(leaders.get(name, []), default=-1) < 0]
            if not missing:
                return
            if clock.monotonic() >= deadline:
                msg = f"new topic {min(missing)!r} must get leaders within {_CREATE_S:g} s, got none"
                raise SourceError(msg)
            time.sleep(_POLL_S)
