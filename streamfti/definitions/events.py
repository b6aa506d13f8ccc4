"""Events: typed classes that say what one message of a topic holds.

An event class is a schema; its instances are events for producers and tests. Pipelines move events in
columnar batches and never make instances. No wire format lives here.
"""

from __future__ import annotations

import decimal
import math
import types
import typing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, dataclass_transform, get_args, get_origin

from streamfti.clock import to_us
from streamfti.definitions.decimals import Decimal, exact_unscaled, from_unscaled
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.expressions import Field
from streamfti.errors import ContractError, DefinitionError, did_you_mean

__all__ = ["Event", "EventSchema", "EventTime", "Field", "event_schema"]


class _EventTimeMark:
    """Marks the one field that says when the event happened."""


EventTime = Annotated[datetime, _EventTimeMark]
"""The type of the field that says when the event happened: an aware datetime, kept in UTC microseconds."""

_DTYPES: dict[object, DType] = {
    str: DType.STRING,
    int: DType.INT64,
    float: DType.FLOAT64,
    bool: DType.BOOL,
    datetime: DType.DATETIME,
}


@dataclass(frozen=True, slots=True)
class EventSchema:
    """The fields of an event class, in the order of the class body."""

    name: str
    fields: tuple[Field, ...]
    event_time: str
    """Name of the field that says when the event happened."""
    row_key: tuple[str, ...] = ()
    """Of the changes of a table: the fields that identify a row. Empty where events are no changes."""

    @property
    def is_of_changes(self) -> bool:
        """Whether its events are changes of rows: frames and the log then have the column `_change`."""
        return bool(self.row_key)

    def may_be_null(self, field: Field) -> bool:
        """Whether a frame may have no value there: also, of a row that is gone, all but its key and the time."""
        return field.type.nullable or (self.is_of_changes and field.name not in {*self.row_key, self.event_time})

    def field(self, name: str) -> Field:
        """Return the field of that name.

        Raises:
            DefinitionError: if there is none.
        """
        for field in self.fields:
            if field.name == name:
                return field
        msg = f"event {self.name!r} has no field {name!r}"
        raise DefinitionError(msg, hint=did_you_mean(name, [f.name for f in self.fields]))


def _value_type(event: str, name: str, annotation: object) -> tuple[ValueType, bool]:
    """Read one annotation; the flag says whether it is the event time."""
    nullable = False
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        members = [m for m in get_args(annotation) if m is not type(None)]
        nullable = len(members) < len(get_args(annotation))
        annotation = members[0] if len(members) == 1 else annotation
    is_event_time = False
    if get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
        is_event_time = _EventTimeMark in marks
        if annotation is decimal.Decimal:
            annotation = next((mark for mark in marks if isinstance(mark, Decimal)), annotation)
    if isinstance(annotation, Decimal):
        return ValueType(DType.DECIMAL, nullable, annotation.precision, annotation.scale), False
    dtype = _DTYPES.get(annotation)
    if dtype is None:
        kinds = "str, int, float, bool, datetime, fti.Decimal(p, s), EventTime or one of them | None"
        msg = f"field {event}.{name} must be {kinds}, got {annotation!r}"
        raise DefinitionError(msg, hint="for money, fti.Decimal(12, 2) or an int of the smallest unit (cents) is exact")
    if is_event_time and nullable:
        msg = f"field {event}.{name} is the event time and cannot be None"
        raise DefinitionError(msg)
    return ValueType(dtype, nullable), is_event_time


def _build_schema(cls: type) -> EventSchema:
    fields: list[Field] = []
    event_times: list[str] = []
    for name, annotation in _annotations(cls).items():
        if get_origin(annotation) is ClassVar:
            continue
        _check_name(cls, name)
        value_type, is_event_time = _value_type(cls.__name__, name, annotation)
        fields.append(Field(cls.__name__, name, value_type))
        if is_event_time:
            event_times.append(name)
    if len(event_times) != 1:
        msg = f"event {cls.__name__!r} must have exactly one field of type EventTime, got {len(event_times)}"
        raise DefinitionError(msg, hint="add a line such as `at: fti.EventTime`")
    return EventSchema(cls.__name__, tuple(fields), event_times[0])


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        msg = f"the annotations of event {cls.__name__!r} must name types that its module knows: {exc}"
        raise DefinitionError(msg, hint="define the event class at the top of its module") from exc


