"""The steps of streams: what is done to events, one after the other, each event by itself. Specifications only."""

from __future__ import annotations

import json
from dataclasses import dataclass

from streamfti.definitions.batch_functions import BatchFunction
from streamfti.definitions.expressions import Expression, Field

__all__ = ["Apply", "Derive", "Step", "Where"]


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
