"""The outermost layer of every call of ours: counts it, times it, and turns errors into statuses.

The one place in serving that catches everything: what reaches it unknown becomes INTERNAL with a correlation id, and
the log has the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from streamfti.clock import Clock
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.status import ERROR_KEY, HINT_KEY, Failure, failure_of

__all__ = ["RpcBoundary"]

_log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # only generic to the type checker
Behavior = Callable[[Any, grpc.ServicerContext], Any]


class RpcBoundary(grpc.ServerInterceptor):
    """Guards the unary methods of one service; those of others (health, reflection) pass untouched."""

    def __init__(self, service: str, metrics: ServingMetrics, clock: Clock) -> None:
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._clock = clock

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, guarded."""
        handler = continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or handler.unary_unary is None or not method.startswith(self._prefix):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(method.removeprefix(self._prefix), handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, method: str, behavior: Behavior) -> Behavior:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401  # messages of any method
            started = self._clock.monotonic()
            failure: Failure | None = None
            try:
                return behavior(request, context)
            except Exception as exc:  # noqa: BLE001  # the boundary: nothing may leave it as it is
                failure = failure_of(exc)
                _log_hidden(method, failure, exc)
            finally:
                code = grpc.StatusCode.OK if failure is None else failure.code
                self._metrics.answered(method, code.name, self._clock.monotonic() - started)
            _abort(context, failure)
            return None

        return answer


def _log_hidden(method: str, failure: Failure, error: Exception) -> None:
    """Log what the caller is not told; errors of the caller are counted, not logged."""
    if failure.correlation_id:
        _log.error("a call failed", exc_info=error, extra={"method": method, "correlation_id": failure.correlation_id})


def _abort(context: grpc.ServicerContext, failure: Failure) -> None:
    trailer: list[tuple[str, str | bytes]] = [(ERROR_KEY, failure.kind)]
    if failure.hint:
        trailer.append((HINT_KEY, failure.hint.encode()))
    context.set_trailing_metadata(tuple(trailer))
    context.abort(failure.code, failure.text)
