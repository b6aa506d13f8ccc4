"""What the functions of on-demand features are given, what they may return, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamfti as fti
from streamfti.compute.on_demand import OnDemandPlan
from streamfti.compute.returned_values import Column
from streamfti.compute.values import Status
from streamfti.definitions.on_demand import OnDemandFeature, evaluation_order
from streamfti.errors import ContractError, ServingError, TrainingError
from streamfti.testing.row_wise import check_row_wise

NAN = float("nan")
X, WORD = fti.request("x", float), fti.request("word", str)
TIMES = np.array([0, 1_500_000, -250_000], np.int64)
P, D, M = Status.PRESENT, Status.DEFAULTED, Status.MISSING


def feature(function: Callable[[Column], Any], dtype: type, default: float | str | None = None) -> OnDemandFeature:
    """An on-demand feature `f` of one number."""

    def f(x: Column) -> Any:  # noqa: ANN401  # what is tested
        return function(x)

    return fti.on_demand(x=X, dtype=dtype, default=default, version=1)(f)


def evaluated(item: OnDemandFeature, values: list[Any]) -> tuple[list[Any], list[int]]:
    columns = {"x": np.array(values, np.float64)}
    found = OnDemandPlan([item], ServingError).evaluate(columns, np.zeros(len(values), np.int64))
    column = found.features["f"]
    return column.values.tolist(), column.status.tolist()


@pytest.mark.parametrize(
    ("function", "dtype", "default", "values", "statuses"),
    [
        (lambda x: x, float, None, [2.0, 0.0, -1.0], [P, M, P]),
        (lambda x: x, float, 7, [2.0, 7.0, -1.0], [P, D, P]),
        (lambda x: x / 0.0, float, None, [0.0, 0.0, 0.0], [M, M, M]),
        (lambda x: np.log(x + 1), float, 1.5, [np.log(3.0), 1.5, 1.5], [P, D, D]),
        (lambda x: np.full(len(x), 3, np.int8), float, None, [3.0, 3.0, 3.0], [P, P, P]),
        (lambda x: x.astype(np.float32), float, None, [2.0, 0.0, -1.0], [P, M, P]),
        (np.floor, int, None, [2, 0, -1], [P, M, P]),
        (np.floor, int, -3, [2, -3, -1], [P, D, P]),
        (lambda x: np.full(len(x), 2**63 - 1), int, None, [2**63 - 1] * 3, [P, P, P]),
        (lambda x: np.full(len(x), 2**63 - 1, np.uint64), int, None, [2**63 - 1] * 3, [P, P, P]),
        (lambda x: x > 0, bool, None, [True, False, False], [P, P, P]),
        (lambda x: np.where(np.isnan(x), np.nan, x > 0), bool, True, [True, True, False], [P, D, P]),
        (lambda x: np.where(x > 0, "up", "down"), str, None, ["up", "down", "down"], [P, P, P]),
        (lambda _: np.array([None, "", "b"], np.object_), str, None, ["", "", "b"], [M, P, P]),
        (lambda _: np.array([None, "", "b"], np.object_), str, "none", ["none", "", "b"], [D, P, P]),
    ],
)
def test_what_a_function_returns_becomes_values_and_statuses(
    function: Callable[[Column], Any], dtype: type, default: float | str | None, values: list[Any], statuses: list[int]
) -> None:
    found = evaluated(feature(function, dtype, default), [2.0, NAN, -1.0])
    assert found == (values, statuses)
    assert [type(value) for value in found[0]] == [dtype] * 3


@pytest.mark.parametrize(
    ("function", "dtype", "message"),
    [
        (lambda _: 1.0, float, r"must return an array of shape \(2,\), got float"),
        (lambda _: [1.0, 2.0], float, r"must return an array of shape \(2,\), got list"),
        (lambda x: x.sum(), float, r"must return an array of shape \(2,\), got float64"),
        (lambda x: x[:1], float, r"must return an array of shape \(2,\), got one of shape \(1,\)"),
        (lambda x: x.reshape(2, 1), float, r"must return an array of shape \(2,\), got one of shape \(2, 1\)"),
        (lambda x: x > 0, float, "must return an array of numbers, got an array of bool"),
        (lambda x: x.astype(object), float, "must return an array of numbers, got an array of object"),
        (lambda x: x * 1j, float, "must return an array of numbers, got an array of complex128"),
        (lambda x: x / 4, int, r"must return an array of whole numbers of 64 bits, got 0\.25"),
        (lambda x: x * 2.0**63, int, r"must return an array of whole numbers of 64 bits, got 9\.2"),
        (lambda x: np.full(len(x), 2**63, np.uint64), int, "of whole numbers of 64 bits, got 9223372036854775808"),
        (lambda x: x + 1, bool, r"must return an array of booleans, or of 0 and 1, got 2\.0"),
        (lambda x: x, str, "must return an array of str and None, got an array of float64"),
        (lambda _: np.array(["a", 2], np.object_), str, "must return an array of str and None, got 2"),
        (
            lambda _: 1 / 0,
            float,
            "the function of on-demand feature 'f' must not fail, got ZeroDivisionError: division",
        ),
        (lambda x: x.__setitem__(0, 1.0), float, "must not fail, got ValueError: assignment destination is read-only"),
    ],
)
def test_what_is_no_column_of_the_type_is_refused(function: Callable[[Column], Any], dtype: type, message: str) -> None:
    for failure in (ServingError, TrainingError):
        plan = OnDemandPlan([feature(function, dtype)], failure)
        with pytest.raises(failure, match=message):
            plan.evaluate({"x": np.array([1.0, 1.0])}, np.zeros(2, np.int64))


def test_what_a_function_is_given_is_contiguous_and_of_float64_or_objects() -> None:
    given: list[Column] = []

    def f(x: Column, word: Column, at: Column) -> Column:
        given.extend([x, word, at])
        return x

    item = fti.on_demand(x=X, word=WORD, at=fti.query_time, dtype=float, version=1)(f)
    strided = np.array([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0]])[:, 0]
    words = np.array(["a", None, ""], np.object_)
    OnDemandPlan([item], ServingError).evaluate({"x": strided, "word": words}, TIMES)
    x, word, at = given
    assert (x.tolist(), word.tolist(), at.tolist()) == ([1.0, 2.0, 3.0], ["a", None, ""], [0.0, 1.5, -0.25])
    assert [column.dtype for column in given] == [np.float64, np.object_, np.float64]
    assert all(column.flags.c_contiguous and not column.flags.writeable for column in given)
    assert strided.flags.writeable


def test_features_are_given_the_values_of_others_missing_where_there_are_none() -> None:
    @fti.on_demand(x=X, dtype=bool)
    def up(x: Column) -> Column:
        return np.where(np.isnan(x), np.nan, x > 0)

    @fti.on_demand(up=up, dtype=str)
    def word(up: Column) -> Column:
        return np.array([None if np.isnan(v) else "up" if v else "down" for v in up], np.object_)

    @fti.on_demand(up=up, word=word, dtype=int, default=-1)
    def size(up: Column, word: Column) -> Column:
        return np.array([np.nan if w is None else len(w) + v for v, w in zip(up, word, strict=True)])

    plan = OnDemandPlan(evaluation_order([size, word]), ServingError)
    assert plan.names == ("up", "word", "size")
    found = plan.evaluate({"x": np.array([1.0, NAN, -1.0])}, TIMES)
    assert {name: column.values.tolist() for name, column in found.features.items()} == {
        "up": [True, False, False],
        "word": ["up", "", "down"],
        "size": [3, -1, 4],
    }
    assert found.statuses().tolist() == [[P, P, P], [M, M, D], [P, P, P]]
    np.testing.assert_array_equal(found.columns["up"], [1.0, NAN, 0.0])
    assert found.columns["word"].tolist() == ["up", None, "down"]
    assert found.columns["size"].tolist() == [3.0, -1.0, 4.0]


def test_a_feature_whose_input_is_not_there_is_missing_and_so_is_what_needs_it() -> None:
    calls: list[int] = []

    @fti.on_demand(x=X, dtype=float, default=1.0, version=1)
    def first(x: Column) -> Column:
        calls.append(len(x))
        return x

    @fti.on_demand(first=first, dtype=str, default="none")
    def second(first: Column) -> Column:
        return np.full(len(first), "there")

    @fti.on_demand(at=fti.query_time, dtype=float)
    def other(at: Column) -> Column:
        return at

    plan = OnDemandPlan([first, second, other], ServingError)
    found = plan.evaluate({}, TIMES)
    assert calls == []
    assert found.statuses().tolist() == [[M, M, P]] * 3
    assert found.features["second"].values.tolist() == ["", "", ""]
    np.testing.assert_array_equal(found.columns["first"], [NAN] * 3)


def alone(x: Column) -> Column:
    return np.log1p(x) * 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.mean(),
        lambda x: x - x.min(),
        np.cumsum,
        lambda x: x[::-1],
        lambda x: np.argsort(x).astype(float),
        lambda x: np.full(len(x), float(len(x))),
        lambda x: np.random.default_rng().random(len(x)),
    ],
    ids=["mean", "minimum", "running sum", "order", "rank", "number of rows", "random"],
)
def test_a_value_that_depends_on_other_rows_is_caught(function: Callable[[Column], Column]) -> None:
    item = feature(function, float)
    values = [3.0, 1.0, 2.0, 5.0]
    with pytest.raises(ContractError, match="on-demand feature 'f' must give a row its value by that row alone"):
        check_row_wise(item, {"x": values})
    columns, times = {"x": np.array(values * 100)}, np.zeros(400, np.int64)
    plan = OnDemandPlan([item], TrainingError)
    with pytest.raises(TrainingError, match="'f' must give a row its value by that row alone, got for row") as caught:
        plan.check_row_wise(columns, plan.evaluate(columns, times), times)
    assert "no means, ranks, shifts or random numbers" in caught.value.hint


def test_the_feature_at_fault_is_named_not_those_that_use_it() -> None:
    @fti.on_demand(x=X, dtype=float)
    def centred(x: Column) -> Column:
        return x - np.mean(x)

    @fti.on_demand(c=centred, dtype=float)
    def doubled(c: Column) -> Column:
        return 2 * c

    plan = OnDemandPlan([centred, doubled], TrainingError)
    columns = {"x": np.array([1.0, 2.0, 4.0])}
    with pytest.raises(
        TrainingError, match=r"'centred' must give a row .* row 0 -1\.33\d* among 3 rows and 0\.0 alone"
    ):
        plan.check_row_wise(columns, plan.evaluate(columns, TIMES), TIMES)


def test_a_row_wise_function_passes_and_its_values_come_back() -> None:
    assert check_row_wise(feature(alone, float), {"x": [0.0, None, -2.0]}) == [0.0, None, None]


@pytest.mark.parametrize("columns", [{}, {"y": [1.0]}, {"x": []}, {"x": [1.0], "y": [1.0]}])
def test_a_check_needs_the_columns_of_the_function(columns: dict[str, list[float]]) -> None:
    with pytest.raises(ContractError, match=r"on-demand feature 'f' must be given rows of its columns \['x'\], got "):
        check_row_wise(feature(alone, float), columns)