def _check_name(cls: type, name: str) -> None:
    if name.startswith("_"):
        msg = f"field {cls.__name__}.{name} must not start with '_': such names are for the log's own columns"
        raise DefinitionError(msg)
    if hasattr(Event, name) or hasattr(_EventMeta, name):
        msg = f"field {cls.__name__}.{name} must have another name: every event has a method {name!r}"
        raise DefinitionError(msg)
    if name in cls.__dict__:
        msg = f"field {cls.__name__}.{name} must have no default, got {cls.__dict__[name]!r}"
        raise DefinitionError(msg, hint="an event says what happened; `| None` allows that a value is absent")


class _EventMeta(type):
    """Makes `Transaction.amount` a `Field`: fields have no class attribute, so the look-up ends here."""

    def __getattr__(cls, name: str) -> Any:  # noqa: ANN401  # typed by the annotation of the field for the reader's checker
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return event_schema(typing.cast("type[Event]", cls)).field(name)
        except DefinitionError as exc:
            raise AttributeError(str(exc)) from exc


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Event(metaclass=_EventMeta):
    """Base of event classes. Subclass it with annotated fields, one of them of type `EventTime`.

    On the class, a field's name gives its `Field`; on an instance, its value.

    Raises:
        ContractError: when an instance is made with a missing, unknown, mistyped or non-finite value.
    """

    _schema: ClassVar[EventSchema | None] = None

    def __init__(self, **values: object) -> None:
        schema = event_schema(type(self))
        unknown = values.keys() - {f.name for f in schema.fields}
        if unknown:
            name = min(unknown)
            msg = f"event {schema.name!r} has no field {name!r}"
            raise ContractError(msg, hint=did_you_mean(name, [f.name for f in schema.fields]))
        for field in schema.fields:
            object.__setattr__(self, field.name, _checked(field, values.get(field.name)))

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"an event is a fact: {type(self).__name__}.{name} cannot be changed"
        raise AttributeError(msg)

    def values(self) -> dict[str, Any]:
        """Return the field values by name, in the order of the schema."""
        return {f.name: getattr(self, f.name) for f in event_schema(type(self)).fields}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and type(self) is type(other) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.values().items())})"


def _checked(field: Field, value: object) -> object:
    if value is None:
        if field.type.nullable:
            return None
        msg = f"{field} must be {field.type}, got nothing"
        raise ContractError(msg)
    if field.type.dtype is DType.DECIMAL:
        return _checked_decimal(field, value)
    wanted = field.type.dtype.python
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted and not (wanted is datetime and isinstance(value, datetime)):
        msg = f"{field} must be {field.type}, got {value!r}"
        raise ContractError(msg)
    if type(value) is int and not -(2**63) <= value < 2**63:
        msg = f"{field} must fit 64 bits, got {value!r}"
        raise ContractError(msg)
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"{field} must be finite, got {value!r}"
        raise ContractError(msg)
    if isinstance(value, datetime):
        try:
            to_us(value)
        except ValueError as exc:
            msg = f"{field}: {exc}"
            raise ContractError(msg) from exc
    return value


def _checked_decimal(field: Field, value: object) -> decimal.Decimal:
    """Return an exact decimal with as many digits after the point as the field has; refuse to round."""
    if type(value) is int and -(10**18) < value < 10**18:
        value = decimal.Decimal(value)
    if not isinstance(value, decimal.Decimal):
        hint = "a float has been rounded already: decimal.Decimal('0.10') has not" if type(value) is float else ""
        msg = f"{field} must be {field.type}, got {value!r}"
        raise ContractError(msg, hint=hint)
    unscaled = exact_unscaled(value, field.type.precision, field.type.scale)
    if unscaled is None:
        msg = f"{field} must fit {field.type} exactly, got {value}"
        raise ContractError(msg)
    return from_unscaled(unscaled, field.type.scale)


def event_schema(cls: type[Event]) -> EventSchema:
    """Return the schema of an event class; built at the first call, so that forward references resolve.

    Raises:
        DefinitionError: if a field has a type that events cannot carry, or there is not one event time.
    """
    schema: EventSchema | None = cls.__dict__.get("_schema")
    if schema is None:
        schema = _build_schema(cls)
        type.__setattr__(cls, "_schema", schema)
    return schema
