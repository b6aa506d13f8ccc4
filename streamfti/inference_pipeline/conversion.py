"""Messages of the wire contract to plain values and back. With `grpc_service` and `client`, all that knows protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streamfti._proto.v1 import inference_pb2 as pb
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.dtypes import DType
from streamfti.errors import InvalidRequest
from streamfti.inference_pipeline.tables import (
    FeatureVectors,
    GroupProgress,
    InputColumn,
    ModelIdentity,
    ModelInfo,
    PredictInputs,
    Predictions,
    RequestField,
    Scalar,
    ServiceFeatures,
    ServiceInfo,
)
from streamfti.stores.online.progress import Progress

__all__ = [
    "batch_inputs",
    "batch_predictions",
    "batch_request",
    "batch_response",
    "columns_of",
    "features_request",
    "features_response",
    "model_info",
    "model_response",
    "service_features",
    "service_info",
    "service_response",
    "single_inputs",
    "single_predictions",
    "single_request",
    "single_response",
]

_TYPES: dict[DType, pb.DataType.ValueType] = {
    DType.STRING: pb.DATA_TYPE_STRING,
    DType.INT64: pb.DATA_TYPE_INT64,
    DType.FLOAT64: pb.DATA_TYPE_FLOAT64,
    DType.BOOL: pb.DATA_TYPE_BOOL,
}
_DTYPES = {number: dtype for dtype, number in _TYPES.items()}

_KINDS: dict[str, DType] = {
    "string_value": DType.STRING,
    "int64_value": DType.INT64,
    "float64_value": DType.FLOAT64,
    "bool_value": DType.BOOL,
    "strings": DType.STRING,
    "int64s": DType.INT64,
    "float64s": DType.FLOAT64,
    "bools": DType.BOOL,
}
"""The members of the contract's two oneofs, and the type that each carries."""

_ARRAYS: dict[str, np.dtype[Any]] = {
    "strings": np.dtype(np.object_),
    "int64s": np.dtype(np.int64),
    "float64s": np.dtype(np.float64),
    "bools": np.dtype(np.bool_),
}

_BY_DTYPE = {dtype.kind: kind for kind, dtype in _ARRAYS.items()}
"""The array of a column by the kind of its numpy dtype."""

_NO_VALUE = int(Status.EXPIRED)
"""From this status on, there is no value."""

# --- values and columns


def _column_message(name: str, dtype: DType, values: list[Any], null_rows: list[int]) -> pb.Column:
    """Build a column; the values hold the zero of their type in null rows."""
    match dtype:
        case DType.STRING:
            return pb.Column(name=name, strings=pb.StringArray(values=values), null_rows=null_rows)
        case DType.INT64:
            return pb.Column(name=name, int64s=pb.Int64Array(values=values), null_rows=null_rows)
        case DType.BOOL:
            return pb.Column(name=name, bools=pb.BoolArray(values=values), null_rows=null_rows)
        case _:
            return pb.Column(name=name, float64s=pb.Float64Array(values=values), null_rows=null_rows)


def _input_message(name: str, column: InputColumn) -> pb.Column:
    """Build a column of a request; one of nulls alone is sent as text, and taken for any type."""
    dtype = column.dtype or DType.STRING
    zero = dtype.python()
    null_rows = [row for row, value in enumerate(column.values) if value is None]
    return _column_message(name, dtype, [zero if value is None else value for value in column.values], null_rows)


def columns_of(messages: Iterable[pb.Column]) -> dict[str, InputColumn]:
    """Return the columns of a request by name.

    Raises:
        InvalidRequest: if a column has no name, no array, or null rows that it has not; or stands twice.
    """
    columns: dict[str, InputColumn] = {}
    for message in messages:
        kind = message.WhichOneof("data")
        if not message.name or kind is None:
            msg = f"a column must have a name and an array of values, got {'no values' if message.name else 'no name'}"
            raise InvalidRequest(msg, hint=f"the column {message.name[:80]!r}" if message.name else "")
        if message.name in columns:
            msg = f"field {message.name[:80]!r} must stand in a request once, got it twice"
            raise InvalidRequest(msg)
        columns[message.name] = _input_column(message, kind)
    return columns


def _input_column(message: pb.Column, kind: str) -> InputColumn:
    values: list[Scalar | None] = list(getattr(message, kind).values)
    for row in message.null_rows:
        if row >= len(values):
            msg = f"null_rows of field {message.name[:80]!r} must be below its {len(values)} rows, got {row}"
            raise InvalidRequest(msg)
        values[row] = None
    is_all_null = bool(values) and len(set(message.null_rows)) == len(values)
    return InputColumn(None if is_all_null else _KINDS[kind], values)


