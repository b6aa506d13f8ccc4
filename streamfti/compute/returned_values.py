"""What the function of an on-demand feature may return, the check of it, and the values that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.dtypes import DType
from streamfti.definitions.on_demand import OnDemandFeature
from streamfti.errors import StreamFTIError

__all__ = ["AnyColumn", "Column", "no_values", "returned_values"]

Column = NDArray[np.float64]
"""A column of numbers or booleans of n rows, as on-demand features take it: NaN where there is no value."""

AnyColumn = NDArray[Any]
"""A column of n rows, as models and on-demand features take it: float64[n] with NaN where there is no value, or for
strings object[n] of str or None."""

_INT64_END = 2**63
_PRESENT, _DEFAULTED, _MISSING = np.uint8(Status.PRESENT), np.uint8(Status.DEFAULTED), np.uint8(Status.MISSING)


class _Rule(NamedTuple):
    """What a function may return for a type.

    Attributes:
        array: the numpy type of the feature's values.
        wanted: what it is called.
        kinds: the kinds of numpy types that it may be given as.
        unfit: bool[n] of n values that are there: which of them are not of the type; None if all are.
    """

    array: Any
    wanted: str
    kinds: str
    unfit: Callable[[AnyColumn], NDArray[np.bool_]] | None


def returned_values(feature: OnDemandFeature, returned: AnyColumn, failure: type[StreamFTIError]) -> FeatureColumn:
    """Return a feature's values and statuses from the array [n] that its function returned, which is not kept.

    Raises:
        StreamFTIError: of the class `failure`, if the array holds something else than the feature's type.
    """
    rule = _RULES[feature.dtype]
    if returned.dtype.kind not in rule.kinds:
        msg = f"on-demand feature {feature.name!r} must return {rule.wanted}, got an array of {returned.dtype}"
        raise failure(msg, hint=f"its type is {feature.dtype.python.__name__}")
    returned = returned.astype(rule.array) if rule.unfit is None or rule.array is np.object_ else returned
    present = _is_there(returned) if rule.array is np.object_ else np.isfinite(returned)
    if rule.unfit is not None:
        there = returned[present]
        unfit = there[rule.unfit(there)]
        if len(unfit):
            msg = f"on-demand feature {feature.name!r} must return {rule.wanted}, got {unfit.tolist()[0]!r:.80}"
            raise failure(msg, hint=f"its type is {feature.dtype.python.__name__}")
    return _filled(feature, rule.array, returned, present)


def no_values(feature: OnDemandFeature, n_rows: int) -> FeatureColumn:
    """Return n rows of a feature, all MISSING."""
    array = np.full(n_rows, feature.dtype.python(), _RULES[feature.dtype].array)
    return FeatureColumn(array, np.full(n_rows, _MISSING))


def _filled(feature: OnDemandFeature, array: Any, values: AnyColumn, present: NDArray[np.bool_]) -> FeatureColumn:  # noqa: ANN401  # a numpy type
    """Return values of the feature's own array, with its default where there is none."""
    if np.count_nonzero(present) == len(present):  # a tenth of what `.all()` costs for one row
        return FeatureColumn(np.array(values, array), np.full(len(values), _PRESENT))
    filled = np.full(len(values), feature.dtype.python() if feature.default is None else feature.default, array)
    filled[present] = values[present]
    return FeatureColumn(filled, np.where(present, _PRESENT, _MISSING if feature.default is None else _DEFAULTED))


def _is_there(values: AnyColumn) -> NDArray[np.bool_]:
    return np.array([value is not None for value in values.tolist()], np.bool_)


def _unfit_for_int(numbers: AnyColumn) -> NDArray[np.bool_]:
    if numbers.dtype.kind == "i":
        return np.zeros(len(numbers), np.bool_)
    return np.asarray((np.floor(numbers) != numbers) | (numbers >= _INT64_END) | (numbers < -_INT64_END), np.bool_)


def _unfit_for_bool(numbers: AnyColumn) -> NDArray[np.bool_]:
    return np.asarray((numbers != 0) & (numbers != 1), np.bool_)


def _unfit_for_text(values: AnyColumn) -> NDArray[np.bool_]:
    return np.array([type(value) is not str for value in values.tolist()], np.bool_)


_RULES: dict[DType, _Rule] = {
    DType.FLOAT64: _Rule(np.float64, "an array of numbers", "fiu", None),
    DType.INT64: _Rule(np.int64, "an array of whole numbers of 64 bits", "fiu", _unfit_for_int),
    DType.BOOL: _Rule(np.bool_, "an array of booleans, or of 0 and 1", "bf", _unfit_for_bool),
    DType.STRING: _Rule(np.object_, "an array of str and None", "OU", _unfit_for_text),
}
