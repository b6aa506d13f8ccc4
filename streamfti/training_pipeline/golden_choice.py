"""Chooses the golden rows that a server replays: spread over the answers, some with missing and unknown values."""

from __future__ import annotations

import numpy as np

from streamfti.compute.vectorize import ModelInput
from streamfti.stores.registry.golden import GoldenRows
from streamfti.training_pipeline.onnx_answers import graph_answers
from streamfti.training_pipeline.vocabulary import Vocabulary

__all__ = ["choose_golden_rows"]

_SPREAD, _ODD = 64, 16


def choose_golden_rows(graph: bytes, rows: ModelInput, vocabulary: Vocabulary, *, with_missing: bool) -> GoldenRows:
    """Return at least 64 rows with the graph's answers.

    64 rows evenly spread over the given rows' answers from lowest to highest (repeated if there are fewer rows),
    and 16 of them again with every category unknown and, if the estimator takes NaN, every second one with all
    numbers missing.
    """
    order = np.argsort(graph_answers(graph, rows), kind="stable")
    spread = order[np.linspace(0, len(order) - 1, _SPREAD).astype(int)]
    odd = spread[:: _SPREAD // _ODD]
    chosen = np.concatenate([spread, odd])
    numeric, categories = rows.numeric[chosen], rows.categories[chosen]
    for column in range(categories.shape[1]):
        categories[_SPREAD:, column] = vocabulary.unknown_word(column)
    if with_missing:
        numeric[_SPREAD::2] = np.nan
    outputs = graph_answers(graph, ModelInput(numeric, categories))
    return GoldenRows(numeric, categories.astype(np.str_), outputs)
