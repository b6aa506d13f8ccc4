"""What a computed feature is: values and, beside each, how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.definitions.aggregations import Feature

__all__ = ["FeatureColumn", "Status", "feature_column"]

AnyArray = NDArray[Any]


class Status(IntEnum):
    """How a served value came about."""

    PRESENT = 1
    """Computed from the events of the window; a count of an empty window is 0 and present."""
    DEFAULTED = 2
    """The window held no value, and the definition says what to serve then."""
    EXPIRED = 3
    """There was a value, older than the definition allows."""
    MISSING = 4
    """There is no value, or no entity to have one."""


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One feature for n rows.

    Attributes:
        values: int64[n] or float64[n]; 0 where there is no value.
        status: uint8[n] of `Status`.
    """

    values: AnyArray
    status: NDArray[np.uint8]

    def as_float64(self) -> NDArray[np.float64]:
        """Return float64[n] with NaN where there is no value."""
        absent = self.status >= Status.EXPIRED
        return np.where(absent, np.nan, self.values.astype(np.float64))


def feature_column(
    feature: Feature, values: AnyArray, present: NDArray[np.bool_], has_entity: NDArray[np.bool_] | None = None
) -> FeatureColumn:
    """Apply the feature's default where the window held no value; without an entity, all is missing."""
    absent = np.uint8(Status.MISSING if feature.default is None else Status.DEFAULTED)
    status = np.where(present, np.uint8(Status.PRESENT), absent)
    filled = np.where(present, values, values.dtype.type(feature.default or 0))
    if has_entity is not None:
        status = np.where(has_entity, status, np.uint8(Status.MISSING))
        filled = np.where(has_entity, filled, values.dtype.type(0))
    return FeatureColumn(filled, status)
