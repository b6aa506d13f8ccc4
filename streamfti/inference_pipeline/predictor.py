"""A prediction, from the fields of a request to the answer. Knows no transport, and builds no model input itself."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.clock import Clock
from streamfti.compute.values import FeatureColumn, Status
from streamfti.compute.vectorize import model_input
from streamfti.definitions.dtypes import DType
from streamfti.definitions.models import Model
from streamfti.errors import ModelNotReady
from streamfti.inference_pipeline.feature_reader import FeatureReader, StoredFeatures
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.model_slot import ModelSlot
from streamfti.inference_pipeline.request_contract import QueryTime, RequestContract
from streamfti.inference_pipeline.tables import (
    FeatureVectors,
    InputColumn,
    InputTable,
    ModelInfo,
    PredictInputs,
    Predictions,
    null_array,
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
        self._clock = clock
        self._count_statuses = metrics.status_counter(self._reader.columns.names)
        inputs = tuple(item.qualified_name for item in model.features.inputs)
        self.info = ModelInfo(slot.identity, slot.alias, model.task, self._contract.fields, inputs)
        metrics.loaded(slot.identity)

    def predict(self, asked: PredictInputs) -> Predictions:
        """Return a prediction for each row, all as of one query time and from one read of the store.

        Raises:
            ModelNotReady: if another version or alias is asked for than the one that is loaded.
            InvalidRequest: if the fields are not what the model needs, or `as_of_us` is too early.
            StoreError: if the online store cannot be read.
        """
        self._check_loaded(asked)
        table = self._contract.check(asked.columns)
        query_time = QueryTime.of(asked.as_of_us, self._clock)
        stored = self._reader.read(table, query_time, with_progress=asked.include_features)
        self._count_statuses(stored.matrix.status)
        values = self._slot.run(model_input(self._slot.plan, self._model_columns(table, stored)))
        features = self._all_inputs(table, stored) if asked.include_features else None
        return Predictions(str(uuid.uuid4()), self._slot.identity, values, query_time.us, features)

    def _check_loaded(self, asked: PredictInputs) -> None:
        identity = self._slot.identity
        if asked.version not in {None, identity.version}:
            msg = f"model {identity.name!r} must be asked for version {identity.version}, got {asked.version}"
            raise ModelNotReady(msg, hint="that is the version which is loaded; leave the version out for any")
        if asked.alias not in {None, self._slot.alias}:
            msg = f"model {identity.name!r} must be asked for alias {self._slot.alias!r}, got {asked.alias!r}"
            raise ModelNotReady(msg, hint="that is the alias which is loaded; leave the alias out for any")

    def _model_columns(self, table: InputTable, stored: StoredFeatures) -> dict[str, NDArray[Any]]:
        columns = dict(zip(stored.matrix.columns.names, stored.matrix.as_float64().T, strict=True))
        return columns | {f.name: _model_array(table.columns[f.name]) for f in self._request_features}

    def _all_inputs(self, table: InputTable, stored: StoredFeatures) -> FeatureVectors:
        columns = stored.matrix.by_name()
        columns |= {f.name: _sent_column(table.columns[f.name]) for f in self._request_features}
        return FeatureVectors(stored.query_time_us, {n: columns[n] for n in self.info.inputs}, stored.progress)


def _model_array(column: InputColumn) -> NDArray[Any]:
    """Return what `model_input` takes: float64 with NaN where null, or object of str and None."""
    if column.dtype is DType.STRING:
        return np.array(column.values, np.object_)
    return np.array([np.nan if value is None else value for value in column.values], np.float64)


_SENT: dict[DType | None, Any] = {
    DType.STRING: np.object_,
    DType.INT64: np.int64,
    DType.FLOAT64: np.float64,
    DType.BOOL: np.bool_,
}


def _sent_column(column: InputColumn) -> FeatureColumn:
    """Return a request feature as it was sent, with the zero of its type where it is null."""
    null = null_array(column)
    zero: Any = "" if column.dtype is DType.STRING else 0
    values = np.array([zero if value is None else value for value in column.values], _SENT[column.dtype])
    return FeatureColumn(values, np.where(null, np.uint8(Status.MISSING), np.uint8(Status.PRESENT)))
