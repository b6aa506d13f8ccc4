"""Stored features without a model: the core of GetFeatures. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping

from streamfti.clock import Clock
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.services import FeatureService
from streamfti.inference_pipeline.feature_reader import FeatureReader
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import InputColumn, ServiceFeatures, ServiceInfo
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureLookup"]


class FeatureLookup:
    """Answers with the stored features of one feature service. Safe to use from many threads."""

    def __init__(self, service: FeatureService, online: OnlineReader, clock: Clock, metrics: ServingMetrics) -> None:
        self._contract = RequestContract.of_service(service)
        self._reader = FeatureReader(service, online)
        self._clock = clock
        self._metrics = metrics
        stored = tuple(item.qualified_name for item in service.inputs if isinstance(item, Feature))
        self.info = ServiceInfo(service.name, service_fingerprint(service), self._contract.fields, stored)

    def get(self, columns: Mapping[str, InputColumn], as_of_us: int | None = None) -> ServiceFeatures:
        """Return the service's stored features, a row for each row of the entity key fields.

        Raises:
            InvalidRequest: if the fields are not what the service needs, or `as_of_us` is too early.
            StoreError: if the online store cannot be read.
        """
        table = self._contract.check(columns)
        query_time = QueryTime.of(as_of_us, self._clock)
        vectors = self._reader.read(table, query_time, with_progress=True)
        self._metrics.served(vectors)
        return ServiceFeatures(self.info.name, self.info.fingerprint, vectors)
