"""Decimals as they are accumulated, integers without their scale, and the floats that they become. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest_float64"]

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
