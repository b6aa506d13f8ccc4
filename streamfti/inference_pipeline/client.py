"""A small typed client: Python values in, the same answers out as the inference core gives, errors by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from streamfti._proto.v1 import inference_pb2 as pb
from streamfti._proto.v1 import inference_pb2_grpc
from streamfti.clock import to_us
from streamfti.errors import InvalidRequest
from streamfti.inference_pipeline import conversion
from streamfti.inference_pipeline.status import error_of
from streamfti.inference_pipeline.tables import (
    InputColumn,
    ModelInfo,
    PredictInputs,
    Predictions,
    Scalar,
    ServiceFeatures,
    ServiceInfo,
)

__all__ = ["CLIENT_OPTIONS", "InferenceClient"]

CLIENT_OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),  # what the server may send
    ("grpc.keepalive_time_ms", 60_000),
)
_TIMEOUT_S = 5.0

T = TypeVar("T")
"""The answer to a call."""


class InferenceClient:
    """Talks to one inference server over one channel. Safe to use from many threads; close it, or use `with`.

    Every call ends within its time-out. Errors of the server come as the classes that it raised; where nobody
    answers, MissingPart; where nobody answers in time, ServingError. Nothing is retried.

    Args:
        address: `host:port`.
        timeout_s: for each call that names none.
    """

    def __init__(self, address: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=CLIENT_OPTIONS)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Scalar | None],
        *,
        as_of: datetime | None = None,
        alias: str | None = None,
        version: int | None = None,
        include_features: bool = False,
        timeout_s: float | None = None,
    ) -> Predictions:
        """Return the prediction for one set of inputs, as `[0]` of the answer.

        Args:
            model: its name.
            inputs: entity key fields and request features; None is null.
            as_of: the query time, aware; by default the server's clock.
            alias: the alias that must be loaded; by default any.
            version: the version that must be loaded; by default any.
            include_features: whether the answer carries what the model was given, and what had been applied.
            timeout_s: seconds until the call is given up.

        Raises:
            StreamFTIError: InvalidRequest, ModelNotReady, StoreUnavailable and others, as the server raised it.
        """
        columns = {name: InputColumn.of(name, [value]) for name, value in inputs.items()}
        asked = PredictInputs(
            columns=columns, as_of_us=_us(as_of), alias=alias, version=version, include_features=include_features
        )
        request = _built(lambda: conversion.single_request(model, asked))
        return conversion.single_predictions(self._call(self._stub.Predict, request, timeout_s))

    def predict_batch(
        self,
        model: str,
        columns: Mapping[str, Sequence[Scalar | None]],
        *,
        as_of: datetime | None = None,
        alias: str | None = None,
        version: int | None = None,
        include_features: bool = False,
        timeout_s: float | None = None,
    ) -> Predictions:
        """Return a prediction for each row of the columns, in their order; the arguments are those of `predict`.

        Raises:
            StreamFTIError: InvalidRequest, ModelNotReady, StoreUnavailable and others, as the server raised it.
        """
        asked = PredictInputs(
            columns=_columns(columns),
            as_of_us=_us(as_of),
            alias=alias,
            version=version,
            include_features=include_features,
        )
        request = _built(lambda: conversion.batch_request(model, asked))
        return conversion.batch_predictions(self._call(self._stub.PredictBatch, request, timeout_s))

    def get_features(
        self,
        service: str,
        columns: Mapping[str, Sequence[Scalar | None]],
        *,
        as_of: datetime | None = None,
        timeout_s: float | None = None,
    ) -> ServiceFeatures:
        """Return the stored and on-demand features of a feature service for each row.

        Args:
            service: its name.
            columns: entity key fields, and request features that on-demand features need; those that need one which
                is left out are MISSING.
            as_of: the query time, aware; by default the server's clock.
            timeout_s: seconds until the call is given up.

        Raises:
            StreamFTIError: InvalidRequest, StoreUnavailable and others, as the server raised it.
        """
        request = _built(lambda: conversion.features_request(service, _columns(columns), _us(as_of)))
        return conversion.service_features(self._call(self._stub.GetFeatures, request, timeout_s))

    def model(self, name: str, *, timeout_s: float | None = None) -> ModelInfo:
        """Return what is loaded under a model's name, and what a request for it carries.

        Raises:
            StreamFTIError: ModelNotReady if nothing is.
        """
        return conversion.model_info(self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout_s))

    def feature_service(self, name: str, *, timeout_s: float | None = None) -> ServiceInfo:
        """Return what a feature service is made of, and what a request for its features carries.

        Raises:
            StreamFTIError: InvalidRequest if there is no such service.
        """
        request = pb.GetFeatureServiceRequest(service=name)
        return conversion.service_info(self._call(self._stub.GetFeatureService, request, timeout_s))

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Any, T], request: Any, timeout_s: float | None) -> T:  # noqa: ANN401  # a message of any method
        try:
            return method(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as exc:
            raise error_of(exc, self._address) from exc


def _columns(columns: Mapping[str, Sequence[Scalar | None]]) -> dict[str, InputColumn]:
    return {name: InputColumn.of(name, values) for name, values in columns.items()}


def _us(as_of: datetime | None) -> int | None:
    """Return a query time as the wire has it, or None for the server's clock."""
    try:
        return None if as_of is None else to_us(as_of)
    except ValueError as exc:
        msg = f"as_of: {exc}"
        raise InvalidRequest(msg) from exc


def _built(build: Callable[[], T]) -> T:
    """Build a request; text that is no Unicode (a lone surrogate) cannot be sent."""
    try:
        return build()
    except ValueError as exc:
        msg = f"a request must be made of what the wire can carry: {exc}"
        raise InvalidRequest(msg) from exc
