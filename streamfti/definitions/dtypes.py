"""The closed set of value types. Their Avro, Arrow, numpy and protobuf forms live with the adapters."""

from __future__ import annotations

import decimal
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from streamfti.errors import DefinitionError

__all__ = ["KEY_TYPES", "DType", "ValueType"]


class DType(Enum):
    """The type of one value."""

    STRING = "string"
    INT64 = "int64"
    FLOAT64 = "float64"
    BOOL = "bool"
    DATETIME = "datetime"
    """An aware UTC datetime, microseconds."""
    DECIMAL = "decimal"
    """An exact number of a fixed precision and scale."""

    @property
    def python(self) -> type:
        """The Python type that carries such a value in the public API."""
        return _PYTHON[self]

    @property
    def is_numeric(self) -> bool:
        """Whether sums and orders of such values mean something (booleans count as 0 and 1)."""
        return self in {DType.INT64, DType.FLOAT64, DType.BOOL, DType.DECIMAL}


_PYTHON: dict[DType, type] = {
    DType.STRING: str,
    DType.INT64: int,
    DType.FLOAT64: float,
    DType.BOOL: bool,
    DType.DATETIME: datetime,
    DType.DECIMAL: decimal.Decimal,
}


KEY_TYPES = frozenset({DType.STRING, DType.INT64, DType.BOOL})
"""The types of the fields of keys."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type, and whether a value may be absent.

    Attributes:
        dtype: the type.
        nullable: whether a value may be absent.
        precision: of a decimal, how many digits it has; 0 for the other types.
        scale: of a decimal, how many of them stand after the point; 0 for the other types.

    Raises:
        DefinitionError: if a decimal has no precision, or another type has one.
    """

    dtype: DType
    nullable: bool = False
    precision: int = 0
    scale: int = 0

    def __post_init__(self) -> None:
        if (self.dtype is DType.DECIMAL) != (self.precision > 0):
            msg = f"a decimal, and nothing else, must have a precision, got {self.dtype.value} of {self.precision}"
            raise DefinitionError(msg)

    @property
    def required(self) -> ValueType:
        """The same type of values that are never absent."""
        return replace(self, nullable=False)

    def __str__(self) -> str:
        digits = f"({self.precision}, {self.scale})" if self.dtype is DType.DECIMAL else ""
        return f"{self.dtype.value}{digits}" + (" or null" if self.nullable else "")
