"""What goes into and comes out of the inference core: columns of values, identities, answers.

Plain typed values only. Not here: their form on the wire (`conversion`), where they come from (`feature_reader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.returned_values import AnyColumn
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.dtypes import DType
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import InvalidRequest
from streamfti.stores.online.progress import Progress, applied_until

__all__ = [
    "FeatureVectors",
    "GroupProgress",
    "InputColumn",
    "InputTable",
    "ModelIdentity",
    "ModelInfo",
    "PredictInputs",
    "Predictions",
    "RequestField",
    "Scalar",
    "ServiceFeatures",
    "ServiceInfo",
    "model_column",
    "null_array",
    "sent_column",
]

Scalar = str | int | float | bool
"""One value of a request. Null is None."""

_DTYPES: dict[type, DType] = {str: DType.STRING, int: DType.INT64, float: DType.FLOAT64, bool: DType.BOOL}
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One field of a request, for all rows.

    Attributes:
        dtype: the type of its values; None if there is nothing but nulls, which suit every type.
        values: one a row; None is null.
    """

    dtype: DType | None
    values: Sequence[Scalar | None]

    @classmethod
    def of(cls, name: str, values: Sequence[Scalar | None]) -> InputColumn:
        """Build a column from Python values; integers among floats become floats.

        Raises:
            InvalidRequest: if a value is of no type that a request can carry, or the types do not go together.
        """
        found = {type(value) for value in values} - {type(None)}
        for kind in found - _DTYPES.keys():
            msg = f"field {name!r} must hold str, int, float, bool or None, got {kind.__name__}"
            raise InvalidRequest(msg)
        if found == {int, float}:
            return cls(DType.FLOAT64, [None if value is None else float(value) for value in values])
        if len(found) > 1:
            msg = f"field {name!r} must hold values of one type, got {' and '.join(sorted(k.__name__ for k in found))}"
            raise InvalidRequest(msg)
        for value in values:
            if type(value) is int and not -_INT64_MAX - 1 <= value <= _INT64_MAX:
                msg = f"field {name!r} must hold integers of 64 bits, got {value!r}"
                raise InvalidRequest(msg, hint=f"they end at {_INT64_MAX}")
        return cls(_DTYPES[found.pop()] if found else None, values)


@dataclass(frozen=True, slots=True)
class InputTable:
    """The checked fields of a request: every wanted field is there, of its type, with `n_rows` values."""

    n_rows: int
    columns: Mapping[str, InputColumn]


@dataclass(frozen=True, slots=True)
class RequestField:
    """A field that a request carries.

    Attributes:
        name: its name.
        dtype: the type of its values.
        nullable: whether a value may be null.
        optional: whether the field may be left out, which then means null in all rows.
    """

    name: str
    dtype: DType
    nullable: bool
    optional: bool


@dataclass(frozen=True, slots=True)
class GroupProgress:
    """What had been applied to a group when it was read.

    Attributes:
        group: the group's name.
        version: the group's version.
        partitions: by partition of the source's topic, ascending; none has been applied yet if it is empty.
        applied_until_us: the broker's time up to which everything in the topic is known to be applied: that of the
            partition that is furthest behind. None if that is not known.
        freshness_us: how long that is ago by the server's clock, never negative; None if it is not known. It is of
            the time of asking, also where the query time was given.
        is_stale: whether that is longer than the group's `max_staleness`, or not known; None if the group has none.
            A stale group's values and statuses are as they would be otherwise.
    """

    group: str
    version: int
    partitions: Mapping[int, Progress]
    applied_until_us: int | None = None
    freshness_us: int | None = None
    is_stale: bool | None = None

    @classmethod
    def of(cls, group: FeatureGroup, partitions: Mapping[int, Progress], asked_at_us: int) -> GroupProgress:
        """Judge the freshness of a group at a time, microseconds since the epoch."""
        until_us = applied_until(partitions)
        freshness_us = None if until_us is None else max(0, asked_at_us - until_us)
        is_stale = None
        if group.max_staleness_us is not None:
            is_stale = freshness_us is None or freshness_us > group.max_staleness_us
        return cls(group.name, group.version, partitions, until_us, freshness_us, is_stale)


