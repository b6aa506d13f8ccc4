"""Taking the steps of streams: from the events of a source to those of a stream. Nothing else applies a step.

Every consumer of a group's events goes through it, so that they are the same in the pipeline, in history and in
training sets. Each event is transformed by itself: what comes out does not depend on the batch that it came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.decimals import as_float64
from streamfti.compute.enrichment import enriched, enriched_fields
from streamfti.compute.expressions import evaluate
from streamfti.compute.joins import joined, side_fields
from streamfti.definitions.batch_functions import BatchFunction
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Field
from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.steps import Apply, Derive, Step, Where
from streamfti.definitions.streams import EnrichedStream, JoinedStream, Stream, source_fields
from streamfti.errors import FunctionError

__all__ = ["LOG_COLUMNS", "SourceReader", "StreamFrames", "stream_events", "transformed"]

Column = NDArray[Any]
_SECOND_US = 1_000_000


LOG_COLUMNS = frozenset({"_partition", "_offset", "_ingest_time_us"})
"""What must be known of an event beside its fields."""


class SourceReader(Protocol):
    """Reads the events of a source, from wherever a caller keeps them."""

    def __call__(self, source: KafkaSource, columns: Collection[str], earlier_us: int | None) -> pl.DataFrame:
        """Return an event frame.

        Args:
            source: whose events.
            columns: at least these.
            earlier_us: how much further back in event time than the events of the stream; None: as far as it goes.
        """
        ...


def stream_events(stream: Stream, names: Iterable[str], read: SourceReader) -> pl.DataFrame:
    """Return the events of any stream, of all that can be read of its sources.

    Args:
        stream: the stream.
        names: which of its fields are needed; more may come, and `LOG_COLUMNS` always do.
        read: reads the events of its sources.

    Raises:
        FunctionError: if a batch function raises, or does not return what it says.
    """
    origin, needed = stream.origin, source_fields(stream, names)

    def side(of: Stream, fields: set[str], earlier_us: int | None) -> pl.DataFrame:
        return transformed(of, read(of.source, source_fields(of, fields) | LOG_COLUMNS, earlier_us))

    if isinstance(origin, JoinedStream):
        left, right = side_fields(origin, needed)
        sides = side(origin.left, left, origin.within_us), side(origin.right, right, origin.within_us)
        return transformed(stream, joined(origin, *sides))
    if isinstance(origin, EnrichedStream):
        base, table = enriched_fields(origin, needed)
        return transformed(stream, enriched(origin, side(origin.base, base, 0), side(origin.table, table, None)))
    return transformed(stream, read(stream.source, needed | LOG_COLUMNS, 0))


def transformed(stream: Stream, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the events of a stream, from those of its source.

    Args:
        stream: the stream.
        frame: event frame of its origin, which is its source or the pairs of a join: at least the columns of
            `source_fields`, any others are kept.

    Returns:
        The events that all its conditions kept, in the order of the frame, with the derived columns added.

    Raises:
        FunctionError: if a batch function raises, or does not return what it says.
    """
    return StreamFrames(frame).of(stream)


