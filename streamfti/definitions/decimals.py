"""Exact decimals of a fixed number of digits: the annotation of event fields, and the arithmetic of their one form.

A decimal of (precision, scale) is an integer, its unscaled value, divided by 10 to the scale. Nothing rounds here.
"""

from __future__ import annotations

import decimal
import re
import typing
from dataclasses import dataclass

from streamfti.errors import DefinitionError

__all__ = ["MAX_PRECISION", "Decimal", "exact_unscaled", "from_unscaled", "parse_decimal"]

MAX_PRECISION = 18
"""So many digits always fit in 64 bits."""


@dataclass(frozen=True, slots=True)
class Decimal:
    """The type of an event field that holds exact decimals, such as money: `amount: fti.Decimal(12, 2)`.

    To a type checker a call is no type; the typed way to write the same is
    `amount: Annotated[decimal.Decimal, fti.Decimal(12, 2)]`. The values are `decimal.Decimal`.

    Args:
        precision: how many digits in all, from 1 to 18.
        scale: how many of them stand after the point.

    Raises:
        DefinitionError: if there can be no such numbers.
    """

    precision: int
    scale: int

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("precision", self.precision, 1, MAX_PRECISION),
            ("scale", self.scale, 0, self.precision),
        ):
            if type(value) is not int or not least <= value <= most:
                msg = f"the {name} of a Decimal must be a whole number from {least} to {most}, got {value!r}"
                raise DefinitionError(msg, hint="Decimal(12, 2) has 12 digits, two of them after the point")

    def __or__(self, other: object) -> object:
        """Return the annotation `Decimal(12, 2) | None`."""
        return typing.Union[self, other]  # noqa: UP007  # for values that are no types

    __ror__ = __or__


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_decimal(text: str) -> decimal.Decimal | None:
    """Return the number that a text is, exactly, or None if it is none: no blanks, underscores, NaN or infinity."""
    if _NUMBER.fullmatch(text) is None:
        return None
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:  # an exponent of more digits than the module has
        return None


def exact_unscaled(value: decimal.Decimal, precision: int, scale: int) -> int | None:
    """Return a value times 10 to the scale, or None if it is not finite or does not fit exactly.

    >>> exact_unscaled(decimal.Decimal("1.5"), 12, 2)
    150
    """
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):  # NaN and the infinities have a letter there
        return None
    significant = int("".join(map(str, digits)) or "0") if len(digits) <= _MOST_DIGITS else None
    if significant == 0:
        return 0
    shift = exponent + scale
    if significant is None or shift > MAX_PRECISION or shift < -len(digits):
        return None
    power: int = 10 ** abs(shift)
    unscaled, rest = (significant * power, 0) if shift >= 0 else divmod(significant, power)
    if rest or unscaled >= 10**precision:
        return None
    return -unscaled if sign else unscaled


_MOST_DIGITS = 4_000
"""Python refuses to read longer integers from text; no number of that many digits is meant as money."""


def from_unscaled(unscaled: int, scale: int) -> decimal.Decimal:
    """Return an integer divided by 10 to the scale, with `scale` digits after the point."""
    return decimal.Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -scale))
