"""The gRPC door of the inference core: a message in, plain values through, a message out."""

from __future__ import annotations

import grpc

from streamfti._proto.v1 import inference_pb2 as pb
from streamfti._proto.v1 import inference_pb2_grpc
from streamfti.inference_pipeline import conversion
from streamfti.inference_pipeline.routes import Routes

__all__ = ["SERVICE_NAME", "InferenceService"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Answers the calls of the contract. Errors leave as they are; `rpc_boundary` makes statuses of them."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: ARG002, N802  # the contract's names
        """Answer with one prediction."""
        predictor = self._routes.predictor(request.model)
        return conversion.single_response(predictor.predict(conversion.single_inputs(request)))

    def PredictBatch(self, request: pb.PredictBatchRequest, context: grpc.ServicerContext) -> pb.PredictBatchResponse:  # noqa: ARG002, N802  # the contract's names
        """Answer with a prediction for each row."""
        predictor = self._routes.predictor(request.model)
        return conversion.batch_response(predictor.predict(conversion.batch_inputs(request)))

    def GetFeatures(self, request: pb.GetFeaturesRequest, context: grpc.ServicerContext) -> pb.GetFeaturesResponse:  # noqa: ARG002, N802  # the contract's names
        """Answer with stored features for each row."""
        lookup = self._routes.lookup(request.service)
        as_of_us = request.as_of_us if request.HasField("as_of_us") else None
        return conversion.features_response(lookup.get(conversion.columns_of(request.columns), as_of_us))

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:  # noqa: ARG002, N802  # the contract's names
        """Answer with what is loaded under a name."""
        return conversion.model_response(self._routes.predictor(request.model).info)

    def GetFeatureService(  # noqa: N802  # the contract's names
        self,
        request: pb.GetFeatureServiceRequest,
        context: grpc.ServicerContext,  # noqa: ARG002  # the contract's names
    ) -> pb.GetFeatureServiceResponse:
        """Answer with what a feature service is made of."""
        return conversion.service_response(self._routes.lookup(request.service).info)
