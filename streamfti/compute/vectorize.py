"""The one place that builds a model's input, for training and serving alike: order, nulls, and the float32 cast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfti.definitions.dtypes import DType
from streamfti.definitions.services import FeatureService

__all__ = ["InputPlan", "ModelInput", "model_input"]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The tensors of n rows.

    Attributes:
        numeric: float32[n, n_numeric]; NaN where a value is missing.
        categories: object[n, n_categories] of str; empty where a value is missing.
    """

    numeric: NDArray[np.float32]
    categories: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.numeric)


@dataclass(frozen=True, slots=True)
class InputPlan:
    """Which inputs of a service go into which tensor, by qualified name, each in the order of the service."""

    numeric: tuple[str, ...]
    categories: tuple[str, ...]

    @classmethod
    def of(cls, service: FeatureService) -> InputPlan:
        """Strings are categories, everything else is a number."""
        is_category = {i.qualified_name: i.dtype is DType.STRING for i in service.inputs}
        return cls(
            tuple(name for name, category in is_category.items() if not category),
            tuple(name for name, category in is_category.items() if category),
        )


def model_input(plan: InputPlan, columns: Mapping[str, NDArray[Any]]) -> ModelInput:
    """Build the tensors of n rows.

    Args:
        plan: says the order; of the service, which has at least one input.
        columns: every input by qualified name: numbers and booleans [n] with NaN where missing, strings as
            object[n] of str or None.
    """
    n = len(next(iter(columns.values())))
    numeric = np.empty((n, len(plan.numeric)), np.float32)
    for i, name in enumerate(plan.numeric):
        numeric[:, i] = np.asarray(columns[name], np.float64)  # by way of float64 always: int64 rounds otherwise
    categories = np.empty((n, len(plan.categories)), np.object_)
    for i, name in enumerate(plan.categories):
        categories[:, i] = ["" if value is None else value for value in columns[name]]
    return ModelInput(numeric, categories)
