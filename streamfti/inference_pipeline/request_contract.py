"""What a request must carry for a feature service, and the check that it does.

The only place that judges the fields of a request; the messages name the field, what it must be and what came.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from reprlib import Repr

from streamfti.clock import Clock, from_us
from streamfti.definitions.dtypes import DType
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import InvalidRequest, did_you_mean
from streamfti.inference_pipeline.tables import InputColumn, InputTable, RequestField, Scalar

__all__ = ["MAX_ROWS", "QueryTime", "RequestContract"]

MAX_ROWS = 10_000
"""Rows of one request: what a client should ask for at once so that others are not kept waiting."""

_EARLIEST_US = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z
_LATEST_US = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z
_LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127  # a model's input is float32, and what is larger would be infinite there
_EXACT = 2**53  # up to here every integer is a double

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@dataclass(frozen=True, slots=True)
class QueryTime:
    """The time that features are wanted as of.

    Attributes:
        us: microseconds since the epoch.
        explicit: whether the caller named it; the server's clock is never refused.
        asked_at_us: the server's clock when it was asked.
    """

    us: int
    explicit: bool
    asked_at_us: int

    @classmethod
    def of(cls, as_of_us: int | None, clock: Clock) -> QueryTime:
        """Take the caller's time, or the clock's if there is none.

        Raises:
            InvalidRequest: if the caller's time lies outside the years 1 to 9999.
        """
        now_us = clock.now_us()
        if as_of_us is None:
            return cls(now_us, explicit=False, asked_at_us=now_us)
        if not _EARLIEST_US <= as_of_us <= _LATEST_US:
            msg = f"as_of_us must lie between {from_us(_EARLIEST_US):%Y} and {from_us(_LATEST_US):%Y}, got {as_of_us!r}"
            raise InvalidRequest(msg, hint="it is in microseconds since 1970-01-01T00:00:00Z")
        return cls(as_of_us, explicit=True, asked_at_us=now_us)


class RequestContract:
    """The fields that a request carries, and what each must be.

    Args:
        subject: what the request is for, as messages name it: `model 'fraud'`.
        fields: the fields, in order.
        float32: the fields that become one, as inputs of a model, and must fit it.
    """

    def __init__(self, subject: str, fields: Iterable[RequestField], float32: Container[str] = ()) -> None:
        self.subject = subject
        self.fields = tuple(fields)
        self._float32 = float32
        self._by_name = {field.name: field for field in self.fields}

    @classmethod
    def of_model(cls, name: str, service: FeatureService, spine: KafkaSource) -> RequestContract:
        """Build what a prediction needs: entity key fields and request features.

        An entity key field may be null where an event of one of the groups, or of the spine that the model was
        trained on, may have it null: what training has seen, serving must accept.
        """
        requested = {feature.name for feature in service.request_features}
        nullable = _nullable_keys(service)
        nullable |= {field.name for field in spine.schema.fields if field.type.nullable}
        fields = [
            RequestField(
                field,
                dtype,
                nullable=field in requested or field in nullable,
                optional=field not in requested and field in nullable,
            )
            for field, dtype in service.request_fields.items()
        ]
        return cls(f"model {name!r}", fields, {item.qualified_name for item in service.inputs})

    @classmethod
    def of_service(cls, service: FeatureService) -> RequestContract:
        """Build what a read of features needs: entity key fields, and what on-demand features ask of the request.

        A request feature may be left out: to leave its on-demand features out, and not as a null.
        """
        nullable = _nullable_keys(service)
        fields = [
            RequestField(name, field.type.dtype, nullable=name in nullable, optional=name in nullable)
            for name, field in service.entity_fields.items()
        ]
        needed = {item.qualified_name for feature in service.on_demand for _, item in feature.inputs}
        fields += [
            RequestField(feature.name, feature.dtype, nullable=True, optional=True)
            for feature in service.request_features
            if feature.name in needed and feature.name not in service.entity_fields
        ]
        return cls(f"feature service {service.name!r}", fields)

    def check(self, columns: Mapping[str, InputColumn]) -> InputTable:
        """Return the request's columns, complete and of the declared types.

        Raises:
            InvalidRequest: if a field is unknown, missing, of another type or length, or null where it may not be.
        """
        for name in columns:
            if name not in self._by_name:
                msg = f"{self.subject} has no field {_SHORT.repr(name)}"
                raise InvalidRequest(msg, hint=did_you_mean(name, self._by_name))
        n_rows = self._n_rows(columns)
        return InputTable(n_rows, {f.name: self._column(f, columns.get(f.name), n_rows) for f in self.fields})

    def _n_rows(self, columns: Mapping[str, InputColumn]) -> int:
        lengths = {name: len(column.values) for name, column in columns.items()}
        n_rows = next(iter(lengths.values()), 1 if not any(not f.optional for f in self.fields) else 0)
        for name, length in lengths.items():
            if length != n_rows:
                msg = f"field {name!r} must have {n_rows} rows as {next(iter(lengths))!r} has, got {length}"
                raise InvalidRequest(msg)
        if lengths and not 1 <= n_rows <= MAX_ROWS:
            msg = f"a request for {self.subject} must have 1 to {MAX_ROWS} rows, got {n_rows}"
            raise InvalidRequest(msg, hint="send larger tables in parts" if n_rows else "")
        return n_rows

    def _column(self, field: RequestField, column: InputColumn | None, n_rows: int) -> InputColumn:
        if column is None:
            if field.optional:
                return InputColumn(field.dtype, [None] * n_rows)
            msg = f"field {field.name!r} of {self.subject} must be {_kind(field)}, got nothing"
            raise InvalidRequest(msg, hint=f"it must be sent{', if only as a null' if field.nullable else ''}")
        values = self._converted(field, column)
        if not field.nullable and None in values:
            msg = f"field {field.name!r} of {self.subject} must be {_kind(field)}, got null in row {values.index(None)}"
            raise InvalidRequest(msg, hint="only a field that is `| None` in its event class may be null")
        return InputColumn(field.dtype, values)

    def _converted(self, field: RequestField, column: InputColumn) -> list[Scalar | None]:
        if column.dtype is DType.INT64 and field.dtype is DType.FLOAT64:
            return [None if value is None else self._exact(field, value) for value in column.values]
        if column.dtype is not None and column.dtype is not field.dtype:
            example = next((value for value in column.values if value is not None), None)
            got = f"{column.dtype.value} {_SHORT.repr(example)}" if example is not None else column.dtype.value
            msg = f"field {field.name!r} of {self.subject} must be {_kind(field)}, got {got}"
            raise InvalidRequest(msg)
        if field.dtype is DType.FLOAT64:
            self._check_finite(field, column)
        return list(column.values)

    def _exact(self, field: RequestField, value: Scalar) -> float:
        if abs(int(value)) > _EXACT:
            msg = f"field {field.name!r} of {self.subject} must be {_kind(field)}, got the integer {value!r}"
            raise InvalidRequest(msg, hint="an integer beyond 2**53 is not exact as a float; send a float")
        return float(value)

    def _check_finite(self, field: RequestField, column: InputColumn) -> None:
        largest = _LARGEST_FLOAT32 if field.name in self._float32 else sys.float_info.max
        for row, value in enumerate(column.values):
            if isinstance(value, float) and not abs(value) <= largest:
                msg = f"field {field.name!r} of {self.subject} must be finite, got {value!r} in row {row}"
                if math.isfinite(value):
                    msg = f"field {field.name!r} of {self.subject} must fit a float32, got {value!r} in row {row}"
                raise InvalidRequest(msg, hint="a value that is not known is null" if field.nullable else "")


def _nullable_keys(service: FeatureService) -> set[str]:
    return {field.name for group in service.groups for field in group.entity_fields if field.type.nullable}


def _kind(field: RequestField) -> str:
    return f"{field.dtype.value} or null" if field.nullable else field.dtype.value