class StreamFrames:
    """The events of several streams of one source, from one frame; steps that they share are taken once."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frames: dict[tuple[Step, ...], pl.DataFrame] = {(): frame}

    def of(self, stream: Stream) -> pl.DataFrame:
        """Return the events of a stream, as `transformed` does.

        Raises:
            FunctionError: if a batch function raises, or does not return what it says.
        """
        return self._after(stream.steps)

    def _after(self, steps: tuple[Step, ...]) -> pl.DataFrame:
        if steps not in self._frames:
            self._frames[steps] = _taken(steps[-1], self._after(steps[:-1]))
        return self._frames[steps]


def _taken(step: Step, frame: pl.DataFrame) -> pl.DataFrame:
    match step:
        case Where():
            return frame.filter(evaluate(step.condition, frame))
        case Derive():
            pairs = zip(step.adds, step.values, strict=True)
            return frame.with_columns(evaluate(value, frame).alias(field.name) for field, value in pairs)
        case Apply():
            return frame.with_columns(_returned(step, frame))
        case _:
            assert_never(step)


def _returned(step: Apply, frame: pl.DataFrame) -> list[pl.Series]:
    """Return the columns that a batch function adds, checked."""
    columns = [_argument(frame[field.name], field) for field in step.reads]
    found = _called(step, columns, frame.height)
    if frame.height > 1:
        at = frame.height // 2
        alone = _called(step, [column[at : at + 1] for column in columns], 1)
        for among, single in zip(found, alone, strict=True):
            _check_row_wise(step.function, among[at], single[0], among.name)
    return found


def _argument(series: pl.Series, field: Field) -> Column:
    """Return a column as functions get it: contiguous, as numpy may round otherwise over strides, and not writable."""
    if field.type.dtype is DType.STRING:
        column: Column = np.array(series.to_list(), dtype=np.object_)
    elif field.type.dtype is DType.DATETIME:
        column = _floats(series.to_physical()) / _SECOND_US
    else:
        column = _floats(series)
    column = np.ascontiguousarray(column).view()
    column.flags.writeable = False
    return column


def _floats(series: pl.Series) -> Column:
    """Return numbers as float64, NaN where there is none."""
    floats = as_float64(series)
    return (floats.fill_null(math.nan) if floats.null_count() else floats).to_numpy()


def _called(step: Apply, columns: Sequence[Column], n_rows: int) -> list[pl.Series]:
    function = step.function
    with np.errstate(all="ignore"):  # what is not finite is no value
        try:
            returned = function(*columns)
        except Exception as exc:  # the user's code may raise anything; it becomes one clear line
            msg = f"batch function {function.name!r} must not fail, got {type(exc).__name__}: {exc}"
            raise FunctionError(msg) from exc
    outputs = returned if isinstance(returned, tuple) else (returned,)
    if len(outputs) != len(step.adds):
        msg = f"batch function {function.name!r} must return {len(step.adds)} columns, got {len(outputs)}"
        raise FunctionError(msg, hint="a tuple of arrays, in the order of `outputs`")
    return [_checked(function, field, column, n_rows) for field, column in zip(step.adds, outputs, strict=True)]


def _checked(function: BatchFunction, field: Field, column: object, n_rows: int) -> pl.Series:
    subject = f"output {field.name!r} of batch function {function.name!r}"
    if not isinstance(column, np.ndarray) or column.shape != (n_rows,):
        shape = f"one of shape {column.shape}" if isinstance(column, np.ndarray) else type(column).__name__
        msg = f"{subject} must be an array of shape ({n_rows},), got {shape}"
        raise FunctionError(msg, hint="one element an event: np.full(len(x), 1.0) for the same value in every one")
    rule = _RULES[field.type.dtype]
    if column.dtype.kind not in rule.kinds:
        msg = f"{subject} must be {rule.wanted}, got an array of {column.dtype}"
        raise FunctionError(msg)
    unfit = rule.unfit(column)
    if unfit.any():
        msg = f"{subject} must be {rule.wanted}, got {column[unfit].tolist()[0]!r:.80}"
        raise FunctionError(msg)
    values = rule.series(column).alias(field.name)
    if values.null_count() and not field.type.nullable:
        msg = f"{subject} must have a value for every event, got none in row {values.is_null().arg_max()} of {n_rows}"
        raise FunctionError(msg, hint=f"say that it may be absent: {field.type.dtype.python.__name__} | None")
    return values


def _check_row_wise(function: BatchFunction, among: object, alone: object, output: str) -> None:
    if isinstance(among, float) and isinstance(alone, float):
        same = math.isclose(among, alone, rel_tol=1e-9)
    else:
        same = among == alone
    if not same:
        msg = (
            f"batch function {function.name!r} must give an event its {output} by that event alone, got {among!r} "
            f"in a batch and {alone!r} without the others"
        )
        raise FunctionError(msg, hint="batches are cut anywhere: no means, ranks, shifts or random numbers")


class _Rule(NamedTuple):
    """What a function may return for a type.

    Attributes:
        wanted: what it is called.
        kinds: the kinds of numpy types that it may be given as.
        unfit: bool[n] of a column [n]: which of its elements are neither of the type nor absent.
        series: the column as one of event frames, null where there is no value.
    """

    wanted: str
    kinds: str
    unfit: Callable[[Column], NDArray[np.bool_]]
    series: Callable[[Column], pl.Series]


def _all_fit(column: Column) -> NDArray[np.bool_]:
    return np.zeros(len(column), np.bool_)


def _unfit_for_int(column: Column) -> NDArray[np.bool_]:
    if column.dtype.kind != "f":
        return np.asarray(column > np.iinfo(np.int64).max)
    there = np.isfinite(column)
    return np.asarray(there & ((np.floor(column) != column) | (column >= 2**63) | (column < -(2**63))))


def _unfit_for_bool(column: Column) -> NDArray[np.bool_]:
    return _all_fit(column) if column.dtype.kind == "b" else np.isfinite(column) & (column != 0) & (column != 1)


def _unfit_for_text(column: Column) -> NDArray[np.bool_]:
    return np.array([value is not None and type(value) is not str for value in column.tolist()], np.bool_)


def _finite(column: Column) -> pl.Series:
    numbers = column.astype(np.float64)
    there = np.isfinite(numbers)
    values = pl.Series(numbers)
    return values if there.all() else values.zip_with(pl.Series(there), values.clear(len(values)))


def _as(dtype: pl.DataType) -> Callable[[Column], pl.Series]:
    def series(column: Column) -> pl.Series:
        return (_finite(column) if column.dtype.kind == "f" else pl.Series(column)).cast(dtype)

    return series


_RULES: Mapping[DType, _Rule] = {
    DType.FLOAT64: _Rule("an array of numbers", "fiu", _all_fit, _finite),
    DType.INT64: _Rule("an array of whole numbers of 64 bits", "fiu", _unfit_for_int, _as(pl.Int64())),
    DType.BOOL: _Rule("an array of booleans, or of 0 and 1", "bf", _unfit_for_bool, _as(pl.Boolean())),
    DType.STRING: _Rule(
        "an array of str and None", "OU", _unfit_for_text, lambda column: pl.Series(column.tolist(), dtype=pl.String)
    ),
}
