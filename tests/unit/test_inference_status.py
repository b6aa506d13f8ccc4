"""Every error has a gRPC status, and none tells a caller what is inside."""

from __future__ import annotations

import grpc
import pytest

from streamfti.errors import InvalidRequest, ModelNotReady, ServingError, StoreUnavailable, StreamFTIError
from streamfti.inference_pipeline.status import _RULES, error_of, error_types, failure_of, rule_of

INSIDE = "redis://user:password@10.0.0.7"

OWN_TYPES = [kind for kind in error_types() if kind.__module__ == "streamfti.errors"]


def test_the_tree_is_walked_whole() -> None:
    assert len(OWN_TYPES) == len(set(OWN_TYPES)) > 15
    assert StreamFTIError in OWN_TYPES


@pytest.mark.parametrize("kind", OWN_TYPES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_rule_of_its_own(kind: type[StreamFTIError]) -> None:
    assert kind in _RULES
    assert rule_of(kind).code is not grpc.StatusCode.OK


def test_an_error_of_a_user_has_the_rule_of_its_nearest_class() -> None:
    class TooManyFields(InvalidRequest):
        pass

    assert rule_of(TooManyFields).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", OWN_TYPES, ids=lambda kind: kind.__name__)
def test_only_errors_about_the_request_tell_their_text(kind: type[StreamFTIError]) -> None:
    failure = failure_of(kind(INSIDE, hint=INSIDE))
    told = INSIDE in failure.text
    assert told == (kind.__name__ in {"InvalidRequest", "ModelNotReady", "ModelNotFound"})
    assert told == (failure.correlation_id == "")
    assert told == (INSIDE in failure.hint)
    assert failure.correlation_id in failure.text


def test_an_unknown_error_is_internal_and_tells_nothing_but_an_id() -> None:
    failure = failure_of(ValueError(INSIDE))
    assert failure.code is grpc.StatusCode.INTERNAL
    assert INSIDE not in failure.text
    assert len(failure.correlation_id) == 32
    assert failure.correlation_id in failure.text


def test_a_text_is_cut_to_what_trailers_can_carry() -> None:
    failure = failure_of(InvalidRequest("x" * 100_000, hint="y" * 100_000))
    assert len(failure.text) == len(failure.hint) == 1000


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
        (ModelNotReady, grpc.StatusCode.NOT_FOUND),
        (StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
        (ServingError, grpc.StatusCode.INTERNAL),
    ],
)
def test_codes_that_clients_rely_on(kind: type[StreamFTIError], code: grpc.StatusCode) -> None:
    assert rule_of(kind).code is code


def test_a_failure_that_is_no_call_is_a_serving_error() -> None:
    error = error_of(grpc.RpcError("odd"), "host:1")
    assert type(error) is ServingError
    assert "host:1" in error.message
