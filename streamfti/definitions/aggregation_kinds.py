"""The aggregations that users write: `fti.sum(Transaction.amount)`.

To a type checker `Transaction.amount` is a `float`; at run time it is an `Expression`. `where` limits an aggregation to
the events for which a condition holds: for the others, and where it is null, the operand counts as null.
"""

from __future__ import annotations

import builtins
from decimal import Decimal
from typing import Any, Protocol

from streamfti.definitions.aggregations import (
    Aggregation,
    AggregationSet,
    Parameter,
    WindowedAggregation,
    checked_condition,
    checked_operand,
)
from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import Duration
from streamfti.definitions.expressions import Expression
from streamfti.errors import DefinitionError

__all__ = [
    "aggregate",
    "count",
    "first",
    "last",
    "last_n",
    "latest",
    "max",
    "mean",
    "min",
    "stddev",
    "sum",
    "time_since_last",
    "variance",
]

Number = float | Decimal | None
"""What a field of numbers is to a type checker."""

_MAX_LAST_N = 32


class _AggregatorClass(Protocol):
    """What `aggregate` needs to know of a user's subclass of `streamfti.compute.aggregators.Aggregator`."""

    kind: str
    version: int
    invertible: bool


def count(*, where: object = None) -> AggregationSet:
    """Return the number of events, or of those for which a condition holds: 0 where there are none.

    Over the changes of a table: of the rows that are there; within a window, how many more there are than before it.
    """
    return _single("count", checked_condition(where), DType.INT64, invertible=True)


def sum(field: Number, *, where: object = None) -> AggregationSet:  # noqa: A001  # the field's word for it; users write fti.sum
    """Return the sum of a field; null values do not take part; missing if there is none.

    Exact for integers and decimals. A sum of integers beyond 64 bits is missing, never wrapped. Over the changes of a
    table: of the rows that are there; within a window, by how much that has changed, 0 if nothing has.
    """
    operand = _of_numbers("sum", field, where)
    return _single("sum", operand, _like(operand), invertible=True)


def mean(field: Number, *, where: object = None) -> AggregationSet:
    """Return the arithmetic mean of a field; null values do not take part; missing if there is none."""
    return _single("mean", _of_numbers("mean", field, where), DType.FLOAT64, invertible=True)


def min(field: Number, *, where: object = None) -> AggregationSet:  # noqa: A001  # users write fti.min
    """Return the least value of a field; missing if there is none."""
    operand = _of_numbers("min", field, where)
    return _single("min", operand, _like(operand))


def max(field: Number, *, where: object = None) -> AggregationSet:  # noqa: A001  # users write fti.max
    """Return the greatest value of a field; missing if there is none."""
    operand = _of_numbers("max", field, where)
    return _single("max", operand, _like(operand))


def variance(field: Number, *, where: object = None) -> AggregationSet:
    """Return the sample variance of a field (divided by n - 1); missing if there are fewer than two values."""
    return _single("variance", _of_numbers("variance", field, where), DType.FLOAT64)


def stddev(field: Number, *, where: object = None) -> AggregationSet:
    """Return the sample standard deviation of a field; missing if there are fewer than two values."""
    return _single("stddev", _of_numbers("stddev", field, where), DType.FLOAT64)


def first(field: object, *, where: object = None) -> AggregationSet:
    """Return the value with the lowest event time (ties: lowest partition, then offset); missing if none."""
    operand = checked_operand("first", field, where)
    return _single("first", operand, _like(operand))


def last(field: object, *, where: object = None) -> AggregationSet:
    """Return the value with the highest event time (ties: highest partition, then offset); missing if none."""
    operand = checked_operand("last", field, where)
    return _single("last", operand, _like(operand))


def latest(
    field: object, *, default: float | str | None = None, expires_after: Duration | None = None
) -> WindowedAggregation:
    """Return an attribute: the value of the newest event of the entity, or of its row in a table that changes.

    The newest is the one with the highest event time (ties: highest partition, then offset), whatever order they come
    in. Where it has null, or says that the row is gone, the attribute is missing: unlike `last`, which looks past that.

    Args:
        field: a field, or an expression of fields.
        default: the value served when there is none.
        expires_after: serve it as EXPIRED when the newest event or change is that old.

    Raises:
        DefinitionError: if it is made of no fields, or of a type that features cannot have.
    """
    operand = checked_operand("latest", field)
    return _single("latest", operand, _like(operand)).lifetime(default=default, expires_after=expires_after)


