"""The metrics of the inference pipeline: what was asked and how it went. They say nothing about values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamfti.compute.values import Status
from streamfti.inference_pipeline.tables import ModelIdentity

__all__ = ["ServingMetrics"]

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Fine around a millisecond or two, where answers are; the tail up to the time-out of the online store."""

_N_STATUSES = max(Status) + 1


class ServingMetrics:
    """The metrics of one server, in a registry of its own choosing. Safe to use from many threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "streamfti_requests_total",
            "Calls answered, by method and gRPC status.",
            ["method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "streamfti_request_seconds",
            "Seconds from a decoded request to its answer.",
            ["method"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._statuses = Counter(
            "streamfti_feature_status_total",
            "Feature values served, by status and by group, or name of an on-demand feature.",
            ["group", "status"],
            registry=registry,
        )
        self._stale_reads = Counter(
            "streamfti_stale_reads_total",
            "Reads of a feature group that was not as fresh as its max_staleness says.",
            ["group"],
            registry=registry,
        )
        self._model = Gauge(
            "streamfti_model_info", "1 for each model version that is served.", ["model", "version"], registry=registry
        )

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Count one call: its method's name, the name of its gRPC status, and how long it took."""
        self._requests.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def status_counter(self, names: Sequence[str]) -> Callable[[NDArray[np.uint8]], None]:
        """Return what counts the statuses uint8[n, k] of k features, given by qualified names: by group, if of one."""
        group_of = [name.partition(".")[0] for name in names]
        groups = list(dict.fromkeys(group_of))
        places = np.array([groups.index(group) for group in group_of], np.intp) * _N_STATUSES
        counters = {
            place * _N_STATUSES + status: self._statuses.labels(group, status.name)
            for place, group in enumerate(groups)
            for status in Status
        }

        def count(statuses: NDArray[np.uint8]) -> None:
            for place, n in enumerate(np.bincount((statuses + places).ravel()).tolist()):
                if n:
                    counters[place].inc(n)

        return count

    def count_stale(self, groups: Iterable[str]) -> None:
        """Count one read of each of these groups, which were stale."""
        for group in groups:
            self._stale_reads.labels(group).inc()

    def loaded(self, model: ModelIdentity) -> None:
        """Say that a model version is served."""
        self._model.labels(model.name, str(model.version)).set(1)
