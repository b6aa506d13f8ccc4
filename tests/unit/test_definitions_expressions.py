from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import streamfti as fti
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.expressions import Expression, Field, as_expression
from streamfti.errors import DefinitionError


class Sale(fti.Event):
    shop: str
    note: str | None
    cents: int
    tip: int | None
    rate: float
    online: bool
    at: fti.EventTime


class Visit(fti.Event):
    cents: int
    at: fti.EventTime


S: Any = Sale  # fields are expressions at run time
V: Any = Visit
NOTHING = None


@pytest.mark.parametrize(
    ("expression", "name", "text"),
    [
        (S.cents, "cents", "Sale.cents"), (S.cents * 2, "(cents * 2)", "Sale.cents * 2"),
        (2 * S.cents, "(2 * cents)", "2 * Sale.cents"), (S.cents * 2.0, "(cents * 2.0)", "Sale.cents * 2.0"),
        ((S.cents > 1) & S.online, "((cents > 1) & online)", "(Sale.cents > 1) & Sale.online"),
        (~(S.note == 'a"b'), '(~(note == "a\\"b"))', '~(Sale.note == "a\\"b")'),
        (S.cents > 1, "(cents > 1)", "Sale.cents > 1"), (S.note.lower(), "lower(note)", "lower(Sale.note)"),
        (fti.when(S.online, 1), "when(online, 1, None)", "when(Sale.online, 1, None)"),
        (S.cents.is_in({2, 1}), "is_in(cents, 1, 2)", "is_in(Sale.cents, 1, 2)"),
    ],
)  # fmt: skip
def test_an_expression_has_one_canonical_text(expression: Expression, name: str, text: str) -> None:
    assert (expression.name, str(expression)) == (name, text)


def test_the_document_is_plain_and_the_same_for_the_same_meaning() -> None:
    assert (S.cents * 2 > 1.5).document() == [
        ">",
        ["*", ["field", "cents", "int64"], ["constant", "int64", 2]],
        ["constant", "float64", 1.5],
    ]
    there = datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    assert (S.at > there).document() == (S.at > datetime(2026, 1, 1, tzinfo=UTC)).document()
    assert (S.at > there).document()[2] == ["constant", "datetime", 1_767_225_600_000_000]


