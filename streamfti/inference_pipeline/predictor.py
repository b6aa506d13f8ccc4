"""A prediction, from the fields of a request to the answer. Knows no transport, and builds no model input itself."""

from __future__ import annotations

import uuid

import numpy as np

from streamfti.clock import Clock
from streamfti.compute.on_demand import OnDemandColumns, OnDemandPlan
from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.vectorize import model_input
from streamfti.definitions.models import Model
from streamfti.errors import ModelNotReady, ServingError
from streamfti.inference_pipeline.feature_reader import FeatureReader, StoredFeatures
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.model_slot import ModelSlot
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import (
    FeatureVectors,
    InputTable,
    ModelInfo,
    PredictInputs,
    Predictions,
    model_column,
    sent_column,
)
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["Predictor"]


class Predictor:
    """Answers for one model. Safe to use from many threads."""

    def __init__(
        self, model: Model, slot: ModelSlot, online: OnlineReader, clock: Clock, metrics: ServingMetrics
    ) -> None:
        self._request_features = model.features.request_features
        self._slot = slot
        self._contract = RequestContract.of_model(model.name, model.features, model.spine)
        self._reader = FeatureReader(model.features, online)
        self._on_demand = OnDemandPlan(model.features.on_demand, ServingError)
        self._clock = clock
        self._count_statuses = metrics.status_counter(self._reader.columns.names)
        self._count_stale = metrics.count_stale
        self._count_on_demand = metrics.status_counter(self._on_demand.names)
        inputs = tuple(item.qualified_name for item in model.features.inputs)
        self.info = ModelInfo(slot.identity, slot.alias, model.task, self._contract.fields, inputs)
        metrics.loaded(slot.identity)

    def predict(self, asked: PredictInputs) -> Predictions:
        """Return a prediction for each row, all as of one query time and from one read of the store.

        Raises:
            ModelNotReady: if another version or alias is asked for than the one that is loaded.
            InvalidRequest: if the fields are not what the model needs, or `as_of_us` is too early.
            StoreError: if the online store cannot be read.
            ServingError: if the function of an on-demand feature fails, or the runtime refuses the input.
        """
        self._check_loaded(asked)
        table = self._contract.check(asked.columns)
        query_time = QueryTime.of(asked.as_of_us, self._clock)
        stored = self._reader.read(table, query_time, with_progress=asked.include_features)
        self._count_statuses(stored.matrix.status)
        self._count_stale(stored.stale_groups)
        columns = self._model_columns(table, stored)
        computed = self._computed(columns, stored)
        values = self._slot.run(model_input(self._slot.plan, columns))
        features = self._all_inputs(table, stored, computed) if asked.include_features else None
        return Predictions(str(uuid.uuid4()), self._slot.identity, values, query_time.us, features)

    def _check_loaded(self, asked: PredictInputs) -> None:
        identity = self._slot.identity
        if asked.version not in {None, identity.version}:
            msg = f"model {identity.name!r} must be asked for version {identity.version}, got {asked.version}"
            raise ModelNotReady(msg, hint="that is the version which is loaded; leave the version out for any")
        if asked.alias not in {None, self._slot.alias}:
            msg = f"model {identity.name!r} must be asked for alias {self._slot.alias!r}, got {asked.alias!r}"
            raise ModelNotReady(msg, hint="that is the alias which is loaded; leave the alias out for any")

    def _model_columns(self, table: InputTable, stored: StoredFeatures) -> dict[str, AnyColumn]:
        return stored.model_columns() | {f.name: model_column(table.columns[f.name]) for f in self._request_features}

    def _computed(self, columns: dict[str, AnyColumn], stored: StoredFeatures) -> OnDemandColumns | None:
        """Add the on-demand features to the columns, and return them; None if there are none."""
        if not self._on_demand.names:
            return None
        query_time_us = np.full(len(stored.matrix), stored.query_time_us, np.int64)
        computed = self._on_demand.evaluate(columns, query_time_us)
        self._count_on_demand(computed.statuses())
        columns |= computed.columns
        return computed

    def _all_inputs(
        self, table: InputTable, stored: StoredFeatures, computed: OnDemandColumns | None
    ) -> FeatureVectors:
        columns = stored.matrix.by_name() | ({} if computed is None else computed.features)
        columns |= {f.name: sent_column(table.columns[f.name]) for f in self._request_features}
        return FeatureVectors(stored.query_time_us, {n: columns[n] for n in self.info.inputs}, stored.progress)
