"""The parity gate: an exported graph must answer as the fitted estimator does, or it is not registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.vectorize import ModelInput
from streamfti.definitions.models import Task
from streamfti.errors import ParityError
from streamfti.training_pipeline.boundaries import boundary_rows
from streamfti.training_pipeline.estimators import Estimator, estimator_answers
from streamfti.training_pipeline.onnx_answers import graph_answers
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["TOLERANCE", "ParityReport", "check_parity"]

TOLERANCE = 1e-5
"""The largest difference allowed: of probabilities as it is, of values as a share of the largest (or of 1)."""

_TIE = 1e-6
"""A probability this near one half is a tie: there, float32 rounding may fall to either side."""

_MAX_SPLITS = 20_000
"""Splits that get rows of their own; a larger model is sampled evenly."""

_ODD_ROWS = 32
"""Data rows that are tried with missing, infinite and unknown values."""


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was compared, and how near the graph came."""

    rows: int
    """All rows compared."""
    boundary_rows: int
    """Of them, those on and beside the thresholds of trees."""
    flips: int
    """Rows whose label at one half differs; 0, or there would be an error."""
    ties: int
    """Rows whose native answer is one half but for rounding; they are compared by value alone."""
    max_abs_diff: float
    """As `tolerance` counts it."""
    tolerance: float
    not_accepted: tuple[str, ...]
    """Which of NaN and inf the estimator refuses, and which were therefore not compared."""


def check_parity(
    estimator: Estimator,
    graph: bytes,
    rows: ModelInput,
    vocabulary: Vocabulary,
    task: Task,
    *,
    seed: int = 0,
) -> ParityReport:
    """Compare the graph with the estimator on given rows, and on those where exported graphs tend to differ.

    That is: at every threshold of a tree and one ulp beside it, NaN, infinities and unknown categories.

    Args:
        estimator: the fitted one.
        graph: its export.
        rows: rows of real data that were not trained on.
        vocabulary: turns categories into the codes that the estimator was fitted on.
        task: says what is compared: the probability of class 1, or the value.
        seed: which rows the boundary rows are made from.

    Raises:
        ParityError: if a label flips, or an answer differs by more than `TOLERANCE`.
    """
    odd_values = {name: odd for name, odd in _ODD_VALUES.items() if _accepts(estimator, rows, vocabulary, task, odd)}
    kinds = {
        "data": rows,
        "threshold": _threshold_rows(graph, rows, vocabulary, seed),
        **{name: _odd_rows(rows, odd) for name, odd in odd_values.items()},
        "unknown category": _unknown_rows(rows, vocabulary),
    }
    everything = _stacked(list(kinds.values()))
    native = estimator_answers(estimator, _encoded(everything, vocabulary), task)
    exported = graph_answers(graph, everything).astype(np.float64)
    difference, flipped, ties = _compared(native, exported, task)
    report = ParityReport(
        rows=len(everything),
        boundary_rows=len(kinds["threshold"]),
        flips=int(flipped.sum()),
        ties=ties,
        max_abs_diff=float(difference.max()),
        tolerance=TOLERANCE,
        not_accepted=tuple(name for name in _ODD_VALUES if name not in odd_values),
    )
    if report.flips or not report.max_abs_diff <= TOLERANCE:
        wrong = np.repeat(list(kinds), [len(part) for part in kinds.values()])[flipped | ~(difference <= TOLERANCE)]
        raise _refusal(estimator, report, Counter(wrong.tolist()))
    return report


_ODD_VALUES = {"NaN": (np.nan,), "inf": (np.inf, -np.inf)}


def _refusal(estimator: Estimator, report: ParityReport, wrong: Counter[str]) -> ParityError:
    """Say how far the graph is off, and among which rows."""
    where = ", ".join(f"{count} {kind} rows" for kind, count in wrong.items())
    msg = (
        f"the exported graph must answer as the {type(estimator).__name__} does, got {report.flips} flipped labels and "
        f"differences of up to {report.max_abs_diff:.3g} (allowed: {TOLERANCE:g}) in {report.rows} rows: {where}"
    )
    hint = "nothing was registered; try another estimator, or leave out its rarer options"
    if "NaN" in wrong:
        hint = "nothing was registered; impute missing values in front of it: make_pipeline(SimpleImputer(), ...)"
    return ParityError(msg, hint=hint)


def _accepts(
    estimator: Estimator,
    rows: ModelInput,
    vocabulary: Vocabulary,
    task: Task,
    values: Sequence[float],
) -> bool:
    """Return whether the estimator answers rows in which every number is odd, rather than refuse them."""
    odd = ModelInput(np.full_like(rows.numeric[:1], values[0]), rows.categories[:1])
    try:
        estimator_answers(estimator, _encoded(odd, vocabulary), task)
    except ValueError:  # what scikit-learn raises for values that an estimator was not made for
        return False
    return True


def _encoded(rows: ModelInput, vocabulary: Vocabulary) -> NDArray[np.float32]:
    return np.hstack([rows.numeric, vocabulary.encode(rows.categories)])


def _stacked(parts: list[ModelInput]) -> ModelInput:
    return ModelInput(np.vstack([p.numeric for p in parts]), np.vstack([p.categories for p in parts]))


def _threshold_rows(graph: bytes, rows: ModelInput, vocabulary: Vocabulary, seed: int) -> ModelInput:
    numeric = rows.numeric.shape[1]
    encoded = _encoded(rows, vocabulary)
    edges = boundary_rows(graph, encoded, codes_from=numeric, limit=_MAX_SPLITS, seed=seed)
    return ModelInput(edges[:, :numeric], vocabulary.decode(edges[:, numeric:]))


def _odd_rows(rows: ModelInput, values: Sequence[float]) -> ModelInput:
    """Return copies of some rows with an odd value in every numeric column in turn, and in all of them."""
    columns = [slice(i, i + 1) for i in range(rows.numeric.shape[1])] + [slice(None)]
    parts = []
    for value in values:
        for column in columns:
            numeric = rows.numeric[:_ODD_ROWS].copy()
            numeric[:, column] = value
            parts.append(ModelInput(numeric, rows.categories[:_ODD_ROWS]))
    return _stacked(parts)


def _unknown_rows(rows: ModelInput, vocabulary: Vocabulary) -> ModelInput:
    """Return copies of some rows with a null, and with an unknown word, in every category in turn."""
    parts = [ModelInput(rows.numeric[:0], rows.categories[:0])]
    for column in range(rows.categories.shape[1]):
        for word in ("", vocabulary.unknown_word(column)):
            categories = rows.categories[:_ODD_ROWS].copy()
            categories[:, column] = word
            parts.append(ModelInput(rows.numeric[:_ODD_ROWS], categories))
    return _stacked(parts)


def _compared(
    native: NDArray[np.float64], exported: NDArray[np.float64], task: Task
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return the difference of each row, whether its label flipped, and the number of ties."""
    # A sum of float32 is as exact as its largest part, however small the sum is.
    scale = np.abs(native[np.isfinite(native)]).max(initial=1.0)
    with np.errstate(invalid="ignore"):  # inf - inf: both answers are alike, and handled next
        difference = np.abs(native - exported) / scale
    alike = (native == exported) | (np.isnan(native) & np.isnan(exported))
    difference = np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))
    if task == "regression":
        return difference, np.zeros(len(native), np.bool_), 0
    ties = np.abs(native - 0.5) <= _TIE
    return difference, ((native >= 0.5) != (exported >= 0.5)) & ~ties, int(ties.sum())
