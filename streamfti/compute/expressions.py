"""Evaluating expressions over event frames, column by column.

The rules are those of `definitions.expressions`; here they are said in the table library's own operations, which run
without Python in between. What that library does otherwise (it wraps integers around, keeps infinities, and counts
weekdays from 1) is corrected here and nowhere else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import reduce

import polars as pl

from streamfti.clock import to_us
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Constant, Expression, Field, Operation
from streamfti.definitions.operators import common_type
from streamfti.errors import DefinitionError

__all__ = ["COMPUTED", "evaluate", "polars_expression"]

Columns = Sequence[pl.Expr]
_WHITE_SPACE = " \t\n\r\x0b\x0c"
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
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
    """Return the values of an expression over the events of a frame, in their order, under the expression's name."""
    if isinstance(expression, Field):
        return frame[expression.name]
    return frame.select(polars_expression(expression).alias(expression.name)).to_series()


def polars_expression(expression: Expression) -> pl.Expr:
    """Return what computes an expression from the columns of an event frame.

    Raises:
        DefinitionError: if it is of a kind that nothing here computes.
    """
    if isinstance(expression, Field):
        return pl.col(expression.name)
    if isinstance(expression, Constant):
        return _constant(expression)
    if isinstance(expression, Operation):
        operands = [polars_expression(operand) for operand in expression.operands]
        return COMPUTED[expression.operator](expression, operands)
    msg = f"an expression must be a field, a constant or an operation, got {expression!r}"
    raise DefinitionError(msg)


def _constant(constant: Constant) -> pl.Expr:
    value = to_us(constant.value) if isinstance(constant.value, datetime) else constant.value
    storage = pl.Int64() if isinstance(constant.value, datetime) else _TYPES[constant.type.dtype]
    return pl.lit(value, dtype=storage).cast(_TYPES[constant.type.dtype])


def _meeting(operation: Operation, operands: Columns) -> list[pl.Expr]:
    """Return the operands in the type in which they meet."""
    dtype = common_type([operand.type for operand in operation.operands])
    return [
        column if dtype is operand.type.dtype or dtype is None else column.cast(_TYPES[dtype])
        for operand, column in zip(operation.operands, operands, strict=True)
    ]


def _numbers(operation: Operation, operands: Columns) -> list[pl.Expr]:
    """Return the operands in the type of the result, which is that of numbers."""
    wanted = operation.type.dtype
    return [
        column if operand.type.dtype is wanted else column.cast(_TYPES[wanted])
        for operand, column in zip(operation.operands, operands, strict=True)
    ]


def _finite(values: pl.Expr) -> pl.Expr:
    return pl.when(values.is_finite()).then(values)


def _arithmetic(compute: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Operation, Columns], pl.Expr]:
    """Return what computes a sum, a difference or a product, null where it overflows."""

    def build(operation: Operation, operands: Columns) -> pl.Expr:
        left, right = _numbers(operation, operands)
        result = compute(left, right)
        if operation.type.dtype is DType.FLOAT64:
            return _finite(result)
        in_floats = compute(left.cast(pl.Float64), right.cast(pl.Float64))
        return pl.when((result.cast(pl.Float64) - in_floats).abs() < _WRAPPED).then(result)

    return build


def _plus(operation: Operation, operands: Columns) -> pl.Expr:
    if operation.type.dtype is DType.STRING:
        return pl.concat_str(operands)
    return _arithmetic(operator.add)(operation, operands)


def _quotient(operation: Operation, operands: Columns) -> pl.Expr:
    return _finite(_exact_quotient(*_numbers(operation, operands)))


def _exact_quotient(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Return the nearest double of a quotient of finite doubles.

    The library divides by what it knows to be the same in every row by multiplying with its inverse, unless there is
    but one row: that is off by a bit, and would make a value depend on how a stream was cut into batches. What the
    zeros are added to is the same number, but no longer known to be the same in every row.
    """
    return left / (right + left * 0.0)


def _floored(operation: Operation, operands: Columns) -> pl.Expr:
    left, right = _numbers(operation, operands)
    fits = (right != 0) & ~((right == -1) & (left == -(2**63)))
    return pl.when(fits).then(left // right)


def _remainder(operation: Operation, operands: Columns) -> pl.Expr:
    left, right = _numbers(operation, operands)
    divisor = pl.when((right != 0) & (right != -1)).then(right)
    return pl.when(right == -1).then(pl.lit(0, dtype=pl.Int64)).otherwise(left % divisor).pipe(_where_present, left)


def _where_present(result: pl.Expr, *operands: pl.Expr) -> pl.Expr:
    present = reduce(operator.and_, (operand.is_not_null() for operand in operands))
    return pl.when(present).then(result)


def _unsigned(compute: Callable[[pl.Expr], pl.Expr]) -> Callable[[Operation, Columns], pl.Expr]:
    def build(operation: Operation, operands: Columns) -> pl.Expr:
        (value,) = _numbers(operation, operands)
        if operation.type.dtype is DType.INT64:
            value = pl.when(value != -(2**63)).then(value)
        return compute(value)

    return build


def _compared(compare: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Operation, Columns], pl.Expr]:
    return lambda operation, operands: compare(*_meeting(operation, operands))


def _extreme(wins: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Callable[[Operation, Columns], pl.Expr]:
    def build(operation: Operation, operands: Columns) -> pl.Expr:
        left, right = _meeting(operation, operands)
        return _where_present(pl.when(wins(left, right)).then(left).otherwise(right), left, right)

    return build


def _is_in(operation: Operation, operands: Columns) -> pl.Expr:
    value, *constants = _meeting(operation, operands)
    known = pl.select(pl.concat_list(constants).alias("values"))["values"].explode()
    return _where_present(value.is_in(known.implode()), value)


def _coalesce(operation: Operation, operands: Columns) -> pl.Expr:
    return pl.coalesce(_meeting(operation, operands))


def _when(operation: Operation, operands: Columns) -> pl.Expr:
    condition, *values = operands
    types = [operand.type.dtype for operand in operation.operands[1:]]
    wanted = operation.type.dtype
    then, otherwise = (v if dtype is wanted else v.cast(_TYPES[wanted]) for v, dtype in zip(values, types, strict=True))
    return pl.when(condition).then(then).otherwise(otherwise)


def _to_int(operation: Operation, operands: Columns) -> pl.Expr:
    (value,) = operands
    if operation.operands[0].type.dtype is DType.STRING:
        value = pl.when(value.str.contains(_INTEGER)).then(value.str.strip_prefix("+"))
    return value.cast(pl.Int64, strict=False)


def _to_float(operation: Operation, operands: Columns) -> pl.Expr:
    (value,) = operands
    if operation.operands[0].type.dtype is DType.STRING:
        value = pl.when(value.str.contains(_NUMBER)).then(value.str.strip_prefix("+"))
    return _finite(value.cast(pl.Float64, strict=False))


def _seconds(_operation: Operation, operands: Columns) -> pl.Expr:
    later, earlier = (time.to_physical() for time in operands)
    return _exact_quotient((later - earlier).cast(pl.Float64), pl.lit(1e6))


def _plain(compute: Callable[..., pl.Expr]) -> Callable[[Operation, Columns], pl.Expr]:
    return lambda _operation, operands: compute(*operands)


COMPUTED: Mapping[str, Callable[[Operation, Columns], pl.Expr]] = {
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
    "abs": _unsigned(pl.Expr.abs),
    "least": _extreme(operator.le),
    "greatest": _extreme(operator.ge),
    "is_null": _plain(pl.Expr.is_null),
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