@dataclass(frozen=True, slots=True)
class FeatureVectors:
    """Features of n rows as of one query time.

    Attributes:
        query_time_us: the query time.
        columns: by qualified name, in the order of the feature service. Where a model was asked, its request
            features stand among them as they were sent, with status PRESENT or MISSING. They and on-demand features
            may be object[n] of str (empty where there is none) or bool[n], beside int64[n] and float64[n].
        progress: per group, from the same atomic read as the values; empty if it was not asked for.
    """

    query_time_us: int
    columns: Mapping[str, FeatureColumn]
    progress: tuple[GroupProgress, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceFeatures:
    """The answer to a request for stored and on-demand features.

    Attributes:
        service: the feature service's name.
        service_fingerprint: sha256 (hex) of what gives its values their meaning.
        vectors: one row for each row of the request.
    """

    service: str
    service_fingerprint: str
    vectors: FeatureVectors


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered, and on which features it stands."""

    name: str
    version: int
    service: str
    service_fingerprint: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded under a model's name.

    Attributes:
        identity: the model and its version.
        alias: the alias it was loaded by; None if by its version.
        task: `binary` or `regression`.
        fields: what a request carries.
        inputs: qualified names of the model's inputs, in order.
    """

    identity: ModelIdentity
    alias: str | None
    task: str
    fields: tuple[RequestField, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What a feature service is made of.

    Attributes:
        name: its name.
        fingerprint: sha256 (hex) of what gives its values their meaning.
        fields: what a request for its features carries. A request feature may be left out; the on-demand features
            that need it are MISSING then.
        features: qualified names of its stored and on-demand features, in order.
    """

    name: str
    fingerprint: str
    fields: tuple[RequestField, ...]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictInputs:
    """What a caller asks of a model.

    Attributes:
        columns: entity key fields and request features by name.
        as_of_us: the query time; None for the clock's.
        alias: the alias that the model must be loaded by; None for any.
        version: the version that must be loaded; None for any.
        include_features: whether the answer carries what the model was given, and what had been applied.
    """

    columns: Mapping[str, InputColumn]
    as_of_us: int | None = None
    alias: str | None = None
    version: int | None = None
    include_features: bool = False


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answer to a request for predictions.

    Attributes:
        prediction_id: a random UUID; the prediction of row i of a batch is `<prediction_id>-<i>`.
        model: what answered.
        values: float32[n], one a row of the request, in its order.
        query_time_us: the query time that the features are as of.
        features: what the model was given; None unless asked for.
    """

    prediction_id: str
    model: ModelIdentity
    values: NDArray[np.float32]
    query_time_us: int
    features: FeatureVectors | None = field(default=None)

    def __getitem__(self, row: int) -> float:
        """Return the prediction of one row."""
        return float(self.values[row])


def model_column(column: InputColumn) -> AnyColumn:
    """Return what models and on-demand features take: float64[n] with NaN where null, or object[n] of str and None."""
    if column.dtype is DType.STRING:
        return np.array(column.values, np.object_)
    return np.array([np.nan if value is None else value for value in column.values], np.float64)


_SENT: dict[DType | None, Any] = {
    DType.STRING: np.object_,
    DType.INT64: np.int64,
    DType.FLOAT64: np.float64,
    DType.BOOL: np.bool_,
}


def sent_column(column: InputColumn) -> FeatureColumn:
    """Return a request feature as it was sent, with the zero of its type where it is null."""
    zero: Any = "" if column.dtype is DType.STRING else 0
    values = np.array([zero if value is None else value for value in column.values], _SENT[column.dtype])
    return FeatureColumn(values, np.where(null_array(column), np.uint8(Status.MISSING), np.uint8(Status.PRESENT)))


def null_array(column: InputColumn) -> NDArray[Any]:
    """Return bool[n]: which rows are null."""
    return np.fromiter((value is None for value in column.values), np.bool_, len(column.values))
