"""The closed set of value types. Their Avro, Arrow, numpy and protobuf forms live with the adapters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

__all__ = ["DType", "ValueType"]


class DType(Enum):
    """The type of one value."""

    STRING = "string"
    INT64 = "int64"
    FLOAT64 = "float64"
    BOOL = "bool"
    DATETIME = "datetime"
    """An aware UTC datetime, microseconds."""

    @property
    def python(self) -> type:
        """The Python type that carries such a value in the public API."""
        return _PYTHON[self]

    @property
    def is_numeric(self) -> bool:
        """Whether sums and orders of such values mean something (booleans count as 0 and 1)."""
        return self in {DType.INT64, DType.FLOAT64, DType.BOOL}


_PYTHON: dict[DType, type] = {
    DType.STRING: str,
    DType.INT64: int,
    DType.FLOAT64: float,
    DType.BOOL: bool,
    DType.DATETIME: datetime,
}


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type, and whether a value may be absent."""

    dtype: DType
    nullable: bool = False

    def __str__(self) -> str:
        return f"{self.dtype.value} or null" if self.nullable else self.dtype.value
