"""What a user's function means: its own lines and what they use, not how they are written down."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import log1p
from typing import Any

import pytest

from streamfti.definitions.functions import function_meaning
from streamfti.errors import DefinitionError

LIMIT = 3
TABLE = {"de": [1, 2.0], "fr": (None, frozenset({"x"}))}
OPEN = open  # a function from elsewhere
STRANGE = object()

Function = Callable[..., Any]


def meaning(function: Function) -> dict[str, object]:
    return function_meaning(function, subject="feature 'f'")


def plain() -> Function:
    def f(x: float, y: float) -> float:
        """Say something."""
        z: float = x / y  # a comment
        return z

    return f


def rewritten() -> Function:
    # fmt: off
    def f(x, y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # the point of the test
        z = (x /
             y)
        return z  # noqa: RET504
    # fmt: on
    return f


def test_comments_layout_docstrings_and_annotations_mean_nothing() -> None:
    assert meaning(plain()) == meaning(rewritten()) == {"source": "def f(x, y):\n    z = x / y\n    return z"}


def test_a_decorator_means_nothing() -> None:
    def same(function: Function) -> Function:
        return function

    @same
    def f(x: float, y: float) -> float:
        z = x / y
        return z  # noqa: RET504  # as the other one has it

    assert meaning(f) == meaning(plain())


def other_operator() -> Function:
    def f(x: float, y: float) -> float:
        z = x * y
        return z  # noqa: RET504

    return f


def other_order() -> Function:
    def f(y: float, x: float) -> float:
        z = x / y
        return z  # noqa: RET504

    return f


@pytest.mark.parametrize("other", [other_operator(), other_order()])
def test_another_line_is_another_meaning(other: Function) -> None:
    assert meaning(other) != meaning(plain())


def closing_over(value: object) -> Function:
    def f(x: float) -> object:
        return (x, value)

    return f


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (1, True), ("1", 1), ([1], (1,)), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3}), (None, 0), (b"a", "a")],
)
def test_the_constants_that_it_uses_are_part_of_its_meaning(left: object, right: object) -> None:
    assert meaning(closing_over(left)) != meaning(closing_over(right))
    assert meaning(closing_over(left)) == meaning(closing_over(left))


def helper(x: float) -> float:
    return x + LIMIT


def test_functions_of_its_module_mean_what_they_mean_themselves() -> None:
    def f(x: float) -> float:
        return helper(x) + math.log(x) + log1p(x) + len(str(x))

    assert meaning(f)["uses"] == {
        "helper": {"source": "def helper(x):\n    return x + LIMIT", "uses": {"LIMIT": "3"}},
        "math": "module math",
        "log1p": "math.log1p",
    }


class Neighbour:
    pass


def test_a_class_of_its_module_means_its_name_however_the_file_is_called() -> None:
    def f(x: float) -> object:
        return (Neighbour, x)

    assert meaning(f)["uses"] == {"Neighbour": "Neighbour"}


def test_names_used_in_nested_functions_count() -> None:
    def f(xs: list[float]) -> list[object]:
        return [max(xs, key=lambda y: (y, x, TABLE)) for x in xs]

    assert list(meaning(f)["uses"]) == ["TABLE"]  # type: ignore[call-overload]  # a mapping, as the meaning of a use is


def test_a_function_may_call_itself() -> None:
    def f(x: int) -> int:
        return f(x - 1) if x else 0

    assert "uses" not in meaning(f)


def test_values_of_defaults_are_part_of_its_meaning() -> None:
    def with_default(value: int) -> Function:
        def f(x: int = value) -> int:
            return x

        return f

    assert meaning(with_default(1)) != meaning(with_default(2))


def uses_what_comes_later() -> Function:
    def f(x: float) -> float:
        return x + not_there_yet  # type: ignore[name-defined,no-any-return]  # noqa: F821  # the point of the test

    return f


def uses_an_object() -> Function:
    def f(x: float) -> object:
        return (x, STRANGE)

    return f


def without_source() -> Function:
    names: dict[str, Any] = {}
    exec("def f(x):\n    return x\n", names)  # noqa: S102  # the point of the test
    function: Function = names["f"]
    return function


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        (lambda x: x, "feature 'f' must be a function whose source can be read", "define it with `def`"),
        (without_source(), "feature 'f' must be a function whose source can be read", "give version=1"),
        (len, "feature 'f' must be a function made by `def`, got <built-in function len>", ""),
        (uses_what_comes_later(), "feature 'f' uses 'not_there_yet', which must be defined before it", "move it up"),
        (uses_an_object(), "feature 'f' uses 'STRANGE', which must be a constant, a function or a module", "version=1"),
    ],
    ids=["lambda", "no source", "builtin", "later", "object"],
)
def test_what_cannot_be_told_is_refused(function: Function, message: str, hint: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        meaning(function)
    assert hint in caught.value.hint
