"""Whatever the expression and the events: what runs over columns is what plain Python says of each event."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfti as fti
from streamfti.compute.expressions import COMPUTED, evaluate
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import event_schema
from streamfti.definitions.expressions import Expression
from streamfti.definitions.operators import OPERATORS
from streamfti.testing.naive_expressions import _OF_NULLS, _OF_VALUES, naive_value

EXAMPLES = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Order(fti.Event):
    whole: int
    maybe_whole: int | None
    part: float
    maybe_part: float | None
    sure: bool
    maybe_sure: bool | None
    note: str
    maybe_note: str | None
    at: fti.EventTime
    seen: datetime | None


FIELDS = {field.name: field for field in event_schema(Order).fields}
POLARS: Mapping[DType, pl.DataType] = {
    DType.STRING: pl.String(),
    DType.INT64: pl.Int64(),
    DType.FLOAT64: pl.Float64(),
    DType.BOOL: pl.Boolean(),
    DType.DATETIME: pl.Datetime("us", "UTC"),
}

CONSTANTS: Mapping[DType, st.SearchStrategy[object]] = {
    DType.INT64: st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1, 2**32, -(2**31), 3037000500]),
    DType.FLOAT64: st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.5, 2.0**63, -(2.0**63), 2.0**53, 1e308, 5e-324]),
    DType.BOOL: st.booleans(),
    DType.STRING: st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6)
    | st.sampled_from(["", " a\t", "ΑΣ", "İ", "ß", "ﬁ", "-12", "+7", "1.5e3", "9223372036854775808"])
    | st.sampled_from(["1_0", "٣", "e\u0301", "\x1c", "1\n", ".5", "1e999"]),
    DType.DATETIME: st.integers(-(2**47), 2**52).map(lambda us: EPOCH + timedelta(microseconds=us)),
}  # fmt: skip

ABOUT_TEXT = ("starts_with", "ends_with", "contains")
COMPARE = ("<", "<=", ">", ">=", "==", "!=")
PYTHON = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "+": lambda a, b: a + b, "-": lambda a, b: a - b,
    "*": lambda a, b: a * b, "/": lambda a, b: a / b, "//": lambda a, b: a // b, "%": lambda a, b: a % b,
}  # fmt: skip


@cache
def leaves(dtype: DType) -> st.SearchStrategy[Expression]:
    return st.sampled_from([field for field in FIELDS.values() if field.type.dtype is dtype])


@cache
def operand(dtype: DType, depth: int) -> st.SearchStrategy[object]:
    """An expression, or now and then a constant."""
    return expressions(dtype, depth) | CONSTANTS[dtype]


@cache
def number(depth: int) -> st.SearchStrategy[Expression]:
    return expressions(DType.INT64, depth) | expressions(DType.FLOAT64, depth) | expressions(DType.BOOL, depth)


@cache
def number_operand(depth: int) -> st.SearchStrategy[object]:
    return number(depth) | CONSTANTS[DType.INT64] | CONSTANTS[DType.FLOAT64]


def built(operator: str, *operands: st.SearchStrategy[object]) -> st.SearchStrategy[Expression]:
    return st.tuples(*operands).map(lambda given: PYTHON[operator](*given))


@cache
def alike(dtype: DType, depth: int) -> st.SearchStrategy[Expression]:
    """What is there for every type."""
    own, other = expressions(dtype, depth), operand(dtype, depth)
    several = st.lists(CONSTANTS[dtype], min_size=1, max_size=2)
    condition = expressions(DType.BOOL, depth)
    return st.one_of(
        st.builds(lambda a, b: a.fill_null(b), own, other),
        st.builds(lambda a, more: a.coalesce(*more), own, several),
        st.builds(lambda a, b: a.least(b), own, other),
        st.builds(lambda a, b: a.greatest(b), own, other),
        st.builds(fti.when, condition, other, own | st.none()),
    ).filter(lambda e: e.type.dtype is dtype)


@cache
def wholes(depth: int) -> st.SearchStrategy[Expression]:
    own, other = expressions(DType.INT64, depth), operand(DType.INT64, depth)
    text, time = expressions(DType.STRING, depth), expressions(DType.DATETIME, depth)
    arithmetic = [built(op, own, other) for op in ("+", "-", "*", "//", "%")]
    turned = [built(op, other, own) for op in ("-", "//", "%")]
    return st.one_of(
        *arithmetic, *turned, own.map(lambda e: -e), own.map(abs), text.map(lambda e: e.len()),
        time.map(lambda e: e.hour()), time.map(lambda e: e.weekday()),
        (number(depth) | text).map(lambda e: e.cast(int)), alike(DType.INT64, depth),
        built("+", expressions(DType.BOOL, depth), expressions(DType.BOOL, depth)),
    )  # fmt: skip


@cache
def parts(depth: int) -> st.SearchStrategy[Expression]:
    own, other = expressions(DType.FLOAT64, depth), number_operand(depth)
    times = expressions(DType.DATETIME, depth), operand(DType.DATETIME, depth)
    return st.one_of(
        *[built(op, own, other) for op in ("+", "-", "*")], built("-", other, own), built("/", number(depth), other),
        own.map(lambda e: -e), own.map(abs), number(depth).map(lambda e: e.cast(float)),
        expressions(DType.STRING, depth).map(lambda e: e.cast(float)),
        st.builds(lambda a, b: a.seconds_since(b), *times), alike(DType.FLOAT64, depth),
    )  # fmt: skip


@cache
def conditions(depth: int) -> st.SearchStrategy[Expression]:
    own = expressions(DType.BOOL, depth)
    text, part = expressions(DType.STRING, depth), operand(DType.STRING, depth)
    time = expressions(DType.DATETIME, depth)
    compared = [
        st.tuples(st.sampled_from(COMPARE), left, right).map(lambda t: PYTHON[t[0]](t[1], t[2]))
        for left, right in [
            (number(depth), number_operand(depth)),
            (text, part),
            (time, operand(DType.DATETIME, depth)),
        ]
    ]
    listed = [
        st.builds(lambda a, many: a.is_in(many), left, st.lists(many, min_size=1, max_size=4))
        for left, many in [
            (number(depth), CONSTANTS[DType.INT64] | CONSTANTS[DType.FLOAT64]), (text, CONSTANTS[DType.STRING]),
            (time, CONSTANTS[DType.DATETIME]),
        ]
    ]  # fmt: skip
    return st.one_of(
        *compared, *listed, st.builds(lambda a, b: a & b, own, own), st.builds(lambda a, b: a | b, own, own),
        own.map(lambda e: ~e), (number(depth) | text | time).map(lambda e: e.is_null()),
        st.builds(lambda a, b, how: getattr(a, how)(b), text, part, st.sampled_from(ABOUT_TEXT)),
        alike(DType.BOOL, depth),
    )  # fmt: skip


@cache
def texts(depth: int) -> st.SearchStrategy[Expression]:
    own, other = expressions(DType.STRING, depth), operand(DType.STRING, depth)
    to_text = expressions(DType.INT64, depth) | expressions(DType.BOOL, depth) | own
    return st.one_of(
        built("+", own, other), st.builds(lambda a, b: a.concat(b, "-"), own, other), own.map(lambda e: e.lower()),
        own.map(lambda e: e.upper()), own.map(lambda e: e.strip()), to_text.map(lambda e: e.cast(str)),
        alike(DType.STRING, depth),
    )  # fmt: skip


@cache
def expressions(dtype: DType, depth: int = 3) -> st.SearchStrategy[Expression]:
    """Expressions of a type, of a depth at most."""
    if depth == 0:
        return leaves(dtype)
    deeper: Mapping[DType, Callable[[int], st.SearchStrategy[Expression]]] = {
        DType.INT64: wholes,
        DType.FLOAT64: parts,
        DType.BOOL: conditions,
        DType.STRING: texts,
        DType.DATETIME: partial(alike, DType.DATETIME),
    }
    return leaves(dtype) | st.deferred(lambda: deeper[dtype](depth - 1))


def row_values() -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {
            name: (st.none() | CONSTANTS[field.type.dtype]) if field.type.nullable else CONSTANTS[field.type.dtype]
            for name, field in FIELDS.items()
        }
    )


def frame_of(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: POLARS[field.type.dtype] for name, field in FIELDS.items()}, orient="row")


def bits(value: object) -> object:
    """A float by its bits, so that -0.0 is not 0.0."""
    return struct.pack("<d", value) if isinstance(value, float) else value


@EXAMPLES
@given(
    expression=st.sampled_from(list(POLARS)).flatmap(expressions),
    rows=st.lists(row_values(), max_size=8),
)
def test_columns_equal_plain_python_event_by_event(expression: Expression, rows: list[dict[str, object]]) -> None:
    values = evaluate(expression, frame_of(rows))

    assert values.dtype == POLARS[expression.type.dtype]
    assert values.name == expression.name
    assert [bits(v) for v in values.to_list()] == [bits(naive_value(expression, row)) for row in rows]
    assert expression.type.nullable or values.null_count() == 0


@EXAMPLES
@given(pair=st.sampled_from(list(POLARS)).flatmap(lambda dtype: st.tuples(expressions(dtype), expressions(dtype))))
def test_a_name_stands_for_one_document(pair: tuple[Expression, Expression]) -> None:
    one, other = pair
    assert (one.name == other.name) == (one.document() == other.document()) == bool(one == other)
    assert bool(one != other) is not bool(one == other)


def test_every_operator_is_computed_and_interpreted() -> None:
    assert set(OPERATORS) == set(COMPUTED) == {*_OF_NULLS, *_OF_VALUES}
