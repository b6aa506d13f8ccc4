"""Whether two results of the same events, reached by different ways, agree: what the laws hold up to. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["columns_agree", "rounding", "spread"]

AnyArray = NDArray[Any]

_EPSILON = float(np.finfo(np.float64).eps)


def rounding(values: AnyArray, *results: AnyArray) -> float:
    """Return how far apart rounding may bring two sums of the same n values: n * (n + 4) roundings of the largest.

    Args:
        values: what was added up.
        results: what came out of it, if that may be larger than its values.
    """
    numbers = _numbers(values)
    largest = max(float(np.abs(_numbers(column)).max(initial=0.0)) for column in (values, *results))
    return _EPSILON * len(numbers) * (len(numbers) + 4) * largest


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
