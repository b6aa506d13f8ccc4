"""The operators of expressions: how each is written, what it may be given, and the type of what it gives.

A closed table. What an operator computes is in `compute.expressions`; that both know the same ones is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from streamfti.definitions.dtypes import DType, ValueType

__all__ = ["MOST_DIGITS", "OPERATORS", "Operator", "meeting_type"]

Types = Sequence[ValueType]

MOST_DIGITS = 38
"""Of decimals while they are computed with: what has 18 digits has at most so many in another's scale."""

_DECIMAL_DIGITS = 18
_NUMBERS = {DType.INT64, DType.FLOAT64, DType.BOOL}
_EXACT_NUMBERS = {DType.INT64, DType.BOOL, DType.DECIMAL}


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        takes: what its operands must be, in words.
        type_of: the type of its result; None where it cannot be given operands of such types.
        form: how it is written: between its operands, before its operand, or as a function.
    """

    takes: str
    type_of: Callable[[Types], ValueType | None]
    form: Literal["infix", "prefix", "function"] = "function"


def meeting_type(types: Types) -> ValueType | None:
    """Return the type in which values of such types can be compared, None if there is none.

    Of numbers it is int64 or float64; where decimals are among integers, a decimal in which all of them are exact;
    decimals and floats do not meet.
    """
    dtypes = {t.dtype for t in types}
    if DType.DECIMAL in dtypes:
        scale = max(t.scale for t in types)
        return ValueType(DType.DECIMAL, precision=MOST_DIGITS, scale=scale) if dtypes <= _EXACT_NUMBERS else None
    if len(dtypes) == 1:
        return ValueType(dtypes.pop())
    if dtypes <= _NUMBERS:
        return ValueType(DType.FLOAT64 if DType.FLOAT64 in dtypes else DType.INT64)
    return None


def _any_null(types: Types) -> bool:
    return any(t.nullable for t in types)


def _number(types: Types) -> DType | None:
    """Return the type in which numbers are added up: booleans count as 0 and 1."""
    if not {t.dtype for t in types} <= _NUMBERS:
        return None
    return DType.FLOAT64 if any(t.dtype is DType.FLOAT64 for t in types) else DType.INT64


def _arithmetic(types: Types, decimal_scale: int | None = None) -> ValueType | None:
    """Return the type of a sum or a product: null where it overflows, so always nullable."""
    if DType.DECIMAL in {t.dtype for t in types}:
        scale = max(t.scale for t in types) if decimal_scale is None else decimal_scale
        if meeting_type(types) is None or scale > _DECIMAL_DIGITS:
            return None
        return ValueType(DType.DECIMAL, nullable=True, precision=_DECIMAL_DIGITS, scale=scale)
    dtype = _number(types)
    return None if dtype is None else ValueType(dtype, nullable=True)


def _plus(types: Types) -> ValueType | None:
    if all(t.dtype is DType.STRING for t in types):
        return ValueType(DType.STRING, _any_null(types))
    return _arithmetic(types)


def _product(types: Types) -> ValueType | None:
    return _arithmetic(types, sum(t.scale for t in types))


def _quotient(types: Types) -> ValueType | None:
    return None if _number(types) is None else ValueType(DType.FLOAT64, nullable=True)


def _whole(types: Types) -> ValueType | None:
    return _arithmetic(types) if _number(types) is DType.INT64 else None


def _unsigned(types: Types) -> ValueType | None:
    """Of the least of the integers there is no opposite: null."""
    (given,) = types
    if given.dtype is DType.DECIMAL:
        return given
    dtype = _number(types)
    return None if dtype is None else ValueType(dtype, given.nullable or given.dtype is DType.INT64)


def _compared(types: Types) -> ValueType | None:
    return None if meeting_type(types) is None else ValueType(DType.BOOL, _any_null(types))


def _one_type(types: Types, *, nullable: bool) -> ValueType | None:
    """Return the type of a value that is one of several: of decimals, they must be of one scale."""
    found = meeting_type(types)
    if found is None or found.dtype is not DType.DECIMAL:
        return None if found is None else ValueType(found.dtype, nullable)
    if {(t.dtype, t.scale) for t in types} != {(DType.DECIMAL, found.scale)}:
        return None
    return ValueType(DType.DECIMAL, nullable, max(t.precision for t in types), found.scale)


def _same_kind(types: Types) -> ValueType | None:
    return _one_type(types, nullable=_any_null(types))


def _first_present(types: Types) -> ValueType | None:
    return _one_type(types, nullable=all(t.nullable for t in types))


def _chosen(types: Types) -> ValueType | None:
    return _same_kind(types[1:]) if types[0].dtype is DType.BOOL else None


def _to_int(types: Types) -> ValueType | None:
    (given,) = types
    if given.dtype in {DType.DATETIME, DType.DECIMAL}:
        return None
    return ValueType(DType.INT64, given.nullable or given.dtype in {DType.FLOAT64, DType.STRING})


def _to_float(types: Types) -> ValueType | None:
    (given,) = types
    if given.dtype is DType.DATETIME:
        return None
    return ValueType(DType.FLOAT64, given.nullable or given.dtype is DType.STRING)


def _of(result: DType, *allowed: DType) -> Callable[[Types], ValueType | None]:
    """Return the rule of an operator whose operands are all of the allowed types, null if one is null."""

    def type_of(types: Types) -> ValueType | None:
        return ValueType(result, _any_null(types)) if all(t.dtype in allowed for t in types) else None

    return type_of


_ANY_TEXT = "strings"
_COMPARABLE = "values of one kind: numbers, strings or times"
_ALIKE = "values of one kind: numbers, decimals of one scale, strings or times"
_LOGIC = _of(DType.BOOL, DType.BOOL)
_ABOUT_TEXT = _of(DType.BOOL, DType.STRING)
_TEXT = _of(DType.STRING, DType.STRING)
_OF_TIMES = _of(DType.INT64, DType.DATETIME)

OPERATORS: Mapping[str, Operator] = {
    "+": Operator("two numbers or two strings", _plus, "infix"),
    "-": Operator("two numbers", _arithmetic, "infix"),
    "*": Operator("two numbers", _product, "infix"),
    "/": Operator("two numbers", _quotient, "infix"),
    "//": Operator("two integers", _whole, "infix"),
    "%": Operator("two integers", _whole, "infix"),
    **{
        op: Operator("values of one kind: numbers, strings or times", _compared, "infix")
        for op in ("<", "<=", ">", ">=", "==", "!=")
    },
    "&": Operator("two conditions", _LOGIC, "infix"),
    "|": Operator("two conditions", _LOGIC, "infix"),
    "~": Operator("a condition", _LOGIC, "prefix"),
    "negative": Operator("a number", _unsigned),
    "abs": Operator("a number", _unsigned),
    "least": Operator(_ALIKE, _same_kind),
    "greatest": Operator(_ALIKE, _same_kind),
    "is_null": Operator("anything", lambda _types: ValueType(DType.BOOL)),
    "is_in": Operator(_COMPARABLE, _compared),
    "coalesce": Operator(_ALIKE, _first_present),
    "when": Operator("a condition and two values of one kind", _chosen),
    "int": Operator("a number but no decimal, or a string", _to_int),
    "float": Operator("a number or a string", _to_float),
    "str": Operator("a string, an integer or a bool", _of(DType.STRING, DType.STRING, DType.INT64, DType.BOOL)),
    "lower": Operator(_ANY_TEXT, _TEXT),
    "upper": Operator(_ANY_TEXT, _TEXT),
    "strip": Operator(_ANY_TEXT, _TEXT),
    "len": Operator(_ANY_TEXT, _of(DType.INT64, DType.STRING)),
    "starts_with": Operator(_ANY_TEXT, _ABOUT_TEXT),
    "ends_with": Operator(_ANY_TEXT, _ABOUT_TEXT),
    "contains": Operator(_ANY_TEXT, _ABOUT_TEXT),
    "hour": Operator("a time", _OF_TIMES),
    "weekday": Operator("a time", _OF_TIMES),
    "seconds_since": Operator("two times", _of(DType.FLOAT64, DType.DATETIME)),
}
"""By the name that stands in canonical texts and fingerprints: renaming one changes the meaning of stored values."""
