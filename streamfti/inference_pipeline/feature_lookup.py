"""Stored features without a model: the core of GetFeatures. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping

from streamfti.clock import Clock
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.services import FeatureService
from streamfti.inference_pipeline.feature_reader import FeatureReader
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import FeatureVectors, InputColumn, ServiceFeatures, ServiceInfo
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureLookup"]


class FeatureLookup:
    """Answers with the stored features of one feature service. Safe to use from many threads."""

    def __init__(self, service: FeatureService, online: OnlineReader, clock: Clock, metrics: ServingMetrics) -> None:
        self._contract = RequestContract.of_service(service)
        self._reader = FeatureReader(service, online)
        self._clock = clock
        self._count_statuses = metrics.status_counter(self._reader.columns.names)
        self.info = ServiceInfo(service.name, service_fingerprint(service), self._contract.fields, self._reader.order)

    def get(self, columns: Mapping[str, InputColumn], as_of_us: int | None = None) -> ServiceFeatures:
        """Return the service's stored features, a row for each row of the entity key fields.

        Raises:
            InvalidRequest: if the fields are not what the service needs, or `as_of_us` is too early.
            StoreError: if the online store cannot be read.
        """
        table = self._contract.check(columns)
        query_time = QueryTime.of(as_of_us, self._clock)
        stored = self._reader.read(table, query_time, with_progress=True)
        self._count_statuses(stored.matrix.status)
        features = stored.matrix.by_name()
        vectors = FeatureVectors(stored.query_time_us, {n: features[n] for n in self.info.features}, stored.progress)
        return ServiceFeatures(self.info.name, self.info.fingerprint, vectors)
