"""Metrics by task."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamfti.errors import TrainingError
from streamfti.training_pipeline.evaluation import evaluate_predictions


def test_binary_metrics_by_hand() -> None:
    found = evaluate_predictions("binary", np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9]))
    assert found["auc"] == pytest.approx(0.75)  # three of the four pairs are in order
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.4, 0.5, 0.9))) / 4)
    assert found["positive_rate"] == pytest.approx(0.5)


def test_regression_metrics_by_hand() -> None:
    found = evaluate_predictions("regression", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found == {"rmse": pytest.approx(math.sqrt(3)), "mae": pytest.approx(1), "r2": pytest.approx(1 - 9 / 2)}


def test_labels_of_one_class_are_refused() -> None:
    with pytest.raises(TrainingError, match="must be of both classes, got only 1 in 2 rows"):
        evaluate_predictions("binary", np.array([1, 1]), np.array([0.5, 0.5]))


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TrainingError, match="must be finite, got 1 that are not"):
        evaluate_predictions("regression", np.array([1.0, 2.0]), np.array([1.0, np.nan]))
