"""Decimals in columns are those of exact arithmetic, whatever the writer's digits."""

from __future__ import annotations

import decimal

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.feature_pipeline.decimal_columns import (
    NOT_EXACT,
    decimal_series,
    field_unscaled,
    rescaled,
    unscaled_of_bytes,
)
from streamfti.stores.offline.schema import polars_type

TYPES = st.integers(1, 18).flatmap(
    lambda p: st.builds(ValueType, st.just(DType.DECIMAL), precision=st.just(p), scale=st.integers(0, p))
)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-1000, 1000) | st.integers(0, 18).map(lambda n: 10**n)


@given(st.lists(st.none() | INT64), st.integers(0, 25), TYPES)
def test_another_scale_is_taken_over_exactly_or_not_at_all(
    values: list[int | None], scale: int, value_type: ValueType
) -> None:
    found = rescaled(pl.Series(values, dtype=pl.Int64), scale, value_type)
    wanted = [None if v is None else field_unscaled(from_unscaled(v, scale), value_type) for v in values]
    limit = 10**value_type.precision
    assert [v if v is None or abs(v) < limit else NOT_EXACT for v in found] == wanted


@given(st.lists(st.none() | st.binary(max_size=8)))
def test_bytes_are_big_endian_twos_complement(values: list[bytes | None]) -> None:
    found = unscaled_of_bytes(pl.Series("a", values, pl.Binary))
    assert found is not None
    assert found.to_list() == [None if v is None else int.from_bytes(v, "big", signed=True) for v in values]


def test_longer_bytes_are_for_the_decoder_of_single_records() -> None:
    assert unscaled_of_bytes(pl.Series([b"\x00" * 9, b"\x01"])) is None


@given(TYPES, st.data())
def test_the_column_of_the_frame_has_the_numbers(value_type: ValueType, data: st.DataObject) -> None:
    limit = 10**value_type.precision - 1
    unscaled: list[int | None] = data.draw(st.lists(st.none() | st.integers(-limit, limit)))
    found = decimal_series(pl.Series("a", unscaled, pl.Int64), value_type)
    assert found.dtype == polars_type(value_type)
    assert found.to_list() == [None if v is None else from_unscaled(v, value_type.scale) for v in unscaled]
    assert all(isinstance(v, decimal.Decimal) for v in found.drop_nulls())
