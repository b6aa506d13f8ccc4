"""Expressions: values computed from the fields of one event, as a typed tree. Specifications only, no maths.

`Payment.amount_cents * 2`, `Payment.note.lower()`, `fti.when(Payment.is_online, 1, 0)`. The tree is our own and not
the serialised expression of a table library, because that form is not stable between the library's releases: an
upgrade would change fingerprints, and with them the meaning that stored values and trained models are bound to.

What holds for all of them:

- What is null makes null, except in `is_null`, `fill_null`, `coalesce`, `when`, and where `&` and `|` are decided
  by their other side (three-valued logic, as in SQL).
- Integers are of 64 bits. A result that does not fit is null, never another number. A float that is not finite is null.
- Where an integer meets a float it becomes the nearest float; where a bool meets a number, 0 or 1.
- Decimals are exact: they meet integers and each other, never floats. Sums and products have 18 digits and as many of
  them after the point as that takes; one that needs more digits is null. What divides must be cast to floats.
"""

from __future__ import annotations

import decimal
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from streamfti.clock import to_us
from streamfti.definitions.decimals import MAX_PRECISION
from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.operators import OPERATORS
from streamfti.errors import DefinitionError

__all__ = ["Constant", "Expression", "Field", "Operation", "Scalar", "as_expression", "when"]

Scalar = bool | int | float | str | datetime | decimal.Decimal
"""A constant: of 64 bits, finite, aware, of 18 digits."""

Castable = type[int] | type[float] | type[str]

_CASTS: dict[object, str] = {int: "int", float: "float", str: "str"}