def _value_message(column: InputColumn) -> pb.Value:
    value: Any = column.values[0]
    match column.dtype if value is not None else None:
        case None:
            return pb.Value()
        case DType.STRING:
            return pb.Value(string_value=value)
        case DType.INT64:
            return pb.Value(int64_value=value)
        case DType.BOOL:
            return pb.Value(bool_value=value)
        case _:
            return pb.Value(float64_value=value)


def _value_column(message: pb.Value) -> InputColumn:
    kind = message.WhichOneof("kind")
    return InputColumn(None, [None]) if kind is None else InputColumn(_KINDS[kind], [getattr(message, kind)])


# --- features


def _fill_feature(message: pb.FeatureColumn, name: str, column: FeatureColumn) -> None:
    """Fill the message of a feature in place: a message built aside and copied in costs twice as much."""
    message.values.name = name
    getattr(message.values, _BY_DTYPE[column.values.dtype.kind]).values.extend(column.values.tolist())
    statuses = column.status.tolist()
    message.statuses.extend(statuses)
    if max(statuses, default=0) >= _NO_VALUE:
        message.values.null_rows.extend(row for row, status in enumerate(statuses) if status >= _NO_VALUE)


def _feature_column(message: pb.FeatureColumn) -> FeatureColumn:
    kind = message.values.WhichOneof("data") or "float64s"
    values = np.array(getattr(message.values, kind).values, _ARRAYS[kind])
    return FeatureColumn(values, np.array(message.statuses, np.uint8))


def _fill_progress(message: pb.GroupProgress, progress: GroupProgress) -> None:
    message.group, message.version = progress.group, progress.version
    for name in ("applied_until_us", "freshness_us", "is_stale"):
        if (value := getattr(progress, name)) is not None:
            setattr(message, name, value)
    for partition, applied in progress.partitions.items():
        message.partitions.add(
            partition=partition,
            next_offset=applied.next_offset,
            newest_event_time_us=applied.newest_event_time_us,
            newest_ingest_time_us=applied.newest_ingest_time_us,
            processed_at_us=applied.processed_at_us,
            applied_until_us=applied.applied_until_us or None,
        )


def _group_progress(message: pb.GroupProgress) -> GroupProgress:
    partitions = {
        p.partition: Progress(
            p.next_offset, p.newest_event_time_us, p.newest_ingest_time_us, p.processed_at_us, p.applied_until_us
        )
        for p in message.partitions
    }
    return GroupProgress(
        message.group,
        message.version,
        partitions,
        message.applied_until_us if message.HasField("applied_until_us") else None,
        message.freshness_us if message.HasField("freshness_us") else None,
        message.is_stale if message.HasField("is_stale") else None,
    )


def _table_message(vectors: FeatureVectors) -> pb.FeatureTable:
    table = pb.FeatureTable()
    for name, column in vectors.columns.items():
        _fill_feature(table.columns.add(), name, column)
    for progress in vectors.progress:
        _fill_progress(table.groups.add(), progress)
    return table


def _vectors(message: pb.FeatureTable, query_time_us: int) -> FeatureVectors:
    columns = {column.values.name: _feature_column(column) for column in message.columns}
    return FeatureVectors(query_time_us, columns, tuple(_group_progress(p) for p in message.groups))


# --- predictions


def single_inputs(request: pb.PredictRequest) -> PredictInputs:
    """Return what a request for one prediction asks: columns of one row."""
    return _inputs(request, {name: _value_column(value) for name, value in request.inputs.items()})


def batch_inputs(request: pb.PredictBatchRequest) -> PredictInputs:
    """Return what a request for many predictions asks.

    Raises:
        InvalidRequest: if its columns are malformed.
    """
    return _inputs(request, columns_of(request.columns))


def _inputs(request: pb.PredictRequest | pb.PredictBatchRequest, columns: Mapping[str, InputColumn]) -> PredictInputs:
    return PredictInputs(
        columns=columns,
        as_of_us=request.as_of_us if request.HasField("as_of_us") else None,
        alias=request.alias if request.HasField("alias") else None,
        version=request.version if request.HasField("version") else None,
        include_features=request.include_features,
    )


def single_request(model: str, asked: PredictInputs) -> pb.PredictRequest:
    """Build a request for one prediction from columns of one row."""
    return pb.PredictRequest(
        model=model,
        alias=asked.alias,
        version=asked.version,
        inputs={name: _value_message(column) for name, column in asked.columns.items()},
        as_of_us=asked.as_of_us,
        include_features=asked.include_features,
    )


