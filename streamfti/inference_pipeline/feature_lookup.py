"""Stored and on-demand features without a model: the core of GetFeatures. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from streamfti.clock import Clock
from streamfti.compute.on_demand import OnDemandPlan
from streamfti.compute.values import FeatureColumn
from streamfti.definitions.fingerprint import service_fingerprint
from streamfti.definitions.request_features import RequestFeature
from streamfti.definitions.services import FeatureService
from streamfti.errors import ServingError
from streamfti.inference_pipeline.feature_reader import FeatureReader, StoredFeatures
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import (
    FeatureVectors,
    InputColumn,
    InputTable,
    ServiceFeatures,
    ServiceInfo,
    model_column,
)
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["FeatureLookup"]


class FeatureLookup:
    """Answers with the stored and on-demand features of one feature service. Safe to use from many threads."""

    def __init__(self, service: FeatureService, online: OnlineReader, clock: Clock, metrics: ServingMetrics) -> None:
        self._contract = RequestContract.of_service(service)
        self._reader = FeatureReader(service, online)
        self._on_demand = OnDemandPlan(service.on_demand, ServingError)
        self._request_names = frozenset(f.name for f in service.request_features)
        self._clock = clock
        self._count_statuses = metrics.status_counter(self._reader.columns.names)
        self._count_stale = metrics.count_stale
        self._count_on_demand = metrics.status_counter(self._on_demand.names)
        names = tuple(i.qualified_name for i in service.inputs if not isinstance(i, RequestFeature))
        self.info = ServiceInfo(service.name, service_fingerprint(service), self._contract.fields, names)

    def get(self, columns: Mapping[str, InputColumn], as_of_us: int | None = None) -> ServiceFeatures:
        """Return the service's stored and on-demand features, a row for each row of the fields.

        An on-demand feature that needs a request feature which was not sent is MISSING.

        Raises:
            InvalidRequest: if the fields are not what the service needs, or `as_of_us` is too early.
            StoreError: if the online store cannot be read.
            ServingError: if the function of an on-demand feature fails.
        """
        table = self._contract.check(columns)
        query_time = QueryTime.of(as_of_us, self._clock)
        stored = self._reader.read(table, query_time, with_progress=True)
        self._count_statuses(stored.matrix.status)
        self._count_stale(stored.stale_groups)
        features = stored.matrix.by_name()
        if self._on_demand.names:
            features |= self._computed(table, stored, columns.keys() & self._request_names)
        vectors = FeatureVectors(stored.query_time_us, {n: features[n] for n in self.info.features}, stored.progress)
        return ServiceFeatures(self.info.name, self.info.fingerprint, vectors)

    def _computed(self, table: InputTable, stored: StoredFeatures, sent: AbstractSet[str]) -> dict[str, FeatureColumn]:
        columns = stored.model_columns() | {name: model_column(table.columns[name]) for name in sent}
        query_time_us = np.full(table.n_rows, stored.query_time_us, np.int64)
        computed = self._on_demand.evaluate(columns, query_time_us)
        self._count_on_demand(computed.statuses())
        return computed.features