class Expression:
    """A value of an event. Immutable; `==` with another expression is a condition, like all comparisons.

    The truth of `a == b` between two expressions is whether they are the same expression: so that what holds
    expressions can be compared and looked up. No other expression has a truth.
    """

    __slots__ = ()

    name: str
    """Canonical text, unique among the expressions over one event class; the name of its column."""
    type: ValueType
    """The type of its values, and whether they may be null."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that it reads, each once, in the order in which they stand."""
        raise NotImplementedError

    def document(self) -> list[object]:
        """Return it as plain JSON values: equal for expressions that mean the same text, whatever Python wrote it."""
        raise NotImplementedError

    def same_as(self, other: Expression) -> bool:
        """Return whether both are one expression over the same fields."""
        return self.name == other.name and _identities(self) == _identities(other)

    def __hash__(self) -> int:
        return hash(self.name)

    def __bool__(self) -> bool:
        msg = f"{self} is a value of an event, and not true or false by itself"
        hint = "`a < x < b`, `and`, `or` and `not` are Python's own; write (a < x) & (x < b), |, ~"
        raise DefinitionError(msg, hint=hint)

    def __eq__(self, other: object) -> Expression | bool:  # type: ignore[override]  # builds a condition
        return _equality("==", self, other)

    def __ne__(self, other: object) -> Expression | bool:  # type: ignore[override]  # builds a condition
        return _equality("!=", self, other)

    def __lt__(self, other: object) -> Expression:
        return _operation("<", self, other)

    def __le__(self, other: object) -> Expression:
        return _operation("<=", self, other)

    def __gt__(self, other: object) -> Expression:
        return _operation(">", self, other)

    def __ge__(self, other: object) -> Expression:
        return _operation(">=", self, other)

    def __add__(self, other: object) -> Expression:
        return _operation("+", self, other)

    def __radd__(self, other: object) -> Expression:
        return _operation("+", other, self)

    def __sub__(self, other: object) -> Expression:
        return _operation("-", self, other)

    def __rsub__(self, other: object) -> Expression:
        return _operation("-", other, self)

    def __mul__(self, other: object) -> Expression:
        return _operation("*", self, other)

    def __rmul__(self, other: object) -> Expression:
        return _operation("*", other, self)

    def __truediv__(self, other: object) -> Expression:
        return _operation("/", self, other)

    def __rtruediv__(self, other: object) -> Expression:
        return _operation("/", other, self)

    def __floordiv__(self, other: object) -> Expression:
        return _operation("//", self, other)

    def __rfloordiv__(self, other: object) -> Expression:
        return _operation("//", other, self)

    def __mod__(self, other: object) -> Expression:
        return _operation("%", self, other)

    def __rmod__(self, other: object) -> Expression:
        return _operation("%", other, self)

    def __and__(self, other: object) -> Expression:
        return _operation("&", self, _condition(other))

    def __or__(self, other: object) -> Expression:
        return _operation("|", self, _condition(other))

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Expression:
        return _operation("~", self)

    def __neg__(self) -> Expression:
        return _operation("negative", self)

    def __abs__(self) -> Expression:
        return self.abs()

    def abs(self) -> Expression:
        """Return the magnitude of a number."""
        return _operation("abs", self)

    def least(self, other: object) -> Expression:
        """Return the lesser of two values of one kind, such as `amount.least(100)`; null if one of them is."""
        return _operation("least", self, other)

    def greatest(self, other: object) -> Expression:
        """Return the greater of two values of one kind; null if one of them is."""
        return _operation("greatest", self, other)

    def is_null(self) -> Expression:
        """Return whether there is no value; never null itself."""
        return _operation("is_null", self)

    def fill_null(self, other: object) -> Expression:
        """Return the value, or another one (a constant, an expression) where it is null."""
        return _operation("coalesce", self, other)

    def coalesce(self, *others: object) -> Expression:
        """Return the first of some values of one kind that is not null; null if all are."""
        return _operation("coalesce", self, *others)

    def is_in(self, values: Iterable[Scalar]) -> Expression:
        """Return whether the value is one of some constants; null where it is null.

        Raises:
            DefinitionError: if there is no constant, or one is of another kind.
        """
        constants = [] if isinstance(values, str) else [as_expression(value) for value in values]
        if not constants or not all(isinstance(constant, Constant) for constant in constants):
            msg = f"is_in of {self} must be given a list of one or more constants, got {values!r}"
            raise DefinitionError(msg)
        in_order = dict(sorted((constant.name, constant) for constant in constants))  # a set has no order of its own
        return _operation("is_in", self, *in_order.values())

    def cast(self, to: Castable) -> Expression:
        """Return the value as an `int`, a `float` or a `str`.

        A float becomes the integer towards zero. A text becomes a number if it is one in decimal digits (`-12`,
        and for floats `1.5e3`), else null. An integer becomes its digits, a bool `true` or `false`.

        Raises:
            DefinitionError: if there is no such conversion. Floats have none to text: libraries write them
                differently.
        """
        if to not in _CASTS:
            msg = f"{self} can be cast to int, float or str, got {to!r}"
            raise DefinitionError(msg)
        return _operation(_CASTS[to], self)

    def lower(self) -> Expression:
        """Return a text in lower case."""
        return _operation("lower", self)

    def upper(self) -> Expression:
        """Return a text in upper case."""
        return _operation("upper", self)

    def strip(self) -> Expression:
        """Return a text without the ASCII white space before and after it."""
        return _operation("strip", self)

    def len(self) -> Expression:
        """Return the number of characters (code points) of a text."""
        return _operation("len", self)

    def starts_with(self, part: object) -> Expression:
        """Return whether a text begins with another, which is taken literally."""
        return _operation("starts_with", self, part)

    def ends_with(self, part: object) -> Expression:
        """Return whether a text ends with another, which is taken literally."""
        return _operation("ends_with", self, part)

    def contains(self, part: object) -> Expression:
        """Return whether another text stands in a text; it is taken literally."""
        return _operation("contains", self, part)

    def concat(self, *others: object) -> Expression:
        """Return texts one after the other; null if one of them is. `a + b` says the same of two."""
        joined = self
        for other in others:
            joined = _operation("+", joined, _text(other))
        return joined

    def hour(self) -> Expression:
        """Return the hour of a time in UTC, from 0 to 23."""
        return _operation("hour", self)

    def weekday(self) -> Expression:
        """Return the day of the week of a time in UTC, as Python counts: Monday is 0, Sunday 6."""
        return _operation("weekday", self)

    def seconds_since(self, earlier: object) -> Expression:
        """Return how many seconds a time lies after another, a float; negative if before."""
        return _operation("seconds_since", self, earlier)


