"""On-demand features: functions of request features, stored features and each other, called at request time.

Specifications only. `compute.on_demand` calls the functions, for serving, training sets and backfills alike.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Annotated, Any, get_args, get_origin, overload

from streamfti.definitions.aggregations import Feature, WindowedAggregation
from streamfti.definitions.dtypes import DType
from streamfti.definitions.functions import function_meaning
from streamfti.definitions.request_features import Request, RequestFeature, request, value_dtype
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["OnDemandFeature", "OnDemandInput", "QueryTimeInput", "evaluation_order", "on_demand", "query_time"]


@dataclass(frozen=True, slots=True)
class QueryTimeInput:
    """The query time as an input of an on-demand feature: seconds since 1970-01-01T00:00:00Z, as a float64.

    Online it is the time that the features are as of; in a training set, the event time of the spine event.
    """

    @property
    def qualified_name(self) -> str:
        """How plans and messages call it."""
        return "query_time"


query_time = QueryTimeInput()
"""The query time, to be named as an input."""


@dataclass(frozen=True, slots=True, eq=False)
class OnDemandFeature:
    """A value computed from others when it is asked for. Build it with the decorator `on_demand`.

    Calling it calls the function, on columns, with no checks: for tests of the function alone.
    """

    name: str
    dtype: DType
    inputs: tuple[tuple[str, OnDemandInput], ...]
    """By parameter of the function, in its order."""
    function: Callable[..., Any]
    default: float | str | None
    """The value, with status DEFAULTED, where the function gives none."""
    meaning: object
    """What the function means, as plain JSON: its bare source and what that uses, or the version that it was given."""
    doc: str = ""

    @property
    def qualified_name(self) -> str:
        """Its name: on-demand features belong to no group."""
        return self.name

    def __call__(self, *columns: Any, **named: Any) -> Any:  # noqa: ANN401  # of numpy, which definitions do not load
        """Call the function."""
        return self.function(*columns, **named)


OnDemandInput = RequestFeature | Feature | OnDemandFeature | QueryTimeInput
"""What a parameter of an on-demand feature may be."""


@overload
def on_demand(function: Callable[..., Any], /) -> OnDemandFeature: ...


@overload
def on_demand(
    *,
    dtype: type | None = None,
    default: float | str | None = None,
    version: int | None = None,
    **inputs: OnDemandInput,
) -> Callable[[Callable[..., Any]], OnDemandFeature]: ...


def on_demand(
    function: Callable[..., Any] | None = None,
    /,
    *,
    dtype: type | None = None,
    default: float | str | None = None,
    version: int | None = None,
    **inputs: OnDemandInput,
) -> OnDemandFeature | Callable[[Callable[..., Any]], OnDemandFeature]:
    """Turn a function of columns into an on-demand feature, which has the function's name.

        @fti.on_demand(amount=fti.request("amount", float), spend=CardSpend.spend["24h"], dtype=float)
        def amount_vs_spend(amount: fti.Column, spend: fti.Column) -> fti.Column:
            return amount / spend

    The same in annotations, which Python understands and type checkers do not:

        @fti.on_demand
        def amount_vs_spend(amount: fti.Request[float], spend: CardSpend.spend_24h) -> float:
            return amount / spend

    Columns go in and a column comes out, of numpy: one element a row, however many rows there are. Numbers and
    booleans are float64 with NaN where there is no value (integers beyond 2**53 are rounded), strings are objects of
    `str` or None. What comes out is an array of the same length: numbers for `float`; whole numbers for `int`;
    booleans, or 0 and 1, for `bool`; strings for `str`. NaN, an infinity or None is no value: the default, with
    status DEFAULTED, or without one MISSING. The columns that go in cannot be written to. To a type checker
    `fti.Column` is an array of float64; other columns are `numpy.typing.NDArray[np.bool_]` or of `np.object_`.

    The function must give a row its value by that row alone, and the same each time; a training run checks that on a
    sample of 64 rows. A server calls it from many threads. Its source, without comments and annotations, is part of
    the fingerprint of every service that has it, as are the functions and the constants of its module that it uses.

    Args:
        function: if the decorator stands without parentheses.
        dtype: type of the value: `float`, `int`, `bool` or `str`; by default what the function's return annotation is.
        default: the value where the function gives none; by default there is none.
        version: says what the function means, instead of its source: raise it when the meaning changes.
        inputs: what each parameter is: a request feature, a stored feature, an on-demand feature or
            `fti.query_time`; by default what its annotation is.

    Raises:
        DefinitionError: if a parameter is nothing of that kind, the type is none of those four, the default is not
            of it, or the source cannot be read and there is no version.
    """

    def build(function: Callable[..., Any]) -> OnDemandFeature:
        return _built(function, dtype, default, version, inputs)

    return build if function is None else build(function)


def evaluation_order(features: Iterable[OnDemandFeature]) -> tuple[OnDemandFeature, ...]:
    """Return on-demand features and all those that they need, each once and after those that it needs itself."""
    ordered: dict[OnDemandFeature, None] = {}

    def place(feature: OnDemandFeature) -> None:
        if feature not in ordered:
            for _, item in feature.inputs:
                if isinstance(item, OnDemandFeature):
                    place(item)
            ordered[feature] = None

    for feature in features:
        place(feature)
    return tuple(ordered)


def _built(
    function: Callable[..., Any],
    dtype: type | None,
    default: float | str | None,
    version: int | None,
    given: Mapping[str, OnDemandInput],
) -> OnDemandFeature:
    if not isinstance(function, FunctionType):
        msg = f"an on-demand feature must be made of a function, got {function!r}"
        raise DefinitionError(msg)
    name = function.__name__
    subject = f"on-demand feature {name!r}"
    if not name.isidentifier() or name.startswith("_"):
        msg = f"{subject} must have a name of its own that does not start with '_'"
        raise DefinitionError(msg, hint="it is the function's name: define it with `def`")
    inputs = _inputs(function, given, subject)
    value_type = _output(function, subject) if dtype is None else value_dtype(dtype, subject=subject)
    value = _checked_default(default, value_type, subject)
    meaning = function_meaning(function, subject=subject) if version is None else _versioned(version, subject)
    doc = inspect.cleandoc(function.__doc__ or "")
    return OnDemandFeature(name, value_type, inputs, function, value, meaning, doc)


def _versioned(version: int, subject: str) -> dict[str, object]:
    if type(version) is not int or version < 1:
        msg = f"{subject} must have a version from 1 up, got {_shown(version)}"
        raise DefinitionError(msg)
    return {"version": version}


def _inputs(
    function: FunctionType, given: Mapping[str, OnDemandInput], subject: str
) -> tuple[tuple[str, OnDemandInput], ...]:
    parameters = inspect.signature(function).parameters
    if not parameters:
        msg = f"{subject} must have at least one parameter, got none"
        raise DefinitionError(msg, hint="without an input it does not know how many rows there are")
    for unknown in sorted(given.keys() - parameters):
        msg = f"{subject} has no parameter {unknown!r}"
        raise DefinitionError(msg, hint=did_you_mean(unknown, parameters))
    for parameter in parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            msg = f"{subject} must have plain parameters without defaults, got {str(parameter)!r}"
            raise DefinitionError(msg)
    return tuple(
        (name, _input(name, given[name] if name in given else _annotation(function, name, subject), subject))
        for name in parameters
    )


def _input(name: str, found: object, subject: str) -> OnDemandInput:
    if get_origin(found) is Annotated:
        found = next((mark for mark in get_args(found)[1:] if isinstance(mark, OnDemandInput)), found)
    if get_origin(found) is Request:
        return request(name, get_args(found)[0])
    if isinstance(found, OnDemandInput):
        return found
    msg = (
        f"parameter {name!r} of {subject} must be a request feature, a stored feature, an on-demand feature or "
        f"fti.query_time, got {_shown(found)}"
    )
    if isinstance(found, WindowedAggregation):
        raise DefinitionError(msg, hint=f"name one of its windows: [{found.windows[0].label!r}]")
    raise DefinitionError(msg, hint=f"for example @fti.on_demand({name}=fti.request({name!r}, float), dtype=float)")


def _output(function: FunctionType, subject: str) -> DType:
    found = _annotation(function, "return", subject)
    try:
        return value_dtype(found, subject=subject)
    except (DefinitionError, TypeError) as exc:  # an annotation need not even be hashable
        msg = f"{subject} must say its type, str, int, float or bool, got {_shown(found)}"
        raise DefinitionError(msg, hint="for example @fti.on_demand(..., dtype=float)") from exc


def _annotation(function: FunctionType, name: str, subject: str) -> object:
    """Return an annotation as what it stands for; None where there is none."""
    found = function.__annotations__.get(name)
    if not isinstance(found, str):
        return found
    closed_over = inspect.getclosurevars(function).nonlocals
    try:
        return eval(found, function.__globals__, dict(closed_over))  # noqa: S307  # the user's own line, as written
    except Exception as exc:  # the user's code may raise anything
        place = "the return value" if name == "return" else f"parameter {name!r}"
        msg = f"the annotation {found!r} of {place} of {subject} must stand for something: {exc}"
        raise DefinitionError(
            msg, hint="name inputs in the decorator, @fti.on_demand(amount=..., dtype=float), or define them above it"
        ) from exc


def _shown(value: object) -> str:
    """Return how a message shows what was given."""
    if isinstance(value, OnDemandInput):
        return value.qualified_name
    return "nothing" if value is None else repr(value)[:80]


def _checked_default(default: object, dtype: DType, subject: str) -> float | str | None:
    """Return the default as a value of the feature's type."""
    if default is None:
        return None
    if dtype is DType.FLOAT64 and type(default) in {int, float} and _is_finite(default):
        return float(default)  # type: ignore[arg-type]  # a number, as was just asked
    if dtype is not DType.FLOAT64 and type(default) is dtype.python and _fits(default):
        return default  # type: ignore[return-value]  # of the type that was just asked
    msg = f"the default of {subject} must be of type {dtype.value}, got {_shown(default)}"
    raise DefinitionError(msg, hint="it must be finite" if dtype is DType.FLOAT64 else "")


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]  # a number
    except OverflowError:
        return False


def _fits(value: object) -> bool:
    return type(value) is not int or -(2**63) <= value < 2**63
