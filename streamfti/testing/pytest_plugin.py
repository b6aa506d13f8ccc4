"""The pytest plugin: fixtures for tests of features. It comes with the package, by the entry point `pytest11`.

    def test_spend_counts_late_payment(harness):
        h = harness(CardSpend)
        h.push(Payment(card_id="c1", amount=5, at=h.now - timedelta(minutes=50)))
        assert h.online(card_id="c1").spend_1h == 5

It is loaded by every run of pytest where StreamFTI is installed, so it loads nothing until a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from streamfti.clock import ManualClock
    from streamfti.definitions.groups import FeatureGroup
    from streamfti.definitions.services import FeatureService
    from streamfti.testing.harness import Harness

__all__ = ["MakeHarness", "frozen_clock", "harness", "kafka_bootstrap", "redis_url"]

T = TypeVar("T")

NOON = "2026-01-01T12:00:00+00:00"
"""Where a test's time starts if it does not say."""


class MakeHarness(Protocol):
    """Makes harnesses."""

    def __call__(
        self,
        features: FeatureService | FeatureGroup | type | Iterable[FeatureGroup | type],
        *,
        now: datetime | str = NOON,
    ) -> Harness:
        """Make a harness of features, as `streamfti.testing.harness.Harness` does."""
        ...


@pytest.fixture
def harness() -> Iterator[MakeHarness]:
    """Make harnesses. When the test ends, each of them must show no skew between online, offline and the definition."""
    from streamfti.testing.harness import Harness  # noqa: PLC0415

    made: list[Harness] = []

    def make(
        features: FeatureService | FeatureGroup | type | Iterable[FeatureGroup | type], *, now: datetime | str = NOON
    ) -> Harness:
        made.append(Harness(features, now=now))
        return made[-1]

    yield make
    for one in made:
        one.assert_no_skew()


@pytest.fixture
def frozen_clock() -> ManualClock:
    """A clock at noon of 2026-01-01 UTC, which moves only by `advance`."""
    from streamfti.clock import ManualClock  # noqa: PLC0415

    return ManualClock(datetime.fromisoformat(NOON))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis of this test session, on a free port. Without a Redis to start, the test fails."""
    from streamfti.dev.redis_server import start_redis  # noqa: PLC0415

    server = _started(lambda: start_redis(tmp_path_factory.mktemp("redis")))
    yield server.url
    server.kill()  # its folder is nobody's from here on


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an in-memory broker of this test session, on a free port. Without one to start, the test fails."""
    from streamfti.dev.kafka_broker import start_kafka  # noqa: PLC0415

    server = _started(lambda: start_kafka(tmp_path_factory.mktemp("kafka")))
    yield server.bootstrap_servers
    server.kill()


def _started(start: Callable[[], T]) -> T:
    from streamfti.errors import MissingPart  # noqa: PLC0415

    try:
        return start()
    except MissingPart as error:
        pytest.fail(str(error), pytrace=False)
