"""The aggregations that users write and that are approximate: `fti.approx_distinct(Transaction.merchant)`.

Each holds a sketch of bounded size for each tile, in the side record. They cost more than the others, a call of a
library for each event, and say how far off they may be.
"""

from __future__ import annotations

from decimal import Decimal

from streamfti.definitions.aggregations import Aggregation, AggregationSet, checked_operand
from streamfti.definitions.dtypes import DType
from streamfti.definitions.expressions import Expression
from streamfti.errors import DefinitionError

__all__ = ["approx_distinct", "quantiles", "top_k"]

_LEAST_LG_K, _MOST_LG_K = 7, 16
_LEAST_K, _MOST_K = 8, 65_535
_LEAST_MAP_SIZE, _MOST_MAP_SIZE = 64, 65_536


def approx_distinct(field: object, *, where: object = None, lg_k: int = 11) -> AggregationSet:
    """Return about how many distinct values a field has, an integer; 0 where there are none; null is no value.

    Up to 3/32 of 2**lg_k distinct values, 192 for 11, it is exact, but for values whose hashes collide: in one of
    some 10,000 windows with so many. Beyond that its standard error is 1.04 / sqrt(2**lg_k), 2.3 %, and a state takes
    2**lg_k bytes; before, 4 bytes a value. It depends on the set of values alone, so that serving and history agree
    to the bit.

    Args:
        field: numbers, booleans or strings.
        where: a condition: only the events for which it holds take part.
        lg_k: the logarithm of the number of registers, from 7 to 16.

    Raises:
        DefinitionError: if the field is a datetime, or lg_k is out of range.
    """
    operand = checked_operand("approx_distinct", field, where)
    fits = operand.type.dtype is not DType.DATETIME
    _check_field("approx_distinct", operand, "numbers, booleans or strings", fits=fits)
    _check_whole("lg_k of approx_distinct()", lg_k, _LEAST_LG_K, _MOST_LG_K)
    return AggregationSet((Aggregation("approx_distinct", DType.INT64, operand, (("lg_k", lg_k),)),))


def quantiles(field: float | Decimal | None, *ranks: float, where: object = None, k: int = 200) -> AggregationSet:
    """Return quantiles of a field, one feature a rank: `<attribute>_<window>_p50` for 0.5, `..._p99_9` for 0.999.

    A quantile is the least value that at least this share of all values do not exceed; missing if there is none.
    While a window holds at most k values it is exact. Beyond that its rank is off by at most 2.296 / k**0.9723 of all
    values, 1.33 % for k = 200, in 99 of 100 cases: what is dropped is drawn at random, so that serving and history
    may differ by as much. A state takes 8 bytes a value, and some 4 kB at most for k = 200. Numbers are taken as
    float64; decimals are exact up to 2**53 of their last digit.

    Args:
        field: numbers.
        ranks: one or more from 0 to 1.
        where: a condition: only the events for which it holds take part.
        k: the size of the sketch, from 8 to 65535.

    Raises:
        DefinitionError: if the field is none of numbers, a rank is out of range or stands twice, or k is out of range.
    """
    operand = checked_operand("quantiles", field, where)
    _check_field("quantiles", operand, "numbers", fits=operand.type.dtype.is_numeric)
    _check_whole("k of quantiles()", k, _LEAST_K, _MOST_K)
    labels = [_label(rank) for rank in ranks]
    if not ranks or len(set(labels)) < len(labels):
        msg = f"quantiles() must be given ranks such as 0.5 and 0.95, each once, got {ranks!r}"
        raise DefinitionError(msg)
    return AggregationSet(
        tuple(
            Aggregation("quantiles", DType.FLOAT64, operand, (("k", k), ("rank", float(rank))), label)
            for rank, label in zip(ranks, labels, strict=True)
        )
    )


def top_k(field: object, k: int, *, where: object = None, map_size: int = 256) -> AggregationSet:
    """Return the k most frequent values, the most frequent first: features `<attribute>_<window>_1` to `..._k`.

    Equally frequent ones stand in the order of their values. Where there are fewer, the rest are missing. While a
    window has at most 3/4 of `map_size` distinct values it is exact. Beyond that, a value may stand in a place whose
    own is more frequent than it by at most 3.5 / map_size of the window's events, 1.4 % for 256; a value that is not
    more frequent than that may be missing.

    Args:
        field: strings, integers or booleans, which become 0 and 1.
        k: how many, from 1 to an eighth of `map_size`.
        where: a condition: only the events for which it holds take part.
        map_size: how many values are counted at once, a power of two from 64 to 65536.

    Raises:
        DefinitionError: if the field is of another type, or k or `map_size` is out of range.
    """
    operand = checked_operand("top_k", field, where)
    _check_field("top_k", operand, "strings, integers or booleans", fits=operand.type.dtype in _COUNTED)
    _check_whole("map_size of top_k()", map_size, _LEAST_MAP_SIZE, _MOST_MAP_SIZE)
    if map_size & (map_size - 1):
        msg = f"map_size of top_k() must be a power of two, got {map_size!r}"
        raise DefinitionError(msg)
    _check_whole("k of top_k()", k, 1, map_size // 8)
    dtype = _COUNTED[operand.type.dtype]
    outputs = (str(i) for i in range(1, k + 1))
    return AggregationSet(
        tuple(Aggregation("top_k", dtype, operand, (("map_size", map_size),), output) for output in outputs)
    )


_COUNTED = {DType.STRING: DType.STRING, DType.INT64: DType.INT64, DType.BOOL: DType.INT64}
"""What may be counted, and the type of the feature."""


def _label(rank: float) -> str:
    if type(rank) not in {int, float} or not 0 <= rank <= 1:
        msg = f"a rank of quantiles() must be from 0 to 1, got {rank!r}"
        raise DefinitionError(msg, hint="0.95 for the value that 95 % do not exceed")
    return f"p{rank * 100:g}".replace(".", "_")


def _check_whole(subject: str, number: object, least: int, most: int) -> None:
    if type(number) is not int or not least <= number <= most:
        msg = f"{subject} must be a whole number from {least} to {most}, got {number!r}"
        raise DefinitionError(msg)


def _check_field(kind: str, operand: Expression, wanted: str, *, fits: bool) -> None:
    if not fits:
        msg = f"{kind}() must be given a field of {wanted}, got {operand}, which is {operand.type}"
        raise DefinitionError(msg)
