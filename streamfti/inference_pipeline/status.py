"""Errors to gRPC statuses and back: which code an error has, and what of it the caller may read.

Errors about the request tell everything. Errors about the server's own parts tell a fixed text and a correlation id;
what happened stands in the server's log under that id.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from streamfti.errors import (
    ArtifactCorrupt,
    ContractError,
    CorruptRecord,
    DefinitionError,
    FencedWriter,
    FingerprintMismatch,
    FunctionError,
    InvalidRequest,
    MissingPart,
    ModelNotFound,
    ModelNotReady,
    ParityError,
    RegistryError,
    RetentionGap,
    ServingError,
    SettingsError,
    SourceError,
    StoreError,
    StoreUnavailable,
    StreamFTIError,
    TrainingError,
    VersionConflict,
)

__all__ = ["ERROR_KEY", "HINT_KEY", "Failure", "error_of", "error_types", "failure_of", "rule_of"]

ERROR_KEY = "streamfti-error"
HINT_KEY = "streamfti-hint-bin"
_MAX_TEXT = 1000  # characters; headers and trailers of a call share 8 KiB


@dataclass(frozen=True, slots=True)
class Rule:
    """How an error is answered.

    Attributes:
        code: the gRPC status.
        public: what the caller reads instead of the error's own text; empty if it may read that.
    """

    code: grpc.StatusCode
    public: str = ""


_INTERNAL = "the server could not answer"

_RULES: dict[type[StreamFTIError], Rule] = {
    StreamFTIError: Rule(grpc.StatusCode.INTERNAL, _INTERNAL),
    DefinitionError: Rule(grpc.StatusCode.FAILED_PRECONDITION, "the server's definitions do not allow this"),
    ContractError: Rule(grpc.StatusCode.FAILED_PRECONDITION, "stored data disagree with the server's definitions"),
    FingerprintMismatch: Rule(grpc.StatusCode.FAILED_PRECONDITION, "the model was trained on other features"),
    StoreError: Rule(grpc.StatusCode.INTERNAL, "a store failed"),
    StoreUnavailable: Rule(grpc.StatusCode.UNAVAILABLE, "a store does not answer"),
    CorruptRecord: Rule(grpc.StatusCode.DATA_LOSS, "a stored record cannot be read"),
    FencedWriter: Rule(grpc.StatusCode.ABORTED, "another writer has taken over"),
    SourceError: Rule(grpc.StatusCode.INTERNAL, "the event source failed"),
    RetentionGap: Rule(grpc.StatusCode.DATA_LOSS, "the event source has lost events"),
    FunctionError: Rule(grpc.StatusCode.INTERNAL, "a function of the server's definitions failed"),
    RegistryError: Rule(grpc.StatusCode.INTERNAL, "the model registry failed"),
    ModelNotFound: Rule(grpc.StatusCode.NOT_FOUND),
    VersionConflict: Rule(grpc.StatusCode.ABORTED, "another version was claimed first"),
    ArtifactCorrupt: Rule(grpc.StatusCode.DATA_LOSS, "a model's files cannot be trusted"),
    TrainingError: Rule(grpc.StatusCode.INTERNAL, _INTERNAL),
    ParityError: Rule(grpc.StatusCode.INTERNAL, _INTERNAL),
    ServingError: Rule(grpc.StatusCode.INTERNAL, _INTERNAL),
    InvalidRequest: Rule(grpc.StatusCode.INVALID_ARGUMENT),
    ModelNotReady: Rule(grpc.StatusCode.NOT_FOUND),
    SettingsError: Rule(grpc.StatusCode.INTERNAL, _INTERNAL),
    MissingPart: Rule(grpc.StatusCode.FAILED_PRECONDITION, "a part that the server needs is missing"),
}

_BY_CODE: dict[grpc.StatusCode, tuple[type[StreamFTIError], str, str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        MissingPart,
        "no inference server answers there",
        "is it running? `streamfti serve` starts one and says its address",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        ServingError,
        "the inference server did not answer in time",
        "is it overloaded, or something else than an inference server?",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        ServingError,
        "the inference server has too much to do",
        "ask again after a while, or in smaller parts",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        MissingPart,
        "the server there has no such method",
        "is it an inference server of this version of streamfti?",
    ),
}
"""What a call without our metadata means, as it came from the transport, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed call answers with.

    Attributes:
        code: the gRPC status.
        text: what the caller reads.
        kind: name of the error's class.
        hint: what the caller can do; may be empty.
        correlation_id: what the log entry is found by; empty if the caller has read everything.
    """

    code: grpc.StatusCode
    text: str
    kind: str
    hint: str = ""
    correlation_id: str = ""


def rule_of(kind: type[StreamFTIError]) -> Rule:
    """Return the rule of an error class: its own, or that of the nearest class above it."""
    return next(_RULES[base] for base in kind.__mro__ if base in _RULES)


def failure_of(error: Exception) -> Failure:
    """Return what a call that ended with `error` answers; never the text of an error that is not for the caller."""
    if not isinstance(error, StreamFTIError):
        error_id = uuid.uuid4().hex
        return Failure(
            grpc.StatusCode.INTERNAL, _hidden(_INTERNAL, error_id), StreamFTIError.__name__, correlation_id=error_id
        )
    rule = rule_of(type(error))
    if rule.public:
        error_id = uuid.uuid4().hex
        return Failure(rule.code, _hidden(rule.public, error_id), type(error).__name__, correlation_id=error_id)
    return Failure(rule.code, error.message[:_MAX_TEXT], type(error).__name__, error.hint[:_MAX_TEXT])


def _hidden(public: str, correlation_id: str) -> str:
    return f"{public}; the server's log has the details under {correlation_id}"


def error_of(failure: object, address: str) -> StreamFTIError:
    """Return the error that a failed call stands for, as the server raised it or as the transport saw it."""
    if not isinstance(failure, grpc.Call):
        return ServingError(f"the call to {address} failed: {failure!r}")
    text = failure.details() or ""
    metadata = {str(key): value for key, value in failure.trailing_metadata() or ()}
    kind = {error.__name__: error for error in error_types()}.get(str(metadata.get(ERROR_KEY)))
    if kind is not None:
        hint = metadata.get(HINT_KEY, b"")
        return kind(text, hint=hint.decode() if isinstance(hint, bytes) else hint)
    fallback, meaning, what_to_do = _BY_CODE.get(failure.code(), (ServingError, "the call failed", ""))
    return fallback(f"{meaning}: {address}: {text or failure.code().name}", hint=what_to_do)


def error_types() -> Iterator[type[StreamFTIError]]:
    """Iterate over the whole tree of errors, the root first."""
    pending: list[type[StreamFTIError]] = [StreamFTIError]
    while pending:
        kind = pending.pop()
        yield kind
        pending += kind.__subclasses__()
