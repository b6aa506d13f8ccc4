"""Fitted estimators: runs the user's trainer, and asks the result in one way for every task."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamfti.definitions.models import Model, Task
from streamfti.errors import StreamFTIError, TrainingError
from streamfti.training_pipeline.training_set import TrainingSet

__all__ = ["Estimator", "estimator_answers", "estimator_parameters", "fit"]

Estimator: TypeAlias = Any
"""A fitted estimator with scikit-learn's interface; the libraries that make them come without types."""


def fit(model: Model, data: TrainingSet) -> Estimator:
    """Run the trainer on a training set and return its fitted estimator.

    Raises:
        TrainingError: if the trainer raises, or returns something that cannot answer for the task.
    """
    if model.task == "binary" and len(np.unique(data.y)) < 2:
        msg = f"the training part for model {model.name!r} must have labels of both classes, got only {data.y[0]}"
        raise TrainingError(msg, hint="train on a longer time")
    try:
        estimator = model.train(data)
    except StreamFTIError:
        raise
    except Exception as exc:  # the trainer is the user's code and may raise anything; it becomes one clear line
        msg = f"the trainer of model {model.name!r} failed: {type(exc).__name__}: {exc}"
        raise TrainingError(msg) from exc
    wanted = "predict_proba" if model.task == "binary" else "predict"
    if not hasattr(estimator, wanted):
        msg = f"the trainer of model {model.name!r} must return an estimator with {wanted}(), got {estimator!r}"
        raise TrainingError(msg, hint="return the fitted estimator: `return LGBMClassifier(...).fit(data.X, data.y)`")
    if model.task == "binary" and list(estimator.classes_) != [0, 1]:
        msg = f"the estimator of model {model.name!r} must have the classes [0, 1], got {list(estimator.classes_)}"
        raise TrainingError(msg, hint="fit it on data.y as it is")
    return estimator


def estimator_answers(estimator: Estimator, rows: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """Return float64[n] for float32[n, inputs]: the probability of class 1, or the value.

    Raises:
        ValueError: whatever the estimator says to values that it does not take, such as NaN.
    """
    if task == "binary":
        return np.asarray(estimator.predict_proba(rows), np.float64)[:, 1]
    return np.asarray(estimator.predict(rows), np.float64).reshape(-1)


def estimator_parameters(estimator: Estimator) -> dict[str, Any]:
    """Return the estimator's class and parameters as plain JSON; what is not JSON, as its `repr`."""
    found = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    plain = {name: _plain(value) for name, value in sorted(found.items())}
    return {"estimator": f"{type(estimator).__module__}.{type(estimator).__qualname__}", **plain}


def _plain(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
        return repr(value)
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
