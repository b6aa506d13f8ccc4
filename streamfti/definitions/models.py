"""Models: which inputs, which label, and the function that fits an estimator. No framework type appears here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import Duration, duration_us
from streamfti.definitions.expressions import Expression, Field
from streamfti.definitions.services import FeatureService
from streamfti.definitions.sources import KafkaSource
from streamfti.errors import DefinitionError

__all__ = ["Label", "Model", "Task", "label", "model"]

Task = Literal["binary", "regression"]


@dataclass(frozen=True, slots=True)
class Label:
    """What came true: a number or a condition made of the fields of a later event, found by a shared key."""

    source: KafkaSource
    value: Expression
    on: str
    """The field that the spine event and the label event share."""
    within_us: int
    """The label event counts if its event time is in `[spine time, spine time + within)`."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that the label is read from, each once."""
        return self.value.fields


def label(value: object, *, source: KafkaSource, on: str, within: Duration) -> Label:
    """Declare a label: `label(Departure.delay_minutes >= 15, source=departures, on="flight_id", within="2d")`.

    The earliest label event of the key within the bound counts. A spine event that has none is left out of
    training sets, and counted; so is one whose bound has not passed yet.

    Raises:
        DefinitionError: if the value is not of the source's events or is not a number.
    """
    if not isinstance(value, Expression):
        msg = f"a label must be a field of {source.schema.name} or an expression of its fields, got {value!r}"
        raise DefinitionError(msg)
    if source.changes is not None:
        msg = f"a label must come from a source of events, got {source.name!r}, whose messages are changes of rows"
        raise DefinitionError(msg)
    built = Label(source, value, on, duration_us(within, subject="within of a label"))
    for field in built.fields:
        if not field.same_as(source.schema.field(field.name)):
            msg = f"a label from source {source.name!r} must use fields of {source.schema.name}, got {field}"
            raise DefinitionError(msg)
    if not value.type.dtype.is_numeric:
        msg = f"a label must be a number or a condition, got {value}, which is {value.type}"
        raise DefinitionError(msg, hint="compare it with a constant to get a condition")
    source.schema.field(on)
    return built


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its input contract, its spine and label, and its trainer."""

    name: str
    features: FeatureService
    spine: KafkaSource
    """Its events are the moments to predict at: event time, entity keys and request features by name."""
    label: Label
    task: Task
    train: Callable[[Any], Any]
    """Training set in, fitted estimator out (scikit-learn's interface)."""
    doc: str = ""

    def __post_init__(self) -> None:
        if self.spine.changes is not None:
            msg = f"the spine of model {self.name!r} must be of events, got {self.spine.name!r}, of changes of rows"
            raise DefinitionError(msg)
        for name, dtype in self.features.request_fields.items():
            found = self.spine.schema.field(name).type.dtype
            # A decimal is asked for as a float: in training it is the nearest one.
            if found is not dtype and (found, dtype) != (DType.DECIMAL, DType.FLOAT64):
                msg = (
                    f"field {name!r} of spine event {self.spine.schema.name} must be {dtype.value} "
                    f"as in feature service {self.features.name!r}, got {found.value}"
                )
                raise DefinitionError(msg)
        if any(feature.name == self.label.on for feature in self.features.on_demand):
            msg = (
                f"model {self.name!r} must not have an on-demand feature {self.label.on!r}: its labels are found by it"
            )
            raise DefinitionError(msg, hint="give the feature's function another name")
        shared, outcome = self.spine.schema.field(self.label.on), self.label.source.schema.field(self.label.on)
        if shared.type.required != outcome.type.required:
            types = f"{shared.type} and {outcome.type}"
            msg = f"{shared} and {outcome}, by which labels are found, must have one type, got {types}"
            raise DefinitionError(msg)
        dtype = self.label.value.type.dtype
        if self.task == "binary" and dtype is not DType.BOOL:
            msg = f"the label of binary model {self.name!r} must be a condition or a bool, got {dtype.value}"
            raise DefinitionError(msg, hint="compare it with a constant")


def model(
    name: str, *, features: FeatureService, spine: KafkaSource, label: Label, task: Task = "binary"
) -> Callable[[Callable[[Any], Any]], Model]:
    """Turn a function from a training set to a fitted estimator into a `Model`.

    Raises:
        DefinitionError: if the spine event lacks a field that the feature service needs from requests.
    """

    def build(train: Callable[[Any], Any]) -> Model:
        return Model(name, features, spine, label, task, train, (train.__doc__ or "").strip())

    return build
