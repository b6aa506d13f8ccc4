"""Evaluating expressions over event frames, column by column.

The rules are those of `definitions.expressions`; here they are said in whole columns of the table library, one
operator at a time, each part of an expression once. What that library does otherwise (it wraps integers around, keeps
infinities, and counts weekdays from 1) is corrected here and nowhere else. Its lazy expressions would take a tree in
one go, but to begin with one costs as much as ten of these operators, and they know no shared parts: a result that is
looked at twice, to be checked, is computed twice, and so on down the tree.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import polars as pl

from streamfti.clock import to_us
from streamfti.compute.decimals import as_float64
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.expressions import Constant, Expression, Field, Operation
from streamfti.definitions.operators import MOST_DIGITS, meeting_type
from streamfti.errors import DefinitionError

__all__ = ["COMPUTED", "evaluate"]

Columns = Sequence[pl.Series]
Compute = Callable[[Operation, Columns], pl.Series]

_WHITE_SPACE = " \t\n\r\x0b\x0c"
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITY = float("inf")
_LEAST = -(2**63)
_WRAPPED = 2.0**32
"""Between a result that fits 64 bits and the same in floats there is less than this; one that wrapped around is off
by a multiple of 2**64."""

_TYPES: Mapping[DType, pl.DataType] = {
    DType.STRING: pl.String(),
    DType.INT64: pl.Int64(),
    DType.FLOAT64: pl.Float64(),
    DType.BOOL: pl.Boolean(),
    DType.DATETIME: pl.Datetime("us", "UTC"),
}


def evaluate(expression: Expression, frame: pl.DataFrame) -> pl.Series:
    """Return the values of an expression over the events of a frame, in their order, under the expression's name.

    Raises:
        DefinitionError: if it is of a kind that nothing here computes.
    """
    return _evaluated(expression, frame, {})


def _evaluated(expression: Expression, frame: pl.DataFrame, known: dict[str, pl.Series]) -> pl.Series:
    """Evaluate an expression; `known` holds the parts that have been, by name."""
    if isinstance(expression, Field):
        return frame[expression.name]
    if isinstance(expression, Constant):
        return _repeated(expression, frame.height)
    if not isinstance(expression, Operation):
        msg = f"an expression must be a field, a constant or an operation, got {expression!r}"
        raise DefinitionError(msg)
    if expression.name not in known:
        n = 1 if expression.operator == "is_in" else frame.height  # a list is a list of constants
        operands = [
            _repeated(o, n) if isinstance(o, Constant) else _evaluated(o, frame, known) for o in expression.operands
        ]
        values = COMPUTED[expression.operator](expression, operands)
        known[expression.name] = _cast(values, expression.type).alias(expression.name)
    return known[expression.name]


def _repeated(constant: Constant, n: int) -> pl.Series:
    """Return a constant as a column. To divide by a scalar is to multiply with its inverse there: off by a bit."""
    value = to_us(constant.value) if isinstance(constant.value, datetime) else constant.value
    storage = pl.Int64() if isinstance(constant.value, datetime) else _type(constant.type)
    return _cast(pl.Series([value], dtype=storage), constant.type).new_from_index(0, n)


def _type(value_type: ValueType) -> pl.DataType:
    if value_type.dtype is DType.DECIMAL:
        return pl.Decimal(value_type.precision, value_type.scale)
    return _TYPES[value_type.dtype]


def _cast(values: pl.Series, value_type: ValueType) -> pl.Series:
    wanted = _type(value_type)
    if values.dtype == wanted:
        return values
    if values.dtype == pl.Boolean and value_type.dtype is DType.DECIMAL:
        values = values.cast(pl.Int64)  # the library has no way from the one to the other
    return values.cast(wanted)


def _meeting(operation: Operation, operands: Columns) -> list[pl.Series]:
    """Return the operands in the type in which they meet."""
    meeting = meeting_type([operand.type for operand in operation.operands])
    return [column if meeting is None else _cast(column, meeting) for column in operands]


def _numbers(operation: Operation, operands: Columns) -> list[pl.Series]:
    """Return the operands in the type of the result, which is that of numbers."""
    return [_cast(column, operation.type) for column in operands]


def _null_unless(fits: pl.Series, values: pl.Series) -> pl.Series:
    """Return the values where a condition is true, and null where it is false or null."""
    return values if fits.all(ignore_nulls=False) else values.zip_with(fits, values.clear(len(values)))


def _finite(values: pl.Series) -> pl.Series:
    return _null_unless((values < _INFINITY) & (values > -_INFINITY), values)  # NaN is above all


def _arithmetic(compute: Callable[[pl.Series, pl.Series], pl.Series]) -> Compute:
    """Return what computes a sum, a difference or a product, null where it overflows."""

    def computed(operation: Operation, operands: Columns) -> pl.Series:
        if operation.type.dtype is DType.DECIMAL:
            return _decimal(compute, operation, operands)
        left, right = _numbers(operation, operands)
        result = compute(left, right)
        if operation.type.dtype is DType.FLOAT64:
            return _finite(result)
        off = result.cast(pl.Float64) - compute(left.cast(pl.Float64), right.cast(pl.Float64))
        return _null_unless((off < _WRAPPED) & (off > -_WRAPPED), result)

    return computed


def _decimal(
    compute: Callable[[pl.Series, pl.Series], pl.Series], operation: Operation, operands: Columns
) -> pl.Series:
    """Return an exact sum, difference or product of decimals, null where it has too many digits.

    Both sides get the scale of the result first, in which none of them is rounded. What is far too large is left out
    before it is computed, as it would not fit the library's own integers; the cast judges the rest.
    """
    result = operation.type
    wide = ValueType(DType.DECIMAL, precision=MOST_DIGITS, scale=result.scale)
    left, right = (_cast(column, wide) for column in operands)
    about = compute(left.cast(pl.Float64), right.cast(pl.Float64))
    limit = 2.0 * 10.0 ** (result.precision - result.scale)
    fits = (about < limit) & (about > -limit)
    return compute(_null_unless(fits, left), right).cast(_type(result), strict=False)


def _plus(operation: Operation, operands: Columns) -> pl.Series:
    if operation.type.dtype is DType.STRING:
        return operands[0] + operands[1]
    return _arithmetic(operator.add)(operation, operands)


def _quotient(operation: Operation, operands: Columns) -> pl.Series:
    left, right = _numbers(operation, operands)
    return _finite(left / right)


def _floored(operation: Operation, operands: Columns) -> pl.Series:
    left, right = _numbers(operation, operands)
    overflows = (right == -1) & (left == _LEAST)
    return _null_unless((right != 0) & ~overflows, left // right)


def _remainder(operation: Operation, operands: Columns) -> pl.Series:
    left, right = _numbers(operation, operands)
    return _null_unless(right != 0, left % right)


def _unsigned(compute: Callable[[pl.Series], pl.Series]) -> Compute:
    def computed(operation: Operation, operands: Columns) -> pl.Series:
        (value,) = _numbers(operation, operands)
        if operation.type.dtype is DType.INT64:
            value = _null_unless(value != _LEAST, value)
        return compute(value)

    return computed


def _compared(compare: Callable[[pl.Series, pl.Series], pl.Series]) -> Compute:
    return lambda operation, operands: compare(*_meeting(operation, operands))


def _extreme(wins: Callable[[pl.Series, pl.Series], pl.Series]) -> Compute:
    def computed(operation: Operation, operands: Columns) -> pl.Series:
        left, right = _meeting(operation, operands)
        first = wins(left, right)
        return _null_unless(first.is_not_null(), left.zip_with(first, right))

    return computed


def _is_in(operation: Operation, operands: Columns) -> pl.Series:
    value, *constants = _meeting(operation, operands)
    return _null_unless(value.is_not_null(), value.is_in(pl.concat(constants).implode()))


def _coalesce(operation: Operation, operands: Columns) -> pl.Series:
    first, *others = _meeting(operation, operands)
    for other in others:
        first = first.zip_with(first.is_not_null(), other)
    return first


def _when(operation: Operation, operands: Columns) -> pl.Series:
    condition, *values = operands
    then, otherwise = (_cast(value, operation.type) for value in values)
    return then.zip_with(condition.fill_null(value=False), otherwise)


def _digits(text: pl.Series, pattern: str) -> pl.Series:
    """Return the texts that are numbers, without a plus sign."""
    return _null_unless(text.str.contains(pattern), text).str.strip_prefix("+")


def _to_int(operation: Operation, operands: Columns) -> pl.Series:
    (value,) = operands
    is_text = operation.operands[0].type.dtype is DType.STRING
    return (_digits(value, _INTEGER) if is_text else value).cast(pl.Int64, strict=False)


def _to_float(operation: Operation, operands: Columns) -> pl.Series:
    (value,) = operands
    is_text = operation.operands[0].type.dtype is DType.STRING
    return _finite(_digits(value, _NUMBER).cast(pl.Float64, strict=False) if is_text else as_float64(value))


def _seconds(_operation: Operation, operands: Columns) -> pl.Series:
    later, earlier = (time.to_physical() for time in operands)
    us = (later - earlier).cast(pl.Float64)
    return us / pl.Series([1e6]).new_from_index(0, len(us))


def _plain(compute: Callable[..., pl.Series]) -> Compute:
    return lambda _operation, operands: compute(*operands)


COMPUTED: Mapping[str, Compute] = {
    "+": _plus,
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
    "/": _quotient,
    "//": _floored,
    "%": _remainder,
    "<": _compared(operator.lt),
    "<=": _compared(operator.le),
    ">": _compared(operator.gt),
    ">=": _compared(operator.ge),
    "==": _compared(operator.eq),
    "!=": _compared(operator.ne),
    "&": _compared(operator.and_),
    "|": _compared(operator.or_),
    "~": _plain(operator.invert),
    "negative": _unsigned(operator.neg),
    "abs": _unsigned(pl.Series.abs),
    "least": _extreme(operator.le),
    "greatest": _extreme(operator.ge),
    "is_null": _plain(pl.Series.is_null),
    "is_in": _is_in,
    "coalesce": _coalesce,
    "when": _when,
    "int": _to_int,
    "float": _to_float,
    "str": _plain(lambda value: value.cast(pl.String)),
    "lower": _plain(lambda text: text.str.to_lowercase()),
    "upper": _plain(lambda text: text.str.to_uppercase()),
    "strip": _plain(lambda text: text.str.strip_chars(_WHITE_SPACE)),
    "len": _plain(lambda text: text.str.len_chars().cast(pl.Int64)),
    "starts_with": _plain(lambda text, part: text.str.starts_with(part)),
    "ends_with": _plain(lambda text, part: text.str.ends_with(part)),
    "contains": _plain(lambda text, part: text.str.contains(part, literal=True)),
    "hour": _plain(lambda time: time.dt.hour().cast(pl.Int64)),
    "weekday": _plain(lambda time: time.dt.weekday().cast(pl.Int64) - 1),
    "seconds_since": _seconds,
}
"""What computes each operator of `definitions.operators.OPERATORS`: from the operation and its operands' columns."""
