"""Evaluating the conditions of definitions over event frames."""

from __future__ import annotations

import operator

import polars as pl

from streamfti.definitions.events import Comparison, Field

__all__ = ["evaluate"]

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


def evaluate(value: Field | Comparison, frame: pl.DataFrame) -> pl.Series:
    """Return a field's values, or whether a condition on it holds; null where the field is null."""
    if isinstance(value, Field):
        return frame[value.name]
    compare = _OPERATORS[value.operator]
    return frame.select(compare(pl.col(value.field.name), pl.lit(value.constant)).alias(value.field.name)).to_series()
