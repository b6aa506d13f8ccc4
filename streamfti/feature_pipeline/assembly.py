"""Putting a feature pipeline together from settings: which stores, topics and positions. No logic of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, start_http_server

from streamfti.clock import Clock
from streamfti.definitions.catalog import Catalog
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import MissingPart
from streamfti.feature_pipeline.bytewax_runner import BytewaxRunner
from streamfti.feature_pipeline.dead_letters import DeadLetterProducer
from streamfti.feature_pipeline.decoding import EventDecoder
from streamfti.feature_pipeline.kafka_source import KafkaSourceReader, Partition, topic_partitions
from streamfti.feature_pipeline.metrics import FeaturePipelineMetrics
from streamfti.feature_pipeline.pipeline import FeaturePipeline, LogPolicy
from streamfti.feature_pipeline.runner import PlainRunner, Runner, StopSignal
from streamfti.settings import Settings
from streamfti.stores.offline.log import OfflineLog
from streamfti.stores.schemas.opening import open_schema_registry

__all__ = ["CONSUMER_GROUP", "Engine", "FeatureRun", "RunSummary", "build_feature_run", "metrics_endpoint"]

CONSUMER_GROUP = "streamfti-features"
"""Under which lag tools see a feature pipeline."""

Engine = Literal["bytewax", "plain"]
_ENGINES: dict[Engine, type[Runner]] = {"bytewax": BytewaxRunner, "plain": PlainRunner}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        events: valid events, by source.
        dead_letters: messages that were none, by source.
        seconds: how long it ran, by a monotonic clock.
    """

    events: dict[str, int]
    dead_letters: dict[str, int]
    seconds: float

    @property
    def events_per_second(self) -> float:
        """Of all sources together."""
        return sum(self.events.values()) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class FeatureRun:
    """A feature pipeline that is ready to run, once.

    Attributes:
        sources: what it reads.
        positions: where it begins in each partition; None is the oldest that there is.
        registry: its metrics.
    """

    sources: Sequence[KafkaSource]
    positions: dict[Partition, int | None]
    registry: CollectorRegistry
    _pipeline: FeaturePipeline = field(repr=False)
    _reader: KafkaSourceReader = field(repr=False)
    _clock: Clock = field(repr=False)

    def run(self, engine: Engine, stop: StopSignal) -> RunSummary:
        """Block until stopped, make everything durable, and say what was done."""
        began = self._clock.monotonic()
        _ENGINES[engine]().run(self._reader, self._pipeline, stop)
        return RunSummary(
            {s.name: self._total("streamfti_events_total", s) for s in self.sources},
            {s.name: self._total("streamfti_dead_letters_total", s) for s in self.sources},
            self._clock.monotonic() - began,
        )

    def _total(self, counter: str, source: KafkaSource) -> int:
        samples = (sample for metric in self.registry.collect() for sample in metric.samples)
        return int(sum(s.value for s in samples if s.name == counter and s.labels["source"] == source.name))


def build_feature_run(
    catalog: Catalog,
    source_names: Iterable[str],
    settings: Settings,
    *,
    clock: Clock,
    log_policy: LogPolicy,
    also: Catalog | None = None,
) -> FeatureRun:
    """Connect everything that a feature pipeline of some sources needs; all their partitions are its own.

    Args:
        catalog: the definitions.
        source_names: which sources; none means all.
        settings: where the parts are.
        clock: the time.
        log_policy: when the offline log is flushed.
        also: other definitions of the same events, whose groups are kept up to date as well.

    Raises:
        DefinitionError: if there is no such source.
        SourceError: if the broker does not answer, or a topic does not exist.
        FingerprintMismatch: if a group is stored with another meaning under the same version.
        ContractError: if a group is new while the log of its source is not.
        StoreError: if a store cannot be used.
    """
    sources = [catalog.source(name) for name in dict.fromkeys(source_names)] or list(catalog.sources.values())
    topics = [topic for s in sources for topic in (s.topic, s.dead_letter_topic)]
    partitions = topic_partitions(settings.bootstrap_servers, topics)
    registry = CollectorRegistry()
    pipeline = FeaturePipeline(
        catalog,
        {s.name: partitions[s.topic] for s in sources},
        redis_url=settings.redis_url,
        log=OfflineLog(settings.log_folder, clock=clock),
        decoder=EventDecoder(open_schema_registry(settings.schema_registry_url, settings.schemas_folder)),
        dead_letters=DeadLetterProducer(settings.bootstrap_servers),
        clock=clock,
        metrics=FeaturePipelineMetrics(registry),
        log_policy=log_policy,
        also=also,
    )
    positions = pipeline.positions()
    reader = KafkaSourceReader(settings.bootstrap_servers, sources, positions, group_id=CONSUMER_GROUP)
    return FeatureRun(sources, positions, registry, pipeline, reader, clock)


@contextlib.contextmanager
def metrics_endpoint(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[str | None]:
    """Serve metrics over HTTP inside the block; yield the URL, None without a port. Port 0 takes a free one.

    Raises:
        MissingPart: if the address cannot be bound.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        msg = f"the metrics must be able to bind {host}:{port}, got: {exc.strerror or exc}"
        raise MissingPart(msg, hint="--metrics-port 0 takes a free port") from exc
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
