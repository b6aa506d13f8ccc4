"""Streams: the events that a feature group reads. Those of a source, or what steps make of them, one after the other.

Specifications only; `compute.transformations` is where steps are taken. A stream never changes the offline log, which
holds the events of the source whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from streamfti.definitions.batch_functions import BatchFunction
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import EventSchema
from streamfti.definitions.expressions import Expression, Field
from streamfti.errors import DefinitionError

if TYPE_CHECKING:
    from streamfti.definitions.sources import KafkaSource

__all__ = ["Apply", "Derive", "DerivedStream", "Step", "Stream", "Where", "source_fields"]


@dataclass(frozen=True, slots=True)
class Where:
    """Keeps the events for which a condition is true; one that is null is not."""

    condition: Expression

    @property
    def reads(self) -> tuple[Field, ...]:
        """The fields that it needs."""
        return self.condition.fields

    @property
    def adds(self) -> tuple[Field, ...]:
        """None."""
        return ()

    def document(self) -> list[object]:
        """Return what it means, as plain JSON values."""
        return ["where", self.condition.document()]

    def __str__(self) -> str:
        return f"where {self.condition}"


@dataclass(frozen=True, slots=True)
class Derive:
    """Adds fields, each computed from the fields before this step."""

    adds: tuple[Field, ...]
    values: tuple[Expression, ...]
    """What each of the added fields is."""

    @property
    def reads(self) -> tuple[Field, ...]:
        """The fields that it needs."""
        return tuple(field for value in self.values for field in value.fields)

    def document(self) -> list[object]:
        """Return what it means, as plain JSON values."""
        pairs = zip(self.adds, self.values, strict=True)
        return ["derive", *([field.name, value.document()] for field, value in pairs)]

    def __str__(self) -> str:
        pairs = zip(self.adds, self.values, strict=True)
        return "derive " + ", ".join(f"{field.name} = {value}" for field, value in pairs)


@dataclass(frozen=True, slots=True)
class Apply:
    """Adds the fields that a batch function returns."""

    function: BatchFunction
    reads: tuple[Field, ...]
    """One for each of its parameters."""
    adds: tuple[Field, ...]
    """One for each of its outputs."""

    def document(self) -> list[object]:
        """Return what it means, as plain JSON values."""
        inputs = [field.document() for field in self.reads]
        outputs = [[field.name, str(field.type)] for field in self.adds]
        return ["apply", json.loads(self.function.meaning), inputs, outputs]

    def __str__(self) -> str:
        outputs = ", ".join(field.name for field in self.adds)
        return f"apply {outputs} = {self.function.name}({', '.join(self.function.inputs)})"


Step = Where | Derive | Apply


class Stream:
    """The events that a feature group reads. A `KafkaSource` is one; so is what its methods make of it.

        large = payments.where(Payment.amount_cents >= 10_000).derive(euros=Payment.amount_cents / 100)

        @fti.feature_group(source=large, entity="card_id")
        class LargePayments:
            spent = fti.sum(large["euros"]).over("1h")

    Streams are immutable: each method returns a new one. Steps are taken in their order, for every event by itself.
    """

    __slots__ = ()

    source: KafkaSource
    """Where the events come from: the topic, its log and the progress in it."""
    schema: EventSchema
    """The fields of its events, with those that steps have added."""
    steps: tuple[Step, ...]
    """What is done to the events of the source, in order."""

    def where(self, condition: object) -> DerivedStream:
        """Keep the events for which a condition is true; where it is null, the event is left out.

        Raises:
            DefinitionError: if it is no condition of the stream's fields.
        """
        if not isinstance(condition, Expression) or condition.type.dtype is not DType.BOOL:
            is_expression = isinstance(condition, Expression)
            got = f"{condition}, which is {condition.type}" if is_expression else repr(condition)  # type: ignore[attr-defined]  # checked
            msg = f"where() of {self._name} must be given a condition, got {got}"
            raise DefinitionError(msg, hint=f"for example {self.schema.name}.{self.schema.fields[0].name} == ...")
        self._check_fields(condition.fields)
        return DerivedStream(self, Where(condition))

    def derive(self, **fields: object) -> DerivedStream:
        """Add fields, computed by expressions of the fields that there are; null where the expression is.

        Args:
            fields: names and expressions. None of them sees the others: those need another `derive`.

        Raises:
            DefinitionError: if a name is taken or begins with `_`, or a value is no expression of the stream's
                fields.
        """
        if not fields:
            msg = f"derive() of {self._name} must be given one field or more, got none"
            raise DefinitionError(msg, hint="for example derive(euros=Payment.cents / 100)")
        added: list[Field] = []
        for name, value in fields.items():
            if not isinstance(value, Expression):
                msg = f"derive({name}=...) of {self._name} must be given an expression of its fields, got {value!r}"
                raise DefinitionError(msg)
            self._check_fields(value.fields)
            self._check_new(name)
            added.append(Field(self.schema.name, name, value.type, _digest(value.document())))
        values = tuple(value for value in fields.values() if isinstance(value, Expression))
        return DerivedStream(self, Derive(tuple(added), values))

    def apply(self, function: Callable[..., Any]) -> DerivedStream:
        """Add the fields that a batch function returns, see `fti.batch_function`.

        Raises:
            DefinitionError: if it is no batch function, a parameter names no field of the stream, or an output has
                a name that is taken or begins with `_`.
        """
        if not isinstance(function, BatchFunction):
            msg = f"apply() of {self._name} must be given a batch function, got {function!r}"
            raise DefinitionError(msg, hint="decorate it: @fti.batch_function(outputs={'risk': float})")
        reads = tuple(self.schema.field(name) for name in function.inputs)
        meaning = [json.loads(function.meaning), *(field.document() for field in reads)]
        for name, _ in function.outputs:
            self._check_new(name)
        added = [Field(self.schema.name, name, kind, _digest([*meaning, name])) for name, kind in function.outputs]
        return DerivedStream(self, Apply(function, reads, tuple(added)))

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # a Field, which takes any value's place, as on the event class
        """Return one of its fields, to be used in expressions and aggregations.

        Raises:
            DefinitionError: if there is none of that name.
        """
        return self.schema.field(name)

    @property
    def _name(self) -> str:
        return f"a stream of {self.source.name!r}" if self.steps else f"source {self.source.name!r}"

    def _check_fields(self, fields: Iterable[Field]) -> None:
        for field in fields:
            if not field.same_as(self.schema.field(field.name)):
                msg = f"{self._name} has {self.schema.name}.{field.name}, but not the {field} that was given"
                hint = "a field that another stream derives is another one, also under the same name"
                raise DefinitionError(msg, hint=hint)

    def _check_new(self, name: str) -> None:
        if name.startswith("_"):
            msg = f"a field of {self._name} must not start with '_', got {name!r}: those are the log's own columns"
            raise DefinitionError(msg)
        if any(field.name == name for field in self.schema.fields):
            msg = f"a new field of {self._name} must have a name of its own, got {name!r}, which {self.schema.name} has"
            raise DefinitionError(msg)


@dataclass(frozen=True)
class DerivedStream(Stream):
    """A stream and one step more. Build it with the methods of `Stream`."""

    base: Stream
    step: Step

    @cached_property
    def source(self) -> KafkaSource:  # type: ignore[override]  # computed, as it never changes
        """That of the stream that it was made of."""
        return self.base.source

    @cached_property
    def steps(self) -> tuple[Step, ...]:  # type: ignore[override]  # likewise
        """Those before, and its own."""
        return (*self.base.steps, self.step)

    @cached_property
    def schema(self) -> EventSchema:  # type: ignore[override]  # likewise
        """The fields before, and those that its step adds."""
        before = self.base.schema
        return EventSchema(before.name, (*before.fields, *self.step.adds), before.event_time)


def source_fields(stream: Stream, names: Iterable[str]) -> set[str]:
    """Return the fields of the source that must be read to have some fields of a stream, by name: also its steps'."""
    needed = set(names) | {field.name for step in stream.steps for field in step.reads}
    return needed - {field.name for step in stream.steps for field in step.adds}


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
