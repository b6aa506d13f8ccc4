"""Metrics of a feature pipeline: names, units and labels. One object a process, on a registry that is handed in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["FeaturePipelineMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class FeaturePipelineMetrics:
    """What a feature pipeline counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "streamfti_events_total",
            "Valid events, those that a replay brings again too",
            ["source"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "streamfti_dead_letters_total", "Messages that are no valid event", ["source", "reason"], registry=registry
        )
        self.too_late = Counter(
            "streamfti_too_late_total",
            "Events too late for a tile of the group: those of its shorter windows count each time",
            ["group"],
            registry=registry,
        )
        self.lag = Gauge(
            "streamfti_consumer_lag_events",
            "Messages in the partition that have not been read",
            ["source", "partition"],
            registry=registry,
        )
        self.freshness = Histogram(
            "streamfti_freshness_seconds",
            "From the broker's time of the newest event of a batch until it can be read online",
            ["source"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.group_freshness = Gauge(
            "streamfti_group_freshness_seconds",
            "How long ago everything that was in the source's topic was applied to the group",
            ["group"],
            registry=registry,
        )
        self.flush = Histogram(
            "streamfti_flush_seconds", "Time of one flush", ["store"], buckets=_SECONDS, registry=registry
        )
        self.tiles = Counter("streamfti_tiles_written_total", "Tiles written online", ["group"], registry=registry)
        self.log_rows = Counter(
            "streamfti_log_rows_total", "Events made durable in the offline log", ["source"], registry=registry
        )