@dataclass(frozen=True, eq=False)
class Field(Expression):
    """A field of an event class, as `Transaction.amount` names it, or one that a stream derives."""

    event: str
    name: str
    type: ValueType
    meaning: str = ""
    """A hash of what a derived field is computed by; empty for a field of the event class."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Itself."""
        return (self,)

    def document(self) -> list[object]:
        """Return its name and type, and what it means if it is derived."""
        return ["field", self.name, str(self.type), *([self.meaning] if self.meaning else [])]

    def __str__(self) -> str:
        return f"{self.event}.{self.name}"


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A constant among the operands of an operation; None is the null of `when`."""

    value: Scalar | None
    type: ValueType

    @property
    def name(self) -> str:  # type: ignore[override]  # computed, as it never changes
        """Its literal."""
        if isinstance(self.value, str):
            return json.dumps(self.value)
        return str(self.value) if isinstance(self.value, datetime) else repr(self.value)

    @property
    def fields(self) -> tuple[Field, ...]:
        """None."""
        return ()

    def document(self) -> list[object]:
        """Return its type and value; a time in microseconds."""
        value = to_us(self.value) if isinstance(self.value, datetime) else self.value
        value = str(value) if isinstance(value, decimal.Decimal) else value
        return ["constant", self.type.dtype.value, value]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Operation(Expression):
    """An operator of `OPERATORS` and its operands; built by the operators and methods of expressions."""

    operator: str
    operands: tuple[Expression, ...]
    type: ValueType
    name: str
    is_equality_of_expressions: bool = False
    """Whether it came of `==` or `!=` between two expressions, and so has a truth."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Those of its operands."""
        found = {field.name: field for operand in self.operands for field in operand.fields}
        return tuple(found.values())

    def document(self) -> list[object]:
        """Return the operator and the documents of its operands."""
        return [self.operator, *(operand.document() for operand in self.operands)]

    def __bool__(self) -> bool:
        if not self.is_equality_of_expressions:
            return super().__bool__()
        left, right = self.operands
        return left.same_as(right) == (self.operator == "==")

    def __str__(self) -> str:
        form = OPERATORS[self.operator].form
        texts = [f"({o})" if form != "function" and _is_infix(o) else str(o) for o in self.operands]
        if form == "prefix":
            return self.operator + texts[0]
        return f" {self.operator} ".join(texts) if form == "infix" else _written(self.operator, texts)


def _identities(expression: Expression) -> list[tuple[object, ...]]:
    return [(field.event, field.name, field.type, field.meaning) for field in expression.fields]


def _is_infix(expression: Expression) -> bool:
    return isinstance(expression, Operation) and OPERATORS[expression.operator].form == "infix"


def as_expression(value: object) -> Expression:
    """Return an expression as it is, and a constant as one.

    Raises:
        DefinitionError: if it is neither.
    """
    if isinstance(value, Expression):
        return value
    value_type = _constant_type(value)
    if value_type is None:
        kinds = "a bool, an integer of 64 bits, a finite float, a decimal of 18 digits, a text, an aware datetime"
        msg = f"an operand must be an expression or a constant ({kinds}), got {value!r}"
        raise DefinitionError(msg, hint="ask for what is absent with .is_null()" if value is None else "")
    return Constant(value.astimezone(UTC) if isinstance(value, datetime) else value, value_type)  # type: ignore[arg-type]  # it has a type


def _constant_type(value: object) -> ValueType | None:
    if isinstance(value, decimal.Decimal):
        return _decimal_type(value)
    for kind, dtype, fits in _CONSTANTS:
        if isinstance(value, kind):
            return ValueType(dtype) if fits(value) else None
    return None


