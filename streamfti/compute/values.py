"""What a computed feature is: values and, beside each, how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType

__all__ = [
    "NO_EVENT",
    "FeatureColumn",
    "FeatureMatrix",
    "MatrixColumns",
    "Status",
    "expire",
    "feature_column",
    "fill_absent",
    "fill_texts",
]

AnyArray = NDArray[Any]


class Status(IntEnum):
    """How a served value came about."""

    PRESENT = 1
    """Computed from the events of the window; a count of an empty window is 0 and present."""
    DEFAULTED = 2
    """The window held no value, and the definition says what to serve then."""
    EXPIRED = 3
    """There may be a value, but the entity's newest event is older than the definition allows, or it has none."""
    MISSING = 4
    """There is no value, or no entity to have one."""


# As plain scalars: looking up a member of an enum and converting it costs as much as a small numpy call.
_PRESENT, _EXPIRED, _MISSING = np.uint8(Status.PRESENT), np.uint8(Status.EXPIRED), np.uint8(Status.MISSING)


NO_EVENT = 1 << 62
"""The age of the newest event of an entity that has none: older than any."""
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One feature for n rows.

    Attributes:
        values: int64[n], float64[n] or object[n] of str; 0 or empty where there is no value.
        status: uint8[n] of `Status`.
    """

    values: AnyArray
    status: NDArray[np.uint8]

    def as_float64(self) -> NDArray[np.float64]:
        """Return the numbers of a feature that is no string: float64[n] with NaN where there is no value."""
        absent = self.status >= _EXPIRED
        return np.where(absent, np.nan, self.values.astype(np.float64))

    def model_column(self) -> AnyArray:
        """Return it as models and functions take it: numbers as `as_float64`, strings as object[n] of str or None."""
        if self.values.dtype != np.object_:
            return self.as_float64()
        values = self.values.copy()
        values[self.status >= _EXPIRED] = None
        return values


@dataclass(frozen=True, slots=True)
class MatrixColumns:
    """What the k columns of a `FeatureMatrix` are. Compiled once.

    Attributes:
        names: qualified names.
        is_float: bool[k].
        default_texts: of the columns of strings, by place: the default of each; empty if there is none.
        default_words: int64[k]: the default of each, as the bits of float64 in columns of floats; 0 if there is none.
        absent: uint8[k]: the status where a window held no value.
        expires_after_us: int64[k]: what age of the entity's newest event makes a value expire; the greatest int64
            where none does.
    """

    names: tuple[str, ...]
    is_float: NDArray[np.bool_]
    default_words: NDArray[np.int64]
    absent: NDArray[np.uint8]
    expires_after_us: NDArray[np.int64]
    default_texts: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, features: Sequence[Feature]) -> MatrixColumns:
        """Describe the columns of features, in their order."""
        dtypes = ["<f8" if f.dtype is DType.FLOAT64 else "<i8" for f in features]
        texts = {i: str(f.default or "") for i, f in enumerate(features) if f.dtype is DType.STRING}
        numbers = [0 if i in texts else f.default or 0 for i, f in enumerate(features)]
        return cls(
            names=tuple(f.qualified_name for f in features),
            is_float=np.array([dtype == "<f8" for dtype in dtypes], np.bool_),
            default_words=np.array(
                [np.array([n], t).view("<i8")[0] for n, t in zip(numbers, dtypes, strict=True)], np.int64
            ),
            absent=np.array([_absent(f) for f in features], np.uint8),
            expires_after_us=np.array(
                [_NEVER if f.expires_after_us is None else f.expires_after_us for f in features], np.int64
            ),
            default_texts=texts,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def expire(self) -> bool:
        """Whether a value of one of them can expire."""
        return bool((self.expires_after_us < _NEVER).any())


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """k features for n rows, in one array of words of 8 bytes; strings beside it.

    Attributes:
        columns: what they are.
        words: int64[n, k], contiguous: the bits of float64 in columns of floats; 0 where there is no value.
        status: uint8[n, k] of `Status`.
        texts: the columns of strings, by place: object[n] of str, empty where there is no value; their words are 0.
    """

    columns: MatrixColumns
    words: NDArray[np.int64]
    status: NDArray[np.uint8]
    texts: Mapping[int, AnyArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def concatenate(cls, parts: Sequence[FeatureMatrix]) -> FeatureMatrix:
        """Return the rows of all parts, which have the same columns; at least one part."""
        words = np.concatenate([part.words for part in parts])
        texts = {i: np.concatenate([part.texts[i] for part in parts]) for i in parts[0].texts}
        return cls(parts[0].columns, words, np.concatenate([part.status for part in parts]), texts)

    def model_columns(self) -> dict[str, AnyArray]:
        """Return each column by its qualified name as models take it: see `FeatureColumn.model_column`."""
        columns: dict[str, AnyArray] = dict(zip(self.columns.names, self.as_float64().T, strict=True))
        for i, values in self.texts.items():
            columns[self.columns.names[i]] = FeatureColumn(values, self.status[:, i]).model_column()
        return columns

    def as_float64(self) -> NDArray[np.float64]:
        """Return float64[n, k] with NaN where there is no value; in columns of strings it says nothing."""
        values = np.where(self.columns.is_float, self.words.view(np.float64), self.words)
        values[self.status >= _EXPIRED] = np.nan
        return values

    def by_name(self) -> dict[str, FeatureColumn]:
        """Return each column by its qualified name; they share the matrix's memory."""
        floats = self.words.view(np.float64)
        kinds = enumerate(zip(self.columns.names, self.columns.is_float.tolist(), strict=True))
        found = {
            name: FeatureColumn((floats if is_float else self.words)[:, i], self.status[:, i])
            for i, (name, is_float) in kinds
        }
        for i, values in self.texts.items():
            found[self.columns.names[i]] = FeatureColumn(values, self.status[:, i])
        return found


