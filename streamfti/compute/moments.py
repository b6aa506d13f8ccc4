"""The accumulator of variances. numpy only, columnar.

References:
    T. F. Chan, G. H. Golub, R. J. LeVeque: Algorithms for computing the sample variance: analysis and
    recommendations. The American Statistician 37 (1983), 242-247. `add` is their corrected two-pass algorithm,
    `merge` and `reduce` are their pairwise update (2.1), which does not cancel where the mean is far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from streamfti.compute.accumulators import Accumulator, EventColumns, State
from streamfti.compute.agreement import columns_agree, rounding, spread
from streamfti.definitions.expressions import Expression

__all__ = ["Moments"]

AnyArray = NDArray[Any]


@dataclass(frozen=True)
class Moments(Accumulator):
    """The number of values, their mean, and the sum of the squares of their distances from it."""

    operand: Expression
    is_exact: ClassVar[bool] = False

    @override
    def agree(self, one: State, other: State, values: AnyArray) -> bool:
        of_mean = rounding(values)
        of_squares = len(values) * of_mean * (spread(values) + of_mean)
        allowed = {self.count: 0.0, self.mean: of_mean, self.squares: of_squares}
        return all(columns_agree(one[name], other[name], within) for name, within in allowed.items())

    @property
    @override
    def name(self) -> str:
        return f"moments({self.operand.name})"

    @property
    @override
    def columns(self) -> Mapping[str, np.dtype[Any]]:
        return {self.count: np.dtype("<i8"), self.mean: np.dtype("<f8"), self.squares: np.dtype("<f8")}

    @property
    def count(self) -> str:
        """The column of the number of values."""
        return f"{self.name}.count"

    @property
    def mean(self) -> str:
        """The column of the mean; 0 where there is no value."""
        return f"{self.name}.mean"

    @property
    def squares(self) -> str:
        """The column of the sum of squared distances from the mean."""
        return f"{self.name}.squares"

    @override
    def zero(self, n: int) -> State:
        return self._state(np.zeros(n, np.int64), np.zeros(n), np.zeros(n))

    def _state(self, count: AnyArray, mean: AnyArray, squares: AnyArray) -> State:
        return {self.count: count, self.mean: mean, self.squares: squares}

    @override
    def add(self, events: EventColumns, starts: NDArray[np.int64]) -> State:
        column = events.fields[self.operand.name]
        valid = np.ones(len(events), np.bool_) if column.valid is None else column.valid
        values = np.where(valid, column.values.astype(np.float64), 0.0)
        count = np.add.reduceat(valid.astype(np.int64), starts)
        n = np.maximum(count, 1)
        lengths = np.diff(starts, append=len(events))
        with np.errstate(invalid="ignore", over="ignore"):  # infinities give NaN, and are kept
            rough = np.add.reduceat(values, starts) / n
            apart = np.where(valid, values - np.repeat(rough, lengths), 0.0)
            left = np.add.reduceat(apart, starts)  # what rounding left of a sum that is 0
            squares = np.add.reduceat(apart * apart, starts) - left * left / n
            mean = rough + left / n
        return self._state(count, mean, _not_negative(squares))

    @override
    def merge(self, left: State, right: State) -> State:
        count = left[self.count] + right[self.count]
        n = np.maximum(count, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            # Each mean moves by its own share: the same bits whichever of the two stands on the left.
            mean = (left[self.mean] * (left[self.count] / n)) + (right[self.mean] * (right[self.count] / n))
            apart = right[self.mean] - left[self.mean]
            squares = left[self.squares] + right[self.squares]
            squares += apart * apart * (left[self.count] / n * right[self.count])
        return self._where_both(left, right, self._state(count, mean, squares))

    def _where_both(self, left: State, right: State, merged: State) -> State:
        """Return the other state as it is where one is of no value."""
        no_left, no_right = left[self.count] == 0, right[self.count] == 0
        return {
            name: np.where(no_right, left[name], np.where(no_left, right[name], column))
            for name, column in merged.items()
        }

    @override
    def reduce(self, state: State, mask: NDArray[np.bool_]) -> State:
        count = np.where(mask, state[self.count], 0)
        there = count > 0
        means = np.where(there, state[self.mean], 0.0)
        total = count.sum(axis=-1)
        n = np.maximum(total, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            some = np.take_along_axis(means, count.argmax(axis=-1)[..., np.newaxis], axis=-1)
            mean = some[..., 0] + (count * np.where(there, means - some, 0.0)).sum(axis=-1) / n
            apart = np.where(there, means - mean[..., np.newaxis], 0.0)
            squares = np.where(there, state[self.squares], 0.0).sum(axis=-1) + (count * apart * apart).sum(axis=-1)
        return self._state(total, np.where(total > 0, mean, 0.0), squares)


def _not_negative(squares: AnyArray) -> AnyArray:
    """Return what rounding may have brought below 0 as 0; NaN stays."""
    return np.where(squares < 0, 0.0, squares)
