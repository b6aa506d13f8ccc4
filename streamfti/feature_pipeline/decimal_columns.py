"""Columns of decimals: from unscaled integers of a writer's scale to those of a field, and to the frame's type.

Between decoding and the rules of an event, a decimal is an int64 of the field's scale; what does not fit exactly is
`NOT_EXACT`, which no rule lets pass.
"""

from __future__ import annotations

import decimal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from streamfti.definitions.decimals import exact_unscaled
from streamfti.definitions.dtypes import ValueType

__all__ = [
    "NOT_EXACT",
    "decimal_series",
    "field_unscaled",
    "plain_decimal_pattern",
    "plain_decimals",
    "rescaled",
    "unscaled_of_bytes",
]

NOT_EXACT = 2**63 - 1
"""Larger than any unscaled value of 18 digits."""
_MOST_BYTES = 8


def field_unscaled(value: decimal.Decimal, value_type: ValueType) -> int:
    """Return the unscaled value of one decimal as a field's; `NOT_EXACT` if it does not fit."""
    unscaled = exact_unscaled(value, value_type.precision, value_type.scale)
    return NOT_EXACT if unscaled is None else unscaled


def rescaled(unscaled: pl.Series, scale: int, value_type: ValueType) -> pl.Series:
    """Return Int64 unscaled values of a scale as those of a field; `NOT_EXACT` where one does not fit."""
    up = value_type.scale - scale
    if up >= 0:
        limit = 10 ** max(0, value_type.precision - up)
        fits, values = (unscaled < limit) & (unscaled > -limit), unscaled * 10 ** min(up, value_type.precision)
    else:
        limit, power = 10**value_type.precision, 10 ** min(-up, 18)
        values = unscaled // power
        fits = (unscaled == values * power) & (values < limit) & (values > -limit)
        if -up > 18:
            fits &= unscaled == 0
    # Null conditions are false here, and null values are null.
    return pl.select(pl.when(fits | unscaled.is_null()).then(values).otherwise(NOT_EXACT)).to_series()


def unscaled_of_bytes(column: pl.Series) -> pl.Series | None:
    """Return Avro's big-endian two's complement bytes as Int64, or None if one is longer than eight bytes."""
    array = column.rechunk().to_arrow().cast(pa.large_binary())
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(array) + 1, 8 * array.offset)
    starts, sizes = offsets[:-1], np.diff(offsets)
    if len(sizes) and sizes.max() > _MOST_BYTES:
        return None
    data = np.frombuffer(data_buffer or b"", np.uint8)
    if not len(data):
        data = np.zeros(1, np.uint8)
    values: NDArray[np.int64] = np.zeros(len(sizes), np.int64)
    for place in range(_MOST_BYTES):
        is_there = sizes > place
        byte = data[np.minimum(starts + place, len(data) - 1)].astype(np.int64)
        if place == 0:
            values = np.where(is_there & (byte > 0x7F), -1, 0)
        values = np.where(is_there, (values << 8) | byte, values)
    found = pl.Series(column.name, values)
    return pl.select(pl.when(column.is_not_null()).then(found).alias(column.name)).to_series()


def plain_decimal_pattern(value_type: ValueType) -> str:
    """Return the expression of the texts that are surely exact: no exponent, no more digits than the type has."""
    whole, part = value_type.precision - value_type.scale, value_type.scale
    digits = f"(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "0"
    return f"-?{digits}" + (rf"(?:\.[0-9]{{1,{part}}})?" if part else "")


def plain_decimals(written: pl.Series, value_type: ValueType) -> pl.Series:
    """Return the Int64 unscaled values of plain texts; null where one is not plain."""
    plain = written.str.contains(rf"\A{plain_decimal_pattern(value_type)}\z")
    written = pl.select(pl.when(plain).then(written)).to_series()
    point = written.str.find(".", literal=True).cast(pl.Int64)
    n_part = (written.str.len_bytes().cast(pl.Int64) - point - 1).fill_null(0).to_numpy()
    digits = written.str.replace(".", "", literal=True).cast(pl.Int64)  # at most 19 with a leading 0
    powers = np.array([10**n for n in range(value_type.scale + 1)], np.int64)
    return digits * pl.Series(powers[value_type.scale - n_part])


def decimal_series(unscaled: pl.Series, value_type: ValueType) -> pl.Series:
    """Return Int64 unscaled values, all of which fit, as the decimal column of event frames."""
    low = unscaled.fill_null(0).to_numpy()
    words = np.stack([low, low >> 63], axis=1)  # int128, little-endian
    validity = pa.array(unscaled.is_not_null().to_numpy()).buffers()[1]
    dtype = pa.decimal128(value_type.precision, value_type.scale)
    array = pa.Array.from_buffers(dtype, len(low), [validity, pa.py_buffer(words.tobytes())])
    return pl.Series(unscaled.name, array)
