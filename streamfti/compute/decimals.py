"""Exact decimals as floats: the nearest double of each. No other module casts decimals."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["as_float64", "nearest_float64"]

_EXACT = 2**53
"""Up to here every integer is a double, and one division of two doubles is rounded once."""


def nearest_float64(unscaled: NDArray[np.int64], scale: int) -> NDArray[np.float64]:
    """Return float64[n]: the double that is nearest to each `unscaled / 10**scale`.

    Args:
        unscaled: int64[n].
        scale: from 0 to 18, so that the power of ten is a double.
    """
    found: NDArray[np.float64] = unscaled / np.float64(10**scale)
    large = np.flatnonzero((unscaled > _EXACT) | (unscaled < -_EXACT))
    # Python divides integers of any size with one rounding.
    found[large] = [int(value) / 10**scale for value in unscaled[large]]
    return found


def as_float64(series: pl.Series) -> pl.Series:
    """Return a column of numbers as Float64, decimals as their nearest doubles; null stays null."""
    if not isinstance(series.dtype, pl.Decimal):
        return series.cast(pl.Float64)
    unscaled = series.to_physical().cast(pl.Int64)
    floats = pl.Series(series.name, nearest_float64(unscaled.fill_null(0).to_numpy(), series.dtype.scale))
    return pl.select(pl.when(unscaled.is_not_null()).then(floats).alias(series.name)).to_series()
