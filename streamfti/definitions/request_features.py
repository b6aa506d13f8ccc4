"""Request features: what a caller sends with the request, and what a spine event carries in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from streamfti.definitions.dtypes import DType
from streamfti.errors import DefinitionError

__all__ = ["Request", "RequestFeature", "request", "value_dtype"]

_DTYPES: dict[object, DType] = {
    str: DType.STRING,
    int: DType.INT64,
    float: DType.FLOAT64,
    bool: DType.BOOL,
}

T = TypeVar("T")
"""The Python type of a request feature."""


def value_dtype(python_type: object, *, subject: str) -> DType:
    """Return the type of values that a Python type stands for: `str`, `int`, `float` or `bool`.

    Raises:
        DefinitionError: if the type is another.
    """
    dtype = _DTYPES.get(python_type)
    if dtype is None:
        msg = f"{subject} must be of type str, int, float or bool, got {python_type!r}"
        raise DefinitionError(msg)
    return dtype


@dataclass(frozen=True, slots=True)
class RequestFeature:
    """A value that the caller sends with the request, and that a spine event carries in training."""

    name: str
    dtype: DType

    @property
    def qualified_name(self) -> str:
        """Its name: request features belong to no group."""
        return self.name


def request(name: str, python_type: type) -> RequestFeature:
    """Declare a request feature of type `str`, `int`, `float` or `bool`.

    A null value is allowed and reaches the model as a missing one (NaN; for strings, the unknown category).

    Raises:
        DefinitionError: if the type is another.
    """
    return RequestFeature(name, value_dtype(python_type, subject=f"request feature {name!r}"))


class Request(Generic[T]):
    """Annotates a parameter of an on-demand feature as the request feature of that name: `amount: Request[float]`."""
