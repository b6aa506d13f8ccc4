"""What every test may ask for: a real broker, a real Redis, topics of its own, and patience.

The suite starts its own servers and reads no address from the environment, so that it can neither flush nor fill
a server that somebody uses. A server that was asked for and does not start is a failure, never a skip.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest
import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from hypothesis import settings

from streamfti.dev.kafka_broker import KafkaServer, kafka_binary, start_kafka
from streamfti.dev.redis_server import RedisServer, redis_binary, start_redis
from streamfti.dev.servers import KAFKA_VARIABLE, REDIS_VARIABLE
from streamfti.errors import MissingPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

T = TypeVar("T")

_POLL_S = 0.02
_TOPIC_S = 30.0

settings.register_profile("ci", deadline=None, max_examples=200, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


class MakeTopic(Protocol):
    """Create a topic that no other test has, and return its name when every partition has a leader."""

    def __call__(
        self, partitions: int = 1, *, name_hint: str = "topic", config: Mapping[str, str] | None = None
    ) -> str: ...


class Eventually(Protocol):
    """Poll until the predicate gives something true, and return that; fail when it does not within the seconds."""

    def __call__(self, predicate: Callable[[], T], within: float = 10.0) -> T: ...


def _load_sibling(name: str) -> ModuleType:
    """Import a file beside this one by its path: under --import-mode=importlib there is no `tests` package."""
    path = Path(__file__).parent / "servers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_streamfti_tests_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


apache_kafka = _load_sibling("apache_kafka")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kafka",
        choices=("embedded", "apache"),
        default="embedded",
        help="the broker that the tests run on: the embedded one, in memory, or a real Apache Kafka "
        "(needs mvn and Java 17; fails when it cannot start)",
    )


def pytest_configure(config: pytest.Config) -> None:
    for variable in (REDIS_VARIABLE, KAFKA_VARIABLE):
        os.environ.pop(variable, None)
    missing = apache_kafka.missing_tools() if config.getoption("--kafka") == "apache" else None
    if missing:
        raise pytest.UsageError(missing)


def pytest_report_header(config: pytest.Config) -> list[str]:
    if config.getoption("--kafka") == "apache":
        broker = "a real Apache Kafka, one node"
    else:
        broker = f"embedded, in memory ({_or_missing(kafka_binary)})"
    return [f"kafka: {broker}", f"redis: real ({_or_missing(redis_binary)})"]


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """The broker of the session: `.bootstrap_servers`, `.kind`, `.in_memory`."""
    start = apache_kafka.start_apache_kafka if request.config.getoption("--kafka") == "apache" else start_kafka
    server = _or_fail(lambda: start(tmp_path_factory.mktemp("kafka")))
    yield server
    server.kill()  # its folder is nobody's from here on: an orderly end would only take longer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of the session: `.url`. A test that stops or kills a Redis starts its own."""
    server = _or_fail(lambda: start_redis(tmp_path_factory.mktemp("redis")))
    yield server
    server.kill()


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the session's Redis, which is empty when the test begins."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def kafka_admin(kafka: KafkaServer) -> AdminClient:
    """An administrator of the session's broker."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


@pytest.fixture
def make_topic(kafka_admin: AdminClient, eventually: Eventually) -> MakeTopic:
    """Give topics that no other test has."""

    def make(partitions: int = 1, *, name_hint: str = "topic", config: Mapping[str, str] | None = None) -> str:
        name = f"{name_hint}-{uuid.uuid4().hex[:12]}"
        wanted = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        kafka_admin.create_topics([wanted])[name].result(timeout=_TOPIC_S)

        def every_partition_has_a_leader() -> bool:
            # Without a name, as asking for an unknown one creates it on the embedded broker.
            topic = kafka_admin.list_topics(timeout=_TOPIC_S).topics.get(name)
            leaders = [] if topic is None else [partition.leader for partition in topic.partitions.values()]
            return len(leaders) == partitions and min(leaders) >= 0

        eventually(every_partition_has_a_leader, _TOPIC_S)
        return name

    return make


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait for something that happens elsewhere, by asking again and again."""

    def poll(predicate: Callable[[], T], within: float = 10.0) -> T:
        deadline = time.monotonic() + within
        while not (found := predicate()):
            if time.monotonic() >= deadline:
                pytest.fail(f"did not come true within {within:g} s; last: {found!r}")
            time.sleep(_POLL_S)
        return found

    return poll


def _or_fail(start: Callable[[], T]) -> T:
    try:
        return start()
    except MissingPart as error:
        pytest.fail(str(error), pytrace=False)


def _or_missing(binary: Callable[[], Path]) -> str:
    try:
        return str(binary())
    except MissingPart as error:
        return f"MISSING: {error}"
