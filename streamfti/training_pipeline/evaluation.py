"""Metrics: how good predictions are, by task. The same for every model, so that versions can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from streamfti.definitions.models import Task
from streamfti.errors import TrainingError

__all__ = ["evaluate_predictions"]


def evaluate_predictions(task: Task, y: NDArray[Any], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics of n predictions by name.

    Binary, of the probability of class 1: `auc`, `log_loss`, `brier`, `accuracy` (at one half) and `positive_rate`
    (of the labels). Regression: `rmse`, `mae`, `r2`.

    Raises:
        TrainingError: if the labels are all of one class, or a prediction is not finite.
    """
    if not np.isfinite(predicted).all():
        msg = f"predictions must be finite, got {int((~np.isfinite(predicted)).sum())} that are not"
        raise TrainingError(msg, hint="does the estimator handle missing values?")
    if task == "regression":
        measures = (root_mean_squared_error, mean_absolute_error, r2_score)
        return dict(zip(("rmse", "mae", "r2"), (float(f(y, predicted)) for f in measures), strict=True))
    if len(np.unique(y)) < 2:
        msg = f"the labels to evaluate on must be of both classes, got only {y[0]} in {len(y)} rows"
        raise TrainingError(msg, hint="evaluate on a longer time")
    return {
        "auc": float(roc_auc_score(y, predicted)),
        "log_loss": float(log_loss(y, predicted)),
        "brier": float(brier_score_loss(y, predicted)),
        "accuracy": float(np.mean((predicted >= 0.5) == (y == 1))),
        "positive_rate": float(np.mean(y)),
    }