def feature_column(
    feature: Feature,
    values: AnyArray,
    present: NDArray[np.bool_],
    age_us: NDArray[np.int64],
    has_entity: NDArray[np.bool_] | None = None,
) -> FeatureColumn:
    """Apply the feature's default where the window held no value; without an entity, all is missing.

    Args:
        feature: the feature.
        values: [n], of the feature's type; integers may stand for floats.
        present: bool[n]: where the window held a value.
        age_us: int64[n]: how old the newest event of each entity is; `NO_EVENT` where it has none.
        has_entity: bool[n]; None where every row names one.
    """
    if feature.dtype is DType.FLOAT64:
        values = values.astype(np.float64, copy=False)  # an aggregator may give whole numbers
    default = _zero(values) if feature.default is None else feature.default
    filled, status = fill_absent(values, present, default, _absent(feature), has_entity)
    if feature.expires_after_us is not None:
        expire(filled, status, age_us >= feature.expires_after_us)
    return FeatureColumn(filled, status)


def expire(values: AnyArray, status: NDArray[np.uint8], is_old: NDArray[np.bool_]) -> None:
    """Make values expire, in place: those that are present, where a mask of their shape is true."""
    expired = is_old & (status == _PRESENT)
    values[expired] = _zero(values)
    status[expired] = _EXPIRED


def _zero(values: AnyArray) -> Any:  # noqa: ANN401  # a scalar of their dtype
    """Return what stands where there is no value."""
    return "" if values.dtype == np.object_ else values.dtype.type(0)


def _absent(feature: Feature) -> np.uint8:
    return _MISSING if feature.default is None else np.uint8(Status.DEFAULTED)


def fill_absent(
    values: AnyArray,
    present: NDArray[np.bool_],
    default: Any,  # noqa: ANN401  # a scalar, or an array, of the dtype of the values
    absent: NDArray[np.uint8] | np.uint8,
    has_entity: NDArray[np.bool_] | None = None,
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Return values and statuses: the default where a window held no value, 0 and MISSING where there is no entity.

    Args:
        values: numbers, words or strings, of any shape.
        present: of that shape: where the window held a value.
        default: what stands where it held none.
        absent: the status there.
        has_entity: of that shape; None where every row names one.
    """
    filled = np.where(present, values, np.asarray(default, values.dtype))
    status = np.where(present, _PRESENT, absent)
    if has_entity is not None:
        filled = np.where(has_entity, filled, np.asarray(_zero(values), values.dtype))
        status = np.where(has_entity, status, _MISSING)
    return filled, status


def fill_texts(
    values: AnyArray, present: NDArray[np.bool_], status: NDArray[np.uint8], default: str
) -> NDArray[np.object_]:
    """Return strings [n]: the default where a window held none, and empty ones where the status says so."""
    filled = np.where(present, values, np.asarray(default, np.object_))
    return np.where(status >= _EXPIRED, np.asarray("", np.object_), filled)
