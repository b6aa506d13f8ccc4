"""Batch functions: Python functions from columns of events to more columns. Specifications: nothing is called here.

For what no expression can say: they cost many times more, and what they return is checked, but not proved.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamfti.definitions.dtypes import DType, ValueType
from streamfti.definitions.functions import function_meaning
from streamfti.errors import DefinitionError

__all__ = ["BatchFunction", "batch_function"]

_DTYPES: Mapping[object, DType] = {str: DType.STRING, int: DType.INT64, float: DType.FLOAT64, bool: DType.BOOL}


@dataclass(frozen=True, slots=True)
class BatchFunction:
    """A function from columns to columns. Build it with the decorator `batch_function`.

    Calling it calls the function, with no checks: for tests of the function alone.
    """

    name: str
    inputs: tuple[str, ...]
    """The fields that it reads: its parameters, in their order."""
    outputs: tuple[tuple[str, ValueType], ...]
    """The fields that it adds, in order."""
    meaning: str
    """What it means, for fingerprints: canonical JSON."""
    function: Callable[..., Any]

    def __call__(self, *columns: Any, **named: Any) -> Any:  # noqa: ANN401  # of numpy, which definitions do not load
        """Call the function."""
        return self.function(*columns, **named)


def batch_function(
    *, outputs: Mapping[str, object], version: int | None = None
) -> Callable[[Callable[..., Any]], BatchFunction]:
    """Turn a function of columns into one that a stream can apply: `payments.apply(risk)`.

        @fti.batch_function(outputs={"risk": float})
        def risk(amount_cents: fti.Column, is_online: fti.Column) -> fti.Column:
            return np.log1p(amount_cents) * is_online

    Each parameter is a field of the stream, by its name. Columns go in as on-demand functions get them, so that one
    function can serve both: arrays of numpy, one element an event. Numbers and booleans are float64 with NaN where
    there is no value (integers beyond 2**53 are rounded), times are float64 seconds since 1970 in UTC, strings are
    objects of `str` or None. They cannot be written to. What comes out is an array of the same length, or for
    several outputs a tuple of them, in the order of `outputs`.

    The function must give an event its value by that event alone, and the same each time: a stream is cut into
    batches anywhere. That is checked on one event of each batch. What it means in fingerprints is its source without
    comments and annotations, with the constants and functions of its module that it uses.

    Args:
        outputs: names and types of the fields that it adds: `float`, `int`, `bool`, `str`, or one of them `| None`
            if a value may be absent (NaN or an infinity for numbers, None for strings).
        version: says what the function means, instead of its source: raise it when the meaning changes.

    Raises:
        DefinitionError: if an output has another type or there is none, a parameter is not a plain one, or the
            source cannot be read and there is no version.
    """

    def build(function: Callable[..., Any]) -> BatchFunction:
        name = getattr(function, "__name__", repr(function))
        subject = f"batch function {name!r}"
        meaning = {"version": version} if version is not None else function_meaning(function, subject=subject)
        added = tuple((output, _output_type(subject, output, annotation)) for output, annotation in outputs.items())
        if not added:
            msg = f"{subject} must have one output or more, got none"
            raise DefinitionError(msg, hint='for example outputs={"risk": float}')
        canonical = json.dumps({"function": name, **meaning}, sort_keys=True)
        return BatchFunction(name, _inputs(subject, function), added, canonical, function)

    return build


def _inputs(subject: str, function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        plain = parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        if not plain or parameter.default is not parameter.empty:
            msg = f"a parameter of {subject} must name a field and have no default, got `{parameter}`"
            raise DefinitionError(msg)
    if not parameters:
        msg = f"{subject} must have a parameter for each field that it reads, got none"
        raise DefinitionError(msg)
    return tuple(parameter.name for parameter in parameters)


def _output_type(subject: str, name: str, annotation: object) -> ValueType:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    kinds = [member for member in members if member is not types.NoneType]
    if len(kinds) != 1 or kinds[0] not in _DTYPES:
        msg = f"output {name!r} of {subject} must be float, int, bool, str or one of them | None, got {annotation!r}"
        raise DefinitionError(msg)
    return ValueType(_DTYPES[kinds[0]], nullable=len(kinds) < len(members))
