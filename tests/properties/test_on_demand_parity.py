"""Serving, training and backfill of on-demand features: one value, bit for bit, for one row and for many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import streamfti as fti
from streamfti.clock import from_us
from streamfti.compute.on_demand import OnDemandPlan
from streamfti.compute.returned_values import AnyColumn
from streamfti.definitions.dtypes import DType
from streamfti.errors import ServingError
from streamfti.inference_pipeline.tables import InputColumn, model_column
from streamfti.stores.offline.log import OfflineLog
from streamfti.training_pipeline.feature_history import backfill_features

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)

AMOUNT, COUNTRY, NIGHT = fti.request("amount", float), fti.request("country", str), fti.request("night", bool)
N = fti.request("n", int)


@fti.on_demand(amount=AMOUNT, n=N, dtype=float)
def usual(amount: fti.Column, n: fti.Column) -> fti.Column:
    return np.exp(np.sin(amount)) * np.log1p(np.abs(n)) / np.sqrt(np.abs(amount)) + amount**3 - n


@fti.on_demand(usual=usual, at=fti.query_time, dtype=float, default=-1)
def hour(usual: fti.Column, at: fti.Column) -> fti.Column:
    return np.tanh(usual) + np.cos(at % 86_400 / 86_400 * 2 * math.pi)


@fti.on_demand(night=NIGHT, hour=hour, dtype=bool)
def late(night: fti.Column, hour: fti.Column) -> fti.Column:
    return np.where(np.isnan(night), np.nan, night * (hour > 0))


@fti.on_demand(country=COUNTRY, late=late, dtype=str, default="?")
def place(country: NDArray[np.object_], late: fti.Column) -> NDArray[np.object_]:
    words = [None if c is None else f"{c}{v:g}" for c, v in zip(country, late, strict=True)]
    return np.array(words, np.object_)


@fti.on_demand(n=N, dtype=int)
def doubled(n: fti.Column) -> fti.Column:
    return np.where(np.abs(n) < 2**61, 2 * n, np.nan)


SERVICE = fti.FeatureService("all", [AMOUNT, usual, hour, late, place, doubled])

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "amount": st.none() | st.floats(-1e6, 1e6) | st.floats(allow_nan=False, allow_infinity=False),
            "country": st.none() | st.text(max_size=3),
            "night": st.none() | st.booleans(),
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "at_us": st.integers(0, 2**52),
        }
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def log() -> Iterator[OfflineLog]:
    with TemporaryDirectory() as folder:
        yield OfflineLog(Path(folder))


def served(rows: list[dict[str, Any]]) -> dict[str, AnyColumn]:
    """Evaluate as the predictor does, from the values of a request."""
    columns = {f.name: model_column(InputColumn(f.dtype, [r[f.name] for r in rows])) for f in SERVICE.request_features}
    query_time_us = np.array([row["at_us"] for row in rows], np.int64)
    return OnDemandPlan(SERVICE.on_demand, ServingError).evaluate(columns, query_time_us).columns


def bits(values: AnyColumn) -> list[object]:
    is_text = values.dtype == np.object_
    return list((values if is_text else np.where(np.isnan(values), np.nan, values).view(np.int64)).tolist())


@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
def test_one_row_many_rows_and_history_give_the_same_bits(log: OfflineLog, rows: list[dict[str, Any]]) -> None:
    together = served(rows)
    apart = [served([row]) for row in rows]
    types = {"amount": pl.Float64, "country": pl.String, "night": pl.Boolean, "n": pl.Int64}
    moments = pl.DataFrame(
        {name: [row[name] for row in rows] for name in types} | {"when": [from_us(row["at_us"]) for row in rows]},
        schema={**types, "when": pl.Datetime("us", "UTC")},
    )
    history = backfill_features(SERVICE, log, moments, at="when")
    for item in SERVICE.on_demand:
        values = together[item.name]
        assert bits(values) == [bit for one in apart for bit in bits(one[item.name])]
        found = history[item.name]
        column = (
            np.array(found.to_list(), np.object_) if item.dtype is DType.STRING else found.fill_null(np.nan).to_numpy()
        )
        assert bits(column) == bits(values)
    assert history.columns == ["_query_time", "amount", "usual", "hour", "late", "place", "doubled"]
