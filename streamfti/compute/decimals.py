"""Exact decimals as floats: the nearest double of each. No other module casts decimals of frames."""

from __future__ import annotations

import polars as pl

from streamfti.compute.unscaled import nearest_float64

__all__ = ["as_float64"]


def as_float64(series: pl.Series) -> pl.Series:
    """Return a column of numbers as Float64, decimals as their nearest doubles; null stays null."""
    if not isinstance(series.dtype, pl.Decimal):
        return series.cast(pl.Float64)
    unscaled = series.to_physical().cast(pl.Int64)
    floats = pl.Series(series.name, nearest_float64(unscaled.fill_null(0).to_numpy(), series.dtype.scale))
    return pl.select(pl.when(unscaled.is_not_null()).then(floats).alias(series.name)).to_series()
