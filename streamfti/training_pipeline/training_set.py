"""Training sets: what a trainer gets, and their split by time. Nothing is read or computed here.

Definition files may name `TrainingSet` in annotations, and servers run definition files: this module must stay free
of training libraries and of Arrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.vectorize import InputPlan, ModelInput
from streamfti.errors import TrainingError
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["Split", "TrainingSet", "split_by_time"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """n labelled rows, ascending by event time, with every stored feature as of the row's event time.

    A trainer uses `X`, `y`, `categorical` and `seed`; the rest is for people and for the pipeline.
    """

    plan: InputPlan
    inputs: ModelInput
    """What the exported graph will be given: numbers, and categories as words."""
    vocabulary: Vocabulary
    """Turns categories into codes. `train_model` learns it from the training part alone."""
    y: NDArray[Any]
    """int64[n] of 0 and 1 for a binary model, float64[n] for regression."""
    event_time_us: NDArray[np.int64]
    """int64[n]: the query time of the row's features."""
    label_time_us: NDArray[np.int64]
    """int64[n]: event time of the event that the label was read from."""
    frame: pl.DataFrame = field(repr=False)
    """The same rows by name: keys, `_query_time`, all inputs by qualified name before any encoding, `_label`."""
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Where the rows come from and how many were left out; plain JSON, kept in the model's manifest."""
    seed: int = 0
    """For the random choices of the trainer: `random_state=data.seed`."""

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def X(self) -> NDArray[np.float32]:  # noqa: N802  # the name that every estimator gives it
        """float32[n, inputs]: the numbers (NaN where missing), then the codes of the categories (0: unknown)."""
        return np.hstack([self.inputs.numeric, self.vocabulary.encode(self.inputs.categories)])

    @property
    def names(self) -> list[str]:
        """The qualified names of the columns of `X`, in order."""
        return [*self.plan.numeric, *self.plan.categories]

    @property
    def categorical(self) -> list[int]:
        """Which columns of `X` are codes: `categorical_feature=data.categorical` for LightGBM."""
        return list(range(len(self.plan.numeric), len(self.names)))

    def take(self, rows: NDArray[np.bool_]) -> TrainingSet:
        """Return the rows where bool[n] is true, in order, with the same vocabulary."""
        return replace(
            self,
            inputs=ModelInput(self.inputs.numeric[rows], self.inputs.categories[rows]),
            y=self.y[rows],
            event_time_us=self.event_time_us[rows],
            label_time_us=self.label_time_us[rows],
            frame=self.frame.filter(pl.Series(rows)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """An earlier and a later part of a training set, with one vocabulary."""

    train: TrainingSet
    validation: TrainingSet
    cut_us: int
    """Every validation row is at or after this time; every training row and its label are before it."""
    purged: int
    """Rows before the cut whose label came true only at or after it: in neither part."""


def split_by_time(data: TrainingSet, validation_share: float = 0.2) -> Split:
    """Cut a training set in two at one moment; nothing is shuffled.

    A row before the cut whose label was not known yet at the cut is left out and counted: a model trained at that
    moment could not have used it.

    Raises:
        TrainingError: if the share is not between 0 and 1, or a part would be empty.
    """
    if not 0 < validation_share < 1:
        msg = f"the validation share must be between 0 and 1, got {validation_share!r}"
        raise TrainingError(msg)
    if not len(data):
        msg = "a training set must have rows to be split, got none"
        raise TrainingError(msg)
    first = min(int(len(data) * (1 - validation_share)), len(data) - 1)
    cut_us = int(data.event_time_us[first])
    before = data.event_time_us < cut_us
    known = before & (data.label_time_us < cut_us)
    if not known.any():
        msg = f"a training part must have rows with labels known at the cut, got none of {len(data)} rows"
        raise TrainingError(msg, hint="train on a longer time, or on rows of more than one moment")
    return Split(data.take(known), data.take(~before), cut_us, int(before.sum() - known.sum()))
