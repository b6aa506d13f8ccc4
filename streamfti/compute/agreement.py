"""Whether two results of the same events, reached by different ways, agree: what the laws hold up to. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["columns_agree", "rounding", "spread"]

AnyArray = NDArray[Any]

_PER_VALUE = 2e-12
"""Some thousand roundings of float64, relative: more than any way of adding up makes for each value."""


def rounding(values: AnyArray) -> float:
    """Return how far apart rounding may bring two sums of the same values: it grows with the largest of them."""
    numbers = _numbers(values)
    return float(_PER_VALUE * len(numbers) * np.abs(numbers).max(initial=0.0))


def spread(values: AnyArray) -> float:
    """Return the distance between the least and the greatest of the values; 0 if there are none."""
    numbers = _numbers(values)
    return float(np.ptp(numbers)) if len(numbers) else 0.0


def _numbers(values: AnyArray) -> NDArray[np.float64]:
    return values.astype(np.float64) if values.dtype.kind in "biuf" else np.zeros(0)


def columns_agree(one: AnyArray, other: AnyArray, within: float) -> bool:
    """Return whether two columns are equal; those of floats may be apart by that much, and NaN equals NaN."""
    if one.dtype.kind != "f" or not within:
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return np.allclose(one, other, rtol=0.0, atol=within, equal_nan=True)
