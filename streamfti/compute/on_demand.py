"""On-demand features over columns: the one place that calls their functions, for serving, training and backfills.

Not here: what they are (`definitions.on_demand`), and where columns come from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfti.compute.returned_values import AnyColumn, no_values, returned_values
from streamfti.compute.values import FeatureColumn, Status
from streamfti.definitions.on_demand import OnDemandFeature, OnDemandInput, QueryTimeInput
from streamfti.errors import StreamFTIError

__all__ = ["OnDemandColumns", "OnDemandPlan", "check_row_wise", "evaluate_function", "is_missing", "sealed"]

_SECOND_US = 1_000_000
_SAMPLE_ROWS = 64
_MISSING = np.uint8(Status.MISSING)


@dataclass(frozen=True, slots=True)
class OnDemandColumns:
    """The on-demand features of n rows, by name, in the order in which they were computed.

    Attributes:
        features: their values as float64[n], int64[n], bool[n] or object[n] of str, the zero of the type where there
            is none, and their statuses: PRESENT, DEFAULTED or MISSING.
        columns: the same as models take them.
    """

    features: dict[str, FeatureColumn]
    columns: dict[str, AnyColumn]

    def statuses(self) -> NDArray[np.uint8]:
        """Return uint8[n, k] of `Status`, in the order of the features."""
        return np.array([column.status for column in self.features.values()]).T


@dataclass(frozen=True, slots=True)
class _Step:
    """One feature, and the columns that its function takes, in its order; None is the query time."""

    feature: OnDemandFeature
    inputs: tuple[str | None, ...]


class OnDemandPlan:
    """How on-demand features are computed. Compiled once, used by every request. Safe to use from many threads.

    A feature of three inputs adds about 20 us to a request of one row, most of it for the check of what is returned.

    Args:
        features: each after those that it needs: `FeatureService.on_demand`.
        failure: the error that a function's failure becomes: ServingError, or TrainingError.
    """

    def __init__(self, features: Collection[OnDemandFeature], failure: type[StreamFTIError]) -> None:
        self.names = tuple(feature.name for feature in features)
        self._steps = [_Step(f, tuple(_column_name(i) for _, i in f.inputs)) for f in features]
        wanted = dict.fromkeys(name for step in self._steps for name in step.inputs)
        self._wanted = tuple(name for name in wanted if name is not None and name not in self.names)
        self._wants_query_time = None in wanted
        self._failure = failure

    def evaluate(self, columns: Mapping[str, AnyColumn], query_time_us: NDArray[np.int64]) -> OnDemandColumns:
        """Return all features of n rows.

        Args:
            columns: what they are computed from, by qualified name. A feature that needs one which is not there is
                MISSING in all rows, and its function is not called.
            query_time_us: int64[n].

        Raises:
            StreamFTIError: of the class that the plan was built with: a function raised, or returned what is no
                column of its type.
        """
        found = OnDemandColumns({}, {})
        given = self._given(columns, query_time_us)
        n_rows = len(query_time_us)
        for step in self._steps:
            name = step.feature.name
            if all(wanted in given for wanted in step.inputs):
                arguments = [given[wanted] for wanted in step.inputs]
                found.features[name] = evaluate_function(step.feature, arguments, n_rows, self._failure)
                found.columns[name] = found.features[name].model_column()
                given[name] = sealed(found.columns[name])
            else:
                found.features[name] = no_values(step.feature, n_rows)
                found.columns[name] = found.features[name].model_column()
        return found

    def check_row_wise(
        self, columns: Mapping[str, AnyColumn], found: OnDemandColumns, query_time_us: NDArray[np.int64]
    ) -> None:
        """Check that every function gives some of the rows, each alone, the same bits as among all n rows.

        Args:
            columns: as they were given to `evaluate`, and complete.
            found: what it returned.
            query_time_us: int64[n], at least one.

        Raises:
            StreamFTIError: of the class that the plan was built with: a value depends on the other rows, or on more
                than its inputs.
        """
        given = self._given(columns, query_time_us) | {n: sealed(column) for n, column in found.columns.items()}
        rows = np.unique(np.linspace(0, len(query_time_us) - 1, _SAMPLE_ROWS).astype(np.intp)).tolist()
        for step in self._steps:
            arguments = [given[wanted] for wanted in step.inputs]
            check_row_wise(step.feature, arguments, found.features[step.feature.name], rows, self._failure)

    def _given(self, columns: Mapping[str, AnyColumn], query_time_us: NDArray[np.int64]) -> dict[str | None, AnyColumn]:
        """Return what functions are given, by name; the query time under None."""
        given: dict[str | None, AnyColumn] = {n: sealed(columns[n]) for n in self._wanted if n in columns}
        if self._wants_query_time:
            given[None] = sealed(query_time_us / _SECOND_US)
        return given


def evaluate_function(
    feature: OnDemandFeature, arguments: list[AnyColumn], n_rows: int, failure: type[StreamFTIError]
) -> FeatureColumn:
    """Call a feature's function on columns of n rows, and check what it returns.

    Floating-point errors (a division by zero, the logarithm of nothing) are no failures: their results, NaN and the
    infinities, are no values.

    Raises:
        StreamFTIError: of the class `failure`, if the function raises, or does not return a column of its type.
    """
    with np.errstate(all="ignore"):
        try:
            returned = feature.function(*arguments)
        except Exception as exc:  # the user's code may raise anything; it becomes one clear line
            msg = f"the function of on-demand feature {feature.name!r} must not fail, got {type(exc).__name__}: {exc}"
            raise failure(msg) from exc
        if isinstance(returned, np.ndarray) and returned.shape == (n_rows,):
            return returned_values(feature, returned, failure)
    shape = f"one of shape {returned.shape}" if isinstance(returned, np.ndarray) else type(returned).__name__
    msg = f"on-demand feature {feature.name!r} must return an array of shape ({n_rows},), got {shape}"
    raise failure(msg, hint="one element a row: np.full(len(x), 1.0) for the same value in every row")


def check_row_wise(
    feature: OnDemandFeature,
    arguments: list[AnyColumn],
    expected: FeatureColumn,
    rows: Collection[int],
    failure: type[StreamFTIError],
) -> None:
    """Check that a function gives rows, each alone, the same bits as among all of them.

    Args:
        feature: whose function it is.
        arguments: its columns, of all rows.
        expected: what it gave for them.
        rows: the rows to try.
        failure: the error to raise.

    Raises:
        StreamFTIError: of the class `failure`.
    """
    for row in rows:
        alone = evaluate_function(feature, [column[row : row + 1] for column in arguments], 1, failure)
        among = FeatureColumn(expected.values[row : row + 1], expected.status[row : row + 1])
        if _bits(alone) != _bits(among):
            msg = (
                f"on-demand feature {feature.name!r} must give a row its value by that row alone, got for row {row} "
                f"{_shown(among)} among {len(expected.values)} rows and {_shown(alone)} alone"
            )
            raise failure(
                msg, hint="in serving the rows are those of one request: no means, ranks, shifts or random numbers"
            )


def sealed(column: AnyColumn) -> AnyColumn:
    """Return a column as functions get it: contiguous, as numpy may round otherwise over strides, and not writable."""
    kind = None if column.dtype == np.object_ else np.float64
    view = np.ascontiguousarray(column, kind).view()
    view.flags.writeable = False
    return view


def is_missing(column: FeatureColumn) -> NDArray[np.bool_]:
    """Return bool[n]: the rows of an on-demand feature without a value."""
    return np.asarray(column.status == _MISSING)


def _column_name(item: OnDemandInput) -> str | None:
    return None if isinstance(item, QueryTimeInput) else item.qualified_name


def _bits(column: FeatureColumn) -> tuple[object, bytes]:
    values = column.values.tolist() if column.values.dtype == np.object_ else column.values.tobytes()
    return values, column.status.tobytes()


def _shown(column: FeatureColumn) -> str:
    return "nothing" if column.status[0] == _MISSING else repr(column.values.tolist()[0])