def last_n(field: object, n: int, *, where: object = None) -> AggregationSet:
    """Return the last n values, the newest first: features `<attribute>_<window>_1` to `..._n`.

    Ordered as by `last`. Where there are fewer, the rest are missing.

    Raises:
        DefinitionError: if n is not from 1 to 32.
    """
    if not 1 <= n <= _MAX_LAST_N:
        msg = f"last_n() must keep from 1 to {_MAX_LAST_N} values, got {n!r}"
        raise DefinitionError(msg)
    operand = checked_operand("last_n", field, where)
    outputs = (str(i) for i in range(1, n + 1))
    return AggregationSet(
        tuple(Aggregation("last_n", _like(operand), operand, (("n", n),), output) for output in outputs)
    )


def time_since_last(
    *, where: object = None, default: float | None = None, expires_after: Duration | None = None
) -> WindowedAggregation:
    """Return how many seconds before the query time the entity's newest event happened; missing if it has none.

    0 while the newest event is ahead of the clock. Over all events that the entity has ever had.

    Args:
        where: a condition: the newest event for which it holds.
        default: the value served when there is no event.
        expires_after: serve it as EXPIRED from that age on.
    """
    aggregations = _single("time_since_last", checked_condition(where), DType.FLOAT64)
    return aggregations.lifetime(default=default, expires_after=expires_after)


def aggregate(
    aggregator: _AggregatorClass,
    field: object = None,
    *,
    dtype: type = float,
    where: object = None,
    **parameters: Parameter,
) -> AggregationSet:
    """Return an aggregation of your own: see `streamfti.compute.aggregators.Aggregator`.

    Args:
        aggregator: a subclass; its `kind` and `version` go into the fingerprint.
        field: what is aggregated; None: the events themselves.
        dtype: the type of its values: float, int or str.
        where: a condition: only the events for which it holds take part.
        parameters: what else its meaning depends on; the aggregator finds them in the aggregation.

    Raises:
        DefinitionError: if the class has no kind, or the type is another.
    """
    kind = getattr(aggregator, "kind", None)
    if not isinstance(kind, str):
        msg = f"aggregate() must be given a subclass of Aggregator that has a kind, got {aggregator!r}"
        raise DefinitionError(msg)
    dtypes = {float: DType.FLOAT64, int: DType.INT64, str: DType.STRING}
    if dtype not in dtypes:
        msg = f"the dtype of aggregation {kind!r} must be float, int or str, got {dtype!r}"
        raise DefinitionError(msg)
    operand = checked_condition(where) if field is None else checked_operand(kind, field, where)
    given = (("version", aggregator.version), *builtins.sorted(parameters.items()))
    return AggregationSet((Aggregation(kind, dtypes[dtype], operand, given, invertible=aggregator.invertible),))


def _single(kind: str, operand: Expression | None, dtype: DType, *, invertible: bool = False) -> AggregationSet:
    return AggregationSet((Aggregation(kind, dtype, operand, invertible=invertible),))


def _of_numbers(kind: str, operand: Any, where: object) -> Expression:  # noqa: ANN401  # a number to the checker, a Field at run time
    checked = checked_operand(kind, operand)
    if not checked.type.dtype.is_numeric:
        msg = f"{kind}() must be given a field of numbers, got {checked}, which is {checked.type}"
        raise DefinitionError(msg)
    return checked_operand(kind, operand, where)


_RESULTS = {DType.INT64: DType.INT64, DType.BOOL: DType.INT64, DType.STRING: DType.STRING}


def _like(operand: Expression) -> DType:
    """Return the type of a value of an operand as a feature: decimals become floats, truth values 0 and 1."""
    if operand.type.dtype is DType.DATETIME:
        msg = f"{operand} is a datetime, of which there are no features yet"
        raise DefinitionError(msg, hint="fti.time_since_last() says how long ago the newest event was")
    return _RESULTS.get(operand.type.dtype, DType.FLOAT64)