def batch_request(model: str, asked: PredictInputs) -> pb.PredictBatchRequest:
    """Build a request for many predictions."""
    return pb.PredictBatchRequest(
        model=model,
        alias=asked.alias,
        version=asked.version,
        columns=[_input_message(name, column) for name, column in asked.columns.items()],
        as_of_us=asked.as_of_us,
        include_features=asked.include_features,
    )


def single_response(predictions: Predictions) -> pb.PredictResponse:
    """Build the answer to a request for one prediction."""
    return pb.PredictResponse(
        prediction_id=predictions.prediction_id,
        model=_identity_message(predictions.model),
        prediction=predictions[0],
        query_time_us=predictions.query_time_us,
        features=None if predictions.features is None else _table_message(predictions.features),
    )


def batch_response(predictions: Predictions) -> pb.PredictBatchResponse:
    """Build the answer to a request for many predictions."""
    return pb.PredictBatchResponse(
        prediction_id=predictions.prediction_id,
        model=_identity_message(predictions.model),
        predictions=predictions.values.tolist(),
        query_time_us=predictions.query_time_us,
        features=None if predictions.features is None else _table_message(predictions.features),
    )


def single_predictions(response: pb.PredictResponse) -> Predictions:
    """Return the answer to a request for one prediction; its values have one row."""
    return _predictions(response, [response.prediction])


def batch_predictions(response: pb.PredictBatchResponse) -> Predictions:
    """Return the answer to a request for many predictions."""
    return _predictions(response, response.predictions)


def _predictions(response: pb.PredictResponse | pb.PredictBatchResponse, values: Iterable[float]) -> Predictions:
    at_us = response.query_time_us
    features = _vectors(response.features, at_us) if response.HasField("features") else None
    array = np.array(list(values), np.float32)
    return Predictions(response.prediction_id, _identity(response.model), array, at_us, features)


def _identity_message(model: ModelIdentity) -> pb.ModelIdentity:
    return pb.ModelIdentity(
        name=model.name,
        version=model.version,
        service=model.service,
        service_fingerprint=model.service_fingerprint,
    )


def _identity(message: pb.ModelIdentity) -> ModelIdentity:
    return ModelIdentity(message.name, message.version, message.service, message.service_fingerprint)


# --- stored features


def features_request(service: str, columns: Mapping[str, InputColumn], as_of_us: int | None) -> pb.GetFeaturesRequest:
    """Build a request for stored features."""
    messages = [_input_message(name, column) for name, column in columns.items()]
    return pb.GetFeaturesRequest(service=service, columns=messages, as_of_us=as_of_us)


def features_response(features: ServiceFeatures) -> pb.GetFeaturesResponse:
    """Build the answer to a request for stored features."""
    return pb.GetFeaturesResponse(
        service=features.service,
        service_fingerprint=features.service_fingerprint,
        query_time_us=features.vectors.query_time_us,
        features=_table_message(features.vectors),
    )


def service_features(response: pb.GetFeaturesResponse) -> ServiceFeatures:
    """Return the answer to a request for stored features."""
    vectors = _vectors(response.features, response.query_time_us)
    return ServiceFeatures(response.service, response.service_fingerprint, vectors)


# --- what is served


def _field_messages(fields: Iterable[RequestField]) -> list[pb.RequestField]:
    return [
        pb.RequestField(name=f.name, type=_TYPES[f.dtype], nullable=f.nullable, optional=f.optional) for f in fields
    ]


def _request_fields(messages: Iterable[pb.RequestField]) -> tuple[RequestField, ...]:
    return tuple(RequestField(m.name, _DTYPES[m.type], m.nullable, m.optional) for m in messages)


def model_response(info: ModelInfo) -> pb.GetModelResponse:
    """Build the answer to what is loaded under a name."""
    return pb.GetModelResponse(
        model=_identity_message(info.identity),
        alias=info.alias,
        task=info.task,
        fields=_field_messages(info.fields),
        inputs=info.inputs,
    )


def model_info(response: pb.GetModelResponse) -> ModelInfo:
    """Return what is loaded under a name."""
    alias = response.alias if response.HasField("alias") else None
    fields = _request_fields(response.fields)
    return ModelInfo(_identity(response.model), alias, response.task, fields, tuple(response.inputs))


def service_response(info: ServiceInfo) -> pb.GetFeatureServiceResponse:
    """Build the answer to what a feature service is made of."""
    return pb.GetFeatureServiceResponse(
        service=info.name,
        service_fingerprint=info.fingerprint,
        fields=_field_messages(info.fields),
        features=info.features,
    )


def service_info(response: pb.GetFeatureServiceResponse) -> ServiceInfo:
    """Return what a feature service is made of."""
    fields = _request_fields(response.fields)
    return ServiceInfo(response.service, response.service_fingerprint, fields, tuple(response.features))
