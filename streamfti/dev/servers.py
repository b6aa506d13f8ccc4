"""Redis and Kafka together, for one machine: own ones on a data folder, or those that the environment names."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from streamfti.dev.kafka_broker import KafkaServer, broker_answers, start_kafka
from streamfti.dev.redis_server import RedisServer, redis_answers, start_redis
from streamfti.dev.running import Addresses
from streamfti.errors import SourceError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from streamfti.errors import MissingPart

__all__ = ["KAFKA_VARIABLE", "REDIS_VARIABLE", "DevServers"]

REDIS_VARIABLE = "REDIS_URL"
KAFKA_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"

_EXTERNAL_ANSWER_S = 5.0


class DevServers:
    """A context manager: the servers run inside it, and are stopped on leaving, the broker first.

    A server that the environment names (`REDIS_URL`, `KAFKA_BOOTSTRAP_SERVERS`) is used as it is: it must answer,
    is not started, not stopped and not changed. The addresses exist from `__enter__` on.

    Args:
        data_dir: each own server gets a folder below it. Redis keeps its data there; the embedded broker keeps
            its topics in memory and loses them when it stops.
        redis_port: the port of an own Redis; none chooses a free one.
        kafka_port: the port of an own broker; none chooses a free one.
        environ: the environment, instead of that of the process.

    Attributes:
        redis: the own Redis, None when it is external.
        kafka: the own broker, None when it is external.
        redis_url: for Redis clients.
        bootstrap_servers: for Kafka clients.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        redis_port: int | None = None,
        kafka_port: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.redis: RedisServer | None = None
        self.kafka: KafkaServer | None = None
        self.redis_url = ""
        self.bootstrap_servers = ""
        self._ports = redis_port, kafka_port
        self._environ = os.environ if environ is None else environ
        self._stack = ExitStack()

    @property
    def addresses(self) -> Addresses:
        """Where both servers are, owned by this process."""
        return Addresses(
            redis_url=self.redis_url,
            bootstrap_servers=self.bootstrap_servers,
            kafka_in_memory=self.kafka is not None and self.kafka.in_memory,
            pid=os.getpid(),
        )

    @property
    def failure(self) -> MissingPart | None:
        """What to raise when an own server has ended by itself, None as long as all run."""
        ended = (server for server in (self.redis, self.kafka) if server is not None and not server.running)
        return next((server.process.failure("keep running") for server in ended), None)

    def describe(self) -> str:
        """Return two lines for people: each server's address, without its password, and what it keeps."""
        redis_note = f"its data is kept in {self.data_dir / 'redis'}" if self.redis else f"from {REDIS_VARIABLE}"
        kafka_note = "IN MEMORY: its topics are gone when it stops" if self.kafka else f"from {KAFKA_VARIABLE}"
        return (
            f"redis  {_without_password(self.redis_url)}  ({redis_note})\n"
            f"kafka  {self.bootstrap_servers}  ({kafka_note})"
        )

    def __enter__(self) -> Self:
        """Start what is not external.

        Raises:
            MissingPart: if a server is missing or does not start; none is left running then.
            StoreUnavailable: if the external Redis does not answer.
            SourceError: if the external broker does not answer.
        """
        with ExitStack() as stack:
            self._start_redis(stack)
            self._start_kafka(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _start_redis(self, stack: ExitStack) -> None:
        external = self._environ.get(REDIS_VARIABLE)
        if not external:
            self.redis = stack.enter_context(start_redis(self.data_dir / "redis", port=self._ports[0]))
            self.redis_url = self.redis.url
            return
        self._check_external_redis(external)
        self.redis_url = external

    def _check_external_redis(self, url: str) -> None:
        hint = f"start it, or unset {REDIS_VARIABLE} to get an embedded one"
        try:
            answers = redis_answers(url, within_s=_EXTERNAL_ANSWER_S)
        except ValueError as error:
            msg = f"{REDIS_VARIABLE} must be a URL such as redis://127.0.0.1:6379/0, got {_without_password(url)!r}"
            raise StoreUnavailable(msg, hint=hint) from error
        if not answers:
            msg = f"the Redis in {REDIS_VARIABLE} must answer, got nothing from {_without_password(url)}"
            raise StoreUnavailable(msg, hint=hint)

    def _start_kafka(self, stack: ExitStack) -> None:
        external = self._environ.get(KAFKA_VARIABLE)
        if not external:
            self.kafka = stack.enter_context(start_kafka(self.data_dir / "kafka", port=self._ports[1]))
            self.bootstrap_servers = self.kafka.bootstrap_servers
            return
        if not broker_answers(external, within_s=_EXTERNAL_ANSWER_S):
            msg = f"the broker in {KAFKA_VARIABLE} must answer, got nothing from {external}"
            raise SourceError(msg, hint=f"start it, or unset {KAFKA_VARIABLE} to get an embedded one")
        self.bootstrap_servers = external


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()