def _decimal_type(value: decimal.Decimal) -> ValueType | None:
    """Return the narrowest type of a decimal; None if it is not finite or has more than 18 digits."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return None
    precision, scale = max(len(digits) + max(exponent, 0), -exponent, 1), max(-exponent, 0)
    return ValueType(DType.DECIMAL, precision=precision, scale=scale) if precision <= MAX_PRECISION else None


_CONSTANTS: tuple[tuple[type, DType, Callable[[Any], bool]], ...] = (
    (bool, DType.BOOL, lambda _value: True),  # before int, which it is for Python
    (int, DType.INT64, lambda value: -(2**63) <= value < 2**63),
    (float, DType.FLOAT64, math.isfinite),
    (str, DType.STRING, lambda value: not re.search("[\ud800-\udfff]", value)),
    (datetime, DType.DATETIME, lambda value: value.tzinfo is not None),
)


def when(condition: object, then: object, otherwise: object = None) -> Any:  # noqa: ANN401  # an Expression, which takes any field's place
    """Return one value where a condition holds, and another where it does not, or is null.

    Args:
        condition: a condition, such as `Payment.amount > 0`.
        then: an expression or a constant; None is null.
        otherwise: likewise, of the same kind.

    Raises:
        DefinitionError: if the condition is none, or the values are not of one kind, or both None.
    """
    if then is None and otherwise is None:
        msg = f"when({condition}, ...) must have a value on one side at least, got None twice"
        raise DefinitionError(msg)
    known = as_expression(otherwise if then is None else then)
    null = Constant(None, replace(known.type, nullable=True))
    values = (null if value is None else value for value in (then, otherwise))
    return _operation("when", _condition(condition), *values)


def _condition(value: object) -> Expression:
    if isinstance(value, Expression) and value.type.dtype is DType.BOOL:
        return value
    got = f"{value}, which is {value.type}" if isinstance(value, Expression) else repr(value)
    msg = f"a condition must be a comparison or another boolean expression of an event's fields, got {got}"
    hint = "compare values of one kind; and & | bind tighter than comparisons: write (a > 1) & (b > 1)"
    raise DefinitionError(msg, hint=hint)


def _text(value: object) -> Expression:
    found = as_expression(value)
    if found.type.dtype is not DType.STRING:
        msg = f"concat must be given texts, got {found}, which is {found.type}"
        raise DefinitionError(msg, hint="cast it: .cast(str)")
    return found


def _equality(operator: str, left: Expression, right: object) -> Expression | bool:
    """Build the condition; two expressions that cannot be compared are not the same, which is no error."""
    if not isinstance(right, Expression):
        return _operation(operator, left, right)
    comparable = OPERATORS[operator].type_of([left.type, right.type]) is not None
    if not comparable or not _one_event((left, right)):
        return operator == "!="
    return _operation(operator, left, right, is_equality_of_expressions=True)


def _one_event(operands: Iterable[Expression]) -> bool:
    return len({field.event for operand in operands for field in operand.fields}) <= 1


def _operation(operator: str, *given: object, is_equality_of_expressions: bool = False) -> Operation:
    operands = tuple(as_expression(value) for value in given)
    kind = OPERATORS[operator]
    value_type = kind.type_of([operand.type for operand in operands])
    if value_type is None:
        got = " and ".join(f"{operand}, which is {operand.type}" for operand in operands)
        msg = f"`{operator}` must be given {kind.takes}, got {got}"
        raise DefinitionError(msg, hint=_hint(operator, operands))
    if not _one_event(operands):
        msg = f"`{operator}` must be given fields of one event class, got {' and '.join(map(str, operands))}"
        raise DefinitionError(msg)
    name = _written(operator, [operand.name for operand in operands])
    return Operation(operator, operands, value_type, name, is_equality_of_expressions)


def _hint(operator: str, operands: Iterable[Expression]) -> str:
    dtypes = {operand.type.dtype for operand in operands}
    if DType.DATETIME in dtypes and operator == "-":
        return "a.seconds_since(b) is the time between two times"
    if operator in {"//", "%"} and DType.FLOAT64 in dtypes:
        return "cast it: .cast(int)"
    if DType.DECIMAL in dtypes:
        return "decimals meet integers and decimals, such as decimal.Decimal('0.1'); or cast: .cast(float)"
    return "compare like with like, or cast: .cast(float)" if len(dtypes) > 1 else ""


def _written(operator: str, operands: list[str]) -> str:
    form = OPERATORS[operator].form
    if form == "infix":
        return f"({operands[0]} {operator} {operands[1]})"
    return f"({operator}{operands[0]})" if form == "prefix" else f"{operator}({', '.join(operands)})"
