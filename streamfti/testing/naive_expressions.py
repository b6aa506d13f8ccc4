"""The naive interpreter of expressions: what a value is by their rules, one event at a time. An oracle of tests.

Plain Python over plain Python values. It shares no code with `streamfti.compute` and may not import it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.clock import to_us
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.expressions import Constant, Expression, Field, Operation
from streamfti.definitions.steps import Apply, Derive, Where
from streamfti.definitions.streams import Stream

__all__ = ["naive_row", "naive_value"]


def naive_row(stream: Stream, row: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the field values of an event after the steps of a stream; None if it is left out."""
    values = dict(row)
    for step in stream.steps:
        if isinstance(step, Where):
            if naive_value(step.condition, values) is not True:
                return None
        elif isinstance(step, Derive):
            computed = [naive_value(value, values) for value in step.values]
            values |= dict(zip((field.name for field in step.adds), computed, strict=True))
        else:
            values |= _returned(step, values)
    return values


def _returned(step: Apply, row: Mapping[str, object]) -> dict[str, object]:
    """Call a batch function with one event."""
    with np.errstate(all="ignore"):
        returned = step.function(*(_argument(row[field.name], field) for field in step.reads))
    columns = returned if isinstance(returned, tuple) else (returned,)
    return {field.name: _fit(_scalar(c), field.type) for field, c in zip(step.adds, columns, strict=True)}


def _argument(value: object, field: Field) -> NDArray[Any]:
    if field.type.dtype is DType.STRING:
        return np.array([value], dtype=object)
    if isinstance(value, datetime):
        return np.array([to_us(value) / 1_000_000])
    return np.array([math.nan if value is None else value], dtype=np.float64)


def _scalar(column: NDArray[Any]) -> object:
    value = column.tolist()[0]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def naive_value(expression: Expression, row: Mapping[str, object]) -> Any:  # noqa: ANN401  # of the expression's type
    """Return the value of an expression for one event, given by its field values; None where it is null."""
    if isinstance(expression, Field):
        return row[expression.name]
    if isinstance(expression, Constant):
        return expression.value
    if not isinstance(expression, Operation):
        msg = f"an expression must be a field, a constant or an operation, got {expression!r}"
        raise TypeError(msg)
    values = [naive_value(operand, row) for operand in expression.operands]
    if expression.type.dtype is DType.DECIMAL:  # Python's decimals have a context that rounds
        values = [Fraction(value) if isinstance(value, Decimal) else value for value in values]
    name = expression.operator
    if name in _OF_NULLS:
        return _fit(_OF_NULLS[name](values), expression.type)
    if None in values:
        return None
    types = [operand.type.dtype for operand in expression.operands]
    if DType.FLOAT64 in types and name in _MEETING:
        values = [float(value) for value in values]
    return _fit(_OF_VALUES[name](*values), expression.type)


def _fit(value: object, wanted: ValueType) -> object:
    """Return a value as one of its type, None if there is none such."""
    if value is None:
        return None
    if wanted.dtype is DType.FLOAT64:
        number = float(value)  # type: ignore[arg-type]  # the tree is typed
        return number if math.isfinite(number) else None
    if wanted.dtype is DType.BOOL:
        return bool(value)
    if wanted.dtype is DType.DECIMAL:
        unscaled = Fraction(value) * 10**wanted.scale  # type: ignore[call-overload]  # likewise
        fits = abs(unscaled) < 10**wanted.precision and unscaled.denominator == 1
        return Decimal(unscaled.numerator).scaleb(-wanted.scale) if fits else None
    if wanted.dtype is DType.INT64:
        whole = int(value)  # type: ignore[call-overload]  # likewise
        return whole if -(2**63) <= whole < 2**63 else None
    return value


def _and(values: Sequence[object]) -> object:
    return False if False in values else None if None in values else True


def _or(values: Sequence[object]) -> object:
    return True if True in values else None if None in values else False


def _coalesce(values: Sequence[object]) -> object:
    return next((value for value in values if value is not None), None)


def _quotient(left: float, right: float) -> float | None:
    return float(left) / float(right) if right else None


def _to_int(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[+-]?[0-9]+", value, re.ASCII) else None
    return math.trunc(value)  # type: ignore[arg-type]  # a number


def _to_float(value: object) -> float | None:
    if isinstance(value, str) and not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
        return None
    return float(value)  # type: ignore[arg-type]  # a number, or the text of one


def _to_str(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _seconds_since(later: datetime, earlier: datetime) -> float:
    return ((later - earlier) // timedelta(microseconds=1)) / 1e6


_MEETING = {"+", "-", "*", "<", "<=", ">", ">=", "==", "!=", "least", "greatest", "is_in"}

_OF_NULLS: Mapping[str, Callable[[Sequence[Any]], object]] = {
    "&": _and,
    "|": _or,
    "is_null": lambda values: values[0] is None,
    "coalesce": _coalesce,
    "when": lambda values: values[1] if values[0] is True else values[2],
}
"""The operators that say something of nulls."""

_OF_VALUES: Mapping[str, Callable[..., object]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _quotient,
    "//": lambda a, b: a // b if b else None,
    "%": lambda a, b: a % b if b else None,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "~": lambda a: not a,
    "negative": lambda a: -a,
    "abs": abs,
    "least": min,
    "greatest": max,
    "is_in": lambda a, *constants: a in constants,
    "int": _to_int,
    "float": _to_float,
    "str": _to_str,
    "lower": str.lower,
    "upper": str.upper,
    "strip": lambda text: text.strip(" \t\n\r\x0b\x0c"),
    "len": len,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": lambda text, part: part in text,
    "hour": lambda at: at.hour,
    "weekday": lambda at: at.weekday(),
    "seconds_since": _seconds_since,
}
"""The operators that are null where an operand is."""
