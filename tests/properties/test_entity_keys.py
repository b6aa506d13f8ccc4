"""Entity keys: two forms of one function, and no two keys with one text."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfti.compute.entity_keys import encode_key
from streamfti.compute.event_columns import key_expression
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.events import Field

Key = tuple[str | int | bool, ...]

_TEXTS = st.text("ab:1é€😀\0 ", max_size=4) | st.text(st.characters(codec="utf-8"), max_size=6)
_VALUES: dict[DType, st.SearchStrategy[str | int | bool]] = {
    DType.STRING: _TEXTS,
    DType.INT64: st.integers(-12, 12) | st.integers(-(2**63), 2**63 - 1),
    DType.BOOL: st.booleans(),
}
_POLARS = {DType.STRING: pl.String(), DType.INT64: pl.Int64(), DType.BOOL: pl.Boolean()}


@st.composite
def fields_and_keys(draw: st.DrawFn) -> tuple[list[Field], list[Key]]:
    dtypes = draw(st.lists(st.sampled_from(sorted(_VALUES, key=lambda d: d.value)), min_size=1, max_size=3))
    fields = [Field("E", f"f{i}", ValueType(dtype)) for i, dtype in enumerate(dtypes)]
    return fields, draw(st.lists(st.tuples(*(_VALUES[dtype] for dtype in dtypes)), min_size=2, max_size=12))


@given(fields_and_keys())
def test_no_two_keys_of_one_group_have_one_text(drawn: tuple[list[Field], list[Key]]) -> None:
    _, keys = drawn
    assert len({encode_key(key) for key in keys}) == len(set(keys))


@given(fields_and_keys())
def test_the_columnar_form_gives_the_same_texts(drawn: tuple[list[Field], list[Key]]) -> None:
    fields, keys = drawn
    frame = pl.DataFrame(keys, schema={f.name: _POLARS[f.type.dtype] for f in fields}, orient="row")
    assert frame.select(key_expression(fields)).to_series().to_list() == [encode_key(key) for key in keys]


@pytest.mark.parametrize("key", [(None, "a"), ("a", None), (None, None)])
def test_a_key_with_a_null_in_it_has_no_text(key: tuple[str | None, ...]) -> None:
    fields = [Field("E", name, ValueType(DType.STRING, nullable=True)) for name in ("one", "two")]
    frame = pl.DataFrame([key], schema={"one": pl.String(), "two": pl.String()}, orient="row")
    assert frame.select(key_expression(fields)).to_series().to_list() == [None]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (("JFK",), "JFK"),
        (("",), ""),
        ((-7,), "-7"),
        ((False,), "false"),
        (("JFK", "LAX"), "3:JFK3:LAX"),
        (("é", 10, True), "2:é2:104:true"),
        (("", ""), "0:0:"),
    ],
)
def test_the_text_is_what_stores_already_hold(key: Key, text: str) -> None:
    assert encode_key(key) == text
