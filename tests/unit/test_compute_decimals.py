from __future__ import annotations

import decimal
from fractions import Fraction

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from streamfti.compute.decimals import as_float64
from streamfti.compute.unscaled import nearest_float64


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1), st.integers(0, 18))
def test_the_nearest_double_is_that_of_rational_arithmetic(unscaled: list[int], scale: int) -> None:
    found = nearest_float64(np.array(unscaled, np.int64), scale)
    assert found.tolist() == [float(Fraction(value, 10**scale)) for value in unscaled]


def test_a_column_keeps_its_nulls_and_other_numbers() -> None:
    values = [decimal.Decimal("0.1"), None, decimal.Decimal("99999999999999.9999")]
    found = as_float64(pl.Series("a", values, pl.Decimal(18, 4)))
    assert found.to_list() == [0.1, None, 99999999999999.9999]
    assert found.name == "a"
    assert as_float64(pl.Series([1, None])).to_list() == [1.0, None]