def test_a_set_gives_the_same_text_in_every_process() -> None:
    """The order of a set of texts differs from process to process; a fingerprint may not."""
    program = (
        "import streamfti as fti\n"
        "class E(fti.Event):\n    a: str\n    at: fti.EventTime\n"
        "print(E.a.is_in({'x', 'y', 'z', 'long', 'longer'}).name)"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in "123"
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("expression", "value_type"),
    [
        (S.cents + S.cents, ValueType(DType.INT64, nullable=True)),
        (S.cents / 2, ValueType(DType.FLOAT64, nullable=True)),
        (S.cents > 1, ValueType(DType.BOOL)),
        (S.tip > 1, ValueType(DType.BOOL, nullable=True)),
        (S.tip.is_null(), ValueType(DType.BOOL)),
        (S.tip.fill_null(0), ValueType(DType.INT64)),
        (S.tip.fill_null(0.5), ValueType(DType.FLOAT64)),
        (S.shop + "x", ValueType(DType.STRING)),
        (S.shop + S.note, ValueType(DType.STRING, nullable=True)),
        (S.cents.cast(float), ValueType(DType.FLOAT64)),
        (S.rate.cast(int), ValueType(DType.INT64, nullable=True)),
        (S.online + S.online, ValueType(DType.INT64, nullable=True)),
        (fti.when(S.online, 1, 2), ValueType(DType.INT64)),
        (fti.when(S.online, 1, 0.5), ValueType(DType.FLOAT64)),
        (fti.when(S.online, None, "a"), ValueType(DType.STRING, nullable=True)),
        (S.at.hour(), ValueType(DType.INT64)),
        (-S.rate, ValueType(DType.FLOAT64)),
        (abs(S.cents), ValueType(DType.INT64, nullable=True)),
    ],
)
def test_types_are_inferred(expression: Expression, value_type: ValueType) -> None:
    assert expression.type == value_type


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: S.cents + S.shop,
            r"`\+` must be given two numbers or two strings, got Sale.cents, which is int64 and",
        ),
        (lambda: S.cents + S.shop, r" and Sale.shop, which is string"),
        (lambda: S.cents + "1", r"got Sale.cents, which is int64 and \"1\", which is string \(.*cast"),
        (lambda: S.shop > 1, r"`>` must be given values of one kind"),
        (lambda: S.at > 1, r"Sale.at, which is datetime"),
        (lambda: S.shop * 2, r"`\*` must be given two numbers"),
        (lambda: S.rate // 2, r"two integers.*cast\(int\)"),
        (lambda: S.at - S.at, r"two numbers.*seconds_since"),
        (S.cents.lower, r"must be given strings"),
        (lambda: S.rate.cast(str), r"a string, an integer or a bool"),
        (lambda: S.cents.cast(bool), r"can be cast to int, float or str"),
        (lambda: S.cents & S.online, r"`&` must be given two conditions, got Sale.cents, which is int64"),
        (lambda: S.online & True, r"a condition must be.*got True"),
        (lambda: S.online | S.cents, r"a condition must be.*got Sale.cents, which"),
        (lambda: ~S.cents, r"`~` must be given a condition"),
        (lambda: S.cents + V.cents, r"fields of one event class, got Sale.cents and Visit.cents"),
        (lambda: S.cents == NOTHING, r"an operand must be.*got None.*is_null"),
        (lambda: S.cents + 2**63, r"an operand must be.*64 bits"),
        (lambda: S.rate + float("nan"), r"finite float"),
        (lambda: S.at > datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None), r"aware datetime"),
        (lambda: S.note == "\ud800", r"an operand must be"),
        (lambda: S.cents.is_in([]), r"one or more constants, got \[\]"),
        (lambda: S.shop.is_in("ab"), r"one or more constants, got 'ab'"),
        (lambda: S.cents.is_in([S.tip]), r"one or more constants"),
        (lambda: S.cents.is_in(["a"]), r"`is_in` must be given values of one kind"),
        (lambda: fti.when(S.cents, 1, 2), r"a condition must be.*got Sale.cents"),
        (lambda: fti.when(S.online, 1, "a"), r"two values of one kind"),
        (lambda: fti.when(S.online, None), r"a value on one side at least"),
        (lambda: S.shop.concat(S.cents), r"concat must be given texts, got Sale.cents"),
        (lambda: fti.when(S.shop == S.cents, 1), r"a condition must be.*got False"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_both_sides_named(build: Any, message: str) -> None:  # noqa: ANN401  # a function
    with pytest.raises(DefinitionError, match=message):
        build()


def test_a_comparison_with_a_constant_has_no_truth() -> None:
    """`1 < field < 5` would drop its first half without a word."""
    for condition in (S.cents > 1, S.cents == 1, S.cents != 1, S.cents < S.tip, S.online, S.cents * 2):
        with pytest.raises(DefinitionError, match=r"Sale.*is a value of an event, and not true or false by itself.*&"):
            bool(condition)


def test_expressions_can_be_compared_and_looked_up() -> None:
    """Frozen definitions hold fields and expressions, and are compared with one another."""
    assert S.cents == S.cents  # what is tested
    assert S.cents != S.tip
    assert S.cents != S.shop
    assert S.cents != V.cents
    assert S.cents * 2 == 2 * S.cents or S.cents * 2 != 2 * S.cents
    assert (S.cents * 2, 1) == (S.cents * 2, 1)
    assert (S.cents * 2, 1) != (S.cents * 3, 1)
    assert {S.cents * 2: "found"}[S.cents * 2] == "found"
    assert S.tip in [S.cents, S.tip]


def test_two_fields_of_one_name_and_other_meanings_are_not_the_same() -> None:
    one, other = (Field("Sale", "ratio", ValueType(DType.FLOAT64), meaning) for meaning in ("(a / b)", "(b / a)"))
    assert one != other
    assert (one + 1) != (other + 1)


def test_a_comparison_of_two_fields_is_a_condition() -> None:
    condition = S.cents == S.tip
    assert isinstance(condition, Expression)
    assert condition.name == "(cents == tip)"
    assert condition.fields == (S.cents, S.tip)


def test_a_constant_has_no_fields() -> None:
    assert as_expression(3).fields == ()
